"""Handmade photos with one-coloured faces, and batches of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.models import Preset, RetinaFocus, get_preset
from retinafocus.training.augment import CropConfig
from retinafocus.training.photometry import PhotometryConfig
from retinafocus.training.samples import Batch, CropSamples, SampleConfig, collate

Photo = tuple[LabelledPhoto, NDArray[np.uint8]]
Box = tuple[float, float, float, float]


@pytest.fixture
def make_photo() -> Callable[..., Photo]:
    def make(
        size: tuple[int, int], faces: tuple[Box, ...] = (), ignore: tuple[Box, ...] = (), source: str = "handmade"
    ) -> Photo:
        """A blue photo with a red rectangle, its corners as landmarks, for each face and a green one to ignore."""
        pixels = np.zeros((*size, 3), dtype=np.uint8)
        pixels[..., 2] = 200
        for colour, rectangles in ((1, ignore), (0, faces)):
            for left, top, right, bottom in rectangles:
                pixels[round(top) : round(bottom), round(left) : round(right)] = np.eye(3, dtype=np.uint8)[colour] * 255
        boxes = np.array(faces, dtype=np.float32).reshape(-1, 4)
        points = boxes[:, [0, 1, 2, 1, 0, 1, 0, 3, 2, 3]].reshape(-1, 5, 2)
        points[:, 2] = (boxes[:, :2] + boxes[:, 2:]) / 2
        photo = LabelledPhoto(
            path=Path("handmade.png"),
            size=size,
            boxes=boxes,
            landmarks=points,
            ignore=np.array(ignore, dtype=np.float32).reshape(-1, 4),
            source=source,
            kinds=("human",) * len(boxes),
        )
        return photo, pixels

    return make


@pytest.fixture
def preset() -> Preset:
    return replace(get_preset("mobile025"), channels=16)


@pytest.fixture
def model(preset: Preset) -> RetinaFocus:
    torch.manual_seed(0)
    return RetinaFocus(preset).to(memory_format=torch.channels_last)


@pytest.fixture
def samples(make_photo: Callable[..., Photo], preset: Preset) -> CropSamples:
    photos = [
        make_photo((90, 120), ((20, 30, 40, 55), (70, 10, 100, 50))),
        make_photo((60, 60), ((5, 5, 15, 17),), ((30, 30, 50, 50),)),
        make_photo((70, 40)),
    ]
    config = SampleConfig(
        crop=CropConfig(side=48, short_sides=(0.5, 1.5), face_sides=(8, 40)),
        photometry=PhotometryConfig(low_light=0, colour=0, grey=0),
    )
    return CropSamples([photo for photo, _ in photos], lambda n: photos[n][1], preset=preset, config=config)


@pytest.fixture
def make_batches(samples: CropSamples) -> Callable[[int, int], list[Batch]]:
    def make(first: int, last: int) -> list[Batch]:
        """Batches `first` to, not including, `last`; two samples each."""
        return [collate([samples[2 * number], samples[2 * number + 1]]) for number in range(first, last)]

    return make


@pytest.fixture(autouse=True)
def _plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN, which builds code for each of the network's convolutions: seconds, for steps of milliseconds."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
