"""COCO json: one file with `images`, `annotations` and `categories`.

Boxes are `x, y, width, height` with the first pixel at 0. `iscrowd` and `ignore` make an ignore region. Five
`keypoints` are landmarks in the order of `LANDMARK_NAMES`; any other number of them is something else and is not read.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from retinafocus.datasets.photo_labels import LabelRow, PhotoLabels, Points, finite, read_label_text
from retinafocus.errors import LabelError


def read_coco(path: Path) -> list[PhotoLabels]:
    """Read a COCO file; the kind of a row is the name of its category.

    Raises:
        LabelError: no JSON (names the line), or a malformed entry (names its place in the list and its id).
    """
    try:
        content = json.loads(read_label_text(path))
    except json.JSONDecodeError as error:
        raise LabelError(f"{path}:{error.lineno}: this is no JSON ({error.msg}); export it again") from None
    names = {
        entry.get("id"): str(entry.get("name", entry.get("id"))) for _, entry in _entries(content, "categories", path)
    }
    photos: dict[Any, PhotoLabels] = {}
    rows: dict[Any, list[LabelRow]] = {}
    for place, entry in _entries(content, "images", path):
        identity = entry.get("id")
        if identity in photos:
            raise LabelError(f"{place}: this id stands for {photos[identity].name} already")
        photos[identity] = PhotoLabels(_text(entry, "file_name", place), place, (), _size(entry, place))
        rows[identity] = []
    for place, entry in _entries(content, "annotations", path):
        if entry.get("image_id") not in rows:
            raise LabelError(f"{place}: image_id {entry.get('image_id')!r} is none of the images")
        if entry.get("category_id") not in names:
            raise LabelError(f"{place}: category_id {entry.get('category_id')!r} is none of the categories")
        rows[entry["image_id"]].append(_row(entry, place, names[entry["category_id"]]))
    return [PhotoLabels(photo.name, photo.place, tuple(rows[key]), photo.size) for key, photo in photos.items()]


def _entries(content: Any, field: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = content.get(field) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise LabelError(f"{path}: there is no list `{field}`; a COCO file has images, annotations and categories")
    placed = []
    for number, entry in enumerate(entries):
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or isinstance(identity, list | dict):
            raise LabelError(f"{path}: {field}[{number}] is no COCO entry")
        placed.append((f"{path}: {field}[{number}] (id {identity})", entry))
    return placed


def _text(entry: dict[str, Any], field: str, place: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str):
        raise LabelError(f"{place}: {field} is missing")
    return value


def _size(entry: dict[str, Any], place: str) -> tuple[int, int] | None:
    if not entry.get("height") or not entry.get("width"):
        return None  # some exporters leave the sizes out or at 0
    height, width = (finite(entry[side], place, f"{side} of the image") for side in ("height", "width"))
    return int(height), int(width)


def _row(entry: dict[str, Any], place: str, kind: str) -> LabelRow:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise LabelError(f"{place}: bbox is {box!r}; x, y, width, height are needed")
    x, y, width, height = (finite(value, place, "bbox is x, y, width, height") for value in box)
    doubtful = bool(entry.get("iscrowd")) or bool(entry.get("ignore"))
    return LabelRow(place, (x, y, x + width, y + height), _points(entry.get("keypoints"), place), doubtful, kind)


def _points(values: Any, place: str) -> Points | None:
    if not isinstance(values, list) or len(values) != 15:
        return None
    flat = [finite(value, place, "keypoints are x, y, visibility") for value in values]
    points: list[float] = []
    for x, y, visibility in zip(flat[0::3], flat[1::3], flat[2::3], strict=True):
        points += (x, y) if visibility > 0 else (math.nan, math.nan)
    return None if all(math.isnan(value) for value in points) else tuple(points)
