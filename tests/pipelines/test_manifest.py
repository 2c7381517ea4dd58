"""A manifest's shards, its file, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.folders import FOUND_SCHEMA
from pipelines.manifest import (
    MANIFEST_SCHEMA,
    ROW_GROUP_PHOTOS,
    SHARD_BYTES,
    SHARD_PHOTOS,
    Listing,
    cut_shards,
    manifest_batches,
    manifest_bytes,
    read_listing,
    shard_rows,
)
from retinafocus.errors import RunError
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import MANIFEST_FILE, read_manifest


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        pytest.param([], [], id="none"),
        pytest.param([5], [0], id="one"),
        pytest.param([1] * 4, [0, 1, 2, 3], id="few photos give one each"),
        pytest.param([SHARD_BYTES, 1, SHARD_BYTES], [0, 1, 2], id="full by bytes"),
        pytest.param([None, None], [0, 1], id="unknown sizes"),
        pytest.param([2 * SHARD_BYTES], [0], id="one photo larger than a shard"),
    ],
)
def test_shards_are_cut_where_they_are_full(sizes: list[int | None], shards: list[int]) -> None:
    assert cut_shards(sizes, len(sizes)).tolist() == shards


@given(st.lists(st.one_of(st.none(), st.integers(0, SHARD_BYTES)), max_size=2000))
def test_shards_are_numbered_without_gaps_and_within_limits(sizes: list[int | None]) -> None:
    shards = cut_shards(sizes, len(sizes)).tolist()
    assert shards == sorted(shards)
    assert set(shards) == set(range(len(set(shards))))
    for shard in set(shards):
        members = [size or 0 for size, number in zip(sizes, shards, strict=True) if number == shard]
        assert len(members) <= SHARD_PHOTOS
        assert len(members) == 1 or sum(members) <= SHARD_BYTES


def test_large_shards_come_first() -> None:
    table = pa.table({"bytes": [1, 9, None, 2], "shard": pa.array([0, 1, 1, 2], pa.int32()), "version": [0, 0, 3, 1]})
    assert shard_rows(table) == [
        {"shard": 1, "photos": 2, "bytes": 9, "version": 3},
        {"shard": 2, "photos": 1, "bytes": 2, "version": 1},
        {"shard": 0, "photos": 1, "bytes": 1, "version": 0},
    ]


def test_later_shards_begin_where_the_others_ended() -> None:
    assert cut_shards([SHARD_BYTES, 1], 2, first=7).tolist() == [7, 8]


def _found(count: int) -> pa.Table:
    rows = [{"name": f"/a/{number:06d}.jpg".encode(), "bytes": 1, "missing": False} for number in range(count)]
    return pa.Table.from_pylist(rows, schema=FOUND_SCHEMA)


def test_one_shard_is_read_without_the_rest(tmp_path: Path) -> None:
    listing = Listing(inputs=["/a"], found=[10_000], root="/a")
    data = manifest_bytes(manifest_batches(listing, _found(10_000)), listing)
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.schema_arrow.remove_metadata() == MANIFEST_SCHEMA
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP_PHOTOS, ROW_GROUP_PHOTOS, 10_000 - 2 * ROW_GROUP_PHOTOS]
    shard = MANIFEST_SCHEMA.get_field_index("shard")
    # 256 photos a shard: the groups hold 16 shards each, and their statistics say which.
    assert [(group.column(shard).statistics.min, group.column(shard).statistics.max) for group in groups] == [
        (0, 15), (16, 31), (32, 39)
    ]  # fmt: skip


def test_manifest_says_what_was_listed_also_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    listing = Listing(inputs=["/caf\udce9"], found=[3], root="/a", skipped={"hidden": 2}, version=4, listed="today")
    assert read_listing(storage) is None
    storage.put(MANIFEST_FILE, manifest_bytes(manifest_batches(listing, _found(3)), listing))
    assert read_listing(storage) == listing
    assert read_manifest(storage).column("version").to_pylist() == [4, 4, 4]


@pytest.mark.parametrize("content", [pytest.param(b"not parquet", id="damaged"), pytest.param(None, id="not ours")])
def test_manifest_of_somebody_else_is_refused(tmp_path: Path, content: bytes | None) -> None:
    storage = LocalStorage(str(tmp_path))
    if content is None:
        sink = pa.BufferOutputStream()
        pq.write_table(MANIFEST_SCHEMA.empty_table(), sink)
        content = sink.getvalue().to_pybytes()
    storage.put(MANIFEST_FILE, content)
    with pytest.raises(RunError, match=r"photos\.parquet: cannot be read, or another version of RetinaFocus wrote it"):
        read_listing(storage)
