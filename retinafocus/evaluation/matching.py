"""Which detection found which face, and which detection lies in a region that does not count. One photo at a time.

Sizes of arrays here are photos' own: never all detections of a set against all its faces, and within a photo never
more than one block of detections against the photo's faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Detections x faces compared at a time: about 12 MB of intermediate arrays.
CELLS_AT_A_TIME = 2**18

# A detection without a face is dropped when at least this share of its own area is inside ignore regions.
IGNORED_SHARE = 0.5


def box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) xyxy -> (N,) areas; 0 for a box whose corners are swapped."""
    areas: NDArray[np.float64] = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    return areas


def match_faces(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    faces: NDArray[np.float64],
    iou_thresholds: Sequence[float],
) -> NDArray[np.int64]:
    """Give each face to the first detection, in score order, that overlaps it most among the faces still free.

    A detection takes the free face with the highest IoU that is at least the threshold; equal scores go in the order
    given, equal IoUs to the face listed first. So a detection whose best face is taken may still find its second
    best, as in COCO; the WIDER FACE evaluation gives no second choice.

    Args:
        boxes: (K, 4) float64 xyxy in photo pixels. K may be 0. Corners may be swapped: such a box finds nothing.
        scores: (K,) float64.
        faces: (M, 4) float64 xyxy in photo pixels, each with a positive area. M may be 0.
        iou_thresholds: T thresholds, each above 0 and at most 1.

    Returns:
        (T, K) int64; the face each detection found at each threshold, -1 for none.

    Source: COCO evaluation, pycocotools `COCOeval.evaluateImg`, without its second pass over ignored faces.
    """
    rank = np.argsort(-scores, kind="stable")
    found = list(_overlapping_pairs(boxes[rank], faces, min(iou_thresholds)))
    places, indices, ious = (np.concatenate(parts) for parts in zip(*found, strict=True))
    preference = np.lexsort((indices, -ious, places))
    places, indices, ious = places[preference], indices[preference], ious[preference]
    matched = np.full((len(iou_thresholds), len(boxes)), -1, dtype=np.int64)
    for row, iou_threshold in zip(matched, iou_thresholds, strict=True):
        enough = ious >= iou_threshold
        by_place = _first_come(places[enough].tolist(), indices[enough].tolist())
        row[rank[list(by_place)]] = list(by_place.values())
    return matched


def _first_come(places: list[int], indices: list[int]) -> dict[int, int]:
    """Walk pairs (detection, face) in order of preference; each detection and each face is taken once."""
    taken: set[int] = set()
    by_place: dict[int, int] = {}
    for place, index in zip(places, indices, strict=True):
        if place not in by_place and index not in taken:
            by_place[place] = index
            taken.add(index)
    return by_place


def _overlapping_pairs(
    boxes: NDArray[np.float64], faces: NDArray[np.float64], lowest_iou: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """(box, face, IoU) of all pairs with at least the lowest IoU, a block of boxes at a time; one block at least."""
    box_area, face_area = box_areas(boxes), box_areas(faces)
    for block in _blocks(len(boxes), len(faces)):
        overlaps = _overlaps(boxes[block], faces)
        ious = overlaps / (box_area[block, None] + face_area - overlaps)
        box, face = np.nonzero(ious >= lowest_iou)
        yield box + block.start, face, ious[box, face]


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 4) and (M, 4) xyxy -> (K, M) areas of intersection."""
    widths = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    heights = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    overlaps: NDArray[np.float64] = np.maximum(widths, 0) * np.maximum(heights, 0)
    return overlaps


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows whose rows x columns fit one block; at least one, so that no rows give an empty block."""
    height = max(1, CELLS_AT_A_TIME // max(1, columns))
    for start in range(0, max(rows, 1), height):
        yield slice(start, min(start + height, rows))


def lies_in_regions(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether at least half of each box's own area lies inside the union of the regions.

    The union is exact: regions that tile an area add up, regions that overlap do not count twice. The largest single
    overlap and the sum of all bound the union from below and above, and only where they disagree is it measured.

    Args:
        boxes: (K, 4) float64 xyxy in photo pixels. K may be 0. A box without area lies in no region.
        regions: (M, 4) float64 xyxy in photo pixels. M may be 0.

    Returns:
        (K,) bool.
    """
    areas = box_areas(boxes)
    needed = IGNORED_SHARE * areas
    inside = np.zeros(len(boxes), dtype=np.bool_)
    for block in _blocks(len(boxes), len(regions)):
        overlaps = _overlaps(boxes[block], regions)
        inside[block] = overlaps.max(axis=1, initial=0) >= needed[block]
        unclear = ~inside[block] & (overlaps.sum(axis=1) >= needed[block])
        for place in np.flatnonzero(unclear):
            box = boxes[block.start + place]
            near = regions[overlaps[place] > 0]
            inside[block.start + place] = _union_area(_clipped(near, box)) >= needed[block.start + place]
    lies_inside: NDArray[np.bool_] = inside & (areas > 0)
    return lies_inside


def _clipped(regions: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([np.maximum(regions[:, :2], box[:2]), np.minimum(regions[:, 2:], box[2:])])


def _union_area(boxes: NDArray[np.float64]) -> float:
    """Area covered by at least one box: painted on the irregular grid of all their edges. (M, 4), M >= 1."""
    columns, rows = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    painted = np.zeros((len(rows) - 1, len(columns) - 1), dtype=np.bool_)
    left, right = np.searchsorted(columns, boxes[:, 0]), np.searchsorted(columns, boxes[:, 2])
    top, bottom = np.searchsorted(rows, boxes[:, 1]), np.searchsorted(rows, boxes[:, 3])
    for x1, y1, x2, y2 in zip(left, top, right, bottom, strict=True):
        painted[y1:y2, x1:x2] = True
    return float(np.diff(rows) @ painted @ np.diff(columns))
