"""Box voting against the published loop, and worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinafocus.errors import SettingsError
from retinafocus.voting import Voting, vote, weighted_means


def published(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[tuple[np.ndarray, float, int]]:
    """`bbox_vote` as it was released, without its limit of 750 faces: (mean box, score, votes) of each face."""
    left = np.column_stack([boxes, scores]).astype(np.float64)
    faces = []
    while len(left):
        best = left[0]
        widths = np.minimum(best[2], left[:, 2]) - np.maximum(best[0], left[:, 0]) + 1
        heights = np.minimum(best[3], left[:, 3]) - np.maximum(best[1], left[:, 1]) + 1
        shared = np.maximum(0, widths) * np.maximum(0, heights)
        areas = (left[:, 2] - left[:, 0] + 1) * (left[:, 3] - left[:, 1] + 1)
        mine = shared / (areas[0] + areas - shared) >= threshold
        group = left[mine]
        faces.append((group[:, 4] @ group[:, :4] / group[:, 4].sum(), group[:, 4].max(), len(group)))
        left = left[~mine]
    return faces


# On a grid of whole pixels IoUs of exactly 0.4 or 0.5, equal scores and equal boxes are common.
sides = st.sampled_from([0, 1, 2, 3, 4, 6, 9, 20, 60])
box = st.tuples(st.integers(0, 30), st.integers(0, 30), sides, sides).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
rows = st.lists(st.tuples(box, st.sampled_from([0.02, 0.2, 0.5, 0.9, 1.0])), max_size=40)


@settings(max_examples=100)
@given(rows, st.sampled_from([0.05, 0.3, 0.4, 0.5, 1.0]))
def test_any_boxes_become_the_faces_of_the_published_loop(
    rows: list[tuple[tuple[int, ...], float]], threshold: float
) -> None:
    rows = sorted(rows, key=lambda row: -row[1])
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    face = vote(boxes, threshold)
    best, votes = np.unique(face, return_counts=True)
    wanted = published(boxes, scores, threshold)
    assert votes.tolist() == [count for _, _, count in wanted]
    assert scores[best].tolist() == pytest.approx([score for _, score, _ in wanted])
    if rows:
        means = weighted_means(boxes, scores, face)
        assert means == pytest.approx(np.stack([mean for mean, _, _ in wanted]), abs=1e-4)


def test_a_crowd_of_many_sizes_becomes_the_faces_of_the_published_loop() -> None:
    random = np.random.default_rng(3)
    sizes = np.exp(random.uniform(1.5, 6, 300))
    corners = random.uniform(0, 1500, (300, 2))
    faces = np.concatenate([corners, corners + sizes[:, None]], axis=1)
    boxes = (faces[:, None] + random.normal(0, 0.07, (300, 8, 4)) * sizes[:, None, None]).reshape(-1, 4)
    scores = -np.sort(-random.uniform(0.02, 1, len(boxes)).astype(np.float32))
    boxes = random.permutation(boxes).astype(np.float32)
    face = vote(boxes, 0.4)
    wanted = published(boxes, scores, 0.4)
    assert np.unique(face, return_counts=True)[1].tolist() == [count for _, _, count in wanted]
    assert weighted_means(boxes, scores, face) == pytest.approx(np.stack([mean for mean, _, _ in wanted]), rel=1e-5)


def test_face_is_the_mean_of_its_boxes_weighted_by_their_scores() -> None:
    # 10 x 10 px with the last pixel counted in, the second shifted by 2: IoU 80 / 120.
    boxes = np.array([[0, 0, 9, 9], [2, 0, 11, 9], [50, 50, 59, 59]], np.float32)
    face = vote(boxes, 0.4)
    assert face.tolist() == [0, 0, 2]
    means = weighted_means(boxes, np.array([0.75, 0.25, 0.5], np.float32), face)
    assert means.tolist() == [[0.5, 0, 9.5, 9], [50, 50, 59, 59]]


def test_overlap_of_exactly_the_threshold_is_one_face() -> None:
    # 1 x 5 and 1 x 2 px with the last pixel counted in: 2 / 5.
    boxes = np.array([[0, 0, 0, 4], [0, 0, 0, 1]], np.float32)
    assert vote(boxes, 0.4).tolist() == [0, 0]
    assert vote(boxes, 0.41).tolist() == [0, 1]


def test_no_boxes_are_no_faces() -> None:
    none = np.zeros((0, 4), np.float32)
    assert vote(none, 0.4).shape == (0,)
    assert weighted_means(none, np.zeros(0, np.float32), vote(none, 0.4)).shape == (0, 4)


def test_scores_of_zero_still_have_a_mean() -> None:
    boxes = np.array([[0, 0, 9, 9], [2, 0, 11, 9]], np.float32)
    assert weighted_means(boxes, np.zeros(2, np.float32), vote(boxes, 0.4)).tolist() == [[1, 0, 10, 9]]


@pytest.mark.parametrize("iou", [0, 1.1, -1])
def test_threshold_out_of_range_is_refused(iou: float) -> None:
    with pytest.raises(SettingsError, match="choose above 0, at most 1"):
        Voting(iou=iou)
