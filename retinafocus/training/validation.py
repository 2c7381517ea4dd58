"""How good a network is on photos it does not learn from: the detector and the one scorer, as after the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import PhotoError
from retinafocus.evaluation.average_precision import PhotoDetections, PhotoTruth, score
from retinafocus.evaluation.wider_protocol import evaluate_protocol, protocol_photos
from retinafocus.models import RetinaFocus

LOWEST_SCORE = 0.02
"""Detections from this score on count, as in WIDER FACE evaluations: a higher one cuts the curve short."""


def detect_labelled(
    model: RetinaFocus, photos: Sequence[LabelledPhoto], *, min_face: float, device: str
) -> list[PhotoDetections | None]:
    """Look at labelled photos.

    Args:
        model: left as it is.
        photos: looked at one by one.
        min_face: the smallest face to look for, sqrt(width * height) in photo pixels.
        device: as in `DetectorConfig`.

    Returns:
        What was found in each photo from score 0.02 on; None for one that cannot be looked at.
    """
    detector = Detector(model, DetectorConfig(min_face=min_face, score_threshold=LOWEST_SCORE, device=device))
    found: list[PhotoDetections | None] = []
    for photo in photos:
        try:
            faces = detector.detect(photo.path)
        except PhotoError:
            found.append(None)
            continue
        found.append(PhotoDetections(faces.boxes, faces.scores))
    return found


def detection_metrics(
    photos: Sequence[LabelledPhoto], found: Sequence[PhotoDetections | None], *, bootstrap: int = 200
) -> dict[str, float]:
    """The scorer's numbers under short names.

    Args:
        photos: the truth.
        found: of each photo; None counts as nothing found.
        bootstrap: resamples behind the interval.

    Returns:
        Shares 0..1, without those there is nothing to measure for: `ap` at IoU 0.5 with its 95 % interval `ap_low` and
        `ap_high`; `map`, its mean over IoU 0.5..0.95; `ap <16 px` and so on by face size; `recall` and
        `false_per_photo` at score 0.5; and the number of photos `unread`.
    """
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    scores = score(truths, [PhotoDetections() if one is None else one for one in found], bootstrap=bootstrap)
    overall = scores["all"].ap50
    metrics = {"ap": overall.ap, "ap_low": overall.low, "ap_high": overall.high, "map": scores["all"].mean.ap}
    metrics |= {f"ap {row.name}": row.ap50.ap for row in scores.rows[1:]}
    metrics |= {"recall": overall.recall, "false_per_photo": overall.false_positives_per_photo}
    measured = {name: value for name, value in metrics.items() if not math.isnan(value)}
    return measured | {"unread": float(sum(one is None for one in found))}


def protocol_metrics(
    photos: Sequence[LabelledPhoto], found: Sequence[PhotoDetections | None], root: Path
) -> dict[str, float]:
    """The same detections by the protocol of WIDER FACE.

    Args:
        photos: the truth.
        found: of each photo; None counts as nothing found.
        root: the folder of the pictures.

    Returns:
        AP 0..1 as `ap easy`, `ap medium` and `ap hard`, without lists that have no face.
    """
    records = protocol_photos(photos, root)
    by_name = {record.name: one for record, one in zip(records, found, strict=True) if one is not None}
    results = evaluate_protocol(records, by_name)
    return {f"ap {name}": result.ap for name, result in results.items() if result.num_faces}
