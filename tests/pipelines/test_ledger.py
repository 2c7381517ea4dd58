"""The commit of a shard, and the books at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.ledger import CASCADE_COUNTS, commit_shard, delete_leftovers, pending_shards, reconcile
from pipelines.store import LocalStore
from retinafocus.errors import RunError
from retinafocus.faces import FACES_SCHEMA, IMAGES_SCHEMA, TIMING_SCHEMA


def _tables(shard: int, photos: int) -> dict[str, pa.Table]:
    rows = [
        {"image_id": f"{shard}-{number}", "uri": "u", "status": "ok", "faces": 0, "pixels_processed": 5, "shard": shard}
        for number in range(photos)
    ]
    return {
        "faces": FACES_SCHEMA.empty_table(),
        "images": pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA),
        "timing": TIMING_SCHEMA.empty_table(),
    }


def _commit(store: LocalStore, shard: int, attempt: str, photos: int = 2, counted: int = 2) -> dict[str, Any]:
    statistics = {
        "photos": photos, "faces": 0, "photos_with_faces": 0,
        "pixels_processed": 5 * photos, **dict.fromkeys(CASCADE_COUNTS, photos),
        "statuses": {"ok": counted - 1, "corrupt": 1}, "seconds": {"read": 0.5}, "worker": "w",
    }  # fmt: skip
    return commit_shard(store, shard, attempt, _tables(shard, photos), statistics)


def _manifest(*shards: int) -> pa.Table:
    return pa.table({"shard": pa.array(shards, pa.int32())})


def test_second_attempt_gets_the_record_of_the_first_and_leaves_no_parts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = _commit(store, 3, "first"), _commit(store, 3, "second")
    assert second == first
    assert list(store.names("images")) == ["images/part-00000003-first.parquet"]


def test_parts_without_a_record_are_not_done_and_are_deleted(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    _commit(store, 0, "whole")
    store.put("images/part-00000001-killed.parquet", b"half")
    store.put("faces/.unfinished-abc", b"less")
    assert [row["shard"] for row in pending_shards(store, [{"shard": 1}, {"shard": 0}])] == [1]
    assert delete_leftovers(store) == 2
    assert list(store.names("images")) == ["images/part-00000000-whole.parquet"]


def test_books_add_up(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    _commit(store, 0, "a")
    _commit(store, 1, "b")
    totals = reconcile(store, _manifest(0, 0, 1, 1, 2))
    assert totals == {
        "photos": 4, "faces": 0, "photos_with_faces": 0, "pixels_processed": 20, **dict.fromkeys(CASCADE_COUNTS, 4),
        "statuses": {"corrupt": 2, "ok": 2}, "seconds": {"read": 1.0}, "missing_shards": [2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "counted"),
    [pytest.param(3, 2, id="a photo without a row"), pytest.param(2, 3, id="a status without a row")],
)
def test_books_that_do_not_add_up_are_an_error(tmp_path: Path, listed: int, counted: int) -> None:
    store = LocalStore(tmp_path)
    _commit(store, 0, "a", counted=counted)
    with pytest.raises(RunError, match=r"shard 0: .* delete _ledger/00000000.json and run the same command again"):
        reconcile(store, _manifest(*[0] * listed))
