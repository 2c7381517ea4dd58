"""Networks and pictures for the tests of engines."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from retinafocus.calibration import RangeRecorder
from retinafocus.models import Preset, RetinaFocus, get_preset

Picture = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def random_model() -> Callable[..., RetinaFocus]:
    """A maker of models whose batch norms do something: folding those of a new model proves nothing."""

    def make(preset: str | Preset = "mobile025") -> RetinaFocus:
        torch.manual_seed(3)
        model = RetinaFocus(get_preset(preset) if isinstance(preset, str) else preset).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                    assert tensor is not None
                    tensor.uniform_(low, high)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
        return model

    return make


@pytest.fixture(scope="session")
def model(random_model: Callable[..., RetinaFocus]) -> RetinaFocus:
    """The small network with a focus branch."""
    return random_model()


@pytest.fixture(scope="session")
def ranged_model(random_model: Callable[..., RetinaFocus]) -> RetinaFocus:
    """The same with the ranges of a made picture, for 8-bit integers."""
    model, threads = random_model(), torch.get_num_threads()
    recorder = RangeRecorder(model)
    small = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    recorder.look(cv2.imencode(".png", cv2.resize(small, (256, 192), interpolation=cv2.INTER_CUBIC))[1].tobytes())
    torch.set_num_threads(threads)
    model.ranges = recorder.ranges()
    return model


@pytest.fixture(scope="session")
def pictures() -> Picture:
    """A maker of noise: (count, height, width, 3) uint8."""

    def make(height: int, width: int, *, seed: int = 0, count: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def threads_as_before() -> object:
    """Leaves PyTorch's threads, which belong to the whole process, as they were."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)
