"""A photograph with its labelled faces, and the reader of the Parquet form of such photographs.

The Parquet form is a folder with `images.parquet` (one row for each picture, also those without a face),
`labels.parquet` (one row for each region) and the pictures themselves under `images/`. It is the only form with
`ignore` regions: places where nobody is sure whether there is a face, which must teach neither "face" nor "no face".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.errors import RetinaFocusError

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""The five points in the order of every landmark array; left and right as seen in the picture."""

FACE_KINDS = ("human", "pseudo")
"""Kinds of regions that are faces: boxes drawn by people, and boxes on which detectors agreed."""

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in "xy")


class LabelError(RetinaFocusError):
    """A file of labels is missing, incomplete or contradicts itself; the message names the file and the row or line."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPhoto:
    """One photo and what is known about the faces in it; N faces, M ignore regions, either may be 0."""

    path: Path
    """The picture's file."""

    size: tuple[int, int]
    """(height, width) of the upright photo, in pixels."""

    boxes: NDArray[np.float32]
    """(N, 4); xyxy pixels of the upright photo, x2 and y2 exclusive. Cut at the photo's border."""

    landmarks: NDArray[np.float32]
    """(N, 5, 2); x and y in pixels of the upright photo, in the order of `LANDMARK_NAMES`; NaN where missing."""

    ignore: NDArray[np.float32]
    """(M, 4); regions that are neither face nor background, like `boxes`."""

    source: str
    """The collection the photo comes from; samples are balanced over sources."""

    kinds: tuple[str, ...]
    """N entries of `FACE_KINDS`: how each face came to be labelled."""


def read_parquet_folder(folder: Path) -> list[LabelledPhoto]:
    """Read the labelled photos of a folder in the Parquet form; no picture is opened.

    Args:
        folder: holds `images.parquet`, `labels.parquet` and `images/`.

    Returns:
        One record per row of `images.parquet`, in its order; photos without regions have empty arrays.

    Raises:
        LabelError: a file or column is missing, or a row is malformed; rows are counted from 0.
    """
    image_path, label_path = folder / "images.parquet", folder / "labels.parquet"
    images, sizes = _read_images(image_path)
    labels = _read_table(label_path, ("image", *BOX_COLUMNS, *LANDMARK_COLUMNS, "kind"))
    names = [str(name) for name in images["image"].to_pylist()]
    numbers = {name: number for number, name in enumerate(names)}
    owners = np.array([numbers.get(str(name), -1) for name in labels["image"].to_pylist()], dtype=np.int64)
    _refuse(label_path, owners < 0, f"the image is not listed in {image_path.name}")
    kinds = np.array(labels["kind"].to_pylist(), dtype=object)
    _refuse(label_path, ~np.isin(kinds, [*FACE_KINDS, "ignore"]), "kind is none of human, pseudo, ignore")
    boxes = _checked_boxes(labels, sizes[owners], label_path)
    landmarks = _landmarks(labels)

    order = np.argsort(owners, kind="stable")
    first = np.searchsorted(owners[order], np.arange(len(names) + 1))
    photos = []
    for number, (name, source) in enumerate(zip(names, images["source"].to_pylist(), strict=True)):
        rows = order[first[number] : first[number + 1]]
        faces = rows[kinds[rows] != "ignore"]
        photo = LabelledPhoto(
            path=folder / "images" / name,
            size=(int(sizes[number, 0]), int(sizes[number, 1])),
            boxes=boxes[faces],
            landmarks=landmarks[faces],
            ignore=boxes[rows[kinds[rows] == "ignore"]],
            source=str(source),
            kinds=tuple(kinds[faces]),
        )
        photos.append(photo)
    return photos


def _read_images(path: Path) -> tuple[pa.Table, NDArray[np.float32]]:
    """The table of R images, each listed once, and their sizes: (R, 2) height and width."""
    images = _read_table(path, ("image", "width", "height", "source"))
    sizes = np.stack([_floats(images, "height"), _floats(images, "width")], axis=1)
    _refuse(path, np.logical_not((sizes > 0).all(axis=1)), "width or height is not positive")
    names = images["image"].to_pylist()
    last = {name: row for row, name in enumerate(names)}
    repeated = np.array([last[name] != row for row, name in enumerate(names)], dtype=np.bool_)
    _refuse(path, repeated, "the image is listed again further down")
    return images, sizes


def _checked_boxes(labels: pa.Table, sizes: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """(R, 4) boxes of the rows, cut at the border of their photos, whose (height, width) `sizes` (R, 2) holds."""
    boxes = np.stack([_floats(labels, name) for name in BOX_COLUMNS], axis=1)
    _refuse(path, np.logical_not(np.isfinite(boxes).all(axis=1)), "a box coordinate is missing or not finite")
    boxes = np.clip(boxes, 0, sizes[:, [1, 0, 1, 0]])
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    _refuse(path, flat, "the box has no area inside the photo (x1 < x2 and y1 < y2 are needed)")
    return boxes


def _landmarks(labels: pa.Table) -> NDArray[np.float32]:
    """(R, 5, 2) landmarks of the rows; a point that lacks a coordinate is NaN in both."""
    landmarks = np.stack([_floats(labels, name) for name in LANDMARK_COLUMNS], axis=1).reshape(-1, 5, 2)
    landmarks[np.isnan(landmarks).any(axis=2)] = np.nan
    return landmarks


def _read_table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise LabelError(f"{path}: there is no such file; the folder needs images.parquet and labels.parquet") from None
    except pa.ArrowInvalid as error:
        raise LabelError(f"{path}: this is no Parquet file ({error}); copy it again") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise LabelError(f"{path}: the columns {', '.join(missing)} are missing")
    return table


def _floats(table: pa.Table, column: str) -> NDArray[np.float32]:
    """One column as (R,) float32, NaN where it is null."""
    values: NDArray[np.float32] = table[column].cast(pa.float32()).to_numpy()
    return values.astype(np.float32)


def _refuse(path: Path, wrong: NDArray[np.bool_], reason: str) -> None:
    """Raise LabelError naming the first row for which `wrong` (R,) holds and how many more there are."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise LabelError(f"{path}: row {rows[0]}: {reason}{more}; mend or remove it")
