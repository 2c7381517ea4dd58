"""The area under a precision-recall curve, for the photos as they are and for many resamples of them at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Resamples x detections held at a time: some 6 MB of intermediate arrays. Larger blocks leave the cache and are slower.
CELLS_AT_A_TIME = 2**19


def photo_draws(num_photos: int, resamples: int, seed: int) -> NDArray[np.int32]:
    """How often each photo counts: once each in the first row, then as drawn with replacement.

    Returns:
        (1 + resamples, P) int32; for fewer than two photos one row only, since one photo says nothing of others.
    """
    as_they_are = np.ones((1, num_photos), dtype=np.int32)
    if num_photos < 2:
        return as_they_are
    shares = np.full(num_photos, 1 / num_photos)
    drawn = np.random.default_rng(seed).multinomial(num_photos, shares, size=resamples)
    return np.concatenate([as_they_are, drawn.astype(np.int32)])


def areas_under_curve(
    hit: NDArray[np.bool_],
    score: NDArray[np.float64],
    photo: NDArray[np.int64],
    faces_per_photo: NDArray[np.int64],
    draws: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Average precision of each draw of the photos: all points, monotone precision envelope.

    Only scores that bring a hit are points of the curve: any other has the recall of the one before it at a lower
    precision. That holds for every draw, so the points are found once.

    Args:
        hit: (D,) bool; whether each detection found a face. D may be 0.
        score: (D,) float64, descending. Equal scores are one point of the curve.
        photo: (D,) int64; the photo of each detection, 0..P-1.
        faces_per_photo: (P,) int64.
        draws: (R, P) int32; how often each photo counts.

    Returns:
        (R,) float64, 0..1; nan for a draw without faces.
    """
    points = _points_with_hits(hit, score)
    num_faces = draws @ faces_per_photo
    areas = np.full(len(draws), np.nan)
    areas[num_faces > 0] = 0
    if not len(points):
        return areas
    # What comes after the last hit changes nothing.
    hit, photo = hit[: points[-1] + 1], photo[: points[-1] + 1]
    hits_before_end = np.cumsum(hit)[points]
    rows = max(1, CELLS_AT_A_TIME // len(photo))
    for start in range(0, len(draws), rows):
        part = slice(start, start + rows)
        seen = np.cumsum(np.take(draws[part], photo, axis=1), axis=1, dtype=np.int32)[:, points]
        found = np.cumsum(np.take(draws[part], photo[hit], axis=1), axis=1, dtype=np.int32)[:, hits_before_end - 1]
        precision = found / np.maximum(seen, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        gained = np.diff(found, axis=1, prepend=np.int32(0))
        areas[part] = _ratio((gained * envelope).sum(axis=1), num_faces[part])
    return areas


def _points_with_hits(hit: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last detection of each run of equal scores that holds at least one hit."""
    if not len(score):
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    hits = np.cumsum(hit)[ends]
    return ends[np.diff(hits, prepend=0) > 0]


def _ratio(parts: NDArray[np.float64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    """parts / wholes; nan where the whole is 0."""
    ratios = np.full(len(parts), np.nan)
    np.divide(parts, wholes, out=ratios, where=wholes > 0)
    return ratios


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentile of the values that are numbers; nan, nan where there is none."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return float("nan"), float("nan")
    low, high = np.percentile(numbers, (2.5, 97.5))
    return float(low), float(high)
