"""Write labelled photos in the Parquet form that `read_parquet_folder` reads."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.datasets.labelled import BOX_COLUMNS, LANDMARK_COLUMNS, LabelledPhoto
from retinafocus.errors import RunError

Pictures: TypeAlias = Literal["link", "copy"]
"""How pictures come into the folder: as symbolic links to where they are, which break when that moves, or as copies."""

IMAGES_TABLE = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("num_human", pa.int32(), nullable=False),
        pa.field("num_pseudo", pa.int32(), nullable=False),
        pa.field("num_ignore", pa.int32(), nullable=False),
    ]
)

LABELS_TABLE = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in BOX_COLUMNS),
        *(pa.field(name, pa.float32()) for name in LANDMARK_COLUMNS),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def write_parquet_folder(photos: Mapping[str, LabelledPhoto], folder: Path, *, pictures: Pictures) -> None:
    """Write `images.parquet`, `labels.parquet` and the pictures under `images/`.

    The folder appears whole or not at all. What is read back is what was written, in the same order, but for `path`,
    which names the picture in the new folder.

    Args:
        photos: each photo under its path below `images/`, which must stay below it.
        folder: must not exist, or be empty.
        pictures: "link" or "copy".

    Raises:
        RunError: the folder exists, or cannot be written.
    """
    with whole_folder(folder) as unfinished:
        (unfinished / "images").mkdir()
        for name, photo in photos.items():
            _place(photo.path, unfinished / "images" / name, pictures)
        write_label_tables(photos, unfinished)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An unfinished folder to fill, which becomes `folder` at the end; on an error nothing is left of it.

    Raises:
        RunError: the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: there is something already; choose a new folder")
    unfinished = folder.absolute().with_name(f".unfinished-{folder.name}-{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, folder.absolute())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # links in it are removed, never followed


def write_label_tables(photos: Mapping[str, LabelledPhoto], folder: Path) -> None:
    """Write `labels.parquet` and `images.parquet` into a folder that has the pictures already.

    Args:
        photos: each photo under its path below `images/`; `path` is not looked at.
        folder: exists.
    """
    pq.write_table(_label_rows(photos), folder / "labels.parquet")
    pq.write_table(_image_rows(photos), folder / "images.parquet")


def _place(source: Path, target: Path, pictures: Pictures) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if pictures == "link":
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def _image_rows(photos: Mapping[str, LabelledPhoto]) -> pa.Table:
    rows = [
        {
            "image": name,
            "width": photo.size[1],
            "height": photo.size[0],
            "source": photo.source,
            "num_human": photo.kinds.count("human"),
            "num_pseudo": photo.kinds.count("pseudo"),
            "num_ignore": len(photo.ignore),
        }
        for name, photo in photos.items()
    ]
    return pa.Table.from_pylist(rows, schema=IMAGES_TABLE)


def _label_rows(photos: Mapping[str, LabelledPhoto]) -> pa.Table:
    """One row for each region, faces before ignore regions within each photo."""
    counts = [len(photo.boxes) + len(photo.ignore) for photo in photos.values()]
    boxes = _stacked([part for photo in photos.values() for part in (photo.boxes, photo.ignore)], 4)
    points = _stacked([_points(photo) for photo in photos.values()], 10)
    columns = [
        pa.array(np.repeat(np.array(list(photos), dtype=object), counts), pa.string()),
        *(pa.array(column) for column in boxes.T),
        *(pa.array(column, mask=np.isnan(column)) for column in points.T),
        pa.array([kind for photo in photos.values() for kind in (*photo.kinds, *["ignore"] * len(photo.ignore))]),
        pa.array(np.repeat(np.array([photo.source for photo in photos.values()], dtype=object), counts), pa.string()),
    ]
    typed = [column.cast(kind) for column, kind in zip(columns, LABELS_TABLE.types, strict=True)]
    return pa.Table.from_arrays(typed, schema=LABELS_TABLE)


def _points(photo: LabelledPhoto) -> NDArray[np.float32]:
    """(N + M, 10): the faces' landmarks, then NaN for each ignore region."""
    return np.pad(photo.landmarks.reshape(-1, 10), ((0, len(photo.ignore)), (0, 0)), constant_values=np.nan)


def _stacked(parts: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((0, width), np.float32), *parts]).astype(np.float32)
