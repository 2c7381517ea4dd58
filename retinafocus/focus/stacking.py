"""Focus stacking: from what every look at a photo found to one list of faces.

A look is one rectangle of one level that went through the network. Of its candidates those are dropped that the
rectangle cuts, those of a size that another level sees better, and duplicates over all looks.

Source: AutoFocus, arXiv 1812.01600, section 4; its released code drops boxes near a chip's inner sides and has a range
of sizes for each scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.boxes import box_sides, clip_boxes
from retinafocus.faces import Faces
from retinafocus.focus.settings import LEFT_TO_FINER
from retinafocus.levels import Level
from retinafocus.nms import nms
from retinafocus.postprocessing import Candidates
from retinafocus.soft_nms import soft_nms
from retinafocus.voting import Voting, vote, weighted_means

# Candidates times looks that are compared at a time: some 10 MB of intermediate arrays.
PAIRS_AT_A_TIME = 2**20

SoftNms = Callable[[NDArray[np.float32], NDArray[np.float32]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""`soft_nms` with its settings."""


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
    ALONE = 6
    """Boxes are voted on, and no other overlaps it."""


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
    """(N,) float32; with soft-NMS what is left of them."""

    levels: NDArray[np.int16]
    verdicts: NDArray[np.int8]
    """(N,) each; `Verdict`."""


def stack(
    looks: Sequence[Look],
    *,
    border: float,
    nms_iou: float,
    keep_top_k: int | None,
    left: float = LEFT_TO_FINER,
    voting: Voting | None = None,
    soft_sigma: float = 0.0,
    score_floor: float = 0.0,
) -> Stack:
    """Unite what was found. The order of the looks does not matter to `faces`.

    A candidate that a finer level sees better, because it is below its own level's range of sizes or not far above the
    lower end, is dropped only where one look at a finer level holds it whole: elsewhere nobody else can find it.

    Args:
        looks: of one photo; may be empty.
        border: network-input pixels; a candidate closer than this to an inner side of its rectangle counts as cut.
        nms_iou: of two candidates that overlap more than this, the better one is kept.
        keep_top_k: faces kept, best first; None for all.
        left: up to so many times the lower end of its level's range a face is left to a finer look.
        voting: unite candidates that overlap instead, at its own threshold; the best one's verdict is KEPT.
        soft_sigma: above 0, candidates that overlap a better one lose score instead; see `soft_nms`.
        score_floor: those that fall below it then are duplicates.

    Returns:
        Boxes inside the photo, in pixels of the upright original photo; equal scores are ordered from top to bottom.
    """
    found = [look for look in looks if len(look.candidates)]
    if not found:
        none = Faces.empty()
        return Stack(none, none.boxes, none.scores, none.levels, np.empty(0, np.int8))
    look_of = np.repeat(np.arange(len(found)), [len(look.candidates) for look in found])
    scores = np.concatenate([look.candidates.scores for look in found])
    levels = np.array([look.level.index for look in found], np.int16)[look_of]
    boxes, landmarks = _in_photo(found, look_of, levels)
    verdicts = _cut(found, look_of, border)
    highs = np.array([look.level.face_range[1] for look in found])[look_of]
    sides = box_sides(torch.from_numpy(boxes)).numpy()
    finest_high = min(look.level.face_range[1] for look in looks)
    small = sides <= np.array([left_to_finer(look.level, finest_high, left) for look in found])[look_of]
    small[small] = _seen_finer(boxes[small], levels[small], looks, border)
    verdicts[(small | (sides > highs)) & (verdicts == Verdict.KEPT)] = Verdict.SIZE
    boxes = clip_boxes(torch.from_numpy(boxes), found[0].level.photo_size).numpy()
    unseen = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    verdicts[unseen & (verdicts == Verdict.KEPT)] = Verdict.OUTSIDE
    if voting is None:
        soft = partial(soft_nms, sigma=soft_sigma, floor=score_floor) if soft_sigma else None
        faces = _without_duplicates(boxes, scores, landmarks, levels, verdicts, nms_iou, soft, keep_top_k)
    else:
        faces = _voted(boxes, scores, landmarks, levels, verdicts, voting, keep_top_k)
    return Stack(faces, boxes, scores, levels, verdicts)


def left_to_finer(level: Level, finest_high: float, times: float = LEFT_TO_FINER) -> float:
    """Up to which size, inclusive, a level's faces are left to a finer look that holds them whole.

    Args:
        level: of the photo.
        finest_high: the largest face that is kept from the finest level looked at; like the result sqrt(w*h) in photo
            pixels.
        times: the lower end of the level's range, at most.
    """
    low = level.face_range[0]
    return max(low, min(times * low, finest_high))


def _in_photo(
    looks: Sequence[Look], look_of: NDArray[np.int64], levels: NDArray[np.int16]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 4) boxes and (N, 5, 2) landmarks in pixels of the photo, not yet cut at its border.

    Args:
        looks: with candidates.
        look_of: (N,) the number of each candidate's look.
        levels: (N,) the index of its level.
    """
    corners = np.array([look.box[:2] for look in looks], np.float32)[look_of]
    boxes = np.concatenate([look.candidates.boxes for look in looks]) + np.tile(corners, 2)
    landmarks = np.concatenate([look.candidates.landmarks for look in looks]) + corners[:, None]
    return _to_photo(boxes, levels, looks), _to_photo(landmarks, levels, looks)


def _to_photo(points: NDArray[np.float32], levels: NDArray[np.int16], looks: Sequence[Look]) -> NDArray[np.float32]:
    """(N, ..., 2 k) points in pixels of the level whose index is given for each, to pixels of the photo."""
    moved = np.empty_like(points)
    for level in {look.level.index: look.level for look in looks}.values():
        moved[levels == level.index] = level.to_photo(points[levels == level.index])
    return moved


def _cut(looks: Sequence[Look], look_of: NDArray[np.int64], border: float) -> NDArray[np.int8]:
    """(N,) CUT for each candidate near a side of its look that lies inside the level, KEPT for the others."""
    edges = np.array([look.box for look in looks])
    sides = (edges[:, 2:] - edges[:, :2])[look_of]
    low_inner, high_inner = _inner_sides(looks)
    boxes = np.concatenate([look.candidates.boxes for look in looks])
    cut = (boxes[:, :2] < border) & low_inner[look_of] | (boxes[:, 2:] > sides - border) & high_inner[look_of]
    return np.where(cut.any(axis=1), Verdict.CUT, Verdict.KEPT).astype(np.int8)


def _seen_finer(
    boxes: NDArray[np.float32], levels: NDArray[np.int16], looks: Sequence[Look], border: float
) -> NDArray[np.bool_]:
    """(N,) whether one look at a finer level holds the whole of a box, in photo pixels, so that it is not cut there."""
    low_inner, high_inner = _inner_sides(looks)
    look_levels = np.array([look.level.index for look in looks], np.int16)
    edges = np.array([look.box for look in looks], np.float32)
    room = _to_photo(edges + np.array([border, border, -border, -border], np.float32), look_levels, looks)
    low, high = np.where(low_inner, room[:, :2], -np.inf), np.where(high_inner, room[:, 2:], np.inf)
    seen = np.zeros(len(boxes), bool)
    for level in np.unique(levels):
        finer = look_levels > level
        chosen = np.nonzero(levels == level)[0]
        for part in np.array_split(chosen, len(chosen) * len(looks) // PAIRS_AT_A_TIME + 1):
            inside = (boxes[part, None, :2] >= low[finer]) & (boxes[part, None, 2:] <= high[finer])
            seen[part] = inside.all(axis=2).any(axis=1)
    return seen


def _inner_sides(looks: Sequence[Look]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, 2) each: whether left and top, and right and bottom, of a look lie inside its level."""
    edges = np.array([look.box for look in looks])
    return edges[:, :2] > 0, edges[:, 2:] < np.array([look.level.size[::-1] for look in looks])


def _without_duplicates(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    levels: NDArray[np.int16],
    verdicts: NDArray[np.int8],
    nms_iou: float,
    soft: SoftNms | None,
    keep_top_k: int | None,
) -> Faces:
    """The faces, best first; the verdicts of all candidates that were kept so far are completed, and where it is soft
    what is left of their scores."""
    kept: NDArray[np.int64] = np.nonzero(verdicts == Verdict.KEPT)[0]
    order = kept[_best_first(boxes[kept], scores[kept], levels[kept])]
    if soft is None:
        alone = order[nms(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order]), nms_iou).numpy()]
    else:
        best, scores[order] = soft(boxes[order], scores[order])
        alone = order[best]
    verdicts[order] = Verdict.DUPLICATE
    verdicts[alone] = Verdict.LIMIT
    chosen: NDArray[np.int64] = alone[:keep_top_k]
    verdicts[chosen] = Verdict.KEPT
    return Faces(boxes[chosen], scores[chosen], landmarks[chosen], levels[chosen])


def _voted(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    levels: NDArray[np.int16],
    verdicts: NDArray[np.int8],
    voting: Voting,
    keep_top_k: int | None,
) -> Faces:
    """The same by voting."""
    kept: NDArray[np.int64] = np.nonzero(verdicts == Verdict.KEPT)[0]
    order = kept[_best_first(boxes[kept], scores[kept], levels[kept])]
    face = vote(boxes[order], voting.iou)
    best, votes = np.unique(face, return_counts=True)
    enough = (votes > 1) | voting.keep_alone
    verdicts[order] = Verdict.DUPLICATE
    verdicts[order[best]] = np.where(enough, Verdict.LIMIT, Verdict.ALONE)
    chosen = order[best[enough][:keep_top_k]]
    verdicts[chosen] = Verdict.KEPT
    values = np.concatenate([boxes[order], landmarks[order].reshape(-1, 10)], axis=1)
    means = weighted_means(values, scores[order], face)[enough][:keep_top_k]
    return Faces(means[:, :4], scores[chosen], means[:, 4:].reshape(-1, 5, 2), levels[chosen])


def _best_first(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], levels: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Order by falling score; equal scores by top, left, bottom, right edge and level, so that arrival counts not."""
    keys = (levels, boxes[:, 2], boxes[:, 3], boxes[:, 0], boxes[:, 1], -scores)
    order: NDArray[np.int64] = np.lexsort(keys)
    return order
