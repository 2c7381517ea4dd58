"""Crops: labels stay on the pixels they describe, whatever the zoom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.training.augment import (
    CropConfig,
    LabelledCrop,
    Window,
    ignore_small_faces,
    mirrored,
    paste,
    random_crop,
)

Photo = tuple[LabelledPhoto, NDArray[np.uint8]]
MakePhoto = Callable[..., Photo]


def show(photo: Photo, window: Window, side: int = 100) -> LabelledCrop:
    return paste(np.zeros((side, side, 3), dtype=np.uint8), *photo, window, np.random.default_rng(0))


def test_a_window_at_half_size_moves_and_halves_the_labels(make_photo: MakePhoto) -> None:
    photo = make_photo((200, 400), ((120, 60, 160, 100),), ((150, 50, 400, 70),))
    crop = show(photo, Window(photo=(100, 40, 200, 140), crop=(30, 20, 80, 70)))
    assert crop.boxes.tolist() == [[40, 30, 60, 50]]
    assert crop.sides.tolist() == [20]
    assert crop.landmarks[0].tolist() == [[40, 30], [60, 30], [50, 40], [40, 50], [60, 50]]
    assert crop.ignore.tolist() == [[55, 25, 80, 35]], "cut at the window, not at the crop"
    assert crop.pixels[40, 50].tolist() == [255, 0, 0]
    assert crop.pixels[40, 62].tolist() == [0, 0, 200]
    assert crop.pixels[10, 10].tolist() == [0, 0, 0]


def test_a_reduced_decode_gives_the_same_labels(make_photo: MakePhoto) -> None:
    photo, pixels = make_photo((200, 400), ((120, 60, 160, 100),))
    window = Window(photo=(100, 40, 200, 140), crop=(30, 20, 80, 70))
    reduced = show((photo, np.ascontiguousarray(pixels[::4, ::4])), window)
    assert reduced.boxes.tolist() == [[40, 30, 60, 50]]
    assert reduced.pixels[40, 50].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("face", "boxes", "ignore"),
    [
        pytest.param((80, 0, 118, 10), [[80, 0, 100, 10]], [], id="centre seen: cut"),
        pytest.param((80, 0, 122, 10), [], [[80, 0, 100, 10]], id="centre beyond: ignored"),
        pytest.param((100, 0, 120, 10), [], [], id="outside: nothing"),
        pytest.param((0, 0, 100, 100), [[0, 0, 100, 100]], [], id="fills the crop"),
    ],
)
def test_cut_faces(make_photo: MakePhoto, face: tuple[float, ...], boxes: list[float], ignore: list[float]) -> None:
    crop = show(make_photo((100, 200), (face,)), Window(photo=(0, 0, 100, 100), crop=(0, 0, 100, 100)))
    assert (crop.boxes.tolist(), crop.ignore.tolist()) == (boxes, ignore)
    assert len(crop.landmarks) == len(crop.sides) == len(boxes)


def test_the_side_of_a_cut_face_is_that_of_the_whole_and_unseen_points_are_missing(make_photo: MakePhoto) -> None:
    crop = show(make_photo((100, 200), ((80, 0, 116, 25),)), Window(photo=(0, 0, 100, 100), crop=(0, 0, 100, 100)))
    assert crop.sides.tolist() == [30]
    assert np.isnan(crop.landmarks[0]).all(axis=1).tolist() == [False, True, False, False, True]


def test_a_mirror_swaps_left_and_right(make_photo: MakePhoto) -> None:
    photo = make_photo((100, 100), ((10, 20, 30, 40),), ((90, 0, 100, 5),))
    crop = mirrored(show(photo, Window(photo=(0, 0, 100, 100), crop=(0, 0, 100, 100))))
    assert crop.boxes.tolist() == [[70, 20, 90, 40]]
    assert crop.ignore.tolist() == [[0, 0, 10, 5]]
    assert crop.landmarks[0].tolist() == [[70, 20], [90, 20], [80, 30], [70, 40], [90, 40]]
    assert crop.pixels[30, 80].tolist() == [255, 0, 0]
    again = mirrored(crop)
    assert again.boxes.tolist() == [[10, 20, 30, 40]]


def test_small_faces_become_ignore_regions(make_photo: MakePhoto) -> None:
    photo = make_photo((100, 100), ((0, 0, 3, 3), (10, 10, 14, 14)), ((50, 50, 60, 60),))
    crop = ignore_small_faces(show(photo, Window(photo=(0, 0, 100, 100), crop=(0, 0, 100, 100))), 4.0)
    assert crop.boxes.tolist() == [[10, 10, 14, 14]]
    assert crop.ignore.tolist() == [[50, 50, 60, 60], [0, 0, 3, 3]]


@pytest.mark.parametrize(
    ("mosaic", "grid"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)], ids=["plain", "mosaic", "grid", "both"]
)
def test_labels_stay_on_their_pixels(make_photo: MakePhoto, mosaic: float, grid: float) -> None:
    photo = make_photo((150, 230), ((60, 40, 100, 90),))
    other = make_photo((90, 80))
    config = CropConfig(side=160, mosaic=mosaic, thinnest_strip=8, grid=grid)
    seen = 0
    for seed in range(40):
        crop = random_crop(*photo, lambda: other, np.random.default_rng(seed), config)
        assert crop.pixels.shape == (160, 160, 3)
        assert crop.pixels.flags.c_contiguous
        red = (crop.pixels[..., 0] > 127) & (crop.pixels[..., 2] < 100)
        for box in crop.boxes[crop.sides > 10]:
            seen += 1
            left, top, right, bottom = np.rint(box).astype(int)
            assert red[top + 2 : bottom - 2, left + 2 : right - 2].all()
            around = red[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3]
            # The plain colour around a zoomed-out photo may be red too; a photo is not.
            if mosaic and len(crop.ignore) == 0 and around.size > 1.2 * (right - left) * (bottom - top):
                assert not around.all()
    assert seen > 15


def test_faces_of_all_sizes_appear(make_photo: MakePhoto) -> None:
    photo = make_photo((300, 300), ((100, 100, 220, 220),))
    config = CropConfig(side=320, aimed=1.0)
    sides = [
        side
        for seed in range(200)
        for side in random_crop(*photo, lambda: photo, np.random.default_rng(seed), config).sides
    ]
    counts, _ = np.histogram(sides, [4, 8, 16, 32, 64, 128, 256, 360.1])
    assert (counts > 5).all()
    assert max(sides) <= 360.1, "no more than three times as large as in the photo"


def test_a_grid_shows_a_face_of_each_of_its_four_photos(make_photo: MakePhoto) -> None:
    photo = make_photo((200, 200), ((80, 80, 120, 120),))
    config = CropConfig(side=120, aimed=1.0, mosaic=0.0, grid=1.0, face_sides=(8, 16))
    for seed in range(20):
        crop = random_crop(*photo, lambda: photo, np.random.default_rng(seed), config)
        assert crop.pixels.shape == (120, 120, 3)
        centres = (crop.boxes[:, :2] + crop.boxes[:, 2:]) / 2
        assert {(x > 60, y > 60) for x, y in centres.tolist()} == {(a, b) for a in (0, 1) for b in (0, 1)}
        assert crop.boxes.max() <= 120


def test_an_aimed_at_face_is_seen(make_photo: MakePhoto) -> None:
    photo = make_photo((1000, 30), ((5, 970, 25, 990),))
    config = CropConfig(side=64, aimed=1.0, mosaic=0.0)
    for seed in range(30):
        crop = random_crop(*photo, lambda: photo, np.random.default_rng(seed), config)
        assert len(crop.boxes) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)], ids=str)
def test_degenerate_photos_give_crops(make_photo: MakePhoto, size: tuple[int, int]) -> None:
    photo = make_photo(size)
    for seed in range(10):
        crop = random_crop(*photo, lambda: photo, np.random.default_rng(seed), CropConfig(side=33, thinnest_strip=1))
        assert crop.pixels.shape == (33, 33, 3)
        assert crop.boxes.shape == crop.ignore.shape == (0, 4)
        assert crop.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"side": 0}, r"crop\.side is 0 px", id="side"),
        pytest.param({"face_sides": (8.0, 4.0)}, r"crop\.face_sides is \(8\.0, 4\.0\)", id="order"),
        pytest.param({"short_sides": (0.0, 4.0)}, r"crop\.short_sides", id="zero"),
        pytest.param({"flip": 1.1}, r"crop\.flip is 1\.1", id="share"),
        pytest.param({"enlargement": 0.0}, r"crop\.enlargement is 0", id="enlargement"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(CropConfig(), **change)  # type: ignore[arg-type]
