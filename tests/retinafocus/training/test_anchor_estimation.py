"""Anchors follow the faces the network sees, deterministically, and the remedies keep them from being all tiny."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.widerface import read_wider_text
from retinafocus.errors import SettingsError
from retinafocus.models import Preset
from retinafocus.training.anchor_estimation import (
    EstimateConfig,
    anchor_fits,
    assign_levels,
    blank_pixels,
    cluster_sizes,
    estimate_anchors,
    face_sizes,
    faces_at_factors,
    faces_in_crops,
    octave_weights,
    with_area,
    worst_overlap,
)
from retinafocus.training.samples import CropSamples, SampleConfig

Photo = tuple[LabelledPhoto, NDArray[np.uint8]]

PLAIN = EstimateConfig(smallest=0, every_octave_to=0)


def faces(*sizes: float, ratio: float = 1.0) -> np.ndarray:
    """Widths and heights of faces of one shape."""
    side = np.array(sizes, np.float64)
    return np.stack([side / math.sqrt(ratio), side * math.sqrt(ratio)], axis=1)


def overlap(sizes: np.ndarray, place: float) -> np.ndarray:
    return np.minimum(sizes, place) ** 2 / np.maximum(sizes, place) ** 2


# By hand: quantiles 0.25 and 0.75 are the 2nd and 5th size, 8 and 40; they meet at sqrt(8 * 40) = 17.9.
@pytest.mark.parametrize("update", ["median", "best"])
def test_two_crowds_of_faces_give_two_sizes(update: str) -> None:
    assert cluster_sizes(np.array([40, 8, 10, 50, 8, 40.0]), 2, update=update).tolist() == [8, 40]  # type: ignore[arg-type]


def test_the_median_and_the_best_place_differ_where_a_tail_pulls() -> None:
    # Sums of IoU by hand: at 40 1/16 + 0.1225 + 1 + 0.952 + 0.907 = 3.044, at 41 0.059 + 0.117 + 0.952 + 1 + 0.953.
    sizes = np.array([10, 14, 40, 41, 42.0])
    assert cluster_sizes(sizes, 1, update="median").tolist() == [40]
    assert cluster_sizes(sizes, 1, update="best").tolist() == [41]
    assert max(sizes, key=lambda place: overlap(sizes, place).sum()) == 41


def test_of_an_even_number_the_lower_middle_is_the_median() -> None:
    assert cluster_sizes(np.array([10, 20.0]), 1).tolist() == [10]


def test_a_size_without_faces_moves_to_the_face_that_costs_most() -> None:
    # The quantiles 1/6, 1/2, 5/6 of nine faces are 10, 10, 20.
    assert cluster_sizes(np.array([10.0] * 7 + [20, 40]), 3).tolist() == [10, 20, 40]


def test_an_octave_has_the_median_of_its_own_faces_or_its_middle() -> None:
    octaves = [(8.0, 16.0), (16.0, 32.0), (32.0, 64.0)]
    found = cluster_sizes(np.array([9, 10, 12, 40, 64.0]), 3, octaves=octaves)
    assert found.tolist() == [10, pytest.approx(math.sqrt(16 * 32)), 40]
    # One more starts at the middle face, 12, and the octave's own 10 does not move for it. 64 is in no octave.
    assert cluster_sizes(np.array([9, 10, 12, 40, 64.0]), 4, octaves=octaves)[:2].tolist() == [10, 12]
    assert cluster_sizes(np.array([9, 10, 12, 40, 64, 64, 66.0]), 4, octaves=octaves)[-2:].tolist() == [40, 64]


def test_weights_are_like_repeated_faces() -> None:
    sizes, counts = np.array([7, 9, 20, 33, 80.0]), np.array([5, 1, 2, 4, 1])
    weighted = cluster_sizes(sizes, 3, weights=counts.astype(np.float64))
    assert weighted.tolist() == cluster_sizes(np.repeat(sizes, counts), 3).tolist()


def test_each_octave_weighs_the_same_at_a_balance_of_one() -> None:
    sizes = np.array([9, 10, 15, 20.0])
    assert octave_weights(sizes, 1.0).tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 4])
    assert octave_weights(sizes, 0.5).tolist() == pytest.approx([math.sqrt(4 / 3)] * 3 + [2])
    assert octave_weights(sizes, 0.0).tolist() == [1, 1, 1, 1]


sizes_lists = st.lists(st.integers(3, 400).map(float), min_size=4, max_size=9, unique=True)


@given(sizes=sizes_lists, count=st.integers(1, 4), update=st.sampled_from(["median", "best"]))
@settings(max_examples=150)
def test_no_cluster_has_a_better_place_and_no_clustering_beats_all_of_them(
    sizes: list[float], count: int, update: str
) -> None:
    def cost(places: tuple[float, ...] | np.ndarray, values: np.ndarray) -> float:
        ratios = np.min([np.abs(np.log(values / place)) for place in places], axis=0)
        return float((ratios if update == "median" else 1 - np.exp(-2 * ratios)).sum())

    values = np.sort(np.array(sizes))
    found = cluster_sizes(values, count, update=update)  # type: ignore[arg-type]
    assert len(found) == count
    assert set(found) <= set(values)
    nearest = np.argmin([np.abs(np.log(values / place)) for place in found], axis=0)
    for number, place in enumerate(found):
        members = values[nearest == number]
        assert cost((place,), members) <= min(cost((other,), members) for other in values) + 1e-9
    # Every choice of places among the faces: one of them is the best clustering there is.
    everything = [cost(places, values) for places in itertools.combinations(values, count)]
    start = [values[math.ceil((number + 0.5) / count * len(values)) - 1] for number in range(count)]
    assert min(everything) - 1e-9 <= cost(found, values) <= cost(tuple(start), values) + 1e-9


def test_the_best_clustering_of_clear_groups_is_found() -> None:
    groups = np.array([9, 10, 11, 38, 40, 42, 148, 160, 165.0])
    cost = {
        places: sum(np.min([1 - overlap(groups, place) for place in places], axis=0))
        for places in itertools.combinations(groups, 3)
    }
    assert tuple(cluster_sizes(groups, 3, update="best")) == min(cost, key=lambda places: cost[places])


some_faces = st.lists(
    st.tuples(st.floats(2, 500, width=16), st.floats(2, 500, width=16)), min_size=12, max_size=40, unique=True
)
remedies = st.builds(
    EstimateConfig,
    ratio=st.sampled_from([None, 1.25]),
    smallest=st.sampled_from([0.0, 4.0]),
    octave_balance=st.sampled_from([0.0, 0.5, 1.0]),
    every_octave_to=st.sampled_from([0.0, 32.0]),
    update=st.sampled_from(["median", "best"]),
)


def estimated(sides: np.ndarray, config: EstimateConfig) -> object:
    """The anchors, or why there are none."""
    try:
        return estimate_anchors(sides, config)
    except SettingsError as error:
        return str(error)


@given(pairs=some_faces, config=remedies, seed=st.integers(0, 9))
@settings(max_examples=100)
def test_the_order_of_faces_changes_nothing(
    pairs: list[tuple[float, float]], config: EstimateConfig, seed: int
) -> None:
    sides = np.array(pairs)
    shuffled = np.random.default_rng(seed).permutation(sides)
    assert estimated(shuffled, config) == estimated(sides, config)


@given(pairs=some_faces, config=remedies)
@settings(max_examples=100)
def test_twice_the_faces_give_twice_the_anchors(pairs: list[tuple[float, float]], config: EstimateConfig) -> None:
    sides = np.array(pairs)
    doubled = replace(config, smallest=2 * config.smallest, every_octave_to=2 * config.every_octave_to)
    once, twice = estimated(sides, config), estimated(2 * sides, doubled)
    if isinstance(once, str):
        assert isinstance(twice, str)
    else:
        assert twice == replace(once, sizes=tuple(tuple(2 * size for size in level) for level in once.sizes))  # type: ignore[type-var, attr-defined]


def crowd() -> np.ndarray:
    """Sizes as in a crowd: half below 15 px, few large ones."""
    return faces(*np.exp(np.random.default_rng(1).normal(math.log(15), 0.9, 4000)))


def flat(sides: np.ndarray, config: EstimateConfig) -> list[float]:
    return [size for level in estimate_anchors(sides, config).sizes for size in level]


def test_the_remedies_against_tiny_anchors_each_have_their_effect() -> None:
    plain = flat(crowd(), PLAIN)
    assert sum(size < 16 for size in plain) >= 3
    assert max(plain) < 128
    assert min(flat(crowd(), replace(PLAIN, smallest=12))) >= 12
    balanced = [flat(crowd(), replace(PLAIN, octave_balance=balance)) for balance in (0.5, 1.0)]
    assert np.median(plain) < np.median(balanced[0]) < np.median(balanced[1])
    octaves = flat(crowd(), EstimateConfig(every_octave_to=512))
    assert [math.floor(math.log2(size)) for size in octaves] == [3, 4, 5, 6, 7, 8]
    nine = flat(crowd(), EstimateConfig(every_octave_to=512, per_level=3))
    assert {math.floor(math.log2(size)) for size in nine} == {3, 4, 5, 6, 7, 8}
    assert set(octaves) <= set(nine)
    ends = flat(crowd(), EstimateConfig(every_octave_to=32))  # two octaves, and four sizes that are free
    assert len(ends) == 6
    assert max(ends) < 256


def test_the_ratio_is_that_of_the_faces_clustered_unless_given() -> None:
    sides = np.concatenate([faces(20, 30, 40, 50, 60, 70, ratio=1.44), faces(3, 4, 5, 6, 7, 7.5, 7.9, ratio=1)])
    config = EstimateConfig(every_octave_to=0, per_level=1)
    assert estimate_anchors(sides, config).ratio == pytest.approx(1.44)
    assert estimate_anchors(sides, replace(config, ratio=1.0)).ratio == 1
    assert estimate_anchors(sides, replace(config, smallest=0)).ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EstimateConfig(per_level=1),
            r"3 anchors cannot give one to each of the 6 octaves from 8 to 512 px; choose more",
        ),
        (replace(PLAIN, per_level=2), "6 anchors are to be found and the faces have 2 different sizes; choose fewer"),
        (replace(PLAIN, smallest=41), "no face is 41 px or larger; choose a smaller smallest, or other photos"),
    ],
    ids=["octaves", "alike", "none"],
)
def test_what_cannot_be_estimated_says_why(config: EstimateConfig, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        estimate_anchors(faces(20, 40, 40, 20), config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_level": 0}, "per_level is 0; choose at least 1"),
        ({"strides": (16, 8)}, r"strides is \(16, 8\); give each level's stride once, finest first"),
        ({"strides": ()}, "give each level's stride once"),
        ({"ratio": 0.0}, r"ratio is 0.0; choose a positive height/width"),
        ({"smallest": -1.0}, r"smallest is -1.0 and every_octave_to 512.0; choose 0 px or more"),
        ({"octave_balance": 1.5}, r"octave_balance is 1.5; choose 0..1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EstimateConfig(**values)  # type: ignore[arg-type]


def test_levels_get_equally_many_and_the_finest_the_smallest() -> None:
    assert assign_levels([64, 8, 16, 32, 256, 128], (8, 16, 32)) == ((8, 16), (32, 64), (128, 256))
    with pytest.raises(SettingsError, match="4 sizes cannot be shared equally by 3 levels"):
        assign_levels([1, 2, 3, 4], (8, 16, 32))


# (A - s/2)^2 / (2 A^2 - (A - s/2)^2), by hand.
@pytest.mark.parametrize(("size", "wanted"), [(4, 0), (8, 1 / 7), (10, 36 / 164), (16, 144 / 368), (24, 400 / 752)])
def test_half_a_stride_off_an_anchor_overlaps_a_face_of_its_own_size_so_much(size: float, wanted: float) -> None:
    assert worst_overlap(size, 8) == pytest.approx(wanted)


def test_a_narrow_anchor_suffers_more_from_its_grid() -> None:
    # 8 x 32 px half of 8 px off: 4 * 28 of 2 * 256 - 4 * 28.
    assert worst_overlap(16, 8, ratio=4) == pytest.approx(112 / 400)
    config = replace(PLAIN, per_level=1, ratio=4.0)
    fits = anchor_fits(estimate_anchors(faces(16, 64, 200), config))
    assert [(fit.size, fit.stride) for fit in fits] == [(16, 8), (64, 16), (200, 32)]
    assert fits[0].worst_overlap == pytest.approx(112 / 400)


def test_the_faces_are_those_of_the_trainings_own_crops_without_a_picture(samples: CropSamples) -> None:
    told: list[int] = []
    photos = samples.photos
    blank = CropSamples(photos, blank_pixels(photos, lambda photo: 1), preset=samples.preset, config=samples.config)
    found = faces_in_crops(blank, 24, told.append)
    boxes = [samples[number].crop.boxes for number in range(24)]
    assert found == pytest.approx(np.concatenate([each[:, 2:] - each[:, :2] for each in boxes]))
    assert told == [len(each) for each in boxes]
    assert sum(told) > 10


def test_blank_pixels_have_the_size_of_a_reduced_decode(make_photo: Callable[..., Photo]) -> None:
    photos = [make_photo(size)[0] for size in ((5, 9), (8, 4))]
    assert [blank_pixels(photos, lambda photo: 2)(place).shape for place in (0, 1)] == [(3, 5, 3), (4, 2, 3)]


def test_faces_for_another_scales_chip_are_left_out(make_photo: Callable[..., Photo], preset: Preset) -> None:
    photo, pixels = make_photo((90, 120), ((20, 30, 28, 40), (40, 10, 100, 80)))
    config = SampleConfig(kind="chips", crop=replace(SampleConfig().crop, side=96, flip=0))
    config = replace(config, chip=replace(config.chip, scales=(1.0,), valid=((20.0, 100.0),)))
    samples = CropSamples([photo], lambda place: pixels, preset=preset, config=config)
    assert len(samples.crop(0).boxes) == 2
    assert faces_in_crops(samples, 1) == pytest.approx(np.array([[60, 70]]))


def test_factors_resize_every_face(make_photo: Callable[..., Photo]) -> None:
    photo, _ = make_photo((90, 120), ((20, 30, 30, 50),))
    assert faces_at_factors([photo, make_photo((5, 5))[0]], (0.5, 2)).tolist() == [[5, 10], [20, 40]]
    assert faces_at_factors([], (1.0,)).shape == (0, 2)
    for factors in ((), (0.0,), (1.0, math.inf)):
        with pytest.raises(SettingsError, match="give numbers above 0"):
            faces_at_factors([photo], factors)


# The sizes of the study of WIDER FACE's validation faces, at the size of the photos.
@pytest.mark.shared
def test_sizes_of_wider_face_are_those_of_the_study(shared_data: Path) -> None:
    listed = read_wider_text(shared_data / "widerface" / "wider_face_val_bbx_gt.txt")
    boxes = np.array([row.box for photo in listed for row in photo.rows if not row.doubtful])
    sides = with_area(boxes[:, 2:] - boxes[:, :2])
    assert len(sides) == 39112
    assert np.median(sides[:, 1] / sides[:, 0]) == pytest.approx(1.27, abs=0.005)
    for count, wanted in (
        (3, [9.0, 20.8, 56.9]),
        (6, [6.9, 10.5, 15.5, 25, 45.5, 115]),
        (9, [5.9, 8.5, 11, 14.9, 21, 30.6, 45.5, 75.5, 170]),
    ):
        assert cluster_sizes(face_sizes(sides), count) == pytest.approx(wanted, rel=0.01)
