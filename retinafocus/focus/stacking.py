"""Focus stacking: from what every look at a photo found to one list of faces.

A look is one rectangle of one level that went through the network. Of its candidates those are dropped that the
rectangle cuts, those of a size that another level sees better, and duplicates over all looks.

Source: AutoFocus, arXiv 1812.01600, section 4; its released code drops boxes near a chip's inner sides and has a range
of sizes for each scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.boxes import box_sides, clip_boxes
from retinafocus.faces import Faces
from retinafocus.levels import Level
from retinafocus.nms import nms
from retinafocus.postprocessing import Candidates


class Verdict(IntEnum):
    """What became of a candidate."""

    KEPT = 0
    CUT = 1
    """It touches a side of its rectangle that is no border of the photo: a larger face, cut."""
    SIZE = 2
    """Its size is better seen at another level, which looked there too."""
    OUTSIDE = 3
    """Nothing of it lies inside the photo."""
    DUPLICATE = 4
    """It overlaps a better one too much."""
    LIMIT = 5
    """The photo has more faces than are kept."""


@dataclass(frozen=True, slots=True)
class Look:
    """One rectangle of one level that went through the network."""

    level: Level

    box: tuple[int, int, int, int]
    """xyxy in level pixels, right and bottom exclusive."""

    candidates: Candidates
    """In pixels of the rectangle, which are the network-input pixels."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Every candidate of a photo with what became of it, in the order of the looks."""

    faces: Faces
    """The ones that were kept, best first."""

    boxes: NDArray[np.float32]
    """(N, 4) float32 xyxy, pixels of the upright original photo, cut at its border."""

    scores: NDArray[np.float32]
    levels: NDArray[np.int16]
    verdicts: NDArray[np.int8]
    """(N,) each; `Verdict`."""


def stack(looks: Sequence[Look], *, border: float, nms_iou: float, keep_top_k: int | None) -> Stack:
    """Unite what was found. The order of the looks does not matter to `faces`.

    A candidate below its level's range of sizes is dropped only where one look at a finer level holds it whole:
    elsewhere nobody else can find it.

    Args:
        looks: of one photo; may be empty.
        border: network-input pixels; a candidate closer than this to an inner side of its rectangle counts as cut.
        nms_iou: of two candidates that overlap more than this, the better one is kept.
        keep_top_k: faces kept, best first; None for all.

    Returns:
        Boxes inside the photo, in pixels of the upright original photo; equal scores are ordered from top to bottom.
    """
    if not looks:
        empty = Faces.empty()
        return Stack(empty, empty.boxes, empty.scores, empty.levels, np.empty(0, np.int8))
    boxes, sides, landmarks = (np.concatenate(parts) for parts in zip(*map(_in_photo, looks), strict=True))
    scores = np.concatenate([look.candidates.scores for look in looks])
    levels = np.concatenate([np.full(len(look.candidates), look.level.index, np.int16) for look in looks])
    verdicts = np.concatenate([_cut(look, border) for look in looks])
    verdicts[_wrong_size(looks, boxes, sides, levels, border) & (verdicts == Verdict.KEPT)] = Verdict.SIZE
    boxes = clip_boxes(torch.from_numpy(boxes), looks[0].level.photo_size).numpy()
    unseen = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    verdicts[unseen & (verdicts == Verdict.KEPT)] = Verdict.OUTSIDE
    chosen = _without_duplicates(boxes, scores, levels, verdicts, nms_iou, keep_top_k)
    faces = Faces(boxes[chosen], scores[chosen], landmarks[chosen], levels[chosen])
    return Stack(faces, boxes, scores, levels, verdicts)


def _in_photo(look: Look) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes, their sides sqrt(w*h) and landmarks of one look in pixels of the photo, not yet cut at its border."""
    corner = np.array(look.box[:2], np.float32)
    with np.errstate(over="ignore"):  # an endless box stays endless, and is cut at the photo's border later
        boxes = look.level.to_photo(look.candidates.boxes + np.tile(corner, 2))
        landmarks = look.level.to_photo(look.candidates.landmarks + corner)
    return boxes, box_sides(torch.from_numpy(boxes)).numpy(), landmarks


def _cut(look: Look, border: float) -> NDArray[np.int8]:
    """(N,) CUT for each candidate near a side of the rectangle that lies inside the level, KEPT for the others."""
    left, top, right, bottom = look.box
    height, width = look.level.size
    boxes = look.candidates.boxes
    cut = np.zeros(len(look.candidates), bool)
    if left > 0:
        cut |= boxes[:, 0] < border
    if top > 0:
        cut |= boxes[:, 1] < border
    if right < width:
        cut |= boxes[:, 2] > right - left - border
    if bottom < height:
        cut |= boxes[:, 3] > bottom - top - border
    return np.where(cut, Verdict.CUT, Verdict.KEPT).astype(np.int8)


def _wrong_size(
    looks: Sequence[Look],
    boxes: NDArray[np.float32],
    sides: NDArray[np.float32],
    levels: NDArray[np.int16],
    border: float,
) -> NDArray[np.bool_]:
    """(N,) whether another level sees a candidate of that size better, and has looked at all of it."""
    lows = np.concatenate([np.full(len(look.candidates), look.level.face_range[0]) for look in looks])
    highs = np.concatenate([np.full(len(look.candidates), look.level.face_range[1]) for look in looks])
    small = sides <= lows
    for level in np.unique(levels[small]):
        chosen = np.nonzero(small & (levels == level))[0]
        small[chosen] = _whole_in_any(boxes[chosen], [look for look in looks if look.level.index > level], border)
    wrong: NDArray[np.bool_] = small | (sides > highs)
    return wrong


def _whole_in_any(boxes: NDArray[np.float32], looks: Sequence[Look], border: float) -> NDArray[np.bool_]:
    """(N,) whether each box, in photo pixels, lies in one of the looks, far enough inside not to be cut there."""
    inside = np.zeros(len(boxes), bool)
    for look in looks:
        left, top, right, bottom = look.box
        height, width = look.level.size
        low = look.level.to_photo(np.array([left + border, top + border], np.float32))
        high = look.level.to_photo(np.array([right - border, bottom - border], np.float32))
        low = np.where([left > 0, top > 0], low, -np.inf)
        high = np.where([right < width, bottom < height], high, np.inf)
        inside |= (boxes[:, :2] >= low).all(axis=1) & (boxes[:, 2:] <= high).all(axis=1)
    return inside


def _without_duplicates(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    levels: NDArray[np.int16],
    verdicts: NDArray[np.int8],
    nms_iou: float,
    keep_top_k: int | None,
) -> NDArray[np.int64]:
    """Indices of the faces, best first; the verdicts of all other candidates are completed."""
    kept: NDArray[np.int64] = np.nonzero(verdicts == Verdict.KEPT)[0]
    order = kept[_best_first(boxes[kept], scores[kept], levels[kept])]
    alone = order[nms(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order]), nms_iou).numpy()]
    verdicts[order] = Verdict.DUPLICATE
    verdicts[alone] = Verdict.LIMIT
    chosen: NDArray[np.int64] = alone[:keep_top_k]
    verdicts[chosen] = Verdict.KEPT
    return chosen


def _best_first(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], levels: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Order by falling score; equal scores by top, left, bottom, right edge and level, so that arrival counts not."""
    keys = (levels, boxes[:, 2], boxes[:, 3], boxes[:, 0], boxes[:, 1], -scores)
    order: NDArray[np.int64] = np.lexsort(keys)
    return order
