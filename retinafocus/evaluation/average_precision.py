"""THE scorer: average precision of found faces, with the interval that its photos allow. Start reading at `score`.

The rules, in the order they apply:

1. In each photo, detections take faces in score order, each face once (`matching.match_faces`), whatever their sizes.
2. A detection without a face is dropped when at least half of its own area lies in the union of `ignore` regions.
3. For a range of sizes (sqrt(w * h) in photo pixels, low <= size < high): faces of other sizes do not count, a
   detection matched to one is dropped, and so is a detection without a face whose own size is outside the range.
4. What is left is found (matched) or false. Detections of all photos form one curve by descending score. Equal
   scores are one point of it, because no threshold can part them; so the order of photos changes nothing, and the
   order of equal scores matters only within a photo, where the first given is matched first.
5. AP is the area under the curve's monotone precision envelope, over all points.
   Source: PASCAL VOC development kit 2010 and later, `VOCap`; mAP averages it over IoU 0.50:0.05:0.95 as COCO does.
6. Photos without faces count through their false positives.

The interval is the 2.5 and 97.5 percentile over resamples of the photos with replacement: photos, not faces, are
what an archive gives independently. It is about these photos as a sample, and says nothing of other kinds of photos.

This is not the WIDER FACE protocol, which adds a pixel to each side, gives a detection no second choice, and cuts the
curve at 1,000 rescaled scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation.curves import areas_under_curve, interval, photo_draws
from retinafocus.evaluation.matched_set import (
    HasBoxesAndScores,
    Matches,
    PhotoDetections,
    PhotoTruth,
    count_set,
    match_set,
)

__all__ = [
    "MEAN_IOU_THRESHOLDS",
    "SCORES_SCHEMA",
    "SIZE_BUCKETS",
    "ApResult",
    "HasBoxesAndScores",
    "PhotoDetections",
    "PhotoTruth",
    "ScoreRow",
    "Scores",
    "average_precision",
    "range_name",
    "score",
]

SIZE_BUCKETS = ((0.0, 16.0), (16.0, 32.0), (32.0, 96.0), (96.0, math.inf))
"""Ranges of sqrt(w * h) in photo pixels, low <= size < high."""

MEAN_IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True, kw_only=True, slots=True)
class ApResult:
    """One average precision, and what it rests on. All shares are 0..1; nan where there is nothing to measure."""

    ap: float
    """nan without faces; 0 without detections."""

    low: float
    """Lower end of the 95 % bootstrap interval; nan for fewer than two photos, or without resamples."""

    high: float
    """Upper end of the interval."""

    num_faces: int
    """Faces of the range of sizes."""

    num_photos: int
    """All photos given, with or without faces."""

    photos_with_faces: int
    """Photos that hold a face of the range: with few of them, neither AP nor its interval means much."""

    at_score: float
    """The threshold of the next two: detections with a score of at least this."""

    recall: float
    """Share of the faces that are found at `at_score`."""

    false_positives_per_photo: float
    """Detections per photo, at `at_score`, that are no face."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """The scores of one range of sizes."""

    name: str
    """The range in photo pixels, or "all"."""

    size_range: tuple[float, float]

    ap50: ApResult
    """At IoU 0.5."""

    mean: ApResult
    """Mean over IoU 0.50:0.05:0.95; its recall and false positives are those at IoU 0.5."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a set of photos: all sizes first, then each bucket."""

    rows: tuple[ScoreRow, ...]

    def __getitem__(self, name: str) -> ScoreRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {', '.join(row.name for row in self.rows)}")

    def to_table(self) -> pa.Table:
        """One row per range of sizes; shares 0..1, sizes in photo pixels."""
        return pa.Table.from_pylist([_record(row) for row in self.rows], schema=SCORES_SCHEMA)

    def to_markdown(self) -> str:
        """A table for people: AP in percent with its 95 % interval; a dash where there is nothing to measure."""
        at_score = f"{self.rows[0].ap50.at_score:g}"
        lines = [
            f"| face size | faces | photos (with faces) | AP50 [95 %] | mAP50:95 [95 %] | recall at {at_score} "
            f"| false per photo at {at_score} |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in self.rows:
            result = row.ap50
            cells = [
                row.name,
                f"{result.num_faces:,}",
                f"{result.num_photos:,} ({result.photos_with_faces:,})",
                _percent_with_interval(result),
                _percent_with_interval(row.mean),
                "-" if math.isnan(result.recall) else f"{100 * result.recall:.1f} %",
                "-" if math.isnan(result.false_positives_per_photo) else f"{result.false_positives_per_photo:.3g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


_COLUMNS: dict[str, pa.DataType] = {
    "name": pa.string(),
    "size_low": pa.float64(),
    "size_high": pa.float64(),
    "num_faces": pa.int64(),
    "num_photos": pa.int64(),
    "photos_with_faces": pa.int64(),
    "ap50": pa.float64(),
    "ap50_low": pa.float64(),
    "ap50_high": pa.float64(),
    "map": pa.float64(),
    "map_low": pa.float64(),
    "map_high": pa.float64(),
    "at_score": pa.float64(),
    "recall": pa.float64(),
    "false_positives_per_photo": pa.float64(),
}
SCORES_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""One row per range of sizes. Shares 0..1; sizes in photo pixels; nan, not null, where there is nothing to measure."""


def _record(row: ScoreRow) -> dict[str, object]:
    low, high = row.size_range
    record: dict[str, object] = {"name": row.name, "size_low": low, "size_high": high}
    for name, result in (("ap50", row.ap50), ("map", row.mean)):
        record |= {name: result.ap, f"{name}_low": result.low, f"{name}_high": result.high}
    shared = ("num_faces", "num_photos", "photos_with_faces", "at_score", "recall", "false_positives_per_photo")
    return record | {name: getattr(row.ap50, name) for name in shared}


def _percent_with_interval(result: ApResult) -> str:
    if math.isnan(result.ap):
        return "-"
    interval = "" if math.isnan(result.low) else f" [{100 * result.low:.1f}, {100 * result.high:.1f}]"
    return f"{100 * result.ap:.1f}{interval}"


def average_precision(
    truths: Sequence[PhotoTruth],
    detections: Sequence[HasBoxesAndScores],
    *,
    iou_threshold: float = 0.5,
    size_range: tuple[float, float] = (0.0, math.inf),
    at_score: float = 0.5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ApResult:
    """Average precision at one IoU threshold for faces of one range of sizes; the rules are those of the module.

    Args:
        truths: the faces of each photo.
        detections: what was found in each photo, in the same order.
        iou_threshold: above 0, at most 1; a detection finds a face with at least this IoU.
        size_range: (low, high) of sqrt(w * h) in photo pixels, low <= size < high.
        at_score: the score at which recall and false positives are told.
        bootstrap: resamples of the photos behind the interval; 0 leaves it out.
        seed: of the resampling; the same seed gives the same interval, and pairs the intervals of two detectors.

    Raises:
        SettingsError: a setting is out of range, the lists differ in length, or a photo's arrays are not usable.
    """
    matches = match_set(truths, detections, (iou_threshold,))
    return _scored(matches, size_range, at_score, _draws(matches, bootstrap, seed))[0]


def score(
    truths: Sequence[PhotoTruth],
    detections: Sequence[HasBoxesAndScores],
    *,
    at_score: float = 0.5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Scores:
    """AP50 and mAP50:95 over all sizes and for each of `SIZE_BUCKETS`; arguments as for `average_precision`."""
    matches = match_set(truths, detections, MEAN_IOU_THRESHOLDS)
    draws = _draws(matches, bootstrap, seed)
    rows = []
    for size_range in ((0.0, math.inf), *SIZE_BUCKETS):
        ap50, mean = _scored(matches, size_range, at_score, draws)
        rows.append(ScoreRow(name=range_name(size_range), size_range=size_range, ap50=ap50, mean=mean))
    return Scores(tuple(rows))


def range_name(size_range: tuple[float, float]) -> str:
    """What a range of sizes is called in tables."""
    low, high = size_range
    if low == 0:
        return "all" if math.isinf(high) else f"<{high:g} px"
    return f">={low:g} px" if math.isinf(high) else f"{low:g}-{high:g} px"


def _draws(matches: Matches, bootstrap: int, seed: int) -> NDArray[np.int32]:
    if bootstrap < 0:
        raise SettingsError(f"bootstrap is {bootstrap}; choose 0 (no interval) or more resamples")
    return photo_draws(matches.num_photos, bootstrap, seed)


def _scored(
    matches: Matches, size_range: tuple[float, float], at_score: float, draws: NDArray[np.int32]
) -> tuple[ApResult, ApResult]:
    """The result at the first IoU threshold, and the same with the mean AP over all thresholds."""
    curves, faces_per_photo = count_set(matches, size_range)
    areas = np.stack([areas_under_curve(*curve, faces_per_photo, draws) for curve in curves])
    hit, score, _ = curves[0]
    # Scores are float32: 0.7 as float32 lies below 0.7 as double, and would miss its own threshold.
    confident = score >= float(np.float32(at_score))
    num_faces = int(faces_per_photo.sum())
    ap, low_end, high_end = _with_interval(areas[0])
    ap50 = ApResult(
        ap=ap,
        low=low_end,
        high=high_end,
        num_faces=num_faces,
        num_photos=matches.num_photos,
        photos_with_faces=int((faces_per_photo > 0).sum()),
        at_score=at_score,
        recall=int((hit & confident).sum()) / num_faces if num_faces else math.nan,
        false_positives_per_photo=(
            int((~hit & confident).sum()) / matches.num_photos if matches.num_photos else math.nan
        ),
    )
    ap, low_end, high_end = _with_interval(areas.mean(axis=0))
    return ap50, replace(ap50, ap=ap, low=low_end, high=high_end)


def _with_interval(areas: NDArray[np.float64]) -> tuple[float, float, float]:
    """The AP of the photos as they are (first), and the interval of the resamples (the rest)."""
    return float(areas[0]), *interval(areas[1:])
