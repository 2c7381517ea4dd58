"""`retinafocus eval`: hold the tables of a run against labelled boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections, PhotoTruth, score
from retinafocus.runs import Run, open_run
from retinafocus.storage import StorageConfig


def evaluate_run(
    folder: str, labels: str, sources: Sequence[str] | None, table: str | None, storage: StorageConfig | None = None
) -> str:
    """Score a run.

    Args:
        folder: the run. Its tables should keep scores from 0.02 on, or the curve ends early.
        labels: a folder of labelled photos in the Parquet form (`images.parquet`, `labels.parquet`).
        sources: only photos of these sources; None takes all.
        table: also write the scores to this Parquet file.
        storage: how object stores are reached, for the run.

    Returns:
        A Markdown table: AP at IoU 0.5 with its 95 % interval, over all faces and by size.

    Raises:
        SettingsError: there is no photo of those sources.
        RunError: labelled photos are not part of the run.
        LabelError: the labels cannot be read.
    """
    run = open_run(folder, storage)
    photos = _chosen(read_parquet_folder(Path(labels)), sources)
    found = _detections(run)
    names = _names(run, Path(labels) / "images", photos)
    missing = [name for name in photos if name not in names]
    if missing:
        raise RunError(f"{folder}: {len(missing)} labelled photos are not in this run (the first is {missing[0]})")
    detections = [found.get(names[name], _NOTHING) for name in photos]
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos.values()]
    scores = score(truths, detections)
    if table is not None:
        try:
            pq.write_table(scores.to_table(), table)
        except OSError as error:
            raise RunError(f"{table}: cannot be written ({error}); choose another file") from error
    kept = run.info["settings"]["detector"]["score_threshold"]
    low = (
        f"\nThe run kept scores from {kept:g} only, so AP is too low; run with --score-threshold 0.02."
        if kept > 0.05
        else ""
    )
    failed = sum(count for status, count in run.info.get("totals", {}).get("statuses", {}).items() if status != "ok")
    note = f"\n{failed} photos of the run could not be looked at; their faces count as missed." if failed else ""
    return f"{scores.to_markdown()}{note}{low}"


_NOTHING = PhotoDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def _chosen(photos: Sequence[LabelledPhoto], sources: Sequence[str] | None) -> dict[str, LabelledPhoto]:
    there = sorted({photo.source for photo in photos})
    if sources is not None and (unknown := set(sources) - set(there)):
        raise SettingsError(f"sources: {', '.join(sorted(unknown))} not among the labels; choose {', '.join(there)}")
    wanted = there if sources is None else sources
    return {str(photo.path): photo for photo in photos if photo.source in wanted}


def _names(run: Run, pictures: Path, photos: dict[str, LabelledPhoto]) -> dict[str, str]:
    """The image_id of each labelled photo: the run's photo whose path ends with the labelled one's."""
    by_tail = {PurePosixPath(path).relative_to(pictures.as_posix()).parts: path for path in photos}
    names = {}
    images = run.images().select(["image_id", "uri"]).to_pylist()
    for row in images:
        parts = PurePosixPath(row["uri"]).parts
        for start in range(len(parts)):
            if (path := by_tail.get(parts[start:])) is not None:
                names[path] = row["image_id"]
                break
    return names


def _detections(run: Run) -> dict[str, PhotoDetections]:
    faces = run.faces()  # sorted by image, best face first
    identities = faces.column("image_id").to_numpy(zero_copy_only=False)
    boxes = np.stack([_column(faces, name) for name in ("x1", "y1", "x2", "y2")], axis=1)
    scores = _column(faces, "score")
    unique, starts = np.unique(identities, return_index=True)
    ends = np.append(starts[1:], len(identities))
    return {
        str(name): PhotoDetections(boxes[start:end], scores[start:end])
        for name, start, end in zip(unique, starts, ends, strict=True)
    }


def _column(table: pa.Table, name: str) -> NDArray[np.float32]:
    return np.asarray(table.column(name).to_numpy(), np.float32)
