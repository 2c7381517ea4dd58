"""What a pass over labelled photos found, kept in Parquet so that a pass that was killed goes on.

A part of the photos is one file, written whole or not at all; a record says what the contents depend on, and refuses to
mix them with others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage

CACHE_FILE = "cache.json"

PHOTOS_IN_A_PART = 16
"""A killed pass loses so many photos at most."""

PART_SIZE = "photos_in_a_part"
"""Where the record has it."""


def write_parts(
    folder: Path,
    photos: Sequence[LabelledPhoto],
    schema: pa.Schema,
    record: dict[str, Any],
    rows_of: Callable[[LabelledPhoto], Iterable[dict[str, Any]]],
    done: Callable[[int], None] = lambda photos: None,
) -> None:
    """Do the photos that are not in the folder yet.

    Args:
        folder: it is made.
        photos: labelled.
        schema: of the rows.
        record: all that the rows depend on, in JSON types.
        rows_of: the rows of a photo.
        done: called with the number of photos that were there already, and then after each.

    Raises:
        SettingsError: what is in the folder was made with another record, or of other photos.
    """
    record = json.loads(json.dumps({**record, "photos": photos_digest(photos)}))
    before = _read_record(folder)
    _check_record(folder, before, record)
    # What is there says how it is parted.
    record[PART_SIZE] = (before or {}).get(PART_SIZE, PHOTOS_IN_A_PART)
    folder.mkdir(parents=True, exist_ok=True)
    open_storage(folder).put(CACHE_FILE, f"{json.dumps(record, indent=2)}\n".encode())
    parts = list(_parts(folder, photos, record[PART_SIZE]))
    done(sum(len(part) for path, part in parts if path.exists()))
    for path, part in parts:
        if path.exists():
            continue
        rows: list[dict[str, Any]] = []
        for photo in part:
            rows += rows_of(photo)
            done(1)
        # Its name appears when it is whole: whoever is killed meanwhile leaves no part.
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path.with_suffix(".tmp"), compression="zstd")
        os.replace(path.with_suffix(".tmp"), path)


def read_parts(folder: Path, photos: Sequence[LabelledPhoto]) -> tuple[list[pa.Table], dict[str, Any]]:
    """The tables of these photos, in their order, and the record.

    Raises:
        RunError: there are none, or not all of them.
        SettingsError: they are of other photos.
    """
    record = _read_record(folder)
    parts = [] if record is None else list(_parts(folder, photos, record.get(PART_SIZE, PHOTOS_IN_A_PART)))
    if record is None or not all(path.exists() for path, _ in parts):
        raise RunError(f"{folder}: the cache of photos is not finished; run the same command again")
    if record["photos"] != photos_digest(photos):
        raise SettingsError(f"{folder}: the cache is of other photos; choose another folder")
    return [pq.read_table(path) for path, _ in parts], record


def photo_name(photo: LabelledPhoto) -> str:
    """What a labelled photo is called in a cache: its path, whole, since names below folders may repeat."""
    return photo.path.as_posix()


def photos_digest(photos: Sequence[LabelledPhoto]) -> str:
    """Of the photos' names and sizes, in order."""
    listed = [(photo_name(photo), photo.size) for photo in photos]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / CACHE_FILE
    record: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return record


def _check_record(folder: Path, before: dict[str, Any] | None, record: dict[str, Any]) -> None:
    if before is None:
        return
    keys = (before.keys() | record.keys()) - {PART_SIZE}
    if different := sorted(key for key in keys if before.get(key) != record.get(key)):
        told = "; ".join(f"{key} was {before.get(key)}, is {record.get(key)}" for key in different)
        raise SettingsError(f"{folder}: the cache was made otherwise ({told}); choose another folder, or delete it")


def _parts(folder: Path, photos: Sequence[LabelledPhoto], size: int) -> Iterator[tuple[Path, Sequence[LabelledPhoto]]]:
    for number, start in enumerate(range(0, len(photos), size)):
        yield folder / f"part-{number:05d}.parquet", photos[start : start + size]
