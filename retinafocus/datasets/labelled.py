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

from retinafocus.errors import LabelError

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""The five points in the order of every landmark array; left and right as seen in the picture."""

FACE_KINDS = ("human", "pseudo")
"""Kinds of regions that are faces: boxes drawn by people, and boxes on which detectors agreed."""

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in "xy")


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


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with some rows of a table, which can therefore not be used."""

    path: Path
    rows: tuple[int, ...]
    """Counted from 0."""

    images: tuple[str, ...]
    """The image each row names."""

    reason: str

    def __str__(self) -> str:
        more = f" (and {len(self.rows) - 1} more rows)" if len(self.rows) > 1 else ""
        return f"{self.path}: row {self.rows[0]}: {self.reason}{more}; mend or remove it"


def read_parquet_folder(folder: Path, faults: list[Fault] | None = None) -> list[LabelledPhoto]:
    """Read the labelled photos of a folder in the Parquet form; no picture is opened.

    Args:
        folder: holds `images.parquet`, `labels.parquet` and `images/`.
        faults: malformed rows are left out and told here; None refuses the first of them.

    Returns:
        One record per row of `images.parquet`, in its order; photos without regions have empty arrays.

    Raises:
        LabelError: a file or column is missing, or `faults` is None and a row is malformed.
    """
    images = _Table(folder / "images.parquet", ("image", "width", "height", "source"), faults)
    labels = _Table(folder / "labels.parquet", ("image", *BOX_COLUMNS, *LANDMARK_COLUMNS, "kind"), faults)
    sizes = _checked_sizes(images)
    numbers = {name: number for number, name in enumerate(images.names) if images.sound[number]}
    owners = np.array([numbers.get(name, -1) for name in labels.names], dtype=np.int64)
    labels.refuse(owners < 0, f"the image is not listed in {images.path.name}")
    kinds = np.array(labels.content["kind"].to_pylist(), dtype=object)
    labels.refuse(~np.isin(kinds, [*FACE_KINDS, "ignore"]), "kind is none of human, pseudo, ignore")
    boxes = _checked_boxes(labels, sizes, owners)
    landmarks = _landmarks(labels)

    usable = np.flatnonzero(labels.sound)
    order = usable[np.argsort(owners[usable], kind="stable")]
    first = np.searchsorted(owners[order], np.arange(len(images.names) + 1))
    sources = images.content["source"].to_pylist()
    photos = []
    for number in np.flatnonzero(images.sound):
        rows = order[first[number] : first[number + 1]]
        faces = rows[kinds[rows] != "ignore"]
        photo = LabelledPhoto(
            path=folder / "images" / images.names[number],
            size=(int(sizes[number, 0]), int(sizes[number, 1])),
            boxes=boxes[faces],
            landmarks=landmarks[faces],
            ignore=boxes[rows[kinds[rows] == "ignore"]],
            source=str(sources[number]),
            kinds=tuple(kinds[faces]),
        )
        photos.append(photo)
    return photos


class _Table:
    """A table of the folder, and which of its rows are still found sound."""

    def __init__(self, path: Path, columns: tuple[str, ...], faults: list[Fault] | None) -> None:
        self.path, self._faults = path, faults
        self.content = _read_table(path, columns)
        self.names = [str(name) for name in self.content["image"].to_pylist()]
        self.sound = np.ones(len(self.names), dtype=np.bool_)

    def refuse(self, wrong: NDArray[np.bool_], reason: str) -> None:
        """Tell which sound rows are `wrong` (R,); raises LabelError where nobody listens."""
        rows = np.flatnonzero(wrong & self.sound)
        if not len(rows):
            return
        fault = Fault(self.path, tuple(rows.tolist()), tuple(self.names[row] for row in rows), reason)
        if self._faults is None:
            raise LabelError(str(fault))
        self._faults.append(fault)
        self.sound[rows] = False

    def floats(self, column: str) -> NDArray[np.float32]:
        """One column as (R,) float32, NaN where it is null."""
        values: NDArray[np.float32] = self.content[column].cast(pa.float32()).to_numpy()
        return values.astype(np.float32)


def _checked_sizes(images: _Table) -> NDArray[np.float32]:
    """(R, 2) height and width of the images, each of which may be listed once."""
    sizes = np.stack([images.floats("height"), images.floats("width")], axis=1)
    images.refuse(np.logical_not((sizes > 0).all(axis=1)), "width or height is not positive")
    last = {name: row for row, name in enumerate(images.names)}
    repeated = np.array([last[name] != row for row, name in enumerate(images.names)], dtype=np.bool_)
    images.refuse(repeated, "the image is listed again further down")
    return sizes


def _checked_boxes(labels: _Table, sizes: NDArray[np.float32], owners: NDArray[np.int64]) -> NDArray[np.float32]:
    """(R, 4) boxes of the rows, cut at the border of their photos, whose height and width `sizes` (P, 2) holds."""
    boxes = np.stack([labels.floats(name) for name in BOX_COLUMNS], axis=1)
    labels.refuse(np.logical_not(np.isfinite(boxes).all(axis=1)), "a box coordinate is missing or not finite")
    if not len(sizes):
        return boxes
    boxes = np.clip(boxes, 0, sizes[owners][:, [1, 0, 1, 0]])
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    labels.refuse(flat, "the box has no area inside the photo (x1 < x2 and y1 < y2 are needed)")
    return boxes


def _landmarks(labels: _Table) -> NDArray[np.float32]:
    """(R, 5, 2) landmarks of the rows; a point that lacks a coordinate is NaN in both."""
    landmarks = np.stack([labels.floats(name) for name in LANDMARK_COLUMNS], axis=1).reshape(-1, 5, 2)
    landmarks[np.isnan(landmarks).any(axis=2)] = np.nan
    return landmarks


def _read_table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise LabelError(f"{path}: there is no such file; the folder needs images.parquet and labels.parquet") from None
    except (pa.ArrowInvalid, OSError) as error:  # Arrow has both for damaged files
        reason = str(error).strip().replace("\n", " ")
        raise LabelError(f"{path}: this is no Parquet file, or a damaged one ({reason}); copy it again") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise LabelError(f"{path}: the columns {', '.join(missing)} are missing")
    return table
