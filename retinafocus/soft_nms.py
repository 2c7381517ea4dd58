"""Soft-NMS: of boxes that overlap, the worse ones lose score by how much they do, and none is dropped for that alone.

Source: Bodla et al., Soft-NMS, arXiv 1704.04503, section 3, with the Gaussian weight exp(-IoU^2 / sigma). AutoFocus'
released code has it with a sigma of 0.55 (SNIPER).
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def soft_nms(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], sigma: float, floor: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Take the box of the highest score, lower the scores of those left that overlap it, and so on.

    What is below the floor is left out and lowers nobody's score. So a higher floor changes nothing above it.

    Args:
        boxes: (N, 4) float32 xyxy, any one frame, finite. N may be 0. A box without area overlaps none.
        scores: (N,) float32, 0..1; of equal ones the first in the order given goes first.
        sigma: above 0; the smaller, the more an overlap costs.
        floor: the least score that is kept.

    Returns:
        (K,) the numbers of the boxes that are kept, best first, and (N,) what is left of their scores; of the others,
        what was left as they fell below the floor.
    """
    left, top, right, bottom = boxes.astype(np.float64).T
    areas = (right - left) * (bottom - top)
    by_left = np.argsort(left, kind="stable")
    # A box that overlaps another begins left of its right side, and at most the widest box's width left of it.
    first = np.searchsorted(left[by_left], left - (right - left).max(initial=0.0), "left")
    last = np.searchsorted(left[by_left], right, "left")
    now, waits = scores.copy(), scores >= np.float32(floor)
    heap = [(-score, number) for number, score in enumerate(scores.tolist()) if waits[number]]
    heapq.heapify(heap)
    kept = []
    while heap:
        score, best = heapq.heappop(heap)
        if not waits[best] or -score != now[best]:  # it was taken, or has another entry with the score it has now
            continue
        waits[best] = False
        kept.append(best)
        near = by_left[first[best] : last[best]]
        near = near[waits[near]]
        widths = np.minimum(right[near], right[best]) - np.maximum(left[near], left[best])
        heights = np.minimum(bottom[near], bottom[best]) - np.maximum(top[near], top[best])
        shared = np.maximum(widths, 0) * np.maximum(heights, 0)
        near, shared = near[shared > 0], shared[shared > 0]
        ious = shared / (areas[near] + areas[best] - shared)
        now[near] = now[near] * np.exp(-(ious**2) / sigma)
        waits[near] = now[near] >= np.float32(floor)
        for number in near[waits[near]].tolist():
            heapq.heappush(heap, (-float(now[number]), number))
    return np.array(kept, np.int64), now
