"""Precision, recall and F1 of the faces from a score on, and the score from which on they are best.

What is found and what is false is as in `average_precision`: average precision sums up a whole curve, here is one point
of it. Every score that occurs is a point, so the best one is found exactly and not by trying thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation.curves import areas_under_curve, interval
from retinafocus.evaluation.matched_set import Matches, count_set

# Resamples x scores held at a time: some 12 MB of intermediate arrays.
CELLS_AT_A_TIME = 2**19


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a score threshold is to do; neither of the two: the highest F1, the harmonic mean of both."""

    precision: float | None = None
    """The highest recall with at least this share of right ones among those shown."""

    recall: float | None = None
    """The highest precision with at least this share of the faces found."""

    def __post_init__(self) -> None:
        if self.precision is not None and self.recall is not None:
            raise SettingsError("a least precision and a least recall are two ways to choose; give one of them")
        for name in ("precision", "recall"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise SettingsError(f"the least {name} is {value:g}; choose a share above 0, at most 1")

    def __str__(self) -> str:
        if self.precision is not None:
            return f"recall at a precision of at least {self.precision:g}"
        return "F1" if self.recall is None else f"precision at a recall of at least {self.recall:g}"

    def values(self, rates: Rates) -> NDArray[np.float64]:
        """How good points are; below 0: by how much they miss what is asked for. Of the shape of the rates."""
        if self.precision is not None:
            return np.where(rates.precision >= self.precision, rates.recall, rates.precision - self.precision)
        if self.recall is not None:
            return np.where(rates.recall >= self.recall, rates.precision, rates.recall - self.recall)
        return rates.f1


@dataclass(frozen=True, slots=True)
class Rates:
    """Three arrays of one shape, 0..1; nan where there is nothing to measure."""

    precision: NDArray[np.float64]
    """Share of the detections that are faces."""
    recall: NDArray[np.float64]
    """Share of the faces that are found."""
    f1: NDArray[np.float64]
    """The harmonic mean of both: 2 found / (detections + faces)."""

    @classmethod
    def of(cls, found: NDArray[np.int64], shown: NDArray[np.int64], faces: NDArray[np.int64]) -> Rates:
        """From counts: faces found, detections, faces; shapes that broadcast."""
        shown, faces = np.broadcast_to(shown, found.shape), np.broadcast_to(faces, found.shape)
        return cls(_ratio(found, shown), _ratio(found, faces), _ratio(2 * found, shown + faces))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCurve:
    """The detections of P photos that count, best first: D of them, with K different scores."""

    hit: NDArray[np.bool_]
    """(D,) whether each found a face."""
    score: NDArray[np.float64]
    photo: NDArray[np.int64]
    """(D,) 0..P-1."""
    ends: NDArray[np.int64]
    """(K,) the last detection of each score: thresholds cannot part equal ones."""
    faces_per_photo: NDArray[np.int64]
    """(P,)"""

    @classmethod
    def of(cls, matches: Matches, size_range: tuple[float, float] = (0.0, math.inf)) -> ScoreCurve:
        """At the first IoU threshold of the matches, for faces of a range of sizes; see `count_set`."""
        curves, faces_per_photo = count_set(matches, size_range)
        hit, score, photo = curves[0]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.zeros(0, np.int64)
        return cls(hit=hit, score=score, photo=photo, ends=ends, faces_per_photo=faces_per_photo)

    @property
    def scores(self) -> NDArray[np.float64]:
        """(K,) descending."""
        return self.score[self.ends]

    @property
    def num_faces(self) -> int:
        return int(self.faces_per_photo.sum())

    @property
    def average_precision(self) -> float:
        """The area under precision over recall, as `average_precision` has it."""
        once = np.ones((1, len(self.faces_per_photo)), np.int32)
        return float(areas_under_curve(self.hit, self.score, self.photo, self.faces_per_photo, once)[0])

    def rates(self) -> Rates:
        """(K,) from each score on."""
        found = np.cumsum(self.hit, dtype=np.int64)[self.ends]
        return Rates.of(found, self.ends + 1, np.array(self.num_faces))

    def threshold_at(self, place: int, floor: float) -> float:
        """The shortest number in the middle half between a score and the next lower one.

        Args:
            place: of the score, 0..K-1.
            floor: what the next score counts as where it is lower, or where there is none.
        """
        score = float(self.scores[place])
        lower = max(float(self.scores[place + 1]), floor) if place + 1 < len(self.ends) else floor
        for digits in range(1, 9):
            number = round((lower + score) / 2, digits)
            # Not at the edge: engines differ in the last digits of a score. And detectors compare in float32.
            if abs(number - (lower + score) / 2) <= (score - lower) / 4 and lower < float(np.float32(number)) <= score:
                return number
        # Neighbours in float32. A threshold is below 1, and this one rounds to 1 in float32.
        return min(score, 1 - 2.0**-26)


@dataclass(frozen=True, slots=True)
class Share:
    """A rate with its 95 % bootstrap interval over photos; nan where there is nothing to measure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """What is shown from a score on."""

    score_threshold: float
    num_faces: int
    found: int
    false: int
    precision: Share
    recall: Share
    f1: Share


def best_place(curve: ScoreCurve, goal: Goal) -> int:
    """The place of the score that suits a goal best; of equally good ones that of the best F1, then the highest.

    Args:
        curve: with detections and faces.
        goal: if no score reaches it, the one that misses it by least is best.
    """
    return int(_best_of_each_row(curve, goal, np.ones((1, len(curve.faces_per_photo)), np.int32))[0])


def threshold_interval(curve: ScoreCurve, goal: Goal, draws: NDArray[np.int32]) -> tuple[float, float]:
    """Between which scores the best one lies in 95 % of resamples of the photos.

    Args:
        curve: with detections and faces.
        goal: as for `best_place`.
        draws: from `photo_draws`, for these photos.

    Returns:
        nan, nan without resamples that have a face and a detection.
    """
    resamples = draws[1:]
    shown_per_photo = np.bincount(curve.photo, minlength=len(curve.faces_per_photo))
    usable = (resamples @ curve.faces_per_photo > 0) & (resamples @ shown_per_photo > 0)
    return interval(curve.scores[_best_of_each_row(curve, goal, resamples[usable])])


def _best_of_each_row(curve: ScoreCurve, goal: Goal, draws: NDArray[np.int32]) -> NDArray[np.int64]:
    """(R,) the best place for each draw of the photos."""
    best = np.zeros(len(draws), np.int64)
    faces = (draws @ curve.faces_per_photo)[:, None]
    rows = max(1, CELLS_AT_A_TIME // max(1, len(curve.score)))
    for start in range(0, len(draws), rows):
        part = slice(start, start + rows)
        times = np.take(draws[part], curve.photo, axis=1).astype(np.int64)
        shown = np.cumsum(times, axis=1)[:, curve.ends]
        found = np.cumsum(times * curve.hit, axis=1)[:, curve.ends]
        rates = Rates.of(found, shown, faces[part])
        # Scores above the first one that was drawn show nothing.
        values = np.where(shown > 0, goal.values(rates), -np.inf)
        equal = values == values.max(axis=1, keepdims=True)
        best[part] = np.where(equal, rates.f1, -1).argmax(axis=1)
    return best


def measure(curve: ScoreCurve, score_threshold: float, draws: NDArray[np.int32]) -> OperatingPoint:
    """What is shown from a score on, and how sure that is.

    Args:
        curve: any.
        score_threshold: detections with at least this score, in float32, are shown.
        draws: from `photo_draws`, for these photos.
    """
    rates, found, shown = _rates_from(curve, score_threshold, draws)
    return OperatingPoint(
        score_threshold=score_threshold,
        num_faces=curve.num_faces,
        found=found,
        false=shown - found,
        precision=_share(rates.precision),
        recall=_share(rates.recall),
        f1=_share(rates.f1),
    )


def f1_gain(before: tuple[ScoreCurve, float], after: tuple[ScoreCurve, float], draws: NDArray[np.int32]) -> Share:
    """By how much F1 differs between two settings on the same photos, resampled together: photos that are hard for one
    are so for the other, which intervals of each alone do not know.

    Args:
        before: curve and score threshold.
        after: the same, of the same photos.
        draws: from `photo_draws`, for these photos.
    """
    return _share(_rates_from(*after, draws)[0].f1 - _rates_from(*before, draws)[0].f1)


def _rates_from(curve: ScoreCurve, score_threshold: float, draws: NDArray[np.int32]) -> tuple[Rates, int, int]:
    """(R,) rates of each draw; faces found and detections shown of the photos as they are."""
    # As in `average_precision`: 0.7 as float32 lies below 0.7 as double, and would miss its own threshold.
    confident = curve.score >= float(np.float32(score_threshold))
    photos = len(curve.faces_per_photo)
    shown = np.bincount(curve.photo[confident], minlength=photos)
    found = np.bincount(curve.photo[confident & curve.hit], minlength=photos)
    rates = Rates.of(draws @ found, draws @ shown, draws @ curve.faces_per_photo)
    return rates, int(found.sum()), int(shown.sum())


def _share(values: NDArray[np.float64]) -> Share:
    """Of the photos as they are (first) and of the resamples (the rest)."""
    return Share(float(values[0]), *interval(values[1:]))


def _ratio(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    """parts / wholes; nan where the whole is 0."""
    ratios = np.full(parts.shape, np.nan)
    np.divide(parts, wholes, out=ratios, where=wholes > 0)
    return ratios
