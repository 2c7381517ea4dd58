"""`retinafocus forget`: take photos out of a run for good, as if they had never been listed.

Five steps, in an order in which a stop between any two leaves a run that can be read, and that the same command brings
to its end. So does the next `retinafocus detect`; `retinafocus index --update` does the fourth step.

1. a complete run calls itself `forgetting`: until the end, parts of its tables stand there twice;
2. the photos' identities go into `manifest/forgotten.json`: from now on every reader of the manifest leaves them out;
3. each of their shards gets a record of the next generation, without their rows;
4. the manifest is written anew without them;
5. the records and parts that were replaced are deleted, and `run.json` gets new sums and its status back.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.ledger import MADE_BY, commit_shard, committed_tables, delete_leftovers, pending_shards, reconcile
from pipelines.manifest import ROW_GROUP_PHOTOS, Listing, image_id, manifest_bytes, read_listing, relative_paths
from pipelines.shard_tables import only_photos
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import (
    FORGOTTEN_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    new_mark,
    read_forgotten,
    read_ledger,
    read_manifest,
    read_run_file,
)
from retinafocus.storage import Storage, StorageConfig, open_storage


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was done."""

    photos: int
    """Taken out now; fewer than asked for where an earlier command had begun."""
    shards: int
    """Written anew."""
    files: int
    """Deleted."""


def forget(location: str, photos: Sequence[str], config: StorageConfig | None = None) -> Forgotten:
    """Remove every row of some photos from a run.

    Args:
        location: the `-o` of `retinafocus detect`.
        photos: each an image_id, a URI, or a path, absolute or relative to the archive's root.
        config: how an object store is reached.

    Raises:
        SettingsError: a photo is not in the run.
        RunError: there is no run, or another command is at work on it.
    """
    storage = open_storage(location, config)
    listing = read_listing(storage)
    if listing is None:
        raise RunError(f"{storage.location}: no run here ({MANIFEST_FILE} is missing); give the -o folder of a run")
    with storage.locked() as hold:
        earlier = read_forgotten(storage)
        names = _identities(_whole_manifest(storage, ["image_id", "uri", "path"]), listing, earlier, photos)
        mark = _begin(storage)
        storage.put(FORGOTTEN_FILE, json.dumps(sorted(earlier | names), indent=1).encode())
        shards = _commit_without(storage, earlier | names, mark)
        hold.check()
        listed = drop_forgotten(storage)
        records = read_ledger(storage)
        files = delete_leftovers(storage, records, hold)
        hold.check()
        _sum_up(storage, records)
        storage.sweep(hold)
    return Forgotten(photos=listed, shards=shards, files=files)


def _begin(storage: Storage) -> str | None:
    """Let late workers of earlier commands commit no more, and a complete run no longer say that it is.

    Returns:
        The mark of this command in `run.json`; None where nothing was looked at yet.
    """
    if (info := read_run_file(storage)) is None:
        return None
    status, mark = "forgetting" if info["status"] == "complete" else info["status"], new_mark()
    storage.put(RUN_FILE, json.dumps({**info, "status": status, **mark}, indent=2).encode())
    return mark["mark"]


def _identities(manifest: pa.Table, listing: Listing, earlier: set[str], photos: Sequence[str]) -> set[str]:
    """The image_id of every photo asked for."""
    found = set()
    for photo in photos:
        text = os.fsencode(photo).decode(errors="replace")  # nothing in a manifest is not UTF-8
        named = {text, image_id(photo), *_relative(photo, listing)}
        of_name = pc.is_in(manifest.column("image_id"), pa.array(sorted(named)))
        of_uri, of_path = (pc.equal(manifest.column(name), text) for name in ("uri", "path"))
        ids = _ids(manifest, pc.or_(of_name, of_uri)) | (named & earlier) or _ids(manifest, of_path)
        if not ids:
            raise SettingsError(
                f"{text}: is not in the run; give its image_id, or its uri or path as the manifest has it"
            )
        found |= ids
    return found


def _ids(manifest: pa.Table, rows: pa.ChunkedArray) -> set[str]:
    return set(manifest.filter(rows).column("image_id").to_pylist())


def _relative(photo: str, listing: Listing) -> list[str]:
    """The image_id of a photo that is named by its absolute path or URI."""
    name = photo if "://" in photo else os.path.abspath(photo)
    try:
        return [image_id(path) for path in relative_paths([os.fsencode(name)], listing)]
    except SettingsError:  # outside the root: not named in this way
        return []


def _commit_without(storage: Storage, gone: set[str], mark: str | None) -> int:
    """Commit the next generation of every shard that still has rows of those photos; how many there were."""
    records = {record["shard"]: record for record in read_ledger(storage)}
    manifest = read_manifest(storage, columns=["shard", "bytes", "version"])
    done = 0
    for row in pending_shards(list(records.values()), manifest):
        if (record := records.get(row["shard"])) is None:
            continue  # not looked at yet
        tables = committed_tables(storage, record)
        names = tables["images"].column("image_id").to_pylist()
        kept = [name for name in names if name not in gone]
        if len(kept) == len(names):
            continue  # to be done for another reason
        tables = only_photos(tables, kept)
        made_by = {name: record[name] for name in MADE_BY if name in record}
        commit_shard(
            storage, record["shard"], uuid.uuid4().hex[:12], tables, made_by,
            generation=record["generation"] + 1, manifest_version=record["manifest_version"], mark=mark,
        )  # fmt: skip
        done += 1
    return done


def drop_forgotten(storage: Storage) -> int:
    """Take the photos of `manifest/forgotten.json` out of the manifest, where a command was cut short before it did.

    Every reader leaves them out already, so this may be done at any time by a command that holds the run.

    Returns:
        How many were still in it.
    """
    left = still_listed(storage)
    if left:
        listing = read_listing(storage)
        assert listing is not None
        storage.put(MANIFEST_FILE, manifest_bytes(_batches_without(storage, read_forgotten(storage)), listing))
    return left


def still_listed(storage: Storage) -> int:
    """How many photos of `manifest/forgotten.json` the manifest still names."""
    forgotten = read_forgotten(storage)
    if not forgotten:
        return 0
    names = _whole_manifest(storage, ["image_id"]).column("image_id")
    return pc.sum(pc.is_in(names, pa.array(sorted(forgotten), pa.string()))).as_py() or 0


def _batches_without(storage: Storage, image_ids: set[str]) -> Iterator[pa.RecordBatch]:
    """The manifest without some photos, as a stream."""
    gone = pa.array(sorted(image_ids), pa.string())
    with storage.open(MANIFEST_FILE) as file:
        for rows in pq.ParquetFile(file).iter_batches(ROW_GROUP_PHOTOS):
            yield rows.filter(pc.invert(pc.is_in(rows.column("image_id"), gone)))


def _whole_manifest(storage: Storage, columns: list[str]) -> pa.Table:
    """The manifest as it lies there, forgotten photos included."""
    with storage.open(MANIFEST_FILE) as file:
        return pq.read_table(file, columns=columns)


def _sum_up(storage: Storage, records: list[dict[str, Any]]) -> None:
    """Make the sums of `run.json` anew for a run that was complete, and let it say so again."""
    info = read_run_file(storage)
    if info is None or info["status"] != "forgetting":
        return
    manifest = read_manifest(storage, columns=["shard", "bytes", "version"])
    totals = {**info["totals"], **reconcile(records, manifest)}
    totals.pop("missing_shards")
    info["status"] = "complete"
    archive = {**info["archive"], "photos": manifest.num_rows}
    storage.put(RUN_FILE, json.dumps({**info, "archive": archive, "totals": totals}, indent=2).encode())
