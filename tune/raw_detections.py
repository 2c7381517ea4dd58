"""What the cascade finds in labelled photos before duplicates are removed, kept so that thresholds can be tried.

The removal is the last step, and leaves everything in place where only boxes go that overlap a better one by more than
all of it. So the pass is an ordinary detection with an IoU of 1 and the lowest score, and removing duplicates from what
it found at another IoU gives what a detection at that IoU finds, to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import PhotoError, RunError
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.nms import nms
from tune.level_cache import SCORE_FLOOR
from tune.photo_parts import photo_name, read_parts, write_parts

RAW_SCHEMA: pa.Schema = pa.schema(
    {"photo": pa.string(), "scores": pa.list_(pa.float32()), "boxes": pa.list_(pa.float32())}
)
"""A row for each photo, its candidates best first; boxes are xyxy pixels of the upright photo, one after the other."""


@dataclass(frozen=True, slots=True)
class RawDetections:
    """The candidates of one photo, best first; N may be 0."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy pixels of the upright photo."""
    scores: NDArray[np.float32]
    """(N,)"""

    def without_duplicates(self, nms_iou: float, keep_top_k: int | None) -> PhotoDetections:
        """What a detection with these settings finds from the lowest score on."""
        kept = nms(torch.from_numpy(self.boxes), torch.from_numpy(self.scores), nms_iou).numpy()[:keep_top_k]
        return PhotoDetections(self.boxes[kept], self.scores[kept])


def with_duplicates(config: DetectorConfig) -> DetectorConfig:
    """The same detection but for its last step, from the lowest score on."""
    post = dataclasses.replace(config.post, score_floor=SCORE_FLOOR, nms_iou=1.0, keep_top_k=None)
    return dataclasses.replace(config, post=post, score_threshold=SCORE_FLOOR)


def write_raw(
    folder: Path,
    photos: Sequence[LabelledPhoto],
    detector: Detector,
    record: dict[str, Any],
    done: Callable[[int], None] = lambda photos: None,
) -> None:
    """Look at photos that are not in the folder yet.

    Args:
        folder: it is made.
        photos: labelled.
        detector: with settings from `with_duplicates`.
        record: all that what is found depends on, in JSON types.
        done: called with the number of photos that were there already, and then after each.

    Raises:
        SettingsError: what is in the folder was made with another record, or of other photos.
        RunError: a photo cannot be looked at.
    """
    write_parts(folder, photos, RAW_SCHEMA, record, lambda photo: _rows(photo, detector), done)


def read_raw(folder: Path, photos: Sequence[LabelledPhoto]) -> list[RawDetections]:
    """What was kept of these photos, in their order.

    Raises:
        RunError: there is nothing, or not all of it.
        SettingsError: it is of other photos.
    """
    found: list[RawDetections] = []
    for table in read_parts(folder, photos)[0]:
        for scores, boxes in zip(table.column("scores"), table.column("boxes"), strict=True):
            # Copies, since torch takes no arrays that cannot be written to.
            found.append(RawDetections(np.array(boxes.values).reshape(-1, 4), np.array(scores.values)))
    return found


def _rows(photo: LabelledPhoto, detector: Detector) -> Iterator[dict[str, Any]]:
    try:
        result = detector.look(detector.prepare(photo.path))
    except PhotoError as error:
        raise RunError(f"{photo.path}: {error}; mend it or take it from the labels") from error
    if result.plan.photo_size != photo.size:
        raise RunError(f"{photo.path} is {result.plan.photo_size} px, its labels say {photo.size}; mend them")
    yield {"photo": photo_name(photo), "scores": result.faces.scores, "boxes": result.faces.boxes.ravel()}
