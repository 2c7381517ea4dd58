"""Curves of a training as a picture: one panel per kind of number, drawn with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

PANEL = (360, 560)
"""(height, width) of a panel in pixels."""

MARGINS = (34, 16, 34, 62)
"""Pixels from the panel's edges to the axes: top, right, bottom, left."""

COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (90, 90, 90))
"""RGB of the curves, in order; the colours start again after the last."""

GREY, BLACK = (205, 205, 205), (30, 30, 30)

Pixels = NDArray[np.uint8]
Points = Sequence[tuple[float, float]]


def draw_curves(panels: Mapping[str, Mapping[str, Points]], *, steps: float) -> Pixels:
    """Draw curves over the steps of a training.

    Args:
        panels: by title, the curves by name; each a list of (step, value) in rising steps, perhaps empty. Values that
            are not finite are left out.
        steps: right end of all panels.

    Returns:
        (H, W, 3) uint8 RGB; the panels side by side, a blank one where there are none.
    """
    pictures = [_draw_panel(title, curves, max(1.0, steps)) for title, curves in panels.items()]
    blank = np.full((*PANEL, 3), 255, dtype=np.uint8)
    return np.concatenate(pictures or [blank], axis=1)


def _draw_panel(title: str, curves: Mapping[str, Points], steps: float) -> Pixels:
    picture = np.full((*PANEL, 3), 255, dtype=np.uint8)
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    low, high, distance = _range([y for points in finite.values() for _, y in points])
    top, right, bottom, left = MARGINS
    height, width = PANEL[0] - top - bottom, PANEL[1] - left - right

    def place(x: float, y: float) -> tuple[int, int]:
        return left + round(x / steps * width), top + height - round((y - low) / (high - low) * height)

    _write(picture, title, (left, 20), 0.5)
    for number in range(round((high - low) / distance) + 1):
        value = low + number * distance
        cv2.line(picture, place(0, value), place(steps, value), GREY, 1)
        _write(picture, f"{value:.6g}", (6, place(0, value)[1] + 4), 0.38)
    for share in (0.0, 0.5, 1.0):
        x, y = place(share * steps, low)
        _write(picture, f"{share * steps:,.0f}", (x - round(22 * share), y + 18), 0.38)
    for number, (name, points) in enumerate(finite.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = np.array([place(x, y) for x, y in points], dtype=np.int32).reshape(-1, 1, 2)
        cv2.polylines(picture, [line], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)
        for x, y in line[:, 0].tolist() if len(points) < 30 else []:
            cv2.circle(picture, (x, y), 3, colour, -1, cv2.LINE_AA)
        _write(picture, name, (PANEL[1] - right - 118, top + 16 + 16 * number), 0.4, colour)
    return picture


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, upper end and distance of at most eight round values that hold all the others, and zero."""
    low, high = min([0.0, *values]), max([0.0, *values])
    if high == low:
        high = low + 1.0
    rough = (high - low) / 6
    unit = 10.0 ** math.floor(math.log10(rough))
    distance = unit * next(step for step in (1, 2, 5, 10) if unit * step >= rough)
    return math.floor(low / distance) * distance, math.ceil(high / distance) * distance, distance


def _write(
    picture: Pixels, text: str, corner: tuple[int, int], size: float, colour: tuple[int, int, int] = BLACK
) -> None:
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
