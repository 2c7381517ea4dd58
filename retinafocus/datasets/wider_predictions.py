"""Prediction files of WIDER FACE: what the official evaluation reads, and what is sent in for the test photos.

`FOLDER/EVENT/NAME.txt` has the photo's name, the number of detections, and a row `x y width height score` for each.
Ours are written with two decimals: whole pixels, as some tools write, are off by up to one, which is much for a face
of 10.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.photo_labels import numbers, read_label_text
from retinafocus.errors import LabelError, RunError, SettingsError
from retinafocus.evaluation.average_precision import HasBoxesAndScores, PhotoDetections
from retinafocus.evaluation.wider_protocol import usable_detections

_ROW = "x y width height score"


def write_predictions(folder: Path, found: Mapping[str, HasBoxesAndScores]) -> list[Path]:
    """Write one file for each photo, best detection first; a photo without detections has a file that says 0.

    Each file appears whole or not at all; the folder does not, so what ends this half-way leaves some of the files.

    Args:
        folder: it and the folders of the events are made if they are not there.
        found: by `event/name` without extension; boxes (K, 4) xyxy in photo pixels, scores (K,), any order.

    Returns:
        The files, in the order of the mapping.

    Raises:
        SettingsError: a name is not of that form, or an array is not usable; nothing is written then.
        RunError: the folder cannot be written, or has predictions of other photos, which would be read with these.
    """
    places = {name: _place(name) for name in found}
    detections = {name: usable_detections(name, one) for name, one in found.items()}
    present = {path.relative_to(folder) for path in folder.glob("*/*.txt")}
    if others := present - set(places.values()):
        raise RunError(
            f"{folder}: holds predictions of {len(others)} photos that are not among these, such as {min(others)}; "
            "choose an empty folder"
        )
    paths = []
    for name, (boxes, scores) in detections.items():
        path = folder / places[name]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file that ends within its last number would be read as whole.
            unfinished = path.with_name(f"{path.name}.unfinished")
            unfinished.write_text(_text(path.stem, boxes, scores), encoding="utf-8")
            os.replace(unfinished, path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        paths.append(path)
    return paths


def _place(name: str) -> Path:
    """The photo's file below the folder; a name that would lead elsewhere is refused."""
    parts = name.split("/")
    usable = len(parts) == 2 and all(part.strip() not in ("", ".", "..") for part in parts)
    # A backslash parts folders on some systems; a line break would be another line of the file.
    if not usable or "\\" in name or any(ord(letter) < 32 for letter in name):
        raise SettingsError(
            f"{name!r}: prediction files are for photos named event/name, such as 0--Parade/0_Parade_Parade_0_275; "
            "name the photos so, or keep the detections in another form"
        )
    return Path(parts[0], f"{parts[1]}.txt")


def _text(name: str, boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> str:
    """The file of (K, 4) xyxy boxes and (K,) scores, in that order."""
    # Both corners are rounded, not corner and size: then the far edge, too, is off by half a hundredth at most.
    corners = np.round(boxes, 2)
    table = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2], scores])
    # Eight decimals tell all float32 scores from 0.125 on apart, so the order of the file is that of the detector.
    rows = [f"{x:.2f} {y:.2f} {width:.2f} {height:.2f} {score:.8f}\n" for x, y, width, height, score in table.tolist()]
    return f"{name}\n{len(rows)}\n{''.join(rows)}"


def read_predictions(folder: Path) -> dict[str, PhotoDetections]:
    """Read all prediction files of a folder, ours or another tool's.

    Args:
        folder: holds the folders of the events.

    Returns:
        By `event/name`, from the file's place, in the order of names; float64, because an IoU of exactly 0.5 counts.
        Photos without a file are absent; those whose file says 0 have no detections.

    Raises:
        LabelError: there is no such file, or one is malformed; names file and line.
    """
    paths = sorted(folder.glob("*/*.txt"))
    if not paths:
        raise LabelError(f"{folder}: there are no prediction files here; they are named EVENT/NAME.txt")
    return {f"{path.parent.name}/{path.stem}": _read(path) for path in paths}


def _read(path: Path) -> PhotoDetections:
    lines = [line.strip() for line in read_label_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) < 2 or not lines[1].isdecimal():
        raise LabelError(f"{path}:2: the number of detections is due after the photo's name; write the file again")
    rows = lines[2:]
    if len(rows) != int(lines[1]):
        raise LabelError(f"{path}: line 2 says {lines[1]} detections and {len(rows)} follow; write the file again")
    table = _table(rows, path)
    return PhotoDetections(np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1), table[:, 4])


def _table(rows: list[str], path: Path) -> NDArray[np.float64]:
    """(K, 5) numbers of the rows; all at once where they are right, because there are millions of them."""
    try:
        table = np.array([row.split() for row in rows], np.float64).reshape(len(rows), -1)
    except ValueError:
        table = np.zeros((0, 0))
    if rows and (table.shape != (len(rows), 5) or not np.isfinite(table).all()):
        table = np.array([numbers(row, f"{path}:{line}", (5,), _ROW) for line, row in enumerate(rows, start=3)])
    return table.reshape(-1, 5)
