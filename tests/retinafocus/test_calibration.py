"""Ranges from photographs: what enters each convolution, found again by other means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from retinafocus.calibration import RangeRecorder
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import RetinaFocus, get_preset


@pytest.fixture(scope="module")
def model() -> RetinaFocus:
    torch.manual_seed(0)
    return RetinaFocus(get_preset("mobile025")).eval()


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def encoded(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()


def plain(value: int) -> bytes:
    return encoded(np.full((64, 96, 3), value, np.uint8))


def test_first_convolution_is_given_pixels_without_their_mean(model: RetinaFocus) -> None:
    recorder = RangeRecorder(model)
    recorder.look(plain(200))
    low, high = recorder.ranges()["backbone.stage1.0.0"]
    assert low == 0.0  # zero pads, so it is inside
    assert high == pytest.approx(200 - min(model.preset.mean_rgb), rel=1e-3)
    recorder.look(plain(50))
    low, high = recorder.ranges()["backbone.stage1.0.0"]
    assert low == pytest.approx(50 - max(model.preset.mean_rgb), rel=1e-3)
    assert high == pytest.approx(200 - min(model.preset.mean_rgb), rel=1e-3)


def test_every_convolution_has_a_range_that_holds_nearly_all_that_enters_it(model: RetinaFocus) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    recorder = RangeRecorder(model)
    recorder.look(encoded(pixels))
    ranges = recorder.ranges()
    inputs: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.__setitem__(name, given[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():  # the one level that a photograph of this size has, batch norms not folded
        model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    assert ranges.keys() == inputs.keys()
    for name, values in inputs.items():
        low, high = ranges[name]
        outside = ((values < low - 1e-3) | (values > high + 1e-3)).float().mean()
        assert outside <= 0.0021, name
        assert low >= min(0.0, 1.01 * float(values.min()) - 1e-3)
        assert high <= max(0.0, 1.01 * float(values.max()) + 1e-3)


def test_photograph_that_cannot_be_looked_at_does_not_count(model: RetinaFocus) -> None:
    recorder = RangeRecorder(model)
    with pytest.raises(SettingsError, match="no photograph was looked at"):
        recorder.ranges()
    recorder.look(plain(100))
    before = recorder.ranges()
    with pytest.raises(PhotoError):
        recorder.look(plain(255)[:-40])
    assert recorder.ranges() == before


def test_model_is_left_as_it_is(model: RetinaFocus) -> None:
    RangeRecorder(model).look(plain(100))
    assert model.ranges is None
    assert not any(module._forward_pre_hooks for module in model.modules())
