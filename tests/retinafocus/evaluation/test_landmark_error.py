"""Landmark errors worked out by hand, what takes part in them and what does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.evaluation.landmark_error import LandmarkResult, landmark_error
from retinafocus.faces import Faces

# 40 x 10 px: distances are divided by 20.
FACE, OTHER = (0, 0, 40, 10), (100, 100, 140, 110)
POINTS = ((5, 2), (25, 2), (15, 5), (8, 8), (22, 8))
NONE = ((math.nan, math.nan),) * 5


def photo(*faces: tuple[tuple[float, ...], tuple[tuple[float, float], ...]]) -> LabelledPhoto:
    boxes = np.array([box for box, _ in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([points for _, points in faces], np.float32).reshape(-1, 5, 2)
    ignore = np.zeros((0, 4), np.float32)
    return LabelledPhoto(Path("a.jpg"), (200, 200), boxes, landmarks, ignore, "s", ("human",) * len(faces))


def found(*faces: tuple[tuple[float, ...], tuple[tuple[float, float], ...], float]) -> Faces:
    """Best first, as `Faces` are."""
    boxes = np.array([box for box, _, _ in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([points for _, points, _ in faces], np.float32).reshape(-1, 5, 2)
    scores = np.array([score for _, _, score in faces], np.float32)
    return Faces(boxes, scores, landmarks, np.zeros(len(faces), np.int16))


def moved(x: float, y: float, points: tuple[tuple[float, float], ...] = POINTS) -> tuple[tuple[float, float], ...]:
    return tuple((px + x, py + y) for px, py in points)


def measured(truth: LabelledPhoto, faces: Faces | None) -> LandmarkResult:
    return landmark_error([truth], [faces])


def test_points_off_by_three_and_four_pixels_in_a_face_of_size_20_are_off_by_a_quarter() -> None:
    result = measured(photo((FACE, POINTS)), found((FACE, moved(3, 4), 0.9)))
    assert result.nme == pytest.approx(5 / 20)
    assert result.point_errors == pytest.approx([5 / 20] * 5)
    assert (result.failure_rate, result.area, result.num_labelled, result.num_matched) == (1, 0, 1, 1)
    assert result.shares.tolist() == [0] * 201


def test_two_faces_one_exact_and_one_off_by_five_percent() -> None:
    # Errors 0 and 1/20: mean 1/40; half the faces are below 5 %, all from there on; area: mean of 1 and 1/2.
    truth = photo((FACE, POINTS), (OTHER, moved(100, 100)))
    result = measured(truth, found((FACE, POINTS, 0.9), (OTHER, moved(100, 101), 0.8)))
    assert result.nme == pytest.approx(1 / 40)
    assert result.errors == pytest.approx([0, 1 / 20])
    assert (result.failure_rate, result.area) == (0, pytest.approx(3 / 4))
    assert [float(result.shares[result.limits == limit][0]) for limit in (0, result.limits[49], 0.2)] == [0.5, 0.5, 1]
    assert result.shares[51:].tolist() == [1] * 150


def test_an_error_of_exactly_ten_percent_is_no_failure() -> None:
    assert measured(photo((FACE, POINTS)), found((FACE, moved(0, 2), 0.9))).failure_rate == 0
    assert measured(photo((FACE, POINTS)), found((FACE, moved(0, 2.01), 0.9))).failure_rate == 1


def test_points_without_a_label_take_no_part() -> None:
    labelled = (POINTS[0], POINTS[1], (math.nan, math.nan), POINTS[3], (math.nan, math.nan))
    points = (*moved(0, 1, POINTS[:2]), (999, 999), *moved(0, 4, POINTS[3:4]), (-999, 0))
    result = measured(photo((FACE, labelled)), found((FACE, points, 0.9)))
    # Distances 1, 1, 4: a mean of 2, of 20.
    assert result.nme == pytest.approx(2 / 20)
    assert result.point_errors == pytest.approx([0.05, 0.05, math.nan, 0.2, math.nan], nan_ok=True)


def test_faces_without_any_label_or_detection_are_counted_as_such() -> None:
    truth = photo((FACE, NONE), (OTHER, moved(100, 100)), ((0, 100, 40, 110), POINTS))
    result = measured(truth, found((FACE, POINTS, 0.9), (OTHER, moved(100, 101), 0.8)))
    assert (result.num_labelled, result.num_matched, result.nme) == (2, 1, pytest.approx(1 / 20))


def test_the_better_score_is_measured_and_an_overlap_below_half_is_no_match() -> None:
    result = measured(photo((FACE, POINTS)), found(((0, 0, 40, 6), moved(0, 1), 0.9), (FACE, POINTS, 0.8)))
    assert result.nme == pytest.approx(1 / 20)
    assert measured(photo((FACE, POINTS)), found(((0, 0, 40, 4.9), POINTS, 0.9))).num_matched == 0


@pytest.mark.parametrize(
    ("photos", "faces"),
    [
        pytest.param([], [], id="no photo"),
        pytest.param([photo()], [Faces.empty()], id="no face"),
        pytest.param([photo((FACE, NONE))], [found((FACE, POINTS, 0.9))], id="no labelled face"),
        pytest.param([photo((FACE, POINTS))], [Faces.empty()], id="nothing found"),
        pytest.param([photo((FACE, POINTS))], [None], id="not looked at"),
    ],
)
def test_without_a_face_to_measure_there_is_no_number(photos: list[LabelledPhoto], faces: list[Faces | None]) -> None:
    result = landmark_error(photos, faces)
    assert all(math.isnan(value) for value in (result.nme, result.failure_rate, result.area))
    assert np.isnan(result.point_errors).all()
    assert np.isnan(result.shares).all()
    assert (result.num_matched, result.errors.shape) == (0, (0,))


@settings(max_examples=30)
@given(st.lists(st.floats(0, 4), min_size=1, max_size=6))
def test_the_area_is_that_under_the_curve(shifts: list[float]) -> None:
    rows = [((0, 100 * n, 40, 100 * n + 10), moved(0, 100 * n)) for n in range(len(shifts))]
    faces = [(box, moved(0, shift, points), 0.9) for (box, points), shift in zip(rows, shifts, strict=True)]
    result = measured(photo(*rows), found(*faces))
    fine = np.linspace(0, 0.1, 20001)
    area = (result.errors[:, None] <= fine).mean()
    assert result.area == pytest.approx(area, abs=1e-4)
    assert (np.diff(result.shares) >= 0).all()


def test_lists_of_different_length_and_detections_without_landmarks_are_named() -> None:
    with pytest.raises(SettingsError, match="there are 1 photos with truth and 0 with detections"):
        landmark_error([photo()], [])
    nowhere = found((FACE, NONE, 0.9))
    with pytest.raises(SettingsError, match=r"a\.jpg: the detections have landmarks \(1, 5, 2\) for 1 boxes, where"):
        measured(photo((FACE, POINTS)), nowhere)
