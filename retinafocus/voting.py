"""Box voting: of several boxes around one face, made of many looks at it, their mean instead of the best one.

Source: `bbox_vote` of the released RetinaFace code, also in SRN's. Two accidents of that code are not kept: it drops
the landmarks, which here are averaged like the boxes; and of boxes that stand alone it keeps the very last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError

# Room for rounding in the bound on how far apart the centres of two boxes may lie.
MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Voting:
    """How overlapping boxes become one."""

    iou: float = 0.4
    """Boxes that overlap the best one left by at least this are one face with it; the published value."""

    keep_alone: bool = False
    """Whether a box stays that overlaps no other that much. As published it goes: what one of many looks saw, and that
    with one anchor alone, is hardly a face. Where a photo is looked at once this loses faces."""

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise SettingsError(f"voting.iou is {self.iou}; choose above 0, at most 1")


def vote(boxes: NDArray[np.float32], iou: float) -> NDArray[np.int64]:
    """Which boxes are one face: the best one left, with every one left that overlaps it enough, and so on.

    As published, the IoU counts the last pixel in: width and height are x2 - x1 + 1.

    Args:
        boxes: (N, 4) float32 xyxy, any one frame, finite, x1 <= x2 and y1 <= y2, best first. N may be 0.
        iou: above 0, at most 1.

    Returns:
        (N,) for each box the number of the best box of its face; its own, if that is it.
    """
    left, top, right, bottom = boxes.astype(np.float64).T
    right, bottom = right + 1, bottom + 1
    areas = (right - left) * (bottom - top)
    # With IoU >= iou the wider box is at most 1 / iou times as wide, and the centres are at most 1 - iou of it apart.
    centres = (left + right) / 2
    reach = (1 - iou) / iou * (right - left) * (1 + MARGIN) + MARGIN
    by_centre = np.argsort(centres, kind="stable")
    first = np.searchsorted(centres[by_centre], centres - reach, "left")
    last = np.searchsorted(centres[by_centre], centres + reach, "right")
    face = np.full(len(boxes), -1, np.int64)
    for best in range(len(boxes)):
        if face[best] >= 0:
            continue
        near = by_centre[first[best] : last[best]]
        near = near[face[near] < 0]
        widths = np.minimum(right[near], right[best]) - np.maximum(left[near], left[best])
        heights = np.minimum(bottom[near], bottom[best]) - np.maximum(top[near], top[best])
        shared = np.maximum(widths, 0) * np.maximum(heights, 0)
        face[near[shared / (areas[near] + areas[best] - shared) >= iou]] = best
        face[best] = best
    return face


def weighted_means(
    values: NDArray[np.float32], weights: NDArray[np.float32], face: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The mean of each face's values.

    Args:
        values: (N, k) float32.
        weights: (N,) float32, 0 or more.
        face: (N,) from `vote`.

    Returns:
        (M, k) float32, one row for each face in the order of their best boxes.
    """
    numbers = np.unique(face, return_inverse=True)[1]
    # Scores that underflow to 0 would leave a face without weight.
    share = np.maximum(weights.astype(np.float64), np.finfo(np.float32).tiny)
    total = np.bincount(numbers, share)
    sums = [np.bincount(numbers, share * column) for column in values.astype(np.float64).T]
    return (np.stack(sums, axis=1) / total[:, None]).astype(np.float32)
