"""Backbones: the strides and channels of their four maps at any size."""

from __future__ import annotations

import math

import pytest
import torch

from retinafocus.models.backbone import build_backbone
from retinafocus.models.presets import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(1, 1), (1, 33), (65, 31), (2160, 3840)], ids=str)
def test_maps_have_the_rounded_up_size_and_the_stated_channels(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):  # shapes only, so the large ones cost nothing
        backbone = build_backbone(name, slope=0.0).eval()
        maps = backbone(torch.empty(1, 3, *size))
    for stride, channels, stage in zip((4, 8, 16, 32), backbone.stage_channels, maps, strict=True):
        assert stage.shape == (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet025", (32, 64, 128, 256)),
        ("resnet18", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
    ],
)
def test_channels_of_the_stages(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert build_backbone(name, slope=0.0).stage_channels == channels


def test_c2_of_the_mobilenet_is_its_fourth_unit() -> None:
    """The tap between stride 4 and 8 is the output of stage1.3, and taking it changes nothing after it."""
    backbone = build_backbone("mobilenet025", slope=0.1).eval()
    pixels = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    seen = []
    backbone.stage1[3].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.inference_mode():
        maps = backbone(pixels)
        whole = backbone.stage1(pixels)
    assert torch.equal(maps.c2, seen[0])
    assert torch.equal(maps.c3, whole)
