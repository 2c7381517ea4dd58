"""Curves land where their numbers say."""

from __future__ import annotations

import math

import numpy as np

from retinafocus.training.curves import COLOURS, MARGINS, PANEL, draw_curves


def test_a_curve_goes_through_its_points() -> None:
    picture = draw_curves({"a": {"rising": [(0, 0.0), (100, 6.0)]}}, steps=100)
    assert picture.shape == (*PANEL, 3)
    top, right, bottom, left = MARGINS
    corners = [(PANEL[0] - bottom, left), (top, PANEL[1] - right)]  # 0 is the lower end, 6 a round upper one
    assert [picture[place].tolist() for place in corners] == [list(COLOURS[0])] * 2
    middle = (top + (PANEL[0] - top - bottom) // 2, left + (PANEL[1] - left - right) // 2)
    assert picture[middle].tolist() == list(COLOURS[0])


def test_degenerate_curves_are_drawn_too() -> None:
    blank = draw_curves({}, steps=10)
    assert (blank == 255).all()
    two = draw_curves(
        {"none": {}, "odd": {"empty": [], "one": [(3, -2.0)], "gone": [(1, math.nan), (2, math.inf)]}}, steps=0
    )
    assert two.shape == (PANEL[0], 2 * PANEL[1], 3)
    many = draw_curves({"zero": {str(number): [(step, 0.0) for step in range(500)] for number in range(9)}}, steps=500)
    assert np.isfinite(many).all()
