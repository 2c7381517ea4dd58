"""`retinafocus draw`: the faces of a run, drawn into its photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retinafocus.draw import contact_sheet, draw_faces, save_picture
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.faces import Faces
from retinafocus.photos import decode, read_bytes
from retinafocus.runs import Run, open_run
from retinafocus.storage import StorageConfig

# (height, width) of a picture on the sheet, in pixels, and how many stand side by side.
SHEET_CELL = (360, 480)
SHEET_COLUMNS = 6


def draw_run(
    folder: str, output: str, threshold: float | None, limit: int, sheet: bool, storage: StorageConfig | None = None
) -> list[Path]:
    """Draw photos spread evenly over a run.

    Args:
        folder: the run.
        output: folder for the pictures; made if missing.
        threshold: lowest score drawn; None takes the display threshold of the run's weights.
        limit: how many photos.
        sheet: one contact sheet instead of one picture per photo.
        storage: how object stores are reached, for the run and its photos.

    Returns:
        The files written.

    Raises:
        RunError: there is no run, or none of its photos was looked at.
        SettingsError: the limit is below 1.
    """
    if limit < 1:
        raise SettingsError(f"limit is {limit}; choose 1 or more photos")
    run = open_run(folder, storage)
    images = run.images()
    looked = images.filter(pc.equal(images.column("status"), "ok"))
    if not looked.num_rows:
        raise RunError(f"{folder}: no photo of this run was looked at; see status and error in its images table")
    looked = looked.sort_by("uri")
    chosen = looked.take(pa.array(np.unique(np.linspace(0, looked.num_rows - 1, limit).astype(int))))
    threshold = run.info["settings"]["preset"]["display_threshold"] if threshold is None else threshold
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output}: cannot be made ({error.strerror}); choose another folder") from error
    if sheet:
        path = Path(output) / "sheet.jpg"
        cells = [picture for _, picture in _draw(run, chosen, threshold, SHEET_CELL, storage)]
        save_picture(path, contact_sheet(cells, SHEET_COLUMNS, SHEET_CELL))
        return [path]
    paths = []
    for number, (uri, picture) in enumerate(_draw(run, chosen, threshold, None, storage)):
        paths.append(Path(output) / f"{number:04d}-{Path(uri).stem[:48]}.jpg")
        save_picture(paths[-1], picture)
    return paths


def _draw(
    run: Run, images: pa.Table, threshold: float, fit: tuple[int, int] | None, storage: StorageConfig | None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Each photo's uri and its annotated pixels, shrunk to `fit` (height, width) before the lines are drawn."""
    table = run.faces()
    for row in images.to_pylist():
        mine = table.filter(pc.equal(table.column("image_id"), row["image_id"]))
        faces = Faces.from_arrow(mine).above(threshold)
        try:
            pixels = decode(read_bytes(row["uri"], storage))
        except PhotoError as error:
            raise RunError(f"{row['uri']}: cannot be drawn any more: {error.reason}") from error
        scale = min(1.0, *(limit / side for limit, side in zip(fit, pixels.shape[:2], strict=True))) if fit else 1.0
        if scale < 1:
            pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
            shrunk = np.float32(scale)
            faces = Faces(faces.boxes * shrunk, faces.scores, faces.landmarks * shrunk, faces.levels)
        yield row["uri"], draw_faces(pixels, faces)
