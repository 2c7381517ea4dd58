"""Chips: every face of a scale's range is in one, negatives show none, and other faces teach the detector nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.models import Preset
from retinafocus.training.augment import MEAN_COLOUR, CropConfig, LabelledCrop
from retinafocus.training.chips import (
    ChipConfig,
    Grid,
    cover,
    free_windows,
    level_size,
    random_chip,
    random_grid,
    window_of,
)
from retinafocus.training.photometry import PhotometryConfig
from retinafocus.training.samples import CropSamples, SampleConfig, collate
from retinafocus.training.targets import IGNORED, NEGATIVE, POSITIVE

Photo = tuple[LabelledPhoto, NDArray[np.uint8]]
MakePhoto = Callable[..., Photo]

ONE_SCALE = ChipConfig(scales=(1.0,), valid=((0.0, 1e6),), negatives=0)


def grid_of(columns: list[int], rows: list[int], side: int) -> Grid:
    return Grid(np.array(columns), np.array(rows), side)


def chips_of(photo: Photo, side: int, config: ChipConfig, count: int = 40) -> list[LabelledCrop]:
    """Chips for many seeds, none mirrored."""
    crop = CropConfig(side=side, flip=0.0)
    return [random_chip(*photo, np.random.default_rng(seed), crop, config) for seed in range(count)]


@pytest.mark.parametrize(
    ("lefts", "chosen"),
    [
        pytest.param([10, 60, 110, 160], [(0, 0), (0, 2)], id="of equals the leftmost, then two at once"),
        pytest.param([60, 70, 110, 160], [(0, 1), (0, 2)], id="the fullest first"),
        pytest.param([10, 60, 70, 110, 160], [(0, 0), (0, 2)], id="three, then what is left"),
        pytest.param([90], [(0, 1)], id="cut by two windows, whole in one"),
        pytest.param([0, 180], [(0, 0), (0, 2)], id="at both borders"),
        pytest.param([], [], id="no faces"),
    ],
)
def test_each_window_holds_most_of_the_faces_that_are_left(lefts: list[int], chosen: list[tuple[int, int]]) -> None:
    """Windows 0..100, 50..150 and 100..200; faces 20 px wide."""
    boxes = np.array([[left, 30, left + 20, 50] for left in lefts], dtype=np.float32).reshape(-1, 4)
    assert cover(boxes, grid_of([0, 50, 100], [0], 100)) == chosen


def test_a_face_larger_than_a_window_or_between_windows_is_left_out() -> None:
    boxes = np.array([[10, 0, 111, 20], [90, 0, 110, 20], [0, 0, 10, 10]], dtype=np.float32)
    assert cover(boxes, grid_of([0, 100], [0], 100)) == [(0, 0)]


@pytest.mark.parametrize("seed", range(8))
def test_cover_and_free_windows_agree_with_looking_at_every_window(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = random_grid((150, 230), 64, 11, random)
    corners = random.uniform(0, [160, 100], (30, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 70, (30, 2))], axis=1)
    left, top = np.meshgrid(grid.columns, grid.rows)
    x1, y1, x2, y2 = (side[:, None, None] for side in boxes.T)
    holds = (x1 >= left) & (y1 >= top) & (x2 <= left + 64) & (y2 <= top + 64)
    touches = (x1 < left + 64) & (y1 < top + 64) & (x2 > left) & (y2 > top)
    expected, open_faces = [], holds.any(axis=(1, 2))
    while open_faces.any():
        counts = holds[open_faces].sum(axis=0)
        row, column = divmod(int(counts.argmax()), counts.shape[1])
        expected.append((row, column))
        open_faces &= ~holds[:, row, column]
    assert cover(boxes, grid) == expected
    assert np.array_equal(free_windows(boxes[:4], grid), ~touches[:4].any(axis=0))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 1000])
def test_a_grid_reaches_from_border_to_border_without_gaps(length: int) -> None:
    for seed in range(10):
        grid = random_grid((length, 64), 64, 16, np.random.default_rng(seed))
        assert grid.columns.tolist() == [0]
        assert (grid.rows[0], grid.rows[-1]) == (0, max(0, length - 64))
        assert (np.diff(grid.rows) <= 16).all()
        assert (np.diff(grid.rows) > 0).all()


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        pytest.param((1000, 500), 0.5, (500, 250), id="as said"),
        pytest.param((200, 100), 0.5, (320, 160), id="enlarged until it fills the chip"),
        pytest.param((50, 100), 0.5, (150, 300), id="at most to the largest scale"),
        pytest.param((1, 10_000), 0.1, (1, 1000), id="never nothing"),
    ],
)
def test_small_photos_are_enlarged(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert level_size(size, scale, 3.0, 320) == expected


def test_a_window_shows_its_share_of_the_photo() -> None:
    window = window_of((100, 200), (50, 100), (60, 0), 64)
    assert window.photo == (120, 0, 200, 100)
    assert window.crop == (0, 0, 40, 50)


def test_chips_hold_faces_whole_also_at_the_corners(make_photo: MakePhoto) -> None:
    corners = ((0, 0, 20, 20), (180, 0, 200, 20), (0, 130, 20, 150), (180, 130, 200, 150))
    seen = set()
    for chip in chips_of(make_photo((150, 200), corners), 64, ONE_SCALE):
        whole = chip.boxes[(chip.boxes[:, 2:] - chip.boxes[:, :2] >= 19.9).all(axis=1)]
        assert len(whole) == 1
        seen.add((float(whole[0, 0]) > 22, float(whole[0, 1]) > 22))
        left, top, right, bottom = np.rint(whole[0]).astype(int)
        assert (chip.pixels[top + 1 : bottom - 1, left + 1 : right - 1, 0] > 127).all(), "labels are on their pixels"
    assert len(seen) == 4


def test_each_scale_is_for_its_own_faces(make_photo: MakePhoto) -> None:
    photo = make_photo((400, 400), ((20, 20, 40, 40), (150, 150, 350, 350)))
    config = ChipConfig(scales=(2.0, 0.25), valid=((0.0, 40.0), (40.0, 1e6)), negatives=0)
    sides = set()
    for chip in chips_of(photo, 100, config):
        assert chip.in_range.any()
        for side, in_range in zip(chip.sides.tolist(), chip.in_range.tolist(), strict=True):
            assert in_range == (round(side) in (40, 50)), "20 px at scale 2, 200 px at scale 1/4"
            sides.add(round(side))
    assert {40, 50, 5} <= sides


def test_faces_out_of_range_are_neither_face_nor_background_but_in_the_focus_map(
    make_photo: MakePhoto, preset: Preset
) -> None:
    photo, pixels = make_photo((128, 128), ((8, 8, 28, 28), (64, 64, 112, 112)))
    config = SampleConfig(
        kind="chips",
        crop=CropConfig(side=128, flip=0),
        chip=replace(ONE_SCALE, valid=((30.0, 1e6),)),
        photometry=PhotometryConfig(light=0, colour=0, grey=0, low_light=0, blur=0, noise=0, compression=0),
    )
    samples = CropSamples([photo], lambda _: pixels, preset=preset, config=config)
    sample = samples[0]
    assert sample.crop.in_range.tolist() == [False, True]
    centres = samples.anchors[sample.anchors.positives][:, :2]
    assert len(centres) > 0
    assert (centres > 56).all(), "only the face in range has anchors"
    inside = (samples.anchors[:, :2] - 18).abs().amax(dim=1) <= 6
    small = inside & (samples.anchors[:, 2] <= 20)
    assert (sample.anchors.labels[small] == IGNORED).all()
    far = (samples.anchors[:, :2] - torch.tensor([110.0, 18.0])).abs().amax(dim=1) <= 10
    assert (sample.anchors.labels[far & (samples.anchors[:, 2] <= 20)] == NEGATIVE).all()
    assert sample.focus is not None
    assert sample.focus[1:3, 1:3].eq(POSITIVE).all(), "a face of 20 px wants a finer look, whatever the range"


@pytest.mark.parametrize("reduction", [1, 4], ids=["full", "reduced decode"])
def test_negative_chips_show_no_face_and_no_ignore_region(make_photo: MakePhoto, reduction: int) -> None:
    photo, pixels = make_photo((200, 300), ((90, 61, 131, 111),), ((211, 7, 250, 43),))
    pixels = np.ascontiguousarray(pixels[::reduction, ::reduction])
    nothing = ChipConfig(scales=(1.0, 1.7), valid=((900.0, 1e6), (900.0, 1e6)), stride=7)
    for chip in chips_of((photo, pixels), 64, nothing):
        assert len(chip.boxes) == len(chip.ignore) == 0
        assert chip.pixels[..., :2].max() < 30, "neither red nor green"


def test_a_photo_has_so_many_negatives_beside_its_positives(make_photo: MakePhoto) -> None:
    photo = make_photo((60, 600), ((10, 10, 40, 40),))
    for negatives, share in ((0, 0.0), (1, 1 / 2), (3, 3 / 4)):
        chips = chips_of(photo, 60, replace(ONE_SCALE, negatives=negatives), count=200)
        empty = sum(not len(chip.boxes) and not len(chip.ignore) for chip in chips)
        assert empty / 200 == pytest.approx(share, abs=0.12)


def test_a_photo_without_faces_gives_negatives_also_where_none_are_asked_for(make_photo: MakePhoto) -> None:
    assert all(not len(chip.boxes) for chip in chips_of(make_photo((90, 90)), 64, ONE_SCALE, count=5))


def test_a_face_larger_than_the_chip_is_shown_in_part(make_photo: MakePhoto) -> None:
    photo = make_photo((200, 200), ((5, 5, 195, 195),))
    chips = chips_of(photo, 64, ONE_SCALE)
    assert any(len(chip.boxes) for chip in chips)
    for chip in chips:
        assert len(chip.boxes) + len(chip.ignore) == 1, "no window is free of it: never background"
        assert np.concatenate([chip.boxes, chip.ignore]).max() <= 64


def test_what_a_small_photo_does_not_fill_is_plain(make_photo: MakePhoto) -> None:
    (chip,) = chips_of(make_photo((10, 20), ((2, 2, 8, 8),)), 100, replace(ONE_SCALE, scales=(3.0,)), count=1)
    assert (chip.pixels[30:] == MEAN_COLOUR).all()
    assert (chip.pixels[:, 60:] == MEAN_COLOUR).all()
    np.testing.assert_allclose(chip.boxes, [[6, 6, 24, 24]], atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)], ids=str)
def test_degenerate_photos_give_chips(make_photo: MakePhoto, size: tuple[int, int]) -> None:
    for chip in chips_of(make_photo(size), 33, ChipConfig(), count=5):
        assert chip.pixels.shape == (33, 33, 3)
        assert chip.boxes.shape == chip.ignore.shape == (0, 4)
        assert chip.in_range.shape == (0,)


def test_small_faces_become_ignore_regions_and_keep_the_others_apart(make_photo: MakePhoto) -> None:
    photo = make_photo((60, 60), ((0, 0, 3, 3), (20, 20, 40, 40)))
    (chip,) = chips_of(photo, 60, ONE_SCALE, count=1)
    assert (chip.boxes.tolist(), chip.ignore.tolist()) == ([[20, 20, 40, 40]], [[0, 0, 3, 3]])
    assert chip.in_range.tolist() == [True]


def test_thousands_of_faces_take_no_time() -> None:
    random = np.random.default_rng(0)
    grid = random_grid((9000, 12_000), 320, 32, random)
    corners = random.uniform(0, [11_900, 8900], (5000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(15, 60, (5000, 1))], axis=1)
    start = time.process_time()
    chosen = cover(boxes, grid)
    assert time.process_time() - start < 2, "0.1 s on an idle machine"
    assert 300 < len(chosen) < 5000


def test_a_chip_depends_on_its_number_alone(make_photo: MakePhoto, preset: Preset) -> None:
    photos = [make_photo((90, 120), ((20, 30, 40, 55), (70, 10, 100, 50))), make_photo((70, 40))]
    config = SampleConfig(kind="chips", crop=CropConfig(side=48))
    samples = CropSamples([photo for photo, _ in photos], lambda n: photos[n][1], preset=preset, config=config)
    forward = [collate([samples[number]]) for number in range(6)]
    loader = DataLoader(samples, batch_size=1, sampler=[5, 3, 1], collate_fn=collate, num_workers=1)
    for number, batch in zip((5, 3, 1), loader, strict=True):
        for name, value, other in zip(batch._fields, batch, forward[number], strict=True):
            assert torch.equal(value, other), name
    assert not torch.equal(forward[0].pixels, forward[1].pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"scales": ()}, r"chip\.scales is \(\)", id="no scale"),
        pytest.param({"scales": (1.0, 0.0, 2.0)}, r"chip\.scales", id="zero"),
        pytest.param({"scales": (1.0,)}, r"for each of the 1 scales", id="lengths differ"),
        pytest.param({"valid": ((0, 5), (9, 9), (1, 2))}, r"0 <= low < high", id="empty range"),
        pytest.param({"stride": 0}, r"chip\.stride is 0", id="stride"),
        pytest.param({"negatives": -1}, r"chip\.negatives -1", id="negatives"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(ChipConfig(), **change)  # type: ignore[arg-type]
