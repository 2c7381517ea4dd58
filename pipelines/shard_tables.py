"""A shard's three tables: as Parquet parts and back, what they say in numbers, and rows kept of an earlier time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retinafocus.runs import SORT_KEYS

CASCADE_COUNTS = ("pixels_planned", "photos_looked_closer", "chips", "chip_pixels", "chip_pixels_asked")
"""What the cascade did, in each shard's record: pixels if every level were looked at whole, photos with chips, their
chips, their pixels, and how many of those the focus map had asked for."""

STAGES = ("read", "decode", "network", "other")


def part_bytes(rows: pa.Table) -> bytes:
    """A table as a Parquet file, in memory: a stream to a file closed by an exception leaves half of one that looks
    whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_part(data: bytes) -> pa.Table:
    """The rows of a Parquet part as they were written, metadata included."""
    return pq.ParquetFile(pa.BufferReader(data)).read()


def statistics(tables: dict[str, pa.Table]) -> dict[str, Any]:
    """What a shard's tables say in numbers: the part of its record that anybody can check.

    Returns:
        photos, faces, photos_with_faces, pixels_processed, `CASCADE_COUNTS`, statuses (count of each), seconds (of the
        workers, by stage).
    """
    images, timing = tables["images"], tables["timing"]
    return {
        "photos": images.num_rows,
        "faces": tables["faces"].num_rows,
        "photos_with_faces": _sum(pc.greater(images.column("faces"), 0)),
        "pixels_processed": _sum(images.column("pixels_processed")),
        "pixels_planned": _sum(timing.column("pixels_planned")),
        "photos_looked_closer": _sum(pc.greater(timing.column("chips"), 0)),
        **{name: _sum(timing.column(name)) for name in ("chips", "chip_pixels", "chip_pixels_asked")},
        "statuses": dict(sorted(Counter(images.column("status").to_pylist()).items())),
        "seconds": {stage: round(_sum(timing.column(f"ms_{stage}")) / 1e3, 4) for stage in STAGES},
    }


def only_photos(tables: dict[str, pa.Table], image_ids: Iterable[str]) -> dict[str, pa.Table]:
    """The rows of those photos alone."""
    wanted = pa.array(list(image_ids), pa.string())
    return {name: rows.filter(pc.is_in(rows.column("image_id"), wanted)) for name, rows in tables.items()}


def together(tables: dict[str, pa.Table], kept: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Rows made now and rows kept of an earlier time, in the order in which one attempt at all of them writes them.

    Args:
        tables: `faces`, `images` and `timing` of the photos looked at now; their metadata stays.
        kept: the same of the other photos; may be empty.
    """
    if not any(rows.num_rows for rows in kept.values()):
        return tables
    merged = {}
    for name, rows in tables.items():
        earlier = kept[name].replace_schema_metadata(rows.schema.metadata)
        merged[name] = pa.concat_tables([rows, earlier]).sort_by(SORT_KEYS[name]).combine_chunks()
    return merged


def _sum(column: pa.ChunkedArray) -> Any:
    return pc.sum(column).as_py() or 0
