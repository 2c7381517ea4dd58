"""The official WIDER FACE evaluation. Start reading at `evaluate_protocol`.

The rules, in the order they apply:

1. Scores of the whole set are mapped to 0..1: (s - lowest) / (highest - lowest), once for all photos and settings.
2. A setting (easy, medium, hard) counts the faces of its list; the photo's other boxes are ignored by it, not absent.
3. Photos without a single box, or without detections, are passed over; the faces of the latter stay missed.
4. IoU counts the last pixel in: widths and heights are x2 - x1 + 1, of boxes and of what two of them share.
5. In score order each detection is given its best box among all of the photo, the first listed of equal ones. At IoU
   0.5 or more it counts as found if the box is of the list and still free, and is dropped if the box is ignored. A
   taken box is no reason to try the second best: such a detection is false, like one below IoU 0.5.
6. At each of 1,000 thresholds, 0.999 down to 0: precision is found / counted, recall is found / faces of the list.
7. AP is the area under the curve's monotone precision envelope (PASCAL VOC 2010 and later).

Three cases that the original's arithmetic leaves to chance are defined here. Precision is 0 where nothing is counted:
MATLAB has NaN there, which its maximum passes over, so AP is the same. Where all scores are equal the mapping divides 0
by 0, and MATLAB's AP is 0: here they all become 1, one point of the curve. AP and recall are NaN in a list without
faces.

Source: the MATLAB code of the WIDER FACE release, `wider_eval.m` and what it calls (read_pred, norm_score, evaluation,
boxoverlap, VOCap). The released boxes are 32-bit integers, and copies of boxoverlap differ: those that do not convert
them calculate in integers, where each overlap is rounded to 0 or 1 and the first box of at least half wins. Here it is
double precision, as in the copies that convert and in the usual Python port.

It is not our own scorer, `average_precision`, which is stricter with photos without faces and with equal scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.evaluation.average_precision import HasBoxesAndScores

SETTINGS = ("easy", "medium", "hard")
"""The official lists; each is part of the next."""

LOWEST_HEIGHTS = {"easy": 50.0, "medium": 30.0, "hard": 10.0}
"""Box heights in pixels from which on a face is in a list: a rule that reproduces the official lists of the validation
photos up to 126, 266 and 852 of their 39,708 boxes. They were published as detection rates of EdgeBox."""

THRESHOLDS: NDArray[np.float64] = 1 - np.arange(1, 1001) / 1000
"""(1000,) 0.999 down to 0, each rounded as in the original."""

# Where the search for the highest score starts in the original, MATLAB's realmin('single'): it matters to detectors
# whose scores are all below 0.
HIGHEST_AT_LEAST = float(np.finfo(np.float32).tiny)

# Detections x boxes compared at a time: about 12 MB of intermediate arrays.
CELLS_AT_A_TIME = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class ProtocolPhoto:
    """The boxes of one photo, and which of them each list counts. N may be 0."""

    name: str
    """`event/name` without extension, with forward slashes; unique in the set."""

    boxes: NDArray[np.float64]
    """(N, 4) x, y, width, height in photo pixels: all rows of the file, also those that no list counts and those with
    an odd width, because each of them draws detections to it."""

    kept: Mapping[str, NDArray[np.bool_]]
    """(N,) by setting: the list counts this row. The rest is ignored."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProtocolResult:
    """The curve of one setting and the area under it. All shares are 0..1."""

    setting: str

    ap: float
    """NaN in a list without faces; 0 without detections."""

    num_faces: int
    """Faces of the list, also of photos without detections."""

    num_photos: int
    """All photos given, with or without faces of the list."""

    num_absent: int
    """Those of them that the detections do not name: their faces count as missed, as if nothing was found there."""

    precision: NDArray[np.float64]
    """(1000,) at each threshold; 0 where no detection counts."""

    recall: NDArray[np.float64]
    """(1000,) at each threshold, rising; NaN in a list without faces."""

    thresholds: NDArray[np.float64]
    """(1000,) in the detector's own scores, falling."""


def evaluate_protocol(
    photos: Sequence[ProtocolPhoto],
    found: Mapping[str, HasBoxesAndScores],
    settings: Sequence[str] = SETTINGS,
    iou_threshold: float = 0.5,
) -> dict[str, ProtocolResult]:
    """Evaluate detections by the official protocol; the rules are those of the module.

    Args:
        photos: the truth.
        found: by photo name; boxes (K, 4) xyxy in photo pixels, scores (K,), any order. Photos that are absent count as
            without detections. The mapping may be empty.
        settings: which lists; each photo's `kept` must have them.
        iou_threshold: above 0, at most 1.

    Returns:
        The result of each setting.

    Raises:
        SettingsError: none or only some of the names of `found` are photos, a setting is unknown or out of range, or
            an array is not usable.
    """
    if not 0 < iou_threshold <= 1:
        raise SettingsError(f"iou_threshold is {iou_threshold:g}; choose above 0 and at most 1")
    _check_names(photos, found)
    for photo in photos:
        _check_photo(photo, settings)
    detections = {name: usable_detections(name, one) for name, one in found.items()}
    lowest, highest = _score_range([scores for _, scores in detections.values()])
    matches = _match_set(photos, detections, iou_threshold)
    num_absent = len(photos) - len(found)  # every name of `found` is one of the photos
    return {setting: _result(setting, photos, num_absent, matches, lowest, highest) for setting in settings}


def _result(
    setting: str, photos: Sequence[ProtocolPhoto], num_absent: int, matches: _Matches, lowest: float, highest: float
) -> ProtocolResult:
    """The curve of one setting; scores from lowest to highest become 0..1."""
    kept = np.concatenate([np.zeros(0, np.bool_), *(photo.kept[setting] for photo in photos)])
    dropped = np.zeros(len(matches.score), np.bool_)
    dropped[matches.hit] = ~kept[matches.row[matches.hit]]
    place = _first_threshold(matches.score, lowest, highest)
    counted = _up_to_each_threshold(place[~dropped])
    matched = _up_to_each_threshold(place[matches.is_first & ~dropped])
    num_faces = int(kept.sum())
    precision = matched / np.maximum(counted, 1)
    recall = matched / num_faces if num_faces else np.full(len(THRESHOLDS), np.nan)
    return ProtocolResult(
        setting=setting,
        ap=_area(precision, recall) if num_faces else float("nan"),
        num_faces=num_faces,
        num_photos=len(photos),
        num_absent=num_absent,
        precision=precision,
        recall=recall,
        thresholds=lowest + THRESHOLDS * (highest - lowest),
    )


def protocol_photos(photos: Sequence[LabelledPhoto], root: Path) -> list[ProtocolPhoto]:
    """Make any labelled photos ready for the protocol, with lists by the height of the box, see `LOWEST_HEIGHTS`.

    Args:
        photos: any number.
        root: the folder of the pictures; names are paths below it, without the file's ending.

    Returns:
        One record per photo, in order. Ignore regions are rows that no list counts, after the faces. So is an ignored
        box in the protocol: it takes a detection only at IoU 0.5, a large region of many faces forgives little.

    Raises:
        SettingsError: a photo does not lie below the root, or two have one name but for the ending.
    """
    records = []
    paths: dict[str, Path] = {}
    for photo in photos:
        name = _name_below(root, photo.path)
        if (other := paths.setdefault(name, photo.path)) is not photo.path:
            raise SettingsError(
                f"{photo.path}: {other.name} has the same name but for the ending; rename one of the two"
            )
        corners = np.concatenate([photo.boxes, photo.ignore]).astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        is_face = np.arange(len(boxes)) < len(photo.boxes)
        kept = {setting: is_face & (boxes[:, 3] >= lowest) for setting, lowest in LOWEST_HEIGHTS.items()}
        records.append(ProtocolPhoto(name, boxes, kept))
    return records


def _name_below(root: Path, path: Path) -> str:
    below = path.relative_to(root) if path.is_relative_to(root) else Path()
    if not below.name or ".." in below.parts:
        raise SettingsError(f"{path}: this photo does not lie below {root}; name its folder")
    return below.with_suffix("").as_posix()


def _check_names(photos: Sequence[ProtocolPhoto], found: Mapping[str, HasBoxesAndScores]) -> None:
    """Refuse what would end in an AP of 0, or in one that is too high, without a word."""
    names: set[str] = set()
    for photo in photos:
        if photo.name in names:
            raise SettingsError(f"photos: {photo.name} is there twice; names must tell photos apart")
        names.add(photo.name)
    unknown = sorted(found.keys() - names)
    if unknown and len(unknown) == len(found):
        theirs = f"such as {min(names)}" if names else "of which there are none"
        raise SettingsError(
            f"no name of the detections is one of the photos: the detections have names such as {unknown[0]}, the "
            f"photos {theirs}; evaluate the set the detections were made for, and name photos event/name without "
            "extension"
        )
    if unknown:
        raise SettingsError(
            f"{len(unknown)} of {len(found)} names of the detections are none of the photos, such as {unknown[0]} "
            f"(the photos are named like {min(names)}); remove them or evaluate the set they were made for"
        )


def _check_photo(photo: ProtocolPhoto, settings: Sequence[str]) -> None:
    boxes = photo.boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise SettingsError(f"{photo.name}: the boxes are {boxes.shape}; want (N, 4) of finite numbers")
    for setting in settings:
        if setting not in photo.kept:
            raise SettingsError(f"{photo.name}: there is no list {setting!r}; choose of {', '.join(photo.kept)}")
        kept = photo.kept[setting]
        if kept.shape != (len(boxes),) or kept.dtype != np.bool_:
            raise SettingsError(
                f"{photo.name}: the list {setting} is {kept.dtype} {kept.shape}; want ({len(boxes)},) bool"
            )


def usable_detections(name: str, found: HasBoxesAndScores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (K, 4) xyxy and scores (K,) of a photo, best first.

    Equal scores stay in the order given, which changes nothing: all of them take part at a threshold, or none.

    Raises:
        SettingsError: the arrays do not fit each other, or hold what is no finite number; has the photo's name.
    """
    boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise SettingsError(f"{name}: detections are boxes {boxes.shape}, scores {scores.shape}; want (K, 4), (K,)")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise SettingsError(f"{name}: a box or score of the detections is not a finite number")
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def _score_range(scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Lowest and highest score of the set; 0 and 1 where there is none."""
    all_scores = np.concatenate([np.zeros(0), *scores])
    if not len(all_scores):
        return 0.0, 1.0
    return float(all_scores.min()), max(HIGHEST_AT_LEAST, float(all_scores.max()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matches:
    """D detections of all photos that have a box, best first in each photo; rows are numbered over the set."""

    score: NDArray[np.float64]  # (D,)
    row: NDArray[np.int64]  # (D,) the best box
    hit: NDArray[np.bool_]  # (D,) the IoU with it is enough
    is_first: NDArray[np.bool_]  # (D,) a hit, and no better detection hit the same box


def _match_set(
    photos: Sequence[ProtocolPhoto],
    detections: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    iou_threshold: float,
) -> _Matches:
    """Give each detection its best box; which lists count that box makes no difference to it."""
    scores, rows = [np.zeros(0)], [np.zeros(0, np.int64)]
    hits, firsts = [np.zeros(0, np.bool_)], [np.zeros(0, np.bool_)]
    rows_before = 0
    for photo in photos:
        boxes, score = detections.get(photo.name, (np.zeros((0, 4)), np.zeros(0)))
        if len(photo.boxes) and len(boxes):
            row, iou = _best_rows(boxes, photo.boxes)
            hit = np.flatnonzero(iou >= iou_threshold)
            first = hit[np.unique(row[hit], return_index=True)[1]]
            scores.append(score)
            rows.append(row + rows_before)
            hits.append(_marked(hit, len(boxes)))
            firsts.append(_marked(first, len(boxes)))
        rows_before += len(photo.boxes)
    return _Matches(
        score=np.concatenate(scores),
        row=np.concatenate(rows),
        hit=np.concatenate(hits),
        is_first=np.concatenate(firsts),
    )


def _marked(places: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    marks = np.zeros(length, np.bool_)
    marks[places] = True
    return marks


def _best_rows(boxes: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of (K, 4) xyxy boxes the number of the (N, 4) xywh row with the highest IoU, N >= 1, and that IoU.

    Of equal rows the first. IoU is 0 where width or height of the intersection, with the last pixel, is not positive;
    so rows of negative width are hit by nothing.
    """
    corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
    row_area = (corners[:, 2] - corners[:, 0] + 1) * (corners[:, 3] - corners[:, 1] + 1)
    best, highest = np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    height = max(1, CELLS_AT_A_TIME // len(rows))
    for start in range(0, len(boxes), height):
        part = boxes[start : start + height, None]
        widths = np.minimum(part[..., 2], corners[:, 2]) - np.maximum(part[..., 0], corners[:, 0]) + 1
        heights = np.minimum(part[..., 3], corners[:, 3]) - np.maximum(part[..., 1], corners[:, 1]) + 1
        area = (part[..., 2] - part[..., 0] + 1) * (part[..., 3] - part[..., 1] + 1)
        shared = np.maximum(widths, 0) * np.maximum(heights, 0)
        ious = np.zeros_like(shared)
        # In this order, as in the original: another one rounds otherwise, and 0.5 is hit exactly by real boxes.
        np.divide(shared, row_area + area - shared, out=ious, where=shared > 0)
        best[start : start + height] = ious.argmax(axis=1)
        highest[start : start + height] = ious.max(axis=1)
    return best, highest


def _first_threshold(scores: NDArray[np.float64], lowest: float, highest: float) -> NDArray[np.int64]:
    """(D,) scores of the detector -> (D,) place in `THRESHOLDS` of the highest that each reaches."""
    mapped = (scores - lowest) / (highest - lowest) if highest > lowest else np.ones(len(scores))
    reached = np.searchsorted(THRESHOLDS[::-1], mapped, side="right")
    places: NDArray[np.int64] = len(THRESHOLDS) - reached
    return places


def _up_to_each_threshold(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the detections reach each threshold, from the place of the first that each reaches. (1000,)."""
    counts: NDArray[np.int64] = np.cumsum(np.bincount(places, minlength=len(THRESHOLDS)))
    return counts


def _area(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """Area under the envelope: at each recall the highest precision from there on; 0 beyond the last recall."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
