"""From a focus map to the rectangles that are looked at again, and tiles for what is too large to look at at once.

Source: AutoFocus, arXiv 1812.01600, algorithm 1; its released code for the details (>=, a square around every focus
pixel, growing about the centre). Differences: regions are 8-connected components, not contours; a rectangle grows to
one of a few sides, so that the shapes the network sees are few; and rectangles are merged where that costs nothing, not
wherever they overlap: merging all that overlaps made one chip of half a photo out of focus pixels on a tenth of it
(benchmarks/README.md), while a bit of a photo looked at twice changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError

# Sides of chips, as multiples of the smallest: 1, 1.5, 2, 3, 4, 6, 8, ... Coarser steps would waste more of a chip on
# what nobody asked for, finer ones would leave an engine that prepares itself for each shape too many of them.
STEPS = (1.0, 1.5)

# Rectangles compared with each other for merging: the time grows with the square of their number.
MERGED_AT_ONCE = 256

# Sides of tiles are multiples of the coarsest anchors' stride.
TILE_STRIDE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipConfig:
    """How the focus map of one level becomes chips of the next finer one."""

    threshold: float | None = None
    """Cells from this probability on are focus pixels. None: what the preset says, measured for its weights."""

    dilation: int = 3
    """Side of the square, in cells, that each focus pixel stands for: room around the faces, so that none touches the
    border of its chip. Odd; 1 leaves no room."""

    min_chip: float = 64.0
    """Smallest side of a chip, in pixels of the coarser level. Smaller chips cost less each, but cut context away."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise SettingsError(f"cascade.chips.threshold is {self.threshold}; choose a probability above 0, up to 1")
        if self.dilation < 1 or self.dilation % 2 == 0:
            raise SettingsError(f"cascade.chips.dilation is {self.dilation}; choose an odd number of cells from 1 on")
        if not 0 < self.min_chip < math.inf:
            raise SettingsError(f"cascade.chips.min_chip is {self.min_chip}; choose a side above 0 px")


def chips_around(
    probabilities: NDArray[np.float32], *, threshold: float, dilation: int, min_side: int
) -> NDArray[np.int32]:
    """Rectangles around the focus pixels of a map.

    Each connected region of focus pixels, with room around it, gets a rectangle, grown about its centre to the next of
    the sides `sides_from` names and shifted back inside the map. Two become one wherever that one is not larger than
    both together, the pair that saves most first, until no pair is left. The result depends on no other order.

    Args:
        probabilities: (H, W) float32 focus map, 0..1.
        threshold: cells from it on are focus pixels.
        dilation: side in cells of the square that each stands for, odd.
        min_side: smallest side in cells; a map that is smaller gives a chip as large as the map.

    Returns:
        (N, 4) int32 xyxy in cells, right and bottom exclusive, ordered by top, then left; N is 0 for a map without
        focus pixels. Every region lies whole, with its room, in one of them.
    """
    shape = probabilities.shape
    boxes = _ordered(_grown(_widened(_regions(probabilities >= threshold), shape, dilation // 2), shape, min_side))
    return _ordered(_merged(boxes, shape, min_side))


@functools.lru_cache(maxsize=256)
def sides_from(smallest: int, largest: int) -> NDArray[np.int32]:
    """The sides a chip may have, ascending: the smallest times 1, 1.5, 2, 3, 4, 6, ... below `largest`, then `largest`.

    Args:
        smallest, largest: in cells, at least 1.

    Returns:
        int32. Shared with other callers: never write to it.
    """
    powers = range(math.ceil(math.log2(max(largest / smallest, 1))) + 1)
    steps = {math.ceil(smallest * step * 2**power) for power, step in itertools.product(powers, STEPS)}
    return np.array(sorted({side for side in steps if side < largest} | {largest}), np.int32)


def tiles_of(box: tuple[int, int, int, int], max_pixels: int, overlap: int) -> NDArray[np.int32]:
    """Cut a rectangle into overlapping tiles of one size, if it is too large to look at at once, or too high.

    Args:
        box: xyxy in level pixels, right and bottom exclusive.
        max_pixels: most pixels of a tile.
        overlap: neighbours share at least so many pixels: whatever is smaller lies whole in one of them.

    Returns:
        (N, 4) int32 xyxy in level pixels; the rectangle itself if it is small enough. Together they cover it.

    Raises:
        SettingsError: as `tile_side`.
    """
    left, top, right, bottom = box
    height, width = bottom - top, right - left
    if height * width <= max_pixels and height <= tile_side(max_pixels, overlap):
        return np.array([box], np.int32)
    tile_height, tile_width = _tile_size(height, width, max_pixels, overlap)
    rows = top + _starts(height, tile_height, overlap)
    columns = left + _starts(width, tile_width, overlap)
    return np.array([(x, y, x + tile_width, y + tile_height) for y in rows for x in columns], np.int32)


def _regions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(N, 4) xyxy: the enclosing rectangle of each 8-connected region."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:]
    boxes = stats[:, :4].astype(np.int32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _grown(boxes: NDArray[np.int32], shape: tuple[int, ...], min_side: int) -> NDArray[np.int32]:
    """(..., 4) each rectangle grown about its centre to the next allowed sides, inside the map."""
    grown = np.empty_like(boxes)
    for axis, limit in ((0, shape[1]), (1, shape[0])):
        start, end = boxes[..., axis], boxes[..., axis + 2]
        sides = sides_from(min_side, limit)
        side = sides[np.searchsorted(sides, end - start)]
        grown[..., axis] = np.clip(start - (side - (end - start)) // 2, 0, limit - side)
        grown[..., axis + 2] = grown[..., axis] + side
    return grown


def _widened(boxes: NDArray[np.int32], shape: tuple[int, ...], room: int) -> NDArray[np.int32]:
    """Each rectangle with so many cells more on every side, inside the map."""
    sides = np.array([shape[1], shape[0]])
    return np.concatenate([np.maximum(boxes[:, :2] - room, 0), np.minimum(boxes[:, 2:] + room, sides)], axis=1)


def _ordered(boxes: NDArray[np.int32]) -> NDArray[np.int32]:
    """From top to bottom, then from left to right."""
    return boxes[np.lexsort(boxes.T[[3, 2, 0, 1]])]


def _merged(boxes: NDArray[np.int32], shape: tuple[int, ...], min_side: int) -> NDArray[np.int32]:
    """Pairs of rectangles made one while that costs nothing; many are halved in space first, by their centres."""
    if len(boxes) > MERGED_AT_ONCE:
        centres = boxes[:, :2] + boxes[:, 2:]
        axis = int(np.ptp(centres, axis=0).argmax())
        order = np.argsort(centres[:, axis], kind="stable")
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        return np.concatenate([_merged(boxes[np.sort(half)], shape, min_side) for half in halves])
    boxes = boxes.copy()
    left = np.ones(len(boxes), bool)
    savings = _savings(boxes[:, None], boxes, shape, min_side)
    savings[np.tri(len(boxes), dtype=bool)] = -1  # each pair once
    while savings.size and savings.max() >= 0:
        kept, gone = np.unravel_index(int(savings.argmax()), savings.shape)
        boxes[kept] = _union(boxes[kept], boxes[gone], shape, min_side)
        left[gone] = False
        savings[gone, :] = savings[:, gone] = -1
        fresh = np.where(left, _savings(boxes[kept], boxes, shape, min_side), -1)
        savings[kept, kept + 1 :], savings[:kept, kept] = fresh[kept + 1 :], fresh[:kept]
    return boxes[left]


def _savings(
    ones: NDArray[np.int32], others: NDArray[np.int32], shape: tuple[int, ...], min_side: int
) -> NDArray[np.int64]:
    """(...) cells saved by making two rectangles (..., 4) one; negative where it costs."""
    saved: NDArray[np.int64] = _area(ones) + _area(others) - _area(_union(ones, others, shape, min_side))
    return saved


def _union(
    ones: NDArray[np.int32], others: NDArray[np.int32], shape: tuple[int, ...], min_side: int
) -> NDArray[np.int32]:
    """(..., 4) the rectangles around pairs of them, grown to an allowed size."""
    both = [np.minimum(ones[..., :2], others[..., :2]), np.maximum(ones[..., 2:], others[..., 2:])]
    return _grown(np.concatenate(both, axis=-1), shape, min_side)


def _area(boxes: NDArray[np.int32]) -> NDArray[np.int64]:
    area: NDArray[np.int64] = (boxes[..., 2:] - boxes[..., :2]).astype(np.int64).prod(axis=-1)
    return area


def tile_side(max_pixels: int, overlap: int) -> int:
    """The side of the largest square tile.

    Raises:
        SettingsError: it would be too small for tiles to overlap that much.
    """
    side = math.isqrt(max_pixels) // TILE_STRIDE * TILE_STRIDE
    if side < 2 * overlap:
        raise SettingsError(
            f"cascade.network_pixels is {max_pixels}: tiles of {side} px could not overlap by {overlap} px, as the "
            f"largest faces in them need; choose at least {(2 * overlap + TILE_STRIDE) ** 2}"
        )
    return side


def _tile_size(height: int, width: int, max_pixels: int, overlap: int) -> tuple[int, int]:
    """(height, width) of equal tiles: never higher than a square one, so that a photo read in strips has few open."""
    most = tile_side(max_pixels, overlap)
    if height <= most:
        return height, _equal_side(width, max_pixels // height, overlap)
    if width <= most:
        return _equal_side(height, most, overlap), width
    return _equal_side(height, most, overlap), _equal_side(width, most, overlap)


def _equal_side(length: int, most: int, overlap: int) -> int:
    """The side of the fewest tiles of at most that side along one axis, all equal: a multiple of the stride."""
    most = most // TILE_STRIDE * TILE_STRIDE
    if length <= most:
        return length
    count = math.ceil((length - overlap) / (most - overlap))
    equal = math.ceil((length + (count - 1) * overlap) / count)
    return min(most, math.ceil(equal / TILE_STRIDE) * TILE_STRIDE)


def _starts(length: int, side: int, overlap: int) -> NDArray[np.int64]:
    """Where tiles of that side start along one axis: spread evenly, the last one at the far end."""
    count = max(1, math.ceil((length - overlap) / (side - overlap))) if length > side else 1
    return np.linspace(0, length - side, count).astype(np.int64)
