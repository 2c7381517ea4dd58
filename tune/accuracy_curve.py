"""Accuracy against cost in one number, so that focus branches can be ranked without choosing a threshold for them.

A branch has no threshold of its own: one that says higher probabilities looks at more, and one that is not sure at
less. So each is measured at several thresholds, and what counts is the curve: how accurate it is for every budget.

Costs are shares of what looking everywhere takes, 0..1. Two points of the curve need no focus branch and belong to
every one: looking at the coarse levels alone, and looking everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
    """What one setting costs and finds."""

    cost: float
    """As a share of looking everywhere, above 0."""
    ap: float
    """Average precision, 0..1."""


def envelope(points: Sequence[Point], coarse: Point, everywhere: Point) -> list[Point]:
    """The best that is to be had for each cost, cheapest first: points that are dearer and not better fall away.

    Args:
        points: of a branch, in any order; those that cost more than looking everywhere do not count.
        coarse: the coarse levels alone.
        everywhere: every level whole.
    """
    best: list[Point] = [coarse]
    for point in sorted([*points, everywhere], key=lambda point: (point.cost, -point.ap)):
        if best[-1].ap < point.ap and coarse.cost < point.cost <= everywhere.cost:
            best.append(point)
    if best[-1].cost < everywhere.cost:
        best.append(Point(everywhere.cost, best[-1].ap))
    return best


def mean_accuracy(points: Sequence[Point], coarse: Point, everywhere: Point) -> float:
    """The mean AP over all budgets from the coarse levels' to that of looking everywhere; each halving of the cost
    counts the same, and between two points of the envelope AP goes in a line with the logarithm of the cost."""
    best = envelope(points, coarse, everywhere)
    places, heights = np.log([point.cost for point in best]), np.array([point.ap for point in best])
    pieces = np.diff(places) * (heights[1:] + heights[:-1]) / 2
    return float(pieces.sum() / (places[-1] - places[0]))


def least_cost(points: Sequence[Point], coarse: Point, everywhere: Point, ap: float) -> float:
    """The least share of the cost of looking everywhere for an AP; nan if nothing reaches it."""
    best = envelope(points, coarse, everywhere)
    if best[-1].ap < ap:
        return math.nan
    if coarse.ap >= ap:
        return coarse.cost
    return float(np.exp(np.interp(ap, [point.ap for point in best], np.log([point.cost for point in best]))))
