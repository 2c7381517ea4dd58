"""Non-maximum suppression that stays fast for the tens of thousands of boxes of a crowd in a large photo.

`nms` keeps the same boxes in the same order as `torchvision.ops.nms`, whose cost is kept boxes times all boxes:
right for a pile of candidates on one face, two seconds for 30,000 small faces all over a photo. Here the boxes are
taken in blocks, best first. torchvision settles each block, and what the block keeps then strikes out the rest of the
set, looking only into the cells of a grid where a box similar and near enough can lie. That is exact, because two
boxes with IoU > t have

* overlap in width > t x the wider width, and the same in height, so that their longer sides differ by less than a
  factor 1 / t: only the same and the two neighbouring classes of size can hold a partner;
* centres closer than (1 - t) x the longer side, in x and in y: only a few cells can hold a partner.

Memory grows with the number of boxes and one chunk of pairs, never with the square of the boxes. `benchmarks/nms.py`
measures it.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinafocus.errors import SettingsError

# Up to here torchvision's loop alone is as quick, or a millisecond slower at most (benchmarks/nms.py).
FEW_BOXES = 2500

# Boxes settled by one call of torchvision. Its cost per block grows with the square, ours per block is about one
# millisecond of bookkeeping; 512..2048 measure within 30 % of each other at 30,000 boxes (benchmarks/nms.py).
BLOCK = 1024

# Pairs compared at a time: some 20 MB of intermediate arrays.
PAIRS_AT_A_TIME = 2**18

# One pair costs about this much more here (gathered by numpy) than in torchvision's loop. When the cells narrow the
# search down by less than this, as in one pile of boxes, the rest is left to torchvision.
PAIR_COST = 12

# Below this threshold nearly every size can suppress every other, and the classes of size separate nothing.
LOWEST_GRID_THRESHOLD = 0.1

# Room for rounding in the bounds above, far more than float32 can lose in an IoU.
MARGIN = 1 + 1e-4

# Areas this close to the smallest float32 lose their relative precision, on which the bounds rest.
SMALLEST_AREA = np.float32(1e-30)

# Bits of a cell key for the row and for the column; a side of the grid has at most 2**20 cells.
KEY_BITS = 21


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Drop each box that overlaps a better one by more than the threshold.

    Boxes are taken best score first, equal scores in the order given; NaN scores come first, as torch sorts them. A
    box without area, or with a coordinate that is NaN or infinite, has no IoU: it is kept and suppresses nothing.
    Callers that want neither drop such boxes before. The work is done on the CPU, so that the answer does not depend
    on the device; the result is on the device of `boxes`.

    Args:
        boxes: (N, 4) float32; xyxy, any one frame. N may be 0.
        scores: (N,) float32.
        iou_threshold: 0..1; a box is dropped where its IoU with a kept, better one is strictly greater.

    Returns:
        (K,) int64; the indices of the kept boxes, best first; those of `torchvision.ops.nms`.

    Raises:
        SettingsError: the threshold is outside 0..1, or shapes or types do not fit.
    """
    _check(boxes, scores, iou_threshold)
    boxes_cpu, scores_cpu = boxes.detach().cpu(), scores.detach().cpu()
    if len(boxes_cpu) <= FEW_BOXES or iou_threshold < LOWEST_GRID_THRESHOLD:
        return _torchvision_nms(boxes_cpu, scores_cpu, iou_threshold).to(boxes.device)
    order = torch.sort(scores_cpu, descending=True, stable=True).indices
    sorted_boxes, sorted_scores = boxes_cpu[order], scores_cpu[order]
    areas, has_area = _areas(sorted_boxes.numpy())
    if (areas[has_area] < SMALLEST_AREA).any():
        return _torchvision_nms(boxes_cpu, scores_cpu, iou_threshold).to(boxes.device)
    kept = ~has_area
    active = np.flatnonzero(has_area)
    if len(active):
        kept[active[_nms_in_blocks(sorted_boxes[active], sorted_scores[active], iou_threshold)]] = True
    return order[torch.from_numpy(kept)].to(boxes.device)


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise SettingsError(f"iou_threshold is {iou_threshold}; choose 0..1")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise SettingsError(
            f"boxes are {tuple(boxes.shape)} and scores {tuple(scores.shape)}; suppression wants (N, 4) and (N,)"
        )
    if boxes.dtype != torch.float32 or scores.dtype != torch.float32:
        # Half precision has steps of 2 px beyond 2048 px: boxes that went through it are already spoiled.
        raise SettingsError(f"boxes are {boxes.dtype} and scores {scores.dtype}; suppression wants torch.float32")


def _torchvision_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return _operator()(boxes, scores, iou_threshold)


@functools.cache
def _operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    """The compiled operator behind `torchvision.ops.nms`.

    Loaded without torchvision's Python modules where that works: they import torch's compiler, which takes every
    process longer than torch itself, and nothing here has use for it.
    """
    package = importlib.util.find_spec("torchvision")
    folder = Path(package.origin).parent if package is not None and package.origin else Path()
    for library in sorted(folder.glob("_C*")):
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    if not hasattr(torch.ops.torchvision, "nms"):
        importlib.import_module("torchvision")
    operator: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms
    return operator


def _areas(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Areas as torchvision computes them, and which boxes can overlap at all. (N, 4) -> (N,), (N,)."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        areas = widths * heights
    return areas, np.isfinite(areas) & (areas > 0) & (widths > 0)


def _nms_in_blocks(boxes: Tensor, scores: Tensor, iou_threshold: float) -> NDArray[np.int64]:
    """Positions of the kept boxes, ascending. At least one box; best first, each with a positive, finite area."""
    grid = _Grid(boxes.numpy(), iou_threshold)
    alive = np.ones(len(boxes), dtype=np.bool_)
    kept: list[NDArray[np.int64]] = []
    while True:
        block = torch.from_numpy(np.flatnonzero(alive)[:BLOCK])
        if not len(block):
            return np.concatenate(kept)
        best = block[_torchvision_nms(boxes[block], scores[block], iou_threshold)].numpy()
        alive[block.numpy()] = False
        grid.keep_only(alive)
        spans = grid.spans(best)
        if spans.pairs * PAIR_COST > len(best) * grid.size and spans.pairs > PAIRS_AT_A_TIME:
            rest = torch.from_numpy(np.concatenate([best, np.flatnonzero(alive)]))
            last = rest[_torchvision_nms(boxes[rest], scores[rest], iou_threshold)].numpy()
            return np.concatenate([*kept, last])
        kept.append(best)
        for better, candidates in grid.pairs(spans):
            alive[candidates[grid.overlapping(better, candidates)]] = False


class _Spans:
    """Runs of grid entries to compare with a box: entries starts[i] .. ends[i] against box owners[i]."""

    def __init__(self, owners: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        filled = ends > starts
        self.owners, self.starts = owners[filled], starts[filled]
        self.counts = ends[filled] - self.starts
        self.pairs = int(self.counts.sum())


class _Grid:
    """The boxes that may still be dropped, sorted by class of size, row and column of their centre.

    Class c holds the boxes whose longer side is below largest[c] = largest[c - 1] x (a little over 1 / t), and has
    cells of its own, twice as wide as the farthest partner of such a box can be.
    """

    def __init__(self, boxes: NDArray[np.float32], iou_threshold: float) -> None:
        self.boxes = boxes
        self.areas, _ = _areas(boxes)
        # torchvision compares the float32 IoU with the double threshold. The largest float32 that is not above the
        # threshold decides the same in float32, whatever rules of promotion numpy follows.
        rounded = np.float32(iou_threshold)
        self.threshold = rounded if float(rounded) <= iou_threshold else np.nextafter(rounded, np.float32(0))
        # The bounds hold for any smaller threshold too; near 1 the classes and cells would become needlessly fine.
        self.bound = min(iou_threshold, 2 / 3)
        left, top, right, bottom = boxes.T.astype(np.float64)
        self.side = np.maximum(right - left, bottom - top)
        self.x, self.y = (left + right) / 2, (top + bottom) / 2
        self.x -= self.x.min()
        self.y -= self.y.min()
        # All smaller boxes share the lowest class, which keeps rows, columns and classes within their bits.
        extent = max(self.x.max(), self.y.max())
        smallest = max(extent * 2.0**-20, self.side.max() * 2.0**-40)
        growth = MARGIN / self.bound
        self.size_class = np.log(np.maximum(self.side / smallest, 1)) // np.log(growth)
        self.largest = smallest * growth ** (np.arange(self.size_class.max() + 2) + 1)
        self.size_class = self.size_class.astype(np.int64)
        self.cell = 2 * MARGIN * (1 - self.bound) * self.largest
        widths = self.cell[self.size_class]
        rows, columns = (self.y // widths).astype(np.int64), (self.x // widths).astype(np.int64)
        keys = _keys(self.size_class, rows, columns)
        self.entries = np.argsort(keys, kind="stable")
        self.keys = keys[self.entries]

    @property
    def size(self) -> int:
        """How many boxes may still be dropped."""
        return len(self.entries)

    def keep_only(self, alive: NDArray[np.bool_]) -> None:
        """Forget the boxes that are settled."""
        still = alive[self.entries]
        self.entries, self.keys = self.entries[still], self.keys[still]

    def spans(self, kept: NDArray[np.int64]) -> _Spans:
        """Where the boxes lie that one of the kept boxes can suppress."""
        found = [self._spans_in_class(kept, step) for step in (-1, 0, 1)]
        owners, low, high = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return _Spans(owners, np.searchsorted(self.keys, low, "left"), np.searchsorted(self.keys, high, "right"))

    def _spans_in_class(self, kept: NDArray[np.int64], step: int) -> tuple[NDArray[np.int64], ...]:
        """(boxes, first key, last key) for each row of cells of the class `step` above that a partner can be in."""
        kept = kept[self.size_class[kept] + step >= 0]
        size_class, side = self.size_class[kept] + step, self.side[kept]
        longest = np.maximum(side, np.minimum(self.largest[size_class], side / self.bound))
        reach = MARGIN * (1 - self.bound) * longest
        cell = self.cell[size_class]
        x, y = self.x[kept], self.y[kept]
        first_row, last_row = np.maximum((y - reach) // cell, 0), (y + reach) // cell
        tallest = int((last_row - first_row).max(initial=0)) + 1
        rows = first_row[:, None].astype(np.int64) + np.arange(tallest)
        box, _ = wanted = np.nonzero(rows <= last_row[:, None])
        last_column = np.minimum((x + reach) // cell, 2 ** (KEY_BITS - 1))
        low = _keys(size_class[box], rows[wanted], np.maximum((x - reach) // cell, 0).astype(np.int64)[box])
        high = _keys(size_class[box], rows[wanted], last_column.astype(np.int64)[box])
        return kept[box], low, high

    def pairs(self, spans: _Spans) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(kept boxes, boxes each may suppress), some pairs at a time: at most one chunk and one run of entries."""
        before = np.cumsum(spans.counts) - spans.counts
        edges = np.append(np.flatnonzero(np.diff(before // PAIRS_AT_A_TIME, prepend=-1)), len(before))
        for first, last in itertools.pairwise(edges):
            part = slice(first, last)
            counts = spans.counts[part]
            shift = spans.starts[part] - (before[part] - before[first])
            places = np.arange(counts.sum()) + np.repeat(shift, counts)
            yield np.repeat(spans.owners[part], counts), self.entries[places]

    def overlapping(self, better: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether IoU > threshold, pair by pair, rounded step by step as torchvision rounds."""
        one, two = self.boxes[better], self.boxes[others]
        widths = np.minimum(one[:, 2], two[:, 2]) - np.maximum(one[:, 0], two[:, 0])
        heights = np.minimum(one[:, 3], two[:, 3]) - np.maximum(one[:, 1], two[:, 1])
        overlaps = np.maximum(widths, 0) * np.maximum(heights, 0)
        with np.errstate(over="ignore", under="ignore"):
            ious = overlaps / (self.areas[better] + self.areas[others] - overlaps)
        above: NDArray[np.bool_] = ious > self.threshold
        return above


def _keys(size_class: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """One sortable number per cell, so that a stretch of columns in one row is a range of numbers."""
    return (size_class << 2 * KEY_BITS) + (rows << KEY_BITS) + columns
