"""Photos are decoded once, large ones reduced, and one that cannot be decoded is replaced and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import PhotoError, RunError
from retinafocus.models import Preset
from retinafocus.training.pixels import PhotoPixels, ReadableSamples, reduction_for
from retinafocus.training.samples import CropSamples, SampleConfig

MakePhoto = Callable[..., tuple[LabelledPhoto, NDArray[np.uint8]]]


@pytest.fixture
def photos(make_photo: MakePhoto, tmp_path: Path) -> list[LabelledPhoto]:
    """Four photos of 40 x 60 px on disk, with one face each."""
    made = []
    for number in range(4):
        photo, pixels = make_photo((40, 60), ((5 + number, 5, 25, 30),))
        made.append(replace(photo, path=tmp_path / f"{number}.png"))
        assert cv2.imwrite(str(made[-1].path), pixels[..., ::-1])
    return made


def test_photos_are_kept_while_there_is_room(photos: list[LabelledPhoto]) -> None:
    pixels = PhotoPixels(photos, cache_bytes=2 * 40 * 60 * 3)
    first = pixels(0)
    assert first.shape == (40, 60, 3)
    assert first[0, 0].tolist() == [0, 0, 200]
    pixels(1)
    assert pixels(0) is first
    pixels(2)  # 1 was unused for longest and goes
    assert pixels(0) is first
    assert list(pixels._kept) == [2, 0]
    none = PhotoPixels(photos, cache_bytes=0)
    assert none(3) is not none(3)


@pytest.mark.parametrize(
    ("size", "face", "largest", "expected"),
    [
        pytest.param((1000, 1000), 100, 1e6, 1, id="just fits"),
        pytest.param((1000, 1001), 100, 1e6, 2, id="just does not"),
        pytest.param((4000, 4000), 200, 1e6, 4, id="a quarter"),
        pytest.param((9000, 9000), 200, 1e6, 8, id="an eighth is the least"),
        pytest.param((4000, 4000), 40, 1e6, 2, id="small faces keep 16 px"),
        pytest.param((4000, 4000), 20, 1e6, 1, id="smaller ones forbid it"),
        pytest.param((4000, 4000), None, 1e6, 4, id="no face"),
    ],
)
def test_reduction(
    make_photo: MakePhoto, size: tuple[int, int], face: float | None, largest: float, expected: int
) -> None:
    photo, _ = make_photo((1, 1))
    boxes = np.zeros((0, 4)) if face is None else np.array([[0, 0, face, face], [0, 0, 900, 900]])
    assert reduction_for(replace(photo, size=size, boxes=boxes.astype(np.float32)), largest) == expected


def test_labels_of_another_size_are_no_labels_of_the_photo(photos: list[LabelledPhoto]) -> None:
    pixels = PhotoPixels([replace(photos[0], size=(60, 40)), replace(photos[1], path=photos[1].path / "none")])
    for _ in range(2):
        with pytest.raises(
            PhotoError, match=r"0\.png: the photo is 60 x 40 px, its labels are for 40 x 60 px"
        ) as caught:
            pixels(0)
        assert caught.value.status == "changed"
        with pytest.raises(PhotoError, match=r"1\.png/none: "):
            pixels(1)


def test_a_photo_that_cannot_be_decoded_is_replaced_the_same_way_each_time(
    photos: list[LabelledPhoto], preset: Preset
) -> None:
    def samples(told: list[PhotoError]) -> ReadableSamples:
        crops = CropSamples(photos, PhotoPixels(photos), preset=preset, config=SampleConfig())
        return ReadableSamples(crops, told.append)

    whole = [samples([])[number].crop.pixels for number in range(6)]
    photos[2].path.write_bytes(b"")
    told: list[PhotoError] = []
    damaged = samples(told)
    first, again = ([damaged[number] for number in range(6)] for _ in range(2))
    assert {error.status for error in told} == {"truncated"}
    assert all(np.array_equal(a.crop.pixels, b.crop.pixels) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a.anchors.labels, b.anchors.labels) for a, b in zip(first, again, strict=True))
    same = [np.array_equal(a.crop.pixels, b) for a, b in zip(first, whole, strict=True)]
    assert any(same)
    assert not all(same)
    for photo in photos:
        photo.path.write_bytes(b"")
    with pytest.raises(RunError, match=r"100 photos in a row cannot be decoded \(the last: .*\.png: "):
        samples([])[0]
