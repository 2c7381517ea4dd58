"""What must hold of a shard's tables, whoever made them: each check says what it found wrong, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.shard_tables import statistics
from retinafocus.errors import STATUSES
from retinafocus.faces import SCHEMA_VERSION
from retinafocus.runs import TABLES

# What `check_shard` looks at, in the order of the report.
CHECKS = {
    "schema": "columns, their types and the schema's version are the documented ones",
    "accounting": "exactly one row of images and of timing for every photo of the manifest",
    "counts": "the records count what the tables hold",
    "images": "status, error, size and number of faces of a photo agree with each other",
    "references": "every face belongs to a photo that was looked at, numbered 0..n-1, as many as the photo says",
    "ranges": "scores within 0..1 and falling, boxes inside their photo, no number that is none",
}

Problem = tuple[str, str]
"""Name of the check, and what is wrong."""


def check_shard(record: dict[str, Any], tables: dict[str, pa.Table], listed: list[str]) -> Iterator[Problem]:
    """Check one shard's tables.

    Args:
        record: the shard's record.
        tables: `faces`, `images` and `timing` as they lie in the parts.
        listed: image_id of the shard's photos in the manifest.
    """
    shard = record["shard"]
    wrong = list(_schema_problems(tables))
    for words in wrong:
        yield "schema", f"shard {shard}: {words}"
    if wrong:
        return  # the other checks need the columns
    for check, problems in (
        ("accounting", _accounting(tables, listed)),
        ("counts", _counts(record, tables)),
        ("images", _images(tables["images"], shard)),
        ("references", _references(tables["faces"], tables["images"], shard)),
        ("ranges", _ranges(tables["faces"], tables["images"], tables["timing"])),
    ):
        for words in problems:
            yield check, f"shard {shard}: {words}"


def _schema_problems(tables: dict[str, pa.Table]) -> Iterator[str]:
    for name, schema in TABLES.items():
        found = tables[name].schema
        for field in schema:
            position = found.get_field_index(field.name)
            if position < 0:
                yield f"{name} has no column {field.name}"
            elif not found.field(position).equals(field):
                yield f"{name}.{field.name} is {found.field(position).type}, documented is {field.type}"
        if extra := set(found.names) - set(schema.names):
            yield f"{name} has columns nobody documented: {', '.join(sorted(extra))}"
        version = (found.metadata or {}).get(b"retinafocus.schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            yield f"{name} is of schema version {version}, this RetinaFocus knows {SCHEMA_VERSION}"


def _accounting(tables: dict[str, pa.Table], listed: list[str]) -> Iterator[str]:
    for name in ("images", "timing"):
        found = tables[name].column("image_id").to_pylist()
        if lost := set(listed) - set(found):
            yield f"{_some(lost)} listed, without a row of {name}"
        if unknown := set(found) - set(listed):
            yield f"{_some(unknown)} in {name}, not in the manifest"
        if doubled := len(found) - len(set(found)):
            yield f"{doubled} rows of {name} too many for their photos"


def _counts(record: dict[str, Any], tables: dict[str, pa.Table]) -> Iterator[str]:
    for name, counted in statistics(tables).items():
        if record.get(name) != counted:
            yield f"{name} is {record.get(name)} in the record, {counted} in the tables"
    for name, rows in tables.items():
        if record["files"][name]["rows"] != rows.num_rows:
            yield f"{name} has {rows.num_rows} rows, {record['files'][name]['rows']} in the record"


def _images(images: pa.Table, shard: int) -> Iterator[str]:
    columns = {name: images.column(name) for name in images.column_names}
    ok = pc.equal(columns["status"], "ok")
    known = pc.is_in(columns["status"], pa.array(list(STATUSES)))
    yield from _count(pc.invert(known), "statuses that are not documented")
    yield from _count(pc.equal(ok, pc.is_valid(columns["error"])), "photos that are ok with an error, or not without")
    yield from _count(
        pc.not_equal(ok, pc.is_valid(columns["faces"])), "photos that are ok without a number of faces, or not with"
    )
    for name, least in (("width", 1), ("height", 1), ("faces", 0), ("bytes", 0), ("pixels_processed", 0)):
        yield from _count(pc.less(columns[name], least), f"{name} below {least}")
    for name in ("width", "height"):
        yield from _count(pc.and_(ok, pc.is_null(columns[name])), f"photos that are ok without a {name}")
    yield from _count(pc.not_equal(columns["shard"], shard), "rows of another shard")
    in_order = columns["image_id"].to_pylist()
    if in_order != sorted(in_order):
        yield "rows of images are not in the order of image_id"


def _references(faces: pa.Table, images: pa.Table, shard: int) -> Iterator[str]:
    rows = images.select(["image_id", "uri", "status", "faces"]).to_pylist()
    photos = {row["image_id"]: row for row in rows if row["status"] == "ok"}
    names = faces.column("image_id").to_pylist()
    if strays := set(names) - photos.keys():
        yield f"faces of {_some(strays)}, which were not looked at"
    numbers: dict[str, list[int]] = {name: [] for name in photos}
    for name, number in zip(names, faces.column("face").to_pylist(), strict=True):
        numbers.setdefault(name, []).append(number)
    if wrong := [name for name, found in numbers.items() if found != list(range(len(found)))]:
        yield f"faces of {_some(wrong)} are not numbered 0..n-1 in order"
    if wrong := [name for name, photo in photos.items() if photo["faces"] != len(numbers[name])]:
        yield f"{_some(wrong)} have another number of faces than images says"
    uris = zip(names, faces.column("uri").to_pylist(), strict=True)
    if wrong := [name for name, uri in uris if name in photos and uri != photos[name]["uri"]]:
        yield f"faces of {_some(wrong)} have another uri than images"
    yield from _count(pc.not_equal(faces.column("shard"), shard), "faces of another shard")


def _ranges(faces: pa.Table, images: pa.Table, timing: pa.Table) -> Iterator[str]:
    x1, y1, x2, y2, score = (faces.column(name).to_numpy() for name in ("x1", "y1", "x2", "y2", "score"))
    where = pc.index_in(faces.column("image_id"), images.column("image_id").combine_chunks())
    width, height = (images.column(name).take(where).cast(pa.float64()).to_numpy() for name in ("width", "height"))
    inside = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height)
    yield from _count(~inside, "boxes that are empty, outside their photo, or no numbers")
    yield from _count(~((score >= 0) & (score <= 1)), "scores outside 0..1")
    # A number that is no best of its photo must not lie above the one before it.
    rises = (np.diff(score, prepend=np.inf) > 0) & (faces.column("face").to_numpy() > 0)
    yield from _count(rises, "scores above that of the face before")
    yield from _count(~np.isfinite(_flat(faces.column("landmarks"))), "landmarks that are no numbers")
    yield from _count(pc.less(faces.column("level"), 0), "levels below 0")
    for name in timing.column_names[4:]:
        values = timing.column(name).to_numpy()
        yield from _count(~(np.isfinite(values) & (values >= 0)), f"{name} below 0 or no numbers")


def _flat(lists: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(pc.list_flatten(lists))


def _count(wrong: Any, words: str) -> Iterator[str]:
    """One line if any of them is wrong; null is not."""
    count = int(np.count_nonzero(wrong)) if isinstance(wrong, np.ndarray) else pc.sum(wrong).as_py() or 0
    if count:
        yield f"{count} {words}"


def _some(image_ids: set[str] | list[str]) -> str:
    first, *others = sorted(set(image_ids))
    return f"{1 + len(others)} photos ({first}{', ...' if others else ''})"
