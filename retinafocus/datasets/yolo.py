"""YOLO text labels: one `.txt` for each picture, a row for each box, in parts of the picture's size.

Rows are `class cx cy w h`, the last four between 0 and 1. With landmarks five times `x y` (yolov5-face, -1 -1 where
missing) or five times `x y visibility` (Ultralytics pose) follow. `images/a.jpg` belongs to `labels/a.txt`, wherever in
the path `images` stands last; else the label lies beside the picture. A picture without a label has no faces.

Source: https://docs.ultralytics.com/datasets/detect/ and /pose/; yolov5-face, data/widerface.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from retinafocus.datasets.photo_labels import LabelRow, PhotoLabels, Points, numbers, text_lines
from retinafocus.errors import LabelError

_MEANING = "class cx cy w h, then nothing, or five times x y, or five times x y visibility"
# How far outside 0..1 a rounded border may come to lie.
_SLACK = 0.01


def read_yolo(
    folder: Path, suffixes: Collection[str], size_of: Callable[[Path], tuple[int, int] | None]
) -> list[PhotoLabels]:
    """Read a folder of pictures and labels, to any depth; the kind of a row is the number of its class.

    Args:
        folder: a data set's root, or the folder of pictures of one split.
        suffixes: what the names of pictures end with, in lower case.
        size_of: gives the (height, width) of an upright photo; None where it has none, and its labels are not read.

    Returns:
        The photos in the order of their names, relative to `folder`; also those named only by a label file, with the
        suffix .jpg, so that they are missed.

    Raises:
        LabelError: a row is malformed (names file and line), or two pictures share a label file.
    """
    photos, owners = [], dict[Path, str]()
    for path in _walk(folder, suffixes):
        name, label = path.relative_to(folder).as_posix(), _label_path(path)
        if not label.is_file():
            label = path.with_suffix(".txt")
        if not label.is_file():
            photos.append(PhotoLabels(name, str(path), ()))
            continue
        if (other := owners.setdefault(label, name)) != name:
            raise LabelError(f"{label}: {other} and {name} share these labels; rename one of the pictures")
        size = size_of(path)
        rows = () if size is None else tuple(_row(text, place, size) for place, text in text_lines(label))
        photos.append(PhotoLabels(name, str(label), rows, size))
    photos += [PhotoLabels(name, str(label), ()) for name, label in _orphans(folder, owners)]
    return sorted(photos, key=lambda photo: photo.name)


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    if not folder.is_dir():
        raise LabelError(f"{folder}: there is no such folder; YOLO labels are read from a folder of pictures")
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield Path(parent, name)


def _swapped(path: Path, old: str, new: str) -> Path:
    """The path with its last part of the name `old` replaced; unchanged if there is none."""
    parts = list(path.parts)
    if old not in parts:
        return path
    parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)


def _label_path(path: Path) -> Path:
    return _swapped(path.absolute(), "images", "labels").with_suffix(".txt")


def _orphans(folder: Path, owners: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """Label files in folders `labels` whose picture is not there, and the name it should have."""
    root = _swapped(folder.absolute(), "images", "labels")
    used = {path.absolute() for path in owners}
    for label in _walk(root, {".txt"}) if root.is_dir() else ():
        if "labels" in label.parts and label.name != "classes.txt" and label not in used:
            picture = _swapped(label, "labels", "images").with_suffix(".jpg")
            yield os.path.relpath(picture, folder.absolute()).replace(os.sep, "/"), label


def _row(text: str, place: str, size: tuple[int, int]) -> LabelRow:
    kind, centre_x, centre_y, part_x, part_y, *rest = numbers(text, place, (5, 15, 20), _MEANING)
    if not all(-_SLACK <= value <= 1 + _SLACK for value in (centre_x, centre_y, part_x, part_y)):
        raise LabelError(f"{place}: the box is not in parts of the picture's size (0 to 1): {_MEANING}")
    height, width = size
    left, top = (centre_x - part_x / 2) * width, (centre_y - part_y / 2) * height
    box = left, top, left + part_x * width, top + part_y * height
    return LabelRow(place, box, _points(rest, size), kind=f"{kind:g}")


def _points(values: list[float], size: tuple[int, int]) -> Points | None:
    step = len(values) // 5
    points: list[float] = []
    for start in range(0, len(values), step or 1):
        x, y, *visibility = values[start : start + step]
        missing = visibility[0] <= 0 if visibility else x == y == -1
        points += (math.nan, math.nan) if missing else (x * size[1], y * size[0])
    return None if all(math.isnan(value) for value in points) else tuple(points)
