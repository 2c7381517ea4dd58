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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation.curves import areas_under_curve, interval, photo_draws
from retinafocus.evaluation.matching import box_areas, lies_in_regions, match_faces

SIZE_BUCKETS = ((0.0, 16.0), (16.0, 32.0), (32.0, 96.0), (96.0, math.inf))
"""Ranges of sqrt(w * h) in photo pixels, low <= size < high."""

MEAN_IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


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
    matches = _match_set(truths, detections, (iou_threshold,))
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
    matches = _match_set(truths, detections, MEAN_IOU_THRESHOLDS)
    draws = _draws(matches, bootstrap, seed)
    rows = []
    for size_range in ((0.0, math.inf), *SIZE_BUCKETS):
        ap50, mean = _scored(matches, size_range, at_score, draws)
        rows.append(ScoreRow(name=_range_name(size_range), size_range=size_range, ap50=ap50, mean=mean))
    return Scores(tuple(rows))


def _range_name(size_range: tuple[float, float]) -> str:
    low, high = size_range
    if low == 0:
        return "all" if math.isinf(high) else f"<{high:g} px"
    return f">={low:g} px" if math.isinf(high) else f"{low:g}-{high:g} px"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matches:
    """A whole set, matched: D detections best first (equal scores in the order given), F faces, T thresholds."""

    num_photos: int
    face_photo: NDArray[np.int64]  # (F,)
    face_size: NDArray[np.float64]  # (F,) sqrt(w * h)
    photo: NDArray[np.int64]  # (D,)
    score: NDArray[np.float64]  # (D,)
    size: NDArray[np.float64]  # (D,) sqrt(w * h)
    in_region: NDArray[np.bool_]  # (D,) at least half inside ignore regions
    face: NDArray[np.int64]  # (T, D) number of the face found, -1 for none


def _match_set(
    truths: Sequence[PhotoTruth], detections: Sequence[HasBoxesAndScores], iou_thresholds: tuple[float, ...]
) -> _Matches:
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
    return _Matches(
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


def _draws(matches: _Matches, bootstrap: int, seed: int) -> NDArray[np.int32]:
    if bootstrap < 0:
        raise SettingsError(f"bootstrap is {bootstrap}; choose 0 (no interval) or more resamples")
    return photo_draws(matches.num_photos, bootstrap, seed)


def _scored(
    matches: _Matches, size_range: tuple[float, float], at_score: float, draws: NDArray[np.int32]
) -> tuple[ApResult, ApResult]:
    """The result at the first IoU threshold, and the same with the mean AP over all thresholds."""
    low, high = size_range
    if not 0 <= low < high:
        raise SettingsError(f"size_range is {low:g}..{high:g} px; the first must be 0 or more and below the second")
    of_range = (low <= matches.face_size) & (matches.face_size < high)
    # What is no face counts only in the range of its own size, and outside ignore regions.
    may_be_false = (low <= matches.size) & (matches.size < high) & ~matches.in_region
    faces_per_photo = np.bincount(matches.face_photo[of_range], minlength=matches.num_photos)
    curves = [_counted(matches, face, of_range, may_be_false) for face in matches.face]
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


def _counted(
    matches: _Matches, face: NDArray[np.int64], of_range: NDArray[np.bool_], may_be_false: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """The detections that are left at one IoU threshold: whether each found a face of the range, score, photo."""
    matched = face >= 0
    hit = matched.copy()
    hit[matched] = of_range[face[matched]]
    counts = hit | (may_be_false & ~matched)
    return hit[counts], matches.score[counts], matches.photo[counts]


def _with_interval(areas: NDArray[np.float64]) -> tuple[float, float, float]:
    """The AP of the photos as they are (first), and the interval of the resamples (the rest)."""
    return float(areas[0]), *interval(areas[1:])
