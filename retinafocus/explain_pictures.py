"""Pictures of what each look at a photo saw: focus heat map, chips, candidates and what became of them.

A level is drawn at a size that a screen shows: a coarse one enlarged so that each pixel the network saw is a square, a
fine one shrunk. What nobody looked at is dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from retinafocus.draw import SHEET_COLOUR, SHEET_GAP, Colour, Pixels, draw_faces
from retinafocus.explain import FLOOR, MEANINGS, Explanation, Outcome
from retinafocus.faces import Faces
from retinafocus.focus.stacking import left_to_finer
from retinafocus.levels import Level
from retinafocus.sources import PixelSource

# Sides in pixels: the long one of a whole level, that of a close-up, and the least width that a legend can be read at.
VIEW = 1920
CLOSE_UP = 560
LEGEND = 800

# A close-up shows so many times the smallest wanted face, or the best candidate, on a side.
AROUND_SMALLEST = 8
AROUND_BEST = 3

COLOURS: dict[Outcome, Colour] = {
    Outcome.KEPT: (60, 255, 60),
    Outcome.SCORE: (255, 225, 0),
    Outcome.CUT: (255, 70, 60),
    Outcome.SIZE: (70, 160, 255),
    Outcome.DUPLICATE: (205, 205, 205),
    Outcome.LIMIT: (255, 140, 0),
}
"""Of the boxes that are drawn. Those dropped for two reasons, and those outside the photo, are only counted."""

# No box has the colour of the heat map.
HEAT_COLOUR: Colour = (215, 0, 255)
HEAT = 0.6
CHIP_COLOUR: Colour = (255, 255, 255)

# What nobody looked at keeps this part of its light.
UNSEEN = 0.3

# Boxes of one kind in one picture, best first: more hide what is under them.
MOST_BOXES = 400
# More scores than this cover one another.
MOST_SCORES = 60

TITLE, TEXT, SCORE_TEXT = 24, 18, 15
TEXT_COLOUR: Colour = (235, 235, 235)


@dataclass(frozen=True, slots=True)
class _View:
    """A rectangle of a level as a picture."""

    level: Level
    box: tuple[int, int, int, int]
    """xyxy in level pixels, right and bottom exclusive."""
    size: tuple[int, int]
    """(height, width) of the picture."""

    @property
    def zoom(self) -> float:
        """Picture pixels for each level pixel."""
        return self.size[1] / (self.box[2] - self.box[0])

    def place(self, points: NDArray[np.floating]) -> NDArray[np.int64]:
        """(..., 2 k) x,y alternating, level pixels, to the nearest picture pixels; far outside stays outside."""
        pairs = points.shape[-1] // 2
        zoom = np.array([self.zoom, self.size[0] / (self.box[3] - self.box[1])])
        moved = (points - np.tile(self.box[:2], pairs)) * np.tile(zoom, pairs)
        placed: NDArray[np.int64] = np.clip(moved, -1e6, 1e6).round().astype(np.int64)
        return placed


def draw_level(explanation: Explanation, source: PixelSource, level: Level) -> Pixels:
    """A level whole, with a legend below.

    Args:
        explanation: of the photo.
        source: of the photo; a streamed one is read once for each call.
        level: one of the photo's.

    Returns:
        (H, W, 3) uint8 RGB, the level's long side at `VIEW` pixels or less; as wide as the legend needs.

    Raises:
        PhotoError: as `photos.decode`.
    """
    view = _whole(level)
    drawn = _drawn(explanation, _pixels(explanation, source, view), view, MOST_BOXES)
    lines = [
        f"level {level.index} of {explanation.levels[-1].index}: scale {Fraction(level.scale)}, {level.size[1]} x "
        f"{level.size[0]} px, looked at: {explanation.how(level).removesuffix(' looked at')}",
        _range_words(explanation, level),
    ]
    return _with_legend(drawn, lines, _legend(explanation, level))


def draw_overview(explanation: Explanation, source: PixelSource, point: tuple[float, float] | None = None) -> Pixels:
    """The photo with the faces of the run, and a cross at a point in photo pixels.

    Returns:
        (H, W, 3) uint8 RGB, the photo's long side at `VIEW` pixels or less; as wide as the caption needs.

    Raises:
        PhotoError: as `photos.decode`.
    """
    finest = explanation.levels[-1]
    height, width = explanation.result.plan.photo_size
    view = _View(finest, (0, 0, *finest.size[::-1]), _shown_size((height, width)))
    faces = explanation.faces
    boxes = view.place(finest.from_photo(faces.boxes)).astype(np.float32)
    landmarks = view.place(finest.from_photo(faces.landmarks)).astype(np.float32)
    shown = Faces(boxes, faces.scores, landmarks, faces.levels)
    drawn = draw_faces(_pixels(explanation, source, view), shown)
    if point is not None:
        _draw_cross(drawn, view, point)
    words = f"{len(faces)} face{'' if len(faces) == 1 else 's'} of score {explanation.score_threshold:g} or more"
    return _with_legend(drawn, [f"{words} in {width} x {height} px"], [])


def draw_close_up(explanation: Explanation, source: PixelSource, x: float, y: float) -> Pixels:
    """What surrounds a point on each level, side by side, coarsest first.

    Args:
        explanation: of the photo.
        source: of the photo; a streamed one is read once for each level.
        x, y: in pixels of the upright original photo.

    Raises:
        PhotoError: as `photos.decode`.
    """
    side = AROUND_SMALLEST * explanation.result.plan.min_face
    near = explanation.near(x, y)
    named = near[explanation.outcomes[near] != Outcome.WEAK]
    if len(named):
        left, top, right, bottom = explanation.result.trace.stack.boxes[named[0]].tolist()
        side = max(side, AROUND_BEST * max(right - left, bottom - top))
    panels = []
    for level in explanation.levels:
        view = _around(level, x, y, side)
        drawn = _drawn(explanation, _pixels(explanation, source, view), view, len(explanation.outcomes))
        _draw_cross(drawn, view, (x, y))
        lines = [f"level {level.index}, scale {Fraction(level.scale)}, drawn {view.zoom:.3g} times as large"]
        panels.append(_with_legend(drawn, lines, []))
    return _side_by_side(panels)


def _whole(level: Level) -> _View:
    """The level whole."""
    return _View(level, (0, 0, *level.size[::-1]), _shown_size(level.size))


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which something of that size is shown: enlarged by a whole number, or shrunk."""
    zoom = VIEW / max(size)
    zoom = math.floor(zoom) if zoom >= 1 else zoom
    return math.ceil(size[0] * zoom), math.ceil(size[1] * zoom)


def _around(level: Level, x: float, y: float, side: float) -> _View:
    """A square of `side` photo pixels around a point in photo pixels, moved inside the level."""
    column, row = level.from_photo(np.array([x, y], np.float32)).tolist()
    height, width = level.size
    wanted = max(4, round(side * level.scale))
    across, down = min(wanted, width), min(wanted, height)
    left = min(max(0, round(column - across / 2)), width - across)
    top = min(max(0, round(row - down / 2)), height - down)
    zoom = CLOSE_UP / wanted
    size = max(1, round(down * zoom)), max(1, round(across * zoom))
    return _View(level, (left, top, left + across, top + down), size)


def _pixels(explanation: Explanation, source: PixelSource, view: _View) -> Pixels:
    """A view's pixels, from the coarsest level that has enough of them: a huge level is never read to be shrunk."""
    share = (view.box[2] - view.box[0]) / view.level.size[1]
    enough = (level for level in explanation.levels if level.size[1] * share >= view.size[1])
    level = min(next(enough, view.level), view.level, key=lambda level: level.index)
    box = np.array(view.box, np.float32)
    if level is not view.level:
        box = level.from_photo(view.level.to_photo(box))
    height, width = level.size
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(np.int32)
    right, bottom = np.clip(np.ceil(box[2:] - 1e-3), (left + 1, top + 1), (width, height)).astype(np.int32)
    ((_, pixels),) = source.read(level, np.array([[left, top, right, bottom]], np.int32))
    method = cv2.INTER_NEAREST if view.zoom >= 1 else cv2.INTER_AREA
    return np.array(cv2.resize(pixels, view.size[::-1], interpolation=method), np.uint8, order="C")


def _drawn(explanation: Explanation, pixels: Pixels, view: _View, most: int) -> Pixels:
    """The view with all that is known of it."""
    pixels = _darkened(explanation, pixels, view)
    _draw_heat(explanation, pixels, view)
    _draw_looks(explanation, pixels, view)
    scores = []
    for outcome in (Outcome.DUPLICATE, Outcome.SIZE, Outcome.CUT, Outcome.LIMIT, Outcome.SCORE, Outcome.KEPT):
        boxes, mine = _boxes(explanation, view, outcome, most)
        for (left, top, right, bottom), score in zip(boxes.tolist(), mine, strict=True):
            thin = outcome == Outcome.DUPLICATE or score < explanation.score_threshold / 2
            cv2.rectangle(pixels, (left - 1, top - 1), (right, bottom), COLOURS[outcome], 1 if thin else 2)
        if len(boxes) <= MOST_SCORES and outcome != Outcome.DUPLICATE:
            scores += [(box, score, COLOURS[outcome]) for box, score in zip(boxes.tolist(), mine, strict=True)]
    picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(SCORE_TEXT)
    for (left, top, _, bottom), score, colour in scores:
        above = top - SCORE_TEXT - 4
        place = (left, above if above >= 0 else bottom + 2)
        pen.text(place, f"{score:.2f}", colour, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.array(picture)


def _boxes(
    explanation: Explanation, view: _View, outcome: Outcome, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best candidates of one outcome that touch the view, in its pixels, and their scores."""
    stack = explanation.result.trace.stack
    mine = np.nonzero((stack.levels == view.level.index) & (explanation.outcomes == outcome))[0]
    boxes = view.place(view.level.from_photo(stack.boxes[mine]))
    inside = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < view.size[::-1]).all(axis=1)
    boxes, scores = boxes[inside], stack.scores[mine[inside]]
    best = np.argsort(-scores, kind="stable")[:most]
    return boxes[best], scores[best]


def _darkened(explanation: Explanation, pixels: Pixels, view: _View) -> Pixels:
    """What nobody looked at without its colour and most of its light."""
    seen = np.zeros(view.size, bool)
    for left, top, right, bottom in _look_boxes(explanation, view, view.level):
        seen[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    if seen.all():
        return pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None] * UNSEEN
    return np.where(seen[:, :, None], pixels, grey).astype(np.uint8)


def _draw_heat(explanation: Explanation, pixels: Pixels, view: _View) -> None:
    """Lay the focus map over the view, and a line around the cells that ask for a chip."""
    focus_map = explanation.focus_map(view.level)
    if focus_map is None or explanation.preset.focus is None:
        return
    stride = explanation.preset.focus.stride
    left, top, right, bottom = view.box
    # Each picture pixel's cell, by its middle.
    across = (left + (np.arange(view.size[1]) + 0.5) * (right - left) / view.size[1]) // stride
    down = (top + (np.arange(view.size[0]) + 0.5) * (bottom - top) / view.size[0]) // stride
    heat = focus_map[down.astype(int)][:, across.astype(int)]
    threshold = explanation.focus_threshold(view.level)
    # Half as strong at the threshold: what counts is how near it is, and most thresholds are far from 1/2.
    part = (HEAT * np.minimum(1, heat / (2 * threshold)))[:, :, None]
    pixels[:] = (pixels * (1 - part) + np.array(HEAT_COLOUR, np.float32) * part).astype(np.uint8)
    asking = (heat >= threshold).astype(np.uint8)
    contours, _ = cv2.findContours(asking, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(pixels, contours, -1, HEAT_COLOUR, 2)


def _draw_looks(explanation: Explanation, pixels: Pixels, view: _View) -> None:
    """Outline the rectangles that were looked at, and those that the view's focus map led to."""
    for left, top, right, bottom in _look_boxes(explanation, view, view.level):
        cv2.rectangle(pixels, (left, top), (right - 1, bottom - 1), CHIP_COLOUR, 2)
    if explanation.focus_map(view.level) is not None:
        finer = explanation.levels[view.level.index + 1]
        for left, top, right, bottom in _look_boxes(explanation, view, finer):
            cv2.rectangle(pixels, (left, top), (right - 1, bottom - 1), CHIP_COLOUR, 1)


def _look_boxes(explanation: Explanation, view: _View, level: Level) -> list[list[int]]:
    """The rectangles of a level that were looked at, in pixels of the view."""
    boxes = np.array([look.box for look in explanation.looks(level)], np.float32).reshape(-1, 4)
    if level is not view.level:
        boxes = view.level.from_photo(level.to_photo(boxes))
    placed: list[list[int]] = view.place(boxes).tolist()
    return placed


def _draw_cross(pixels: Pixels, view: _View, point: tuple[float, float]) -> None:
    """A cross that leaves the point itself free."""
    x, y = view.place(view.level.from_photo(np.array(point, np.float32))).tolist()
    for colour, line in (((0, 0, 0), 5), ((0, 255, 255), 2)):
        for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start, end = (x + 12 * across, y + 12 * down), (x + 32 * across, y + 32 * down)
            cv2.line(pixels, start, end, colour, line)


def _range_words(explanation: Explanation, level: Level) -> str:
    finest_high = min(look.level.face_range[1] for look in explanation.result.trace.looks)
    times = explanation.cascade.left_to_finer
    low, high = left_to_finer(level, finest_high, times), level.face_range[1]
    if low == 0:
        return f"keeps faces of up to {high:.0f} px of the photo" if math.isfinite(high) else "keeps faces of any size"
    largest = f"to {high:.0f} px" if math.isfinite(high) else "px on"
    return f"keeps faces from {low:.0f} {largest} of the photo; smaller ones where no finer look holds them whole"


def _legend(explanation: Explanation, level: Level) -> list[tuple[Colour | None, str]]:
    """Colour and words of each kind of thing in the picture of a level."""
    counts = explanation.counts(level)
    entries: list[tuple[Colour | None, str]] = []
    for outcome, colour in COLOURS.items():
        most = f" (the best {MOST_BOXES} drawn)" if counts[outcome] > MOST_BOXES else ""
        entries.append((colour, f"{counts[outcome]:,} {MEANINGS[outcome]}{most}"))
    if explanation.focus_map(level) is not None:
        threshold = explanation.focus_threshold(level)
        entries.append((HEAT_COLOUR, f"focus map, outlined from {threshold:g} on; thin white: its chips"))
    if explanation.looks(level) and not explanation.how(level).startswith("whole"):
        entries.append((CHIP_COLOUR, "chips; dark: not looked at"))
    undrawn = counts[Outcome.WEAK] + counts[Outcome.OUTSIDE]
    entries.append((None, f"not drawn: {undrawn:,} {MEANINGS[Outcome.WEAK]}; any below {FLOOR:g}"))
    return entries


def _with_legend(pixels: Pixels, lines: Sequence[str], entries: Sequence[tuple[Colour | None, str]]) -> Pixels:
    """The picture with lines of text and a legend below: lines too wide for it are made smaller, and a picture too
    narrow to be read under gets empty ground beside it."""
    missing = max(0, (LEGEND if entries else CLOSE_UP) - pixels.shape[1])
    pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=SHEET_COLOUR), np.uint8)
    width = pixels.shape[1]
    panel = Image.new("RGB", (width, 2 * TITLE * (len(lines) + len(entries) + 1)), SHEET_COLOUR)
    pen, x, y = ImageDraw.Draw(panel), 12, 10
    for size, line in zip((TITLE, TEXT), lines, strict=False):
        fits = min(1.0, (width - 24) / max(1.0, ImageFont.load_default(size).getlength(line)))
        pen.text((x, y), line, TEXT_COLOUR, ImageFont.load_default(max(8, int(size * fits))))
        y += size + 8
    font, swatch = ImageFont.load_default(TEXT), TEXT
    for colour, words in entries:
        length = int(font.getlength(words)) + (swatch + 8 if colour else 0) + 28
        if x > 12 and x + length > width:
            x, y = 12, y + TEXT + 10
        if colour:
            pen.rectangle((x, y + 3, x + swatch, y + 3 + swatch), outline=colour, width=3)
        pen.text((x + (swatch + 8 if colour else 0), y), words, TEXT_COLOUR, font)
        x += length
    height = y + (TEXT + 14 if entries else 4)
    return np.concatenate([pixels, np.array(panel)[:height]])


def _side_by_side(panels: Sequence[Pixels]) -> Pixels:
    """Pictures in one row, on the sheet's ground."""
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] + SHEET_GAP for panel in panels) + SHEET_GAP
    sheet = np.empty((height + 2 * SHEET_GAP, width, 3), np.uint8)
    sheet[:] = SHEET_COLOUR
    left = SHEET_GAP
    for panel in panels:
        sheet[SHEET_GAP : SHEET_GAP + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + SHEET_GAP
    return sheet
