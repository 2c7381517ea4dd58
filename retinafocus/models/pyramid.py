"""The feature pyramid: coarse maps, which know what a face is, added to fine ones, which know where.

Source: Feature Pyramid Networks, arXiv 1612.03144; with batch norm, activations and merges as in the published
RetinaFace weights (FPN in biubug6/Pytorch_Retinaface, models/net.py).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from retinafocus.models.units import conv_unit


class Levels(NamedTuple):
    """The pyramid's maps before the context modules, each (N, channels, ceil(H / stride), ceil(W / stride))."""

    p3: Tensor
    """Stride 8."""
    p4: Tensor
    """Stride 16."""
    p5: Tensor
    """Stride 32; a lateral without merge."""


def add_coarser(fine: Tensor, coarse: Tensor) -> Tensor:
    """`coarse` enlarged to the exact size of `fine` by repeating cells, plus `fine`; both (N, channels, ., .)."""
    return fine + functional.interpolate(coarse, size=fine.shape[-2:], mode="nearest")


class Pyramid(nn.Module):
    """P3, P4 and P5 from C3, C4 and C5."""

    def __init__(self, stage_channels: tuple[int, int, int], channels: int, slope: float) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_unit(count, channels, 1, slope=slope) for count in stage_channels)
        self.merges = nn.ModuleList(conv_unit(channels, channels, 3, slope=slope) for _ in stage_channels[:-1])

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> Levels:
        """Backbone maps of stride 8, 16 and 32 to pyramid maps of the same sizes."""
        p5: Tensor = self.laterals[2](c5)
        p4: Tensor = self.merges[1](add_coarser(self.laterals[1](c4), p5))
        p3: Tensor = self.merges[0](add_coarser(self.laterals[0](c3), p4))
        return Levels(p3, p4, p5)


class PyramidStep(nn.Module):
    """One level more at the fine end: P2 from C2 and P3. Only a focus branch on P2 has it."""

    def __init__(self, in_channels: int, channels: int, slope: float) -> None:
        super().__init__()
        self.lateral = conv_unit(in_channels, channels, 1, slope=slope)
        self.merge = conv_unit(channels, channels, 3, slope=slope)

    def forward(self, stage: Tensor, coarser: Tensor) -> Tensor:
        """A backbone map and the next coarser pyramid map to the pyramid map of the backbone map's size."""
        merged: Tensor = self.merge(add_coarser(self.lateral(stage), coarser))
        return merged
