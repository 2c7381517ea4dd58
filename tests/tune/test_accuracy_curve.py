"""Accuracy against cost in one number, worked out by hand."""

from __future__ import annotations

import math

import pytest

from tune.accuracy_curve import Point, envelope, least_cost, mean_accuracy

COARSE, EVERYWHERE = Point(0.125, 0.4), Point(1.0, 0.8)


def test_envelope_leaves_out_what_is_dearer_and_not_better() -> None:
    points = [Point(0.5, 0.7), Point(0.25, 0.6), Point(0.3, 0.5), Point(0.5, 0.65), Point(1.2, 0.9), Point(0.1, 0.45)]
    assert envelope(points, COARSE, EVERYWHERE) == [COARSE, Point(0.25, 0.6), Point(0.5, 0.7), EVERYWHERE]


def test_envelope_ends_at_the_cost_of_looking_everywhere_even_where_that_finds_less() -> None:
    assert envelope([Point(0.5, 0.9)], COARSE, EVERYWHERE) == [COARSE, Point(0.5, 0.9), Point(1.0, 0.9)]


def test_without_points_accuracy_goes_in_a_line_from_end_to_end() -> None:
    assert mean_accuracy([], COARSE, EVERYWHERE) == pytest.approx(0.6)


def test_each_halving_of_the_cost_counts_the_same() -> None:
    # Three halvings: 1/8 to 1/4 at a mean of (0.4 + 0.6) / 2, 1/4 to 1/2 at 0.65, 1/2 to 1 at 0.75.
    points = [Point(0.25, 0.6), Point(0.5, 0.7)]
    assert mean_accuracy(points, COARSE, EVERYWHERE) == pytest.approx((0.5 + 0.65 + 0.75) / 3)


def test_branch_that_finds_the_same_for_less_is_worth_more() -> None:
    dear, cheap = [Point(0.5, 0.8)], [Point(0.25, 0.8)]
    assert mean_accuracy(dear, COARSE, EVERYWHERE) == pytest.approx((0.6 * 2 + 0.8) / 3)
    assert mean_accuracy(cheap, COARSE, EVERYWHERE) == pytest.approx((0.6 + 0.8 * 2) / 3)


def test_order_and_sureness_of_a_branch_change_nothing() -> None:
    # Thresholds are no part of a point: only what they led to counts.
    points = [Point(0.5, 0.7), Point(0.25, 0.6)]
    assert mean_accuracy(points, COARSE, EVERYWHERE) == mean_accuracy(points[::-1], COARSE, EVERYWHERE)


@pytest.mark.parametrize(
    ("ap", "cost"),
    [
        pytest.param(0.7, 0.5, id="at a point"),
        pytest.param(0.65, 2**-1.5, id="between two, in halvings"),
        pytest.param(0.3, 0.125, id="the coarse levels are enough"),
        pytest.param(0.8, 1.0, id="everywhere"),
        pytest.param(0.81, math.nan, id="never"),
    ],
)
def test_least_cost_for_an_accuracy(ap: float, cost: float) -> None:
    points = [Point(0.25, 0.6), Point(0.5, 0.7)]
    assert least_cost(points, COARSE, EVERYWHERE, ap) == pytest.approx(cost, nan_ok=True)
