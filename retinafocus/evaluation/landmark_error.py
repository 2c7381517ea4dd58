"""How far the found landmarks are from the labelled ones: normalised mean error (NME), failures, and their curve.

The rules, in the order they apply:

1. In each photo, detections take faces in score order at IoU 0.5, as in `average_precision`; faces without points, too.
2. A face counts if at least one of its points is labelled and a detection took it. Faces that were missed have no
   points to measure: `num_matched` of `num_labelled` tells how many count.
3. Its error is the mean distance of its labelled points from the found ones, over sqrt(w * h) of its labelled box.
4. A failure is a face with an error above 10 %. The curve is the share of faces with an error up to each limit; its
   area is that from 0 to 10 %, divided by 10 %: the mean of max(0, 1 - error / 10 %).

Source: RetinaFace, arXiv 1905.00641, on five landmarks: NME over the box size sqrt(W x H), failure rate at 10 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.evaluation.matching import box_areas, match_faces

FAILURE_LIMIT = 0.1
"""Error above which a face is a failure, as a share of sqrt(w * h)."""

IOU_THRESHOLD = 0.5

CURVE_LIMITS: NDArray[np.float64] = np.linspace(0, 2 * FAILURE_LIMIT, 201)
"""(201,) errors at which the curve is told, 0 to 20 %."""


class HasLandmarks(Protocol):
    """`Faces`, or anything else with the same three arrays; K detections."""

    @property
    def boxes(self) -> NDArray[np.floating[Any]]: ...
    @property
    def scores(self) -> NDArray[np.floating[Any]]: ...
    @property
    def landmarks(self) -> NDArray[np.floating[Any]]: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LandmarkResult:
    """Errors as shares of sqrt(w * h) of the labelled box; NaN where there is no face to measure."""

    nme: float
    """Mean error of the faces that count."""

    failure_rate: float
    """Share of them with an error above 10 %."""

    area: float
    """Under the curve from 0 to 10 %, divided by 10 %: 1 for a perfect detector, 0 if all are failures."""

    num_labelled: int
    """Faces with at least one labelled point."""

    num_matched: int
    """Those of them that a detection took: the faces that count."""

    errors: NDArray[np.float64]
    """(num_matched,) rising."""

    point_errors: NDArray[np.float64]
    """(5,) mean error of each point, in the order of `LANDMARK_NAMES`."""

    limits: NDArray[np.float64]
    """(201,) where the curve is told."""

    shares: NDArray[np.float64]
    """(201,) of the faces that count, those with an error up to each limit."""


def landmark_error(photos: Sequence[LabelledPhoto], found: Sequence[HasLandmarks | None]) -> LandmarkResult:
    """Measure the landmarks of found faces; the rules are those of the module.

    Args:
        photos: the truth; landmarks that are NaN are not labelled.
        found: of each photo, in the same order: boxes (K, 4) xyxy and landmarks (K, 5, 2) in photo pixels, scores (K,).
            None counts as nothing found.

    Raises:
        SettingsError: the lists differ in length, or a found face lacks a landmark.
    """
    if len(photos) != len(found):
        raise SettingsError(f"there are {len(photos)} photos with truth and {len(found)} with detections")
    distances, num_labelled = [np.zeros((0, 5))], 0
    for photo, detections in zip(photos, found, strict=True):
        num_labelled += int(np.isfinite(photo.landmarks[..., 0]).any(axis=1).sum())  # both coordinates or none
        if detections is not None:
            distances.append(_distances(photo, detections))
    table = np.concatenate(distances)
    table = table[~np.isnan(table).all(axis=1)]
    errors = np.sort(_row_means(table))
    return LandmarkResult(
        nme=_mean(errors),
        failure_rate=_mean(errors > FAILURE_LIMIT),
        area=_mean(np.maximum(0, 1 - errors / FAILURE_LIMIT)),
        num_labelled=num_labelled,
        num_matched=len(errors),
        errors=errors,
        point_errors=_row_means(table.T),
        limits=CURVE_LIMITS,
        shares=np.array([_mean(errors <= limit) for limit in CURVE_LIMITS]),
    )


def _distances(photo: LabelledPhoto, found: HasLandmarks) -> NDArray[np.float64]:
    """(M, 5) distances of the M faces that were found, as shares of sqrt(w * h); NaN where no point is labelled."""
    landmarks = np.asarray(found.landmarks, np.float64)
    if landmarks.shape != (len(found.boxes), 5, 2) or not np.isfinite(landmarks).all():
        raise SettingsError(
            f"{photo.path}: the detections have landmarks {landmarks.shape} for {len(found.boxes)} boxes, where "
            "(K, 5, 2) finite numbers are needed; measure a detector that finds landmarks"
        )
    faces = np.asarray(photo.boxes, np.float64)
    boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores, np.float64)
    (face,) = match_faces(boxes, scores, faces, (IOU_THRESHOLD,))
    taken = np.flatnonzero(face >= 0)
    labelled = np.asarray(photo.landmarks, np.float64)[face[taken]]
    distances: NDArray[np.float64] = np.linalg.norm(landmarks[taken] - labelled, axis=2)
    return distances / np.sqrt(box_areas(faces[face[taken]]))[:, None]


def _row_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of what is not NaN in each row; NaN in rows without anything."""
    there = ~np.isnan(values)
    counts = there.sum(axis=1)
    means = np.full(len(values), np.nan)
    np.divide(np.where(there, values, 0).sum(axis=1), counts, out=means, where=counts > 0)
    return means


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
