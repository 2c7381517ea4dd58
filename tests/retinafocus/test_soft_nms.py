"""Soft-NMS against numbers worked out by hand and the textbook's loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinafocus.soft_nms import soft_nms


def arrays(boxes: object, scores: object) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)


def textbook(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], sigma: float, floor: float
) -> tuple[list[int], NDArray[np.float64]]:
    """The paper's loop over all boxes, in figure 2 of arXiv 1704.04503."""
    now, left, kept = scores.astype(np.float64), list(range(len(scores))), []
    while left:
        best = max(left, key=lambda number: (now[number], -number))
        left.remove(best)
        if now[best] < floor:
            continue
        kept.append(best)
        for other in left:
            low, high = np.maximum(boxes[best, :2], boxes[other, :2]), np.minimum(boxes[best, 2:], boxes[other, 2:])
            shared = float(np.prod(np.maximum(high - low, 0), dtype=np.float64))
            if shared > 0:
                areas = [float(np.prod((each[2:] - each[:2]).astype(np.float64))) for each in boxes[[best, other]]]
                now[other] *= math.exp(-((shared / (sum(areas) - shared)) ** 2) / sigma)
    return kept, now


def test_overlap_costs_score_and_may_change_the_order() -> None:
    # Two boxes of 10 x 10 with IoU 1/3 (50 of 150), and one beside them.
    boxes, scores = arrays([[0, 0, 10, 10], [0, 5, 10, 15], [40, 0, 50, 10]], [0.8, 0.9, 0.75])
    kept, left = soft_nms(boxes, scores, 0.5, 0.02)
    assert kept.dtype == np.int64
    assert kept.tolist() == [1, 2, 0]
    assert left == pytest.approx([0.8 * math.exp(-(1 / 9) / 0.5), 0.9, 0.75])  # 0.64
    assert left.dtype == np.float32


def test_what_falls_below_the_floor_is_left_out_and_lowers_nobody() -> None:
    # One box three times: exp(-1 / 0.5) of 0.5 is 0.068, and of 0.4 is 0.054.
    boxes, scores = arrays([[0, 0, 10, 10]] * 3, [0.9, 0.5, 0.4])
    assert soft_nms(boxes, scores, 0.5, 0.1)[0].tolist() == [0]
    kept, left = soft_nms(
        boxes, scores, 0.5, 0.06
    )  # the third is below it already, so it is left out before the second can lower it
    assert kept.tolist() == [0, 1]
    assert left == pytest.approx([0.9, 0.5 * math.exp(-2), 0.4 * math.exp(-2)])
    kept, left = soft_nms(boxes, scores, 0.5, 0.001)
    assert kept.tolist() == [0, 1, 2]
    assert left == pytest.approx([0.9, 0.5 * math.exp(-2), 0.4 * math.exp(-4)])


def test_no_boxes_and_one() -> None:
    kept, left = soft_nms(*arrays([], []), 0.5, 0.02)
    assert kept.tolist() == left.tolist() == []
    kept, left = soft_nms(*arrays([[3, 4, 5, 6]], [0.5]), 0.5, 0.02)
    assert kept.tolist() == [0]
    assert left.tolist() == [0.5]
    assert soft_nms(*arrays([[3, 4, 5, 6]], [0.01]), 0.5, 0.02)[0].tolist() == []


def test_boxes_that_touch_or_have_no_area_lower_nobody() -> None:
    boxes, scores = arrays([[0, 0, 10, 10], [10, 0, 20, 10], [5, 5, 5, 5], [0, 0, 10, 0]], [0.9, 0.8, 0.7, 0.6])
    kept, left = soft_nms(boxes, scores, 0.5, 0.02)
    assert kept.tolist() == [0, 1, 2, 3]
    assert left.tolist() == scores.tolist()


def test_equal_scores_keep_the_order_given() -> None:
    boxes, scores = arrays([[4 * i, 0, 4 * i + 3, 3] for i in range(20)], [0.5] * 20)
    assert soft_nms(boxes, scores, 0.5, 0.02)[0].tolist() == list(range(20))


SIDES = st.floats(0, 40, width=32)
CORNERS = st.floats(-50, 50, width=32)
SCORES = st.sampled_from([0.05, 0.2, 0.5, 0.50001, 0.9, 1.0])


@given(
    st.lists(st.tuples(CORNERS, CORNERS, SIDES, SIDES, SCORES), max_size=12),
    st.sampled_from([0.1, 0.5, 2.0]),
    st.sampled_from([0.0, 0.02, 0.3]),
)
def test_as_the_textbook(drawn: list[tuple[float, ...]], sigma: float, floor: float) -> None:
    boxes, scores = arrays([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], [each[-1] for each in drawn])
    kept, left = soft_nms(boxes, scores, sigma, floor)
    expected, rest = textbook(boxes, scores, sigma, floor)
    assert left[kept] == pytest.approx(rest[kept], rel=1e-5, abs=1e-7)
    near = np.abs(rest - floor) < 1e-6  # float32 may fall to the other side of the floor
    if not near.any() and len(np.unique(np.round(rest, 6))) == len(rest):  # or of an equal score
        assert kept.tolist() == expected


@given(st.lists(st.tuples(CORNERS, CORNERS, SIDES, SIDES, SCORES), max_size=12))
def test_higher_floor_changes_nothing_above_it(drawn: list[tuple[float, ...]]) -> None:
    boxes, scores = arrays([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], [each[-1] for each in drawn])
    (low, all_left), (high, left) = (soft_nms(boxes, scores, 0.5, floor) for floor in (0.02, 0.3))
    above = [number for number in low.tolist() if all_left[number] >= np.float32(0.3)]
    assert high.tolist() == above
    assert left[above].tolist() == all_left[above].tolist()


def test_thousands_of_faces_are_what_the_textbook_says_of_each_pile() -> None:
    random = np.random.default_rng(0)
    corners = 100 * np.stack(np.meshgrid(np.arange(40), np.arange(25)), axis=-1).reshape(-1, 1, 2)
    offsets = random.uniform(0, 10, (1000, 6, 2))
    corners = corners + offsets
    boxes = np.concatenate([corners, corners + 30], axis=2).astype(np.float32)
    scores = random.uniform(0.1, 1, (1000, 6)).astype(np.float32)
    kept, left = soft_nms(boxes.reshape(-1, 4), scores.reshape(-1), 0.5, 0.02)
    assert (np.diff(left[kept]) <= 0).all()
    for pile in range(0, 1000, 97):
        expected, rest = textbook(boxes[pile], scores[pile], 0.5, 0.02)
        assert [number - 6 * pile for number in kept.tolist() if number // 6 == pile] == expected
        assert left.reshape(1000, 6)[pile][expected] == pytest.approx(rest[expected], rel=1e-5)
