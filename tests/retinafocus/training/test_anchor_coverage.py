"""How well anchors cover faces agrees with boxes drawn and measured one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou

from retinafocus.anchors import AnchorConfig, anchor_boxes
from retinafocus.datasets.widerface import read_wider_text
from retinafocus.errors import SettingsError
from retinafocus.models import PRESETS
from retinafocus.training.anchor_coverage import (
    ALL_SIZES,
    BUCKETS,
    PUBLISHED_ANCHORS,
    Coverage,
    coverage,
    placed_overlaps,
    shape_overlaps,
    worst_overlaps,
)
from retinafocus.training.anchor_estimation import with_area, worst_overlap

BIUBUG6 = PUBLISHED_ANCHORS["biubug6"]


def test_centred_overlaps_by_hand() -> None:
    # 16 x 16 is an anchor; 8 x 32 shares 8 x 16 with it and 8 x 32 with the next: 256 of 1024; 24 x 24: 576 of 1024.
    sides = np.array([[16, 16], [8, 32], [24, 24], [1024, 1024.0]])
    assert shape_overlaps(sides, BIUBUG6) == pytest.approx([1, 128 / 384, 576 / 1024, 0.25])
    assert shape_overlaps(np.array([[8, 32.0]]), replace(BIUBUG6, ratio=4.0)) == pytest.approx([1])


def test_half_a_stride_off_is_the_worst_place_of_a_face_of_an_anchors_size() -> None:
    only = AnchorConfig(strides=(8,), sizes=((16.0,),))
    assert worst_overlaps(np.array([[16, 16.0]]), only) == pytest.approx([144 / 368])
    assert worst_overlap(16, 8) == pytest.approx(144 / 368)
    assert placed_overlaps(np.array([[16, 16.0]]), only, (4, 12)) == pytest.approx([1])
    assert placed_overlaps(np.array([[16, 16.0]]), only, (6, 12)) == pytest.approx([14 * 16 / (512 - 14 * 16)])


@pytest.mark.parametrize("name", PUBLISHED_ANCHORS)
def test_placed_overlaps_are_those_of_the_networks_own_anchors(name: str) -> None:
    anchors = PUBLISHED_ANCHORS[name]
    rng = np.random.default_rng(2)
    sides = np.exp(rng.uniform(math.log(4), math.log(90), (20, 2)))
    drawn = box_convert(anchor_boxes(anchors, (512, 512)), "cxcywh", "xyxy").double()
    for x, y in rng.uniform(0, 128, (3, 2)):
        centres = np.full((20, 2), (256 + x, 256 + y))  # whole cells of every level away from the border
        boxes = torch.from_numpy(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1))
        wanted = box_iou(boxes, drawn).max(dim=1).values.numpy()
        assert placed_overlaps(sides, anchors, (float(x), float(y))) == pytest.approx(
            wanted, abs=2e-5
        )  # float32 anchors


@given(
    sides=st.lists(st.tuples(st.floats(2, 300), st.floats(2, 300)), min_size=1, max_size=5),
    name=st.sampled_from(list(PUBLISHED_ANCHORS)),
    place=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
)
@settings(max_examples=100)
def test_no_place_is_worse_than_the_worst_and_none_better_than_the_centre(
    sides: list[tuple[float, float]], name: str, place: tuple[float, float]
) -> None:
    faces, anchors = np.array(sides), PUBLISHED_ANCHORS[name]
    placed = placed_overlaps(faces, anchors, place)
    assert (worst_overlaps(faces, anchors) <= placed + 1e-12).all()
    assert (placed <= shape_overlaps(faces, anchors) + 1e-12).all()


pairs = st.lists(st.tuples(st.floats(2, 300), st.floats(2, 300)), min_size=1, max_size=8)


@given(sides=pairs, sizes=st.lists(st.floats(4, 300), min_size=6, max_size=6), ratio=st.floats(0.5, 2))
@settings(max_examples=60)
def test_more_anchors_cover_no_less(sides: list[tuple[float, float]], sizes: list[float], ratio: float) -> None:
    few = AnchorConfig(sizes=tuple((size,) for size in sizes[:3]), ratio=ratio)
    many = AnchorConfig(sizes=tuple(zip(sizes[:3], sizes[3:], strict=True)), ratio=ratio)
    for less, more in zip(
        coverage(np.array(sides), few, places=8), coverage(np.array(sides), many, places=8), strict=True
    ):
        if less.faces:
            assert more.mean_overlap >= less.mean_overlap
            assert more.over_035 >= less.over_035
            assert more.over_050 >= less.over_050


@given(sides=pairs, order=st.randoms())
@settings(max_examples=30)
def test_scale_and_order_change_nothing(sides: list[tuple[float, float]], order: object) -> None:
    shuffled = list(sides)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    twice = AnchorConfig(
        strides=tuple(2 * stride for stride in BIUBUG6.strides),
        sizes=tuple(tuple(2 * size for size in level) for level in BIUBUG6.sizes),
    )
    once = coverage(np.array(sides), BIUBUG6, (ALL_SIZES,), places=8)
    for others in (
        coverage(np.array(shuffled), BIUBUG6, (ALL_SIZES,), places=8),
        coverage(2 * np.array(sides), twice, (ALL_SIZES,), places=8),
    ):
        for row, other in zip(once, others, strict=True):
            assert row.faces == other.faces
            assert (row.mean_overlap, row.over_035, row.over_050) == pytest.approx(
                (other.mean_overlap, other.over_035, other.over_050)
            )


def test_buckets_hold_their_lower_end_and_are_told_for_each_form() -> None:
    sides = np.array([[8, 8], [16, 16], [31.9, 31.9], [2000, 2000.0]])
    rows = coverage(sides, BIUBUG6)
    assert [(row.form, row.low, row.high) for row in rows] == [
        (form, low, high) for form in ("shape", "mean", "worst") for low, high in (ALL_SIZES, *BUCKETS)
    ]
    assert [row.faces for row in rows[:9]] == [4, 0, 1, 2, 0, 0, 0, 0, 1]
    assert rows[0].mean_overlap == pytest.approx((0.25 + 1 + (31.9 / 32) ** 2 + (512 / 2000) ** 2) / 4)
    assert (rows[0].over_035, rows[0].over_050) == (0.5, 0.5)
    assert math.isnan(rows[1].mean_overlap)
    assert math.isnan(rows[1].over_035)


def test_an_overlap_of_just_035_is_not_above_it() -> None:
    only = AnchorConfig(strides=(1,), sizes=((20.0,),))
    row = coverage(np.array([[20, 7], [20, 7.001], [20, 10.0]]), only, (ALL_SIZES,))[0]
    assert (row.over_035, row.over_050) == (pytest.approx(2 / 3), 0)


def test_without_faces_there_is_nothing_to_say() -> None:
    for row in coverage(np.zeros((0, 2)), BIUBUG6):
        assert row.faces == 0
        assert math.isnan(row.mean_overlap)


def test_the_mean_is_taken_over_at_least_one_place() -> None:
    with pytest.raises(SettingsError, match="places is 0; choose at least 1"):
        coverage(np.ones((1, 2)), BIUBUG6, places=0)


def test_the_mean_over_places_is_that_of_a_fine_raster() -> None:
    sides = np.array([[9, 12], [14, 14], [30, 25.0]])
    raster = np.arange(0.25, 32, 0.5)
    anchors = PUBLISHED_ANCHORS["1mb"]
    wanted = np.mean([placed_overlaps(sides, anchors, (x, y)) for x in raster for y in raster])
    mean = next(row for row in coverage(sides, anchors, (ALL_SIZES,)) if row.form == "mean")
    assert mean.mean_overlap == pytest.approx(wanted, abs=0.003)


def test_published_anchors_are_those_of_our_presets_and_of_the_papers() -> None:
    assert PUBLISHED_ANCHORS["biubug6"] == PRESETS["mobilenet025-biubug6"].anchors
    assert PUBLISHED_ANCHORS["1mb"] == PRESETS["mobilenet025-1mb"].anchors
    paper = [size for level in PUBLISHED_ANCHORS["paper"].sizes for size in level]
    assert paper[:4] + paper[-2:] == pytest.approx([16, 20.16, 25.40, 32, 322.54, 406.37], abs=0.005)
    srn = [size for level in PUBLISHED_ANCHORS["srn"].sizes for size in level]
    assert (len(srn), srn[0], round(srn[-1])) == (12, 8, 362)


# Table of the study of WIDER FACE's validation faces: mean best IoU, shares above 0.35 and 0.5, of centred anchors.
@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "factor", "wanted"),
    [
        ("biubug6", 1.0, (0.555, 79.4, 70.0)),
        ("biubug6", 1.5, (0.634, 93.8, 86.2)),
        ("biubug6", 2.0, (0.660, 97.6, 93.8)),
        ("1mb", 1.0, (0.652, 94.1, 87.8)),
        ("paper", 1.0, (0.610, 79.3, 70.2)),
        ("paper", 2.0, (0.748, 97.3, 93.8)),
        ("srn", 1.0, (0.778, 97.9, 95.0)),
        ("srn square", 1.0, (0.734, 97.9, 94.4)),
    ],
)
def test_coverage_of_wider_face_is_that_of_the_study(
    shared_data: Path, name: str, factor: float, wanted: tuple[float, float, float]
) -> None:
    listed = read_wider_text(shared_data / "widerface" / "wider_face_val_bbx_gt.txt")
    boxes = np.array([row.box for photo in listed for row in photo.rows if not row.doubtful])
    anchors = replace(PUBLISHED_ANCHORS["srn"], ratio=1.0) if name == "srn square" else PUBLISHED_ANCHORS[name]
    row = coverage(factor * with_area(boxes[:, 2:] - boxes[:, :2]), anchors, (ALL_SIZES,), places=1)[0]
    assert isinstance(row, Coverage)
    assert row.mean_overlap == pytest.approx(wanted[0], abs=0.0006)
    assert (100 * row.over_035, 100 * row.over_050) == pytest.approx(wanted[1:], abs=0.06)
