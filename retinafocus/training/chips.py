"""Square chips of labelled photos at a few fixed scales, each for the faces of its own range of sizes (SNIPER).

At each scale, windows on a regular grid are chosen until every face of the scale's range that fits into one is inside
one: positive chips. Windows without any face or ignore region are negative chips. Faces that a chip shows out of its
scale's range are neither face nor background to the detection heads: another scale is for them.

Frames: *photo* is the upright photo, *level* the whole photo at one scale, *chip* a window of it, the network input.

Source: SNIPER, arXiv 1805.09300, sections 3.1 and 3.2; negatives are drawn at random instead of where a weak detector
is mistaken, since photos without faces, which that data set lacked, bring hard ones enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.training.augment import (
    MEAN_COLOUR,
    CropConfig,
    LabelledCrop,
    Window,
    ignore_small_faces,
    mirrored,
    paste,
)

ROUNDING = 1e-3
"""Level pixels by which a face may stick out of a window that holds it whole: box times scale is rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipConfig:
    """How chips are cut. Sizes of faces are sqrt(width * height)."""

    scales: tuple[float, ...] = (3.0, 1.0, 0.33)
    """Chip pixels per photo pixel. Where a photo would be smaller than the chip, it is enlarged until its long side
    fills it, at most to the largest scale."""

    valid: tuple[tuple[float, float], ...] = ((0.0, 60.0), (16.0, 160.0), (64.0, 1e6))
    """Faces each scale is for, [low, high) in pixels of the upright original photo. Neighbours overlap."""

    stride: int = 32
    """Between neighbouring windows of the grid, in chip pixels. The grid's offset is random for each chip."""

    negatives: int = 1
    """Negative chips a photo has beside its positive ones, each as likely to be drawn as one of those."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise SettingsError(f"chip.scales is {self.scales}; choose at least one, all more than 0")
        if len(self.valid) != len(self.scales) or not all(0 <= low < high for low, high in self.valid):
            raise SettingsError(
                f"chip.valid is {self.valid}; give 0 <= low < high for each of the {len(self.scales)} scales"
            )
        if self.stride < 1 or self.negatives < 0:
            raise SettingsError(
                f"chip.stride is {self.stride} and chip.negatives {self.negatives}; choose at least 1 and 0"
            )


class Grid(NamedTuple):
    """Windows of one size on a level: any of the columns with any of the rows."""

    columns: NDArray[np.int64]
    """(C,) left sides, level pixels, ascending; the first is 0, the last ends where the level does."""

    rows: NDArray[np.int64]
    """(R,) upper sides."""

    side: int
    """Edge of a window; where the level is shorter, there is one window and the level does not fill it."""


def random_chip(
    photo: LabelledPhoto,
    pixels: NDArray[np.uint8],
    rng: np.random.Generator,
    crop: CropConfig,
    config: ChipConfig,
) -> LabelledCrop:
    """Cut one of a photo's chips.

    Args:
        photo: the labels.
        pixels: (H, W, 3) uint8 RGB of the whole photo; may be a reduced decode.
        rng: decides everything that is random.
        crop: side, flip and smallest_face of the chip.
        config: where chips are cut.

    Returns:
        The chip; what the photo does not fill has the mean colour. Faces whose centre is not seen, and those too
        small, are ignore regions; faces out of the scale's range are not `in_range`. A photo whose every window
        touches a face, and none holds one of its scale's range whole, gives a random window of its last scale.
    """
    sides = np.sqrt((photo.boxes[:, 2:] - photo.boxes[:, :2]).astype(np.float64).prod(axis=1))
    levels, positives, free = [], [], []
    for number, (low, high) in enumerate(config.valid):
        size = level_size(photo.size, config.scales[number], max(config.scales), crop.side)
        grid = random_grid(size, crop.side, config.stride, rng)
        ratio = np.array([size[1] / photo.size[1], size[0] / photo.size[0]] * 2)
        in_range = (sides >= low) & (sides < high)
        levels.append((size, grid, in_range))
        positives += [(number, *place) for place in cover(photo.boxes[in_range] * ratio, grid)]
        # A pixel of a reduced decode that is partly face is shown whole.
        blur = ratio * (np.array([-1, -1, 1, 1]) * max(np.divide(photo.size, pixels.shape[:2])))
        free.append(free_windows(np.concatenate([photo.boxes, photo.ignore]) * ratio + blur, grid))
    number, row, column = _draw(positives, free, config.negatives, rng)
    size, grid, in_range = levels[number]
    window = window_of(photo.size, size, (int(grid.columns[column]), int(grid.rows[row])), crop.side)
    canvas = np.tile(np.array(MEAN_COLOUR, dtype=np.uint8), (crop.side, crop.side, 1))
    chip = ignore_small_faces(paste(canvas, photo, pixels, window, rng, in_range), crop.smallest_face)
    return mirrored(chip) if rng.random() < crop.flip else chip


def level_size(photo_size: tuple[int, int], scale: float, largest: float, side: int) -> tuple[int, int]:
    """(height, width) of a photo at a scale, enlarged until its long side fills a chip, at most to the `largest`."""
    scale = max(scale, min(largest, side / max(photo_size)))
    return max(1, round(photo_size[0] * scale)), max(1, round(photo_size[1] * scale))


def random_grid(size: tuple[int, int], side: int, stride: int, rng: np.random.Generator) -> Grid:
    """Windows `stride` apart from a random offset on, and those at the borders of a level of `size` (height, width)."""
    axes = []
    for length in (size[1], size[0]):
        last = max(0, length - side)
        inner = np.arange(rng.integers(1, stride + 1), last, stride)
        axes.append(np.unique(np.concatenate([[0], inner, [last]])).astype(np.int64))
    return Grid(axes[0], axes[1], side)


def cover(boxes: NDArray[np.floating], grid: Grid) -> list[tuple[int, int]]:
    """Choose windows, each the one that holds most boxes that none before it holds, until no window holds another.

    Args:
        boxes: (N, 4); xyxy level pixels.
        grid: the windows.

    Returns:
        (row, column) of the windows in the order they were chosen: of equals the uppermost, then leftmost. Boxes that
        no window holds whole are left out.
    """
    ranges = np.stack(
        [
            np.searchsorted(grid.rows, boxes[:, 3] - grid.side - ROUNDING, side="left"),
            np.searchsorted(grid.rows, boxes[:, 1] + ROUNDING, side="right"),
            np.searchsorted(grid.columns, boxes[:, 2] - grid.side - ROUNDING, side="left"),
            np.searchsorted(grid.columns, boxes[:, 0] + ROUNDING, side="right"),
        ],
        axis=1,
    )
    ranges = ranges[(ranges[:, 1] > ranges[:, 0]) & (ranges[:, 3] > ranges[:, 2])]
    counts = _count(ranges, grid)
    chosen = []
    while len(ranges):
        row, column = divmod(int(counts.argmax()), len(grid.columns))
        top, bottom, left, right = ranges.T
        held = (top <= row) & (row < bottom) & (left <= column) & (column < right)
        for first_row, end_row, first_column, end_column in ranges[held].tolist():
            counts[first_row:end_row, first_column:end_column] -= 1
        ranges = ranges[~held]
        chosen.append((row, column))
    return chosen


def free_windows(boxes: NDArray[np.floating], grid: Grid) -> NDArray[np.bool_]:
    """(R, C) True for the windows that share no area with any of the boxes (N, 4), xyxy level pixels."""
    ranges = np.stack(
        [
            np.searchsorted(grid.rows, boxes[:, 1] - grid.side, side="right"),
            np.searchsorted(grid.rows, boxes[:, 3], side="left"),
            np.searchsorted(grid.columns, boxes[:, 0] - grid.side, side="right"),
            np.searchsorted(grid.columns, boxes[:, 2], side="left"),
        ],
        axis=1,
    )
    free: NDArray[np.bool_] = _count(ranges, grid) == 0
    return free


def _count(ranges: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """(R, C) how many of the ranges (N, 4), first and end row, first and end column, each window lies in."""
    edges = np.zeros((len(grid.rows) + 1, len(grid.columns) + 1), dtype=np.int64)
    for row, column, sign in ((0, 2, 1), (0, 3, -1), (1, 2, -1), (1, 3, 1)):
        np.add.at(edges, (ranges[:, row], ranges[:, column]), sign)
    return edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]


def window_of(photo_size: tuple[int, int], size: tuple[int, int], corner: tuple[int, int], side: int) -> Window:
    """What a window of a level shows of the photo, and which part of the chip it fills.

    Args:
        photo_size: (height, width).
        size: (height, width) of the level.
        corner: (left, top) of the window, level pixels.
        side: its edge, level pixels.
    """
    shown = min(side, size[1] - corner[0]), min(side, size[0] - corner[1])
    columns, rows = photo_size[1] / size[1], photo_size[0] / size[0]
    left, top = corner[0] * columns, corner[1] * rows
    photo = (left, top, left + shown[0] * columns, top + shown[1] * rows)
    return Window(photo=photo, crop=(0, 0, *shown))


def _draw(
    positives: list[tuple[int, int, int]], free: list[NDArray[np.bool_]], negatives: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    """(scale, row, column) of one of the positive chips or of a photo's `negatives` random free windows."""
    open_scales = [number for number, windows in enumerate(free) if windows.any()]
    # A photo without positives, one without faces above all, gives a negative even where none are asked for beside.
    count = max(negatives, not positives) if open_scales else 0
    if not positives and not count:
        last = len(free) - 1
        return last, int(rng.integers(free[last].shape[0])), int(rng.integers(free[last].shape[1]))
    drawn = int(rng.integers(len(positives) + count))
    if drawn < len(positives):
        return positives[drawn]
    number = open_scales[rng.integers(len(open_scales))]
    row, column = divmod(int(rng.choice(np.flatnonzero(free[number]))), free[number].shape[1])
    return number, row, column
