"""The official WIDER FACE ground truth: `wider_face_*_bbx_gt.txt`, and the MATLAB files of its evaluation.

Read `.mat` files of known origin only: scipy's reader trusts what is in them, and a crafted one can end the process.
Rows stay as they are, also the ones no training can use: the evaluation's lists point at them by number.

Source: the format notes of the WIDER FACE release (wider_face_split/readme.txt); counts and quirks were checked on the
validation files, 3,226 images and 39,708 rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.photo_labels import LabelRow, PhotoLabels, numbers, text_lines
from retinafocus.errors import LabelError, SettingsError

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
"""Order of `LabelRow.attributes`. blur and occlusion 0 none, 1 some, 2 heavy; the others 0 or 1. invalid = 1 becomes an
ignore region: nobody vouches for such a face."""

_ROW = "x y w h " + " ".join(ATTRIBUTES)


def read_wider_text(path: Path) -> list[PhotoLabels]:
    """Read `wider_face_train_bbx_gt.txt` or `wider_face_val_bbx_gt.txt`.

    A block is the picture's path, the number of faces, and a row for each; a block of 0 faces has one row of zeros,
    which is no face.

    Raises:
        LabelError: a block is malformed; names file and line.
    """
    lines = list(text_lines(path))
    photos, position = [], 0
    while position < len(lines):
        place, name = lines[position]
        if _is_row(name):
            raise LabelError(f"{place}: a face where the path of a picture is due; the count above it is too small")
        count, position = _count(lines, position + 1, name, path), position + 2
        rows = []
        for _ in range(count):
            if position == len(lines):
                raise LabelError(f"{path}: the file ends before the {count} faces of {name}; copy it again")
            rows.append(_row(lines[position][1], lines[position][0]))
            position += 1
        if count == 0 and position < len(lines) and lines[position][1].split() == ["0"] * 10:
            position += 1
        photos.append(PhotoLabels(name, place, tuple(rows)))
    return photos


def _is_row(text: str) -> bool:
    words = text.split()
    return len(words) == 10 and all(word.lstrip("-").isdigit() for word in words)


def _count(lines: list[tuple[str, str]], position: int, name: str, path: Path) -> int:
    if position == len(lines):
        raise LabelError(f"{path}: the file ends after {name}, before its number of faces; copy it again")
    place, text = lines[position]
    if not text.isdecimal():
        raise LabelError(f"{place}: {text!r} where the number of faces of {name} is due")
    return int(text)


def _row(text: str, place: str) -> LabelRow:
    x, y, width, height, *attributes = numbers(text, place, (10,), _ROW)
    return LabelRow(place, (x, y, x + width, y + height), doubtful=attributes[3] == 1, attributes=tuple(attributes))


def read_wider_mat(path: Path) -> list[PhotoLabels]:
    """Read `wider_face_val.mat` (or the easy, medium or hard file, which repeat it); same rows as the text.

    Raises:
        LabelError: it is no such file, or lacks a field.
        SettingsError: scipy is not installed.
    """
    content = _load_mat(path, ("face_bbx_list", *(f"{name}_label_list" for name in ATTRIBUTES)))
    photos = []
    for name, (boxes, *columns) in _entries(content, path):
        if {np.size(column) for column in columns} != {np.size(boxes) // 4}:
            raise LabelError(f"{path}: {name} has not as many attributes as boxes; copy the file again")
        attributes = np.stack([np.asarray(column, np.float64).reshape(-1) for column in columns], axis=1)
        rows = []
        for number, ((x, y, width, height), values) in enumerate(
            zip(np.asarray(boxes, np.float64).reshape(-1, 4).tolist(), attributes.tolist(), strict=True), start=1
        ):
            box = x, y, x + width, y + height
            place = f"{path}: {name}, row {number}"
            rows.append(LabelRow(place, box, doubtful=values[3] == 1, attributes=tuple(values)))
        photos.append(PhotoLabels(name, f"{path}: {name}", tuple(rows)))
    return photos


def read_wider_subset(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read which rows `wider_easy_val.mat`, `wider_medium_val.mat` or `wider_hard_val.mat` counts.

    Returns:
        For each picture's name, as `read_wider_mat` gives it, row numbers counted from 0, rising; often none.

    Raises:
        LabelError: it is no such file, or lacks a field.
        SettingsError: scipy is not installed.
    """
    content = _load_mat(path, ("gt_list",))
    # The file counts from 1, in unsigned types that would wrap at 0 - 1.
    return {name: np.asarray(rows, np.int64).reshape(-1) - 1 for name, (rows,) in _entries(content, path)}


def _load_mat(path: Path, fields: tuple[str, ...]) -> list[Any]:
    """The cells event_list, file_list and `fields`, each (events, 1)."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SettingsError(f"{path}: reading .mat needs scipy: pip install 'retinafocus[eval]'") from None
    try:
        content = loadmat(BytesIO(path.read_bytes()))
    except OSError as error:
        raise LabelError(f"{path}: the labels cannot be read ({error.strerror or error})") from None
    except Exception as error:  # scipy raises whatever it stumbles over in a damaged file
        raise LabelError(f"{path}: this is no MATLAB file of before version 7.3 ({error}); copy it again") from None
    wanted = ("event_list", "file_list", *fields)
    if missing := [name for name in wanted if name not in content]:
        raise LabelError(f"{path}: the fields {', '.join(missing)} are missing; is this the WIDER FACE ground truth?")
    return [content[name] for name in wanted]


def _entries(content: list[Any], path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Name and field values of each picture, from MATLAB's cells in cells."""
    events, files, *fields = content
    try:
        for event, names, *values in zip(events[:, 0], files[:, 0], *(field[:, 0] for field in fields), strict=True):
            for number, name in enumerate(names[:, 0]):
                yield f"{event[0]}/{name[0]}.jpg", [value[number, 0] for value in values]
    except (IndexError, TypeError, ValueError) as error:
        raise LabelError(f"{path}: the cells are not as in the WIDER FACE ground truth ({error})") from None
