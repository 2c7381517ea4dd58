"""Precision, recall, F1 and the score that suits a goal best, against numbers worked out by hand."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections, PhotoTruth, average_precision
from retinafocus.evaluation.curves import photo_draws
from retinafocus.evaluation.matched_set import match_set
from retinafocus.evaluation.operating_points import (
    Goal,
    ScoreCurve,
    best_place,
    f1_gain,
    measure,
    threshold_interval,
)

ONCE = photo_draws(2, 0, seed=0)


def boxes(*lefts: float, side: float = 30) -> NDArray[np.float32]:
    return np.array([(left, 0, left + side, side) for left in lefts], np.float32).reshape(-1, 4)


def found(scores: list[float], *lefts: float, side: float = 30) -> PhotoDetections:
    return PhotoDetections(boxes(*lefts, side=side), np.array(scores, np.float32))


# Two photos with five faces. By falling score: 0.95 right, 0.9 right, 0.8 false, 0.7 right, 0.6 false, 0.5 right; one
# face is never found. From each score on: precision 1, 1, 2/3, 3/4, 3/5, 4/6, recall 1/5, 2/5, 2/5, 3/5, 3/5, 4/5.
TRUTHS = [PhotoTruth(boxes(0, 100, 200)), PhotoTruth(boxes(0, 100))]
FOUND = [found([0.95, 0.7, 0.6], 0, 100, 500), found([0.9, 0.8, 0.5], 0, 600, 100)]


def curve_of(
    truths: list[PhotoTruth] = TRUTHS, detections: list[PhotoDetections] = FOUND, low: float = 0
) -> ScoreCurve:
    return ScoreCurve.of(match_set(truths, detections, (0.5,)), (low, math.inf))


def test_rates_from_each_score_on() -> None:
    curve, expected = curve_of(), [(1, 5), (2, 5), (2, 5), (3, 5), (3, 5), (4, 5)]
    rates = curve.rates()
    assert curve.scores == pytest.approx([0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert rates.precision == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5, 2 / 3])
    assert rates.recall == pytest.approx([a / b for a, b in expected])
    # 2 found / (shown + faces)
    assert rates.f1 == pytest.approx([2 / 6, 4 / 7, 4 / 8, 6 / 9, 6 / 10, 8 / 11])
    assert curve.average_precision == average_precision(TRUTHS, FOUND, bootstrap=0).ap


@pytest.mark.parametrize(
    ("goal", "score"),
    [
        pytest.param(Goal(), 0.5, id="F1 of 8/11"),
        pytest.param(Goal(precision=0.75), 0.7, id="recall 3/5 at precision 3/4"),
        pytest.param(Goal(precision=0.9), 0.9, id="recall 2/5 at precision 1"),
        pytest.param(Goal(precision=0.1), 0.5, id="any precision"),
        pytest.param(Goal(recall=0.5), 0.7, id="precision 3/4 at recall 3/5"),
        pytest.param(Goal(recall=0.2), 0.9, id="precision 1 twice, the better F1"),
        pytest.param(Goal(recall=0.7), 0.5, id="just one has that recall"),
        pytest.param(Goal(recall=0.9), 0.5, id="recall out of reach: the nearest"),
    ],
)
def test_score_that_suits_a_goal_best(goal: Goal, score: float) -> None:
    curve = curve_of()
    assert curve.scores[best_place(curve, goal)] == pytest.approx(score)


def test_goal_that_is_out_of_reach_is_valued_below_zero() -> None:
    rates = curve_of().rates()
    assert Goal(recall=0.9).values(rates).max() == pytest.approx(0.8 - 0.9)
    only_false = curve_of(TRUTHS[:1], [found([0.9, 0.8], 0, 0)]).rates()  # one right, one double
    assert Goal(precision=1).values(only_false) == pytest.approx([1 / 3, -0.5])


def test_best_f1_is_that_of_trying_every_score() -> None:
    random = np.random.default_rng(4)
    truths = [PhotoTruth(boxes(*range(0, 400, 40))) for _ in range(5)]
    detections = []
    for _ in truths:
        lefts = random.integers(0, 440, 25).astype(float)
        detections.append(found(np.round(random.uniform(0.02, 1, 25), 2).tolist(), *lefts))
    curve = curve_of(truths, detections)
    tried = []
    for score in np.unique(curve.score):
        alone = [
            PhotoDetections(each.boxes[each.scores >= score], each.scores[each.scores >= score]) for each in detections
        ]
        hits = (match_set(truths, alone, (0.5,)).face >= 0).sum()
        tried.append((Fraction(2 * int(hits), sum(len(each.scores) for each in alone) + 50), score))
    best = max(tried)
    place = best_place(curve, Goal())
    assert curve.scores[place] == best[1]
    assert curve.rates().f1[place] == pytest.approx(float(best[0]))
    assert len(curve.scores) == len(tried)


def test_equal_scores_are_one_point() -> None:
    curve = curve_of(detections=[found([0.5, 0.5, 0.5], 0, 100, 500), found([0.5], 0)])
    assert curve.scores.tolist() == [0.5]
    assert best_place(curve, Goal()) == best_place(curve, Goal(precision=1)) == 0
    assert curve.rates().precision == pytest.approx([3 / 4])
    assert curve.threshold_at(0, 0.02) == 0.3


def test_small_faces_and_ignored_regions_do_not_count() -> None:
    truths = [PhotoTruth(np.concatenate([boxes(0), boxes(100, side=10)]), boxes(500, side=40))]
    detections = [PhotoDetections(
        np.concatenate([boxes(0), boxes(100, side=10), boxes(505), boxes(300, side=10), boxes(400)]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
    )]  # fmt: skip
    curve = curve_of(truths, detections, low=20)
    assert curve.scores == pytest.approx([0.9, 0.5])  # the face and what is false; not the small ones, not the region
    assert curve.num_faces == 1
    assert curve_of(truths, detections).scores == pytest.approx([0.9, 0.8, 0.6, 0.5])


@pytest.mark.parametrize(
    ("scores", "place", "floor", "threshold"),
    [
        pytest.param([0.9, 0.7], 0, 0.02, 0.8, id="one digit"),
        pytest.param([0.95, 0.9], 0, 0.02, 0.92, id="two digits"),
        pytest.param([0.7], 0, 0.02, 0.4, id="down to the floor"),
        pytest.param([0.7, 0.01], 0, 0.6, 0.65, id="not below the floor"),
        pytest.param([1.0], 0, 0.9, 0.95, id="certainty"),
    ],
)
def test_threshold_is_a_short_number_between_two_scores(
    scores: list[float], place: int, floor: float, threshold: float
) -> None:
    curve = curve_of(detections=[found(scores, *range(0, 100 * len(scores), 100)), found([])])
    assert curve.threshold_at(place, floor) == threshold


@pytest.mark.parametrize("score", [np.float32(0.7), np.float32(1)])
def test_threshold_parts_neighbours_in_float32(score: np.float32) -> None:
    lower = np.nextafter(score, np.float32(0))
    curve = curve_of(detections=[found([float(score), float(lower)], 0, 100), found([])])
    threshold = curve.threshold_at(0, 0.02)
    assert threshold < 1
    assert float(lower) < float(np.float32(threshold)) <= float(score)
    assert measure(curve, threshold, ONCE).found == 1


def test_point_is_measured_with_its_interval() -> None:
    curve = curve_of()
    point = measure(curve, 0.7, photo_draws(2, 500, seed=0))
    assert (point.num_faces, point.found, point.false) == (5, 3, 1)
    assert point.precision.value == 3 / 4
    assert point.recall.value == 3 / 5
    assert point.f1.value == pytest.approx(6 / 9)
    # Resamples have photo one twice (2 of 3 found, none false), both, or photo two twice (1 of 2 found, 1 false).
    assert (point.precision.low, point.precision.high) == (1 / 2, 1)
    assert (point.recall.low, point.recall.high) == pytest.approx((1 / 2, 2 / 3))
    assert (point.f1.low, point.f1.high) == pytest.approx((2 / 4, 4 / 5))


def test_gain_is_measured_on_the_same_resamples() -> None:
    curve, draws = curve_of(), photo_draws(2, 500, seed=0)
    nothing = f1_gain((curve, 0.7), (curve, 0.7), draws)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    gain = f1_gain((curve, 0.7), (curve, 0.5), draws)
    # Photo one: 4/5 -> 4/6; photo two: 2/4 -> 4/5.
    assert gain.value == pytest.approx(8 / 11 - 6 / 9)
    assert (gain.low, gain.high) == pytest.approx((4 / 6 - 4 / 5, 4 / 5 - 2 / 4))


def test_best_score_of_resamples() -> None:
    curve, draws = curve_of(), photo_draws(2, 500, seed=0)
    # Photo one alone is best from 0.7 on (F1 4/5), photo two and both from 0.5 on.
    assert threshold_interval(curve, Goal(), draws) == pytest.approx((0.5, 0.7))
    assert all(math.isnan(end) for end in threshold_interval(curve, Goal(), ONCE))


def test_resamples_of_many_detections_are_not_held_at_once() -> None:
    count, resamples = 40_000, 300
    curve = ScoreCurve(
        hit=np.ones(count, np.bool_), score=np.full(count, 0.5), photo=np.arange(count) % 2,
        ends=np.array([count - 1]), faces_per_photo=np.array([count // 2] * 2),
    )  # fmt: skip
    tracemalloc.start()
    try:
        assert threshold_interval(curve, Goal(), photo_draws(2, resamples, seed=0)) == (0.5, 0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * resamples * count / 2  # half of all resamples by all detections, in int32


def test_nothing_found_and_no_faces() -> None:
    nothing = curve_of(detections=[found([]), found([])])
    point = measure(nothing, 0.5, photo_draws(2, 10, seed=0))
    assert len(nothing.scores) == 0
    assert math.isnan(point.precision.value)
    assert (point.recall.value, point.f1.value, point.false) == (0, 0, 0)
    faceless = curve_of([PhotoTruth(), PhotoTruth()])
    point = measure(faceless, 0.65, photo_draws(2, 10, seed=0))
    assert (point.num_faces, point.found, point.false) == (0, 0, 4)
    assert (point.precision.value, point.f1.value) == (0, 0)
    assert math.isnan(point.recall.value)
    empty = measure(curve_of([], []), 0.5, photo_draws(0, 10, seed=0))
    assert math.isnan(empty.f1.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param({"precision": 0.9, "recall": 0.9}, "two ways to choose", id="both"),
        pytest.param({"precision": 95}, "the least precision is 95; choose a share above 0", id="percent"),
        pytest.param({"recall": 0.0}, "the least recall is 0", id="nothing"),
    ],
)
def test_goal_that_makes_no_sense_is_refused(words: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Goal(**words)
