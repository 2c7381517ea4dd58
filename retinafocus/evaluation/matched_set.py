"""Which detection of a whole set found which face, and which detections count: rules 1 to 4 of `average_precision`.

Everything that is measured on a set of photos begins here: average precision, and precision and recall at a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation.matching import box_areas, lies_in_regions, match_faces


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class PhotoTruth:
    """The faces of one photo. Both arrays (N, 4) float32, xyxy pixels of the upright photo; N may be 0."""

    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    """Every face that must be found; each with a positive area."""

    ignore: NDArray[np.float32] = field(default_factory=_no_boxes)
    """Regions where a detection without a face is neither right nor wrong: crowds too small to mark, blurred faces."""


@dataclass(frozen=True, slots=True)
class PhotoDetections:
    """What was found in one photo. `Faces` will do as well."""

    boxes: NDArray[np.floating[Any]] = field(default_factory=_no_boxes)
    """(K, 4) xyxy pixels of the upright photo; any order. K may be 0. float32 from a detector, float64 from files."""

    scores: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """(K,), of the same type."""


class HasBoxesAndScores(Protocol):
    """`PhotoDetections`, `Faces`, or anything else with the same two arrays."""

    @property
    def boxes(self) -> NDArray[np.floating[Any]]: ...
    @property
    def scores(self) -> NDArray[np.floating[Any]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """A whole set, matched: D detections best first (equal scores in the order given), F faces, T thresholds."""

    num_photos: int
    face_photo: NDArray[np.int64]  # (F,)
    face_size: NDArray[np.float64]  # (F,) sqrt(w * h)
    photo: NDArray[np.int64]  # (D,)
    score: NDArray[np.float64]  # (D,)
    size: NDArray[np.float64]  # (D,) sqrt(w * h)
    in_region: NDArray[np.bool_]  # (D,) at least half inside ignore regions
    face: NDArray[np.int64]  # (T, D) number of the face found, -1 for none


Counted = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]
"""Of the detections that count, best first: whether each found a face, its score, its photo. (D,) each."""


def match_set(
    truths: Sequence[PhotoTruth], detections: Sequence[HasBoxesAndScores], iou_thresholds: tuple[float, ...]
) -> Matches:
    """Match all photos, by rules 1 and 2 of `average_precision`, whose arguments these are.

    Raises:
        SettingsError: a threshold is out of range, the lists differ in length, or a photo's arrays are not usable.
    """
    if not all(0 < threshold <= 1 for threshold in iou_thresholds):
        raise SettingsError(f"iou_threshold is {iou_thresholds[0]}; choose above 0 and at most 1")
    if len(truths) != len(detections):
        raise SettingsError(f"there are {len(truths)} photos with truth and {len(detections)} with detections")
    face_sizes, sizes, scores, in_region, faces = [], [], [], [], []
    num_faces = 0
    for photo, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        face_boxes, regions, boxes, box_scores = _usable_arrays(photo, truth, found)
        face = match_faces(boxes, box_scores, face_boxes, iou_thresholds)
        faces.append(np.where(face >= 0, face + num_faces, -1))
        num_faces += len(face_boxes)
        face_sizes.append(np.sqrt(box_areas(face_boxes)))
        sizes.append(np.sqrt(box_areas(boxes)))
        scores.append(box_scores)
        in_region.append(lies_in_regions(boxes, regions))
    nothing = np.zeros(0)
    score = np.concatenate([nothing, *scores])
    order = np.argsort(-score, kind="stable")
    return Matches(
        num_photos=len(truths),
        face_photo=np.repeat(np.arange(len(truths)), [len(size) for size in face_sizes]),
        face_size=np.concatenate([nothing, *face_sizes]),
        photo=np.repeat(np.arange(len(truths)), [len(size) for size in sizes])[order],
        score=score[order],
        size=np.concatenate([nothing, *sizes])[order],
        in_region=np.concatenate([nothing.astype(np.bool_), *in_region])[order],
        face=np.concatenate([np.zeros((len(iou_thresholds), 0), dtype=np.int64), *faces], axis=1)[:, order],
    )


def _usable_arrays(
    photo: int, truth: PhotoTruth, found: HasBoxesAndScores
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Faces, regions, boxes and scores as float64: the IoU of float32 corners is then exact to the last few bits."""
    faces = _usable_boxes(photo, "truth", truth.boxes)
    regions = _usable_boxes(photo, "ignore", truth.ignore)
    boxes = _usable_boxes(photo, "detection", found.boxes)
    scores = np.asarray(found.scores, dtype=np.float64)
    if scores.shape != (len(boxes),) or np.isnan(scores).any():
        raise SettingsError(f"photo {photo}: scores are {scores.shape} for {len(boxes)} boxes; want one number each")
    empty = np.flatnonzero(box_areas(faces) == 0)
    if len(empty):
        raise SettingsError(
            f"photo {photo}: truth box {empty[0]} is {faces[empty[0]].tolist()}, which has no area and cannot be "
            "found; move it to ignore or leave it out"
        )
    return faces, regions, boxes, scores


def _usable_boxes(photo: int, name: str, boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise SettingsError(f"photo {photo}: {name} boxes are {array.shape}; want (N, 4) of finite numbers")
    return array


def count_set(matches: Matches, size_range: tuple[float, float]) -> tuple[list[Counted], NDArray[np.int64]]:
    """What counts for a range of sizes, by rules 3 and 4 of `average_precision`.

    Args:
        matches: from `match_set`.
        size_range: (low, high) of sqrt(w * h) in photo pixels, low <= size < high.

    Returns:
        The detections that count at each IoU threshold, and (P,) the number of faces of the range in each photo.

    Raises:
        SettingsError: the range is none.
    """
    low, high = size_range
    if not 0 <= low < high:
        raise SettingsError(f"size_range is {low:g}..{high:g} px; the first must be 0 or more and below the second")
    of_range = (low <= matches.face_size) & (matches.face_size < high)
    # What is no face counts only in the range of its own size, and outside ignore regions.
    may_be_false = (low <= matches.size) & (matches.size < high) & ~matches.in_region
    faces_per_photo = np.bincount(matches.face_photo[of_range], minlength=matches.num_photos)
    return [_counted(matches, face, of_range, may_be_false) for face in matches.face], faces_per_photo


def _counted(
    matches: Matches, face: NDArray[np.int64], of_range: NDArray[np.bool_], may_be_false: NDArray[np.bool_]
) -> Counted:
    """The detections that are left at one IoU threshold: whether each found a face of the range, score, photo."""
    matched = face >= 0
    hit = matched.copy()
    hit[matched] = of_range[face[matched]]
    counts = hit | (may_be_false & ~matched)
    return hit[counts], matches.score[counts], matches.photo[counts]
