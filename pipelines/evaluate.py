"""`retinafocus eval`: hold the tables of a run against labelled boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq

from pipelines.evaluation_sets import chosen_sources
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import RunError
from retinafocus.evaluation.average_precision import PhotoTruth, score
from retinafocus.faces import Faces
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
    photos = {str(photo.path): photo for photo in chosen_sources(read_parquet_folder(Path(labels)), sources or ())}
    names = _names(run, Path(labels) / "images", photos)
    check_all_there(folder, photos, names)
    found = found_faces(run)
    detections = [found.get(names[name], Faces.empty()) for name in photos]
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


def check_all_there(folder: str, wanted: Mapping[str, object], there: Mapping[str, object]) -> None:
    """Raise RunError unless each of the wanted photos is part of the run in that folder."""
    missing = [name for name in wanted if name not in there]
    if missing:
        raise RunError(
            f"{folder}: {len(missing)} labelled photos are not in this run (the first is {missing[0]}); give a run "
            "that looked at all of them, or score some --sources"
        )


def found_faces(run: Run) -> dict[str, Faces]:
    """The faces of each photo that has some, by image_id."""
    table = run.faces()  # sorted by image, best face first
    faces = Faces.from_arrow(table)
    unique, starts = np.unique(table.column("image_id").to_numpy(zero_copy_only=False), return_index=True)
    parts = pairwise([*starts.tolist(), len(faces)])
    return {str(name): faces[start:end] for name, (start, end) in zip(unique, parts, strict=True)}


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
