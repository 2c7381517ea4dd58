"""The official truth of the WIDER FACE validation photos, as the evaluation takes it: all boxes, and the three lists.

The files are those of the folder `ground_truth` of the official evaluation tools. scipy reads them (extra `eval`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.photo_labels import PhotoLabels
from retinafocus.datasets.widerface import read_wider_mat, read_wider_subset
from retinafocus.errors import LabelError
from retinafocus.evaluation.wider_protocol import SETTINGS, ProtocolPhoto

BOXES_FILE = "wider_face_val.mat"
LIST_FILES = {setting: f"wider_{setting}_val.mat" for setting in SETTINGS}


def read_ground_truth(folder: Path) -> list[ProtocolPhoto]:
    """Read `wider_face_val.mat` and `wider_{easy,medium,hard}_val.mat`.

    Args:
        folder: has the four files.

    Returns:
        One record per photo, in the file's order; every row is kept, also those whose width is not positive.

    Raises:
        LabelError: a file is missing, is no such file, or a list does not fit the boxes; names file and photo.
        SettingsError: scipy is not installed.
    """
    paths = [folder / name for name in (BOXES_FILE, *LIST_FILES.values())]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise LabelError(
            f"{folder}: {', '.join(missing)} not found; copy {', '.join(path.name for path in paths)} here, from the "
            "folder ground_truth of the official evaluation tools (eval_tools.zip)"
        )
    photos = read_wider_mat(folder / BOXES_FILE)
    lists = {setting: read_wider_subset(folder / name) for setting, name in LIST_FILES.items()}
    for setting, name in LIST_FILES.items():
        _check_names(photos, lists[setting], folder / name)
    return [
        ProtocolPhoto(
            name=photo.name.removesuffix(".jpg"),
            boxes=_rows(photo),
            kept={
                setting: _marks(lists[setting][photo.name], len(photo.rows), f"{folder / name}: {photo.name}")
                for setting, name in LIST_FILES.items()
            },
        )
        for photo in photos
    ]


def _check_names(photos: list[PhotoLabels], subset: Mapping[str, NDArray[np.int64]], path: Path) -> None:
    if differing := {photo.name for photo in photos} ^ subset.keys():
        raise LabelError(
            f"{path}: {len(differing)} photos are in this file or in {BOXES_FILE}, but not in both, such as "
            f"{min(differing)}; copy both again, from one release"
        )


def _rows(photo: PhotoLabels) -> NDArray[np.float64]:
    """(N, 4) x, y, width, height; whole numbers in these files, so nothing is lost on the way through corners."""
    corners = np.array([row.box for row in photo.rows], np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _marks(rows: NDArray[np.int64], count: int, place: str) -> NDArray[np.bool_]:
    """Row numbers from 0 as one bool for each of `count` rows."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < count and len(np.unique(rows)) == len(rows)):
        raise LabelError(
            f"{place}: the list names rows {rows.min() + 1} to {rows.max() + 1}, and the photo has {count}, each of "
            "which may be named once; copy the files again, from one release"
        )
    marks = np.zeros(count, np.bool_)
    marks[rows] = True
    return marks
