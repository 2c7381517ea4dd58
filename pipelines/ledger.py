"""What is done: the commit of a shard, what a resume still has to do, and whether everything adds up.

A worker writes its parts under names nobody else has, then takes the shard's record with an exclusive create. That one
act decides; an attempt that comes second deletes its own parts, and whatever a killed attempt left behind is deleted at
the end of the run.

A shard that is done again gets a record of the next *generation* under a name of its own; the highest generation is the
one that counts. Nothing is ever overwritten, so an attempt that wakes up late, however late, can only lose.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.manifest import shard_rows
from pipelines.shard_tables import CASCADE_COUNTS, only_photos, part_bytes, read_part, statistics
from retinafocus.errors import RunError
from retinafocus.local_storage import TEMPORARY_PREFIX
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, TABLES, current_records, ledger_name
from retinafocus.storage import Hold, Storage

MADE_BY = ("worker", "engine", "device", "precision")
"""What a record tells of who looked at its photos; of an earlier version, the worker alone."""

ATTEMPTS_FOLDER = f"{LEDGER_FOLDER}/attempts"
"""Marks of attempts at work or killed; see `careful`."""

# Parts, records, marks of attempts, the manifest, and files begun and not finished.
_OUR_NAME = re.compile(
    r"part-\d{8}-\w+\.parquet|\d{8}(\.\d{4})?\.json|\d{8}-\w+|photos\.parquet|"
    rf"{re.escape(TEMPORARY_PREFIX)}.*"
)

COMMIT_DELAYS = (1.0, 4.0, 15.0)
"""Seconds waited before each further try to write a shard's files: a full disk or a store that is away for a moment
must not cost the work of minutes."""

_TOTALS = ("photos", "faces", "photos_with_faces", "pixels_processed", *CASCADE_COUNTS)

_Result = TypeVar("_Result")


def commit_shard(
    storage: Storage,
    shard: int,
    attempt: str,
    tables: dict[str, pa.Table],
    worker: dict[str, Any],
    *,
    generation: int,
    manifest_version: int,
    mark: str | None = None,
) -> dict[str, Any]:
    """Publish a shard's tables, all or none.

    Args:
        storage: the run's folder.
        shard: number of the shard.
        attempt: a name no other attempt has; letters, digits and _.
        tables: `faces`, `images` and `timing` of the whole shard, rows kept of an earlier generation included.
        worker: what else the record tells (JSON types): `MADE_BY`. The counts come from the tables.
        generation: 0, or one more than that of the record that is replaced.
        manifest_version: the highest version of the shard's rows in the manifest (see `manifest_version`).
        mark: of the command this attempt belongs to; see `check_mark`. None: nobody looks.

    Returns:
        The shard's record of this generation: this attempt's, or that of the attempt that came first.

    Raises:
        RunError: the folder could not be written, also after waiting; or another command came.
    """
    check_mark(storage, shard, mark)
    files = _put_parts(storage, shard, attempt, tables)
    try:
        check_mark(storage, shard, mark)  # parts may take minutes to write, and the record is what counts
    except RunError:
        _delete_parts(storage, files)
        raise
    record = {
        "shard": shard,
        "generation": generation,
        "manifest_version": manifest_version,
        "attempt": attempt,
        **worker,
        **statistics(tables),
        "looked_at": tables["timing"].column("attempt").to_pylist().count(attempt),
        "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "files": files,
    }
    data = json.dumps(record, indent=1).encode()
    if _patiently(storage, shard, lambda: storage.create_once(ledger_name(shard, generation), data)):
        return record
    winner = _patiently(storage, shard, lambda: read_record(storage, shard, generation))
    if winner["attempt"] == attempt:  # it was ours: the store took it, and its answer was lost
        return winner
    _delete_parts(storage, files)
    return winner


def check_mark(storage: Storage, shard: int, mark: str | None) -> None:
    """Make sure that the command a worker belongs to is still the last one at the run.

    A worker may be cut off from its command, or sleep with its machine, while another command begins the run anew with
    other settings or ends it: what it brings then belongs to nobody.

    Args:
        storage: the run's folder.
        shard: number of the shard, for the message.
        mark: of the command, in `run.json`; None: nobody looks.

    Raises:
        RunError: another command came.
    """
    if mark is None:
        return

    def found() -> Any:
        try:
            return json.loads(storage.read(RUN_FILE)).get("mark")
        except FileNotFoundError:
            return None

    if _patiently(storage, shard, found) != mark:
        raise RunError(
            f"{storage.location}: another command has worked on this run since, so nothing of shard {shard} was "
            "written; run the same command again"
        )


def _put_parts(storage: Storage, shard: int, attempt: str, tables: dict[str, pa.Table]) -> dict[str, dict[str, Any]]:
    """Write the tables; what the record tells of each part."""
    files = {}
    for table, rows in tables.items():
        data = part_bytes(rows)
        name = f"{table}/part-{shard:08d}-{attempt}.parquet"
        _patiently(storage, shard, partial(storage.put, name, data))
        files[table] = {"name": name, "rows": rows.num_rows, "sha256": hashlib.sha256(data).hexdigest()}
    return files


def _delete_parts(storage: Storage, files: dict[str, dict[str, Any]]) -> None:
    """Delete parts of an attempt that lost."""
    with suppress(OSError):  # what stays goes with the run's other leftovers
        for file in files.values():
            storage.delete(file["name"])


def read_record(storage: Storage, shard: int, generation: int) -> dict[str, Any]:
    """The record of a finished shard.

    Raises:
        FileNotFoundError: there is none of that generation.
    """
    record: dict[str, Any] = json.loads(storage.read(ledger_name(shard, generation)))
    return record


def find_record(storage: Storage, shard: int, generation: int) -> dict[str, Any] | None:
    """The record of a shard, or None if that generation of it is still to be done."""
    try:
        return read_record(storage, shard, generation)
    except FileNotFoundError:
        return None


def committed_tables(storage: Storage, record: dict[str, Any]) -> dict[str, pa.Table]:
    """`faces`, `images` and `timing` of a shard as its record names them.

    Raises:
        RunError: a part is gone or not the one that was written.
    """
    tables = {}
    for table in TABLES:
        file = record["files"][table]
        try:
            data = storage.read(file["name"])
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            name = ledger_name(record["shard"], record["generation"])
            raise RunError(f"{file['name']} is damaged or gone; delete {name} and run `detect` again to redo it")
        tables[table] = read_part(data)
    return tables


def manifest_version(rows: list[dict[str, Any]]) -> int:
    """The highest version of a shard's rows in the manifest: what its record must have reached to be up to date."""
    return max((row["version"] for row in rows), default=0)


def kept_rows(
    storage: Storage, shard: int, rows: list[dict[str, Any]], retry: str, *, generation: int
) -> tuple[list[dict[str, Any]], dict[str, pa.Table]]:
    """Which of a shard's photos to look at, and the rows of the others.

    A photo keeps its rows of the generation before if the manifest's row has not changed since and its status is not
    among those asked for again. Rows of photos that the manifest no longer has are kept by nobody.

    Args:
        storage: the run's folder.
        shard: number of the shard.
        rows: all rows of the shard in the manifest.
        retry: comma-joined statuses to look at again; "" for none.
        generation: the one that is to be committed.

    Returns:
        Rows of the manifest to look at; `faces`, `images` and `timing` of the others, for `shard_tables.together`.
    """
    if generation == 0:
        return rows, {name: schema.empty_table() for name, schema in TABLES.items()}
    record = read_record(storage, shard, generation - 1)
    tables = committed_tables(storage, record)
    images = tables["images"].select(["image_id", "status"]).to_pylist()
    again = set(retry.split(","))
    there = {row["image_id"] for row in images if row["status"] not in again}
    unchanged = {row["image_id"] for row in rows if row["version"] <= record["manifest_version"]}
    kept = there & unchanged
    return [row for row in rows if row["image_id"] not in kept], only_photos(tables, kept)


def pending_shards(
    records: list[dict[str, Any]], manifest: pa.Table, retry: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What is to be done, one row per shard, the largest first so that no large one is left for the end.

    A shard is to be done if it has no record, if a later listing changed its rows, if its record has other photos than
    the manifest (one was forgotten), or if its record counts a status that is asked for again.

    Args:
        records: of the run's ledger (`read_ledger`).
        manifest: at least its columns bytes, shard and version.
        retry: statuses to look at again.

    Returns:
        shard, photos (to look at), bytes (of the whole shard), generation (to commit), retry (the statuses, joined by
        commas): what a worker is given.
    """
    by_shard = {record["shard"]: record for record in records}
    sizes = {row["shard"]: row for row in shard_rows(manifest)}
    outdated = _outdated(records, manifest)
    rows = []
    for shard in sizes | dict.fromkeys(by_shard, 0):
        record = by_shard.get(shard)
        listed = sizes[shard]["photos"] if shard in sizes else 0
        again = 0 if record is None else sum(record["statuses"].get(status, 0) for status in retry)
        photos = min(listed, outdated.get(shard, 0) + again)
        if photos or record is None or record["photos"] != listed:
            generation = 0 if record is None else record["generation"] + 1
            size = sizes[shard]["bytes"] if shard in sizes else 0
            row = {"shard": shard, "photos": photos, "bytes": size, "generation": generation, "retry": ",".join(retry)}
            rows.append(row)
    return rows


def unrecorded_shards(names: Iterable[str], manifest: pa.Table) -> list[dict[str, Any]]:
    """The same from the names of the records alone, where none of them can be out of date: no record is read.

    Args:
        names: of the files in the ledger's folder.
        manifest: at least its columns bytes, shard and version; never listed again, nothing forgotten.
    """
    done = current_records(names)
    return [
        {"shard": row["shard"], "photos": row["photos"], "bytes": row["bytes"], "generation": 0, "retry": ""}
        for row in shard_rows(manifest)
        if row["shard"] not in done
    ]


def _outdated(records: list[dict[str, Any]], manifest: pa.Table) -> dict[int, int]:
    """Photos of each shard whose row in the manifest is newer than the shard's record; all where there is none."""
    shards, versions = manifest.column("shard").to_numpy(), manifest.column("version").to_numpy()
    last = max((record["shard"] for record in records), default=0)
    made_at = np.full(1 + max(int(shards.max(initial=0)), last), -1)
    for record in records:
        made_at[record["shard"]] = record["manifest_version"]
    numbers, counts = np.unique(shards[versions > made_at[shards]], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def delete_leftovers(storage: Storage, records: list[dict[str, Any]], hold: Hold) -> int:
    """Delete every file that no record names: parts of killed or beaten attempts, and what a later generation replaced.

    Call it only when no worker of the run is at work any more.

    Args:
        storage: the run's folder.
        records: that count, of the run's ledger.
        hold: of the calling command on the run.

    Returns:
        How many there were.

    Raises:
        RunError: the run is not held any more; the files that are left may be those of another command.
    """
    names = leftovers(storage, records)
    for name in names:
        hold.check()
        storage.delete(name)
    return len(names)


def leftovers(storage: Storage, records: list[dict[str, Any]]) -> list[str]:
    """Our files that no record names."""
    named = {file["name"] for record in records for file in record["files"].values()}
    named |= {ledger_name(record["shard"], record["generation"]) for record in records}
    return [name for name in our_files(storage) if name not in named and name != MANIFEST_FILE]


def our_files(storage: Storage) -> list[str]:
    """Every file in the folders of a run that carries a name we give; what else lies there is somebody's own."""
    folders = (LEDGER_FOLDER, ATTEMPTS_FOLDER, "manifest", *TABLES)
    return [name for folder in folders for name in storage.names(folder) if _OUR_NAME.fullmatch(name.rsplit("/", 1)[1])]


def reconcile(records: list[dict[str, Any]], manifest: pa.Table) -> dict[str, Any]:
    """Add up the ledger and hold it against the manifest.

    Args:
        records: of the run's ledger (`read_ledger`).
        manifest: at least its columns bytes, shard and version.

    Returns:
        photos, faces, photos_with_faces, statuses (count of each), engines (photos of each, by the record of their
        shard), pixels_processed, `CASCADE_COUNTS`, seconds (by stage, summed over workers), missing_shards.

    Raises:
        RunError: a record contradicts itself.
    """
    missing = {row["shard"] for row in pending_shards(records, manifest)}
    statuses: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for record in records:
        shard = record["shard"]
        rows, counted = record["files"]["images"]["rows"], sum(record["statuses"].values())
        if not rows == counted == record["photos"]:
            raise RunError(
                f"shard {shard}: {record['photos']} photos, {rows} rows, {counted} statuses in its record; "
                f"delete {ledger_name(shard, record['generation'])} and run the same command again to redo it"
            )
        statuses.update(record["statuses"])
        seconds.update(record["seconds"])
        engines[_engine_words(record)] += record["photos"]
        totals.update({key: record[key] for key in _TOTALS})
    return {
        **{key: totals[key] for key in _TOTALS},
        "statuses": dict(sorted(statuses.items())),
        "engines": dict(sorted(engines.items())),
        "seconds": {key: round(value, 3) for key, value in sorted(seconds.items())},
        "missing_shards": sorted(missing),
    }


def _engine_words(record: dict[str, Any]) -> str:
    """What looked at a shard's photos; which of several GPUs of a machine it was is nothing to add up."""
    if "engine" not in record:
        return "not recorded"
    return f"{record['engine']} on {record['device'].partition(':')[0]}, {record['precision']}"


def _patiently(storage: Storage, shard: int, write: Callable[[], _Result]) -> _Result:
    """Do it, and again after a while if the store refuses."""
    for delay in (*COMMIT_DELAYS, None):
        try:
            return write()
        except OSError as error:
            if delay is None:
                reason = error.strerror or str(error)
                raise RunError(f"shard {shard} could not be written, also when tried again ({reason})") from error
            time.sleep(delay)
    raise AssertionError("the last try returns or raises")
