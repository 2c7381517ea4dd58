"""What is done: the commit of a shard, what a resume still has to do, and whether everything adds up.

A worker writes its parts under names nobody else has, then takes the shard's record with an exclusive create. That one
act decides; an attempt that comes second deletes its own parts, and whatever a killed attempt left behind is deleted at
the end of the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store import TEMPORARY_PREFIX, LocalStore
from retinafocus.errors import RunError
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, TABLES, ledger_name, read_ledger

_OUR_NAME = re.compile(rf"part-\d{{8}}-\w+\.parquet|\d{{8}}\.json|photos\.parquet|{re.escape(TEMPORARY_PREFIX)}.*")

CASCADE_COUNTS = ("pixels_planned", "photos_looked_closer", "chips", "chip_pixels", "chip_pixels_asked")
"""What the cascade did, in each shard's record: pixels if every level were looked at whole, photos with chips, their
chips, their pixels, and how many of those the focus map had asked for."""

_TOTALS = ("photos", "faces", "photos_with_faces", "pixels_processed", *CASCADE_COUNTS)


def commit_shard(
    store: LocalStore, shard: int, attempt: str, tables: dict[str, pa.Table], statistics: dict[str, Any]
) -> dict[str, Any]:
    """Publish a shard's tables, all or none.

    Args:
        store: the run's folder.
        shard: number of the shard.
        attempt: a name no other attempt has.
        tables: `faces`, `images` and `timing` of the shard.
        statistics: what else the record tells of the shard (JSON types).

    Returns:
        The shard's record: this attempt's, or that of the attempt that came first.
    """
    files = {}
    for table, rows in tables.items():
        # In memory first: a Parquet stream that is closed by an exception leaves half a file that looks whole.
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        name = f"{table}/part-{shard:08d}-{attempt}.parquet"
        store.put(name, data)
        files[table] = {"name": name, "rows": rows.num_rows, "sha256": hashlib.sha256(data).hexdigest()}
    record = {"shard": shard, "attempt": attempt, **statistics, "files": files}
    if store.create_once(ledger_name(shard), json.dumps(record, indent=1).encode()):
        return record
    for file in files.values():
        store.delete(file["name"])
    return read_record(store, shard)


def read_record(store: LocalStore, shard: int) -> dict[str, Any]:
    """The record of a finished shard."""
    record: dict[str, Any] = json.loads(store.read(ledger_name(shard)))
    return record


def pending_shards(store: LocalStore, shards: list[dict[str, int]]) -> list[dict[str, int]]:
    """Those of the manifest's shards that no record names yet, in the same order."""
    done = {record["shard"] for record in read_ledger(store.root)}
    return [row for row in shards if row["shard"] not in done]


def delete_leftovers(store: LocalStore) -> int:
    """Delete every file that no record names: parts of killed or beaten attempts. Returns how many there were.

    Call it only when no worker of the run is at work any more.
    """
    named = {file["name"] for record in read_ledger(store.root) for file in record["files"].values()}
    named |= {ledger_name(record["shard"]) for record in read_ledger(store.root)}
    leftovers = [name for name in our_files(store) if name not in named and name != MANIFEST_FILE]
    for name in leftovers:
        store.delete(name)
    return len(leftovers)


def our_files(store: LocalStore) -> list[str]:
    """Every file in the folders of a run that carries a name we give; what else lies there is somebody's own."""
    folders = (LEDGER_FOLDER, "manifest", *TABLES)
    return [name for folder in folders for name in store.names(folder) if _OUR_NAME.fullmatch(name.split("/")[1])]


def reconcile(store: LocalStore, manifest: pa.Table) -> dict[str, Any]:
    """Add up the ledger and hold it against the manifest.

    Returns:
        photos, faces, photos_with_faces, statuses (count of each), pixels_processed, `CASCADE_COUNTS`, seconds (by
        stage, summed over workers), missing_shards.

    Raises:
        RunError: a shard's rows are not exactly the photos the manifest gives it.
    """
    listed = Counter(manifest.column("shard").to_pylist())
    statuses: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    done = set()
    for record in read_ledger(store.root):
        shard = record["shard"]
        rows, counted = record["files"]["images"]["rows"], sum(record["statuses"].values())
        if not listed[shard] == rows == counted == record["photos"]:
            raise RunError(
                f"shard {shard}: {listed[shard]} photos listed, {rows} rows, {counted} statuses; "
                f"delete {ledger_name(shard)} and run the same command again to redo it"
            )
        done.add(shard)
        statuses.update(record["statuses"])
        seconds.update(record["seconds"])
        totals.update({key: record[key] for key in _TOTALS})
    return {
        **{key: totals[key] for key in _TOTALS},
        "statuses": dict(sorted(statuses.items())),
        "seconds": {key: round(value, 3) for key, value in sorted(seconds.items())},
        "missing_shards": sorted(set(listed) - done),
    }
