"""How a run lies on disk, and how to read one: `open_run(OUT)`.

    OUT/
      manifest/photos.parquet      every photo of the run, listed before the first one is looked at
      manifest/forgotten.json      photos that were taken out of the run for good, if any
      faces/part-SHARD-ATTEMPT.parquet
      images/part-...              exactly one row for every photo of the manifest
      timing/part-...
      _ledger/SHARD.json           one record per finished shard, naming its parts: written once, last
      _ledger/SHARD.0001.json      the same after the shard was done again: the highest generation counts
      run.json                     settings, versions, totals; `"status": "complete"` at the end

A part that no record of the ledger names does not exist, whatever lies in the folders. Plain globs over `faces/` are
right once `run.json` says complete (what no record names has been deleted by then); before that, read through
`open_run`, which asks the ledger.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import dataset

from retinafocus.errors import RunError
from retinafocus.faces import FACES_SCHEMA, IMAGES_SCHEMA, SCHEMA_VERSION, TIMING_SCHEMA
from retinafocus.storage import Storage, StorageConfig, open_storage

MANIFEST_FILE = "manifest/photos.parquet"
FORGOTTEN_FILE = "manifest/forgotten.json"
LEDGER_FOLDER = "_ledger"
RUN_FILE = "run.json"
_RECORD_NAME = re.compile(rf"{LEDGER_FOLDER}/(\d{{8}})(?:\.(\d{{4}}))?\.json")
_RECORD_KEYS = {"shard", "generation", "manifest_version", "photos", "faces", "statuses", "files"}
TABLES: dict[str, pa.Schema] = {"faces": FACES_SCHEMA, "images": IMAGES_SCHEMA, "timing": TIMING_SCHEMA}

# A bucket answers each request after tens of milliseconds: columns of neighbouring row groups are read in one piece,
# with what lies between them (some hundred KB). Ten million photos take some tens of requests, not thousands.
_MANIFEST_FORMAT = dataset.ParquetFileFormat(
    default_fragment_scan_options=dataset.ParquetFragmentScanOptions(
        pre_buffer=True, cache_options=pa.CacheOptions(hole_size_limit=1 << 18, range_size_limit=1 << 25)
    )
)

# Order of the rows wherever tables of a run are read whole: equal runs give equal tables.
SORT_KEYS = {
    "faces": [("image_id", "ascending"), ("face", "ascending")],
    "images": [("image_id", "ascending")],
    "timing": [("image_id", "ascending")],
}


def ledger_name(shard: int, generation: int = 0) -> str:
    """The name of a shard's record, relative to the run's folder.

    Args:
        shard: number of the shard.
        generation: how often the shard was done again; the highest one there is counts.
    """
    return (
        f"{LEDGER_FOLDER}/{shard:08d}.json" if generation == 0 else f"{LEDGER_FOLDER}/{shard:08d}.{generation:04d}.json"
    )


def current_records(names: Iterable[str]) -> dict[int, int]:
    """The generation that counts of every shard, in the order of the shards.

    Args:
        names: of the files in the ledger's folder, in any order; those that are no records are passed over.

    Returns:
        Shard to its highest generation.
    """
    generations: dict[int, int] = {}
    for name in names:
        if match := _RECORD_NAME.fullmatch(name):
            shard, generation = int(match[1]), int(match[2] or 0)
            generations[shard] = max(generation, generations.get(shard, 0))
    return dict(sorted(generations.items()))


@dataclass(frozen=True)
class Run:
    """A run's committed tables. Open it with `open_run`."""

    storage: Storage
    """The run's output folder, on this machine or in an object store."""

    info: dict[str, Any]
    """What `run.json` holds: status, settings, versions, totals."""

    records: tuple[dict[str, Any], ...]
    """The ledger's records in the order of the shards."""

    @property
    def location(self) -> str:
        """Absolute path or URI of the run's output folder."""
        return self.storage.location

    @property
    def complete(self) -> bool:
        """Whether every photo of the manifest is accounted for."""
        return self.info.get("status") == "complete"

    def files(self, table: str) -> list[str]:
        """Paths or URIs of the committed parts of `faces`, `images` or `timing`."""
        return [self.storage.uri(name) for name in self._names(table)]

    def table(self, table: str) -> pa.Table:
        """One table whole, sorted by image: `faces`, `images` or `timing`."""
        files = self.storage.read_many(self._names(table))
        parts = [pq.read_table(pa.BufferReader(data), schema=TABLES[table]) for _, data in files]
        whole = pa.concat_tables(parts) if parts else TABLES[table].empty_table()
        return whole.sort_by(SORT_KEYS[table])

    def faces(self) -> pa.Table:
        """One row per face (`retinafocus.faces.FACES_SCHEMA`)."""
        return self.table("faces")

    def images(self) -> pa.Table:
        """One row per photo (`retinafocus.faces.IMAGES_SCHEMA`)."""
        return self.table("images")

    def timing(self) -> pa.Table:
        """One row per photo: where the time went (`retinafocus.faces.TIMING_SCHEMA`)."""
        return self.table("timing")

    def manifest(self) -> pa.Table:
        """Every photo the run was asked to look at."""
        return read_manifest(self.storage)

    def _names(self, table: str) -> list[str]:
        return [record["files"][table]["name"] for record in self.records]


def open_run(location: str | os.PathLike[str], config: StorageConfig | None = None) -> Run:
    """Open a finished or unfinished run for reading.

    Args:
        location: the `-o` of `retinafocus detect`: a path, or an `s3://` or `gs://` URI.
        config: how an object store is reached.

    Returns:
        The run as its ledger stands now.

    Raises:
        RunError: there is no run in that folder, its `run.json` or ledger is damaged, or it has another schema.
    """
    storage = open_storage(location, config)
    info = read_run_file(storage)
    if info is None:
        raise RunError(
            f"{storage.location}: no run here ({RUN_FILE} is missing); give the -o folder of `retinafocus detect`"
        )
    version = info["settings"].get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{storage.location}: its tables are of schema version {version}, this RetinaFocus reads {SCHEMA_VERSION}; "
            "read the Parquet files themselves, or install the version that run.json names"
        )
    return Run(storage=storage, info=info, records=tuple(read_ledger(storage)))


def read_run_file(storage: Storage) -> dict[str, Any] | None:
    """`run.json` of a folder, or None where there is none.

    Raises:
        RunError: there is one that no run of ours wrote, or that cannot be read.
    """
    try:
        text = storage.read(RUN_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"{storage.uri(RUN_FILE)}: cannot be read: {error.strerror or error}") from error
    info = _parse(storage.uri(RUN_FILE), text)
    if not {"status", "settings", "archive"} <= info.keys():
        raise RunError(f"{storage.uri(RUN_FILE)}: was not written by RetinaFocus; choose another folder")
    return info


def new_mark() -> dict[str, str]:
    """What every command that changes a run writes into `run.json`: it tells late workers of earlier commands that
    their time is over."""
    return {"mark": uuid.uuid4().hex}


def read_manifest(storage: Storage, *, shard: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The photos a run was asked to look at, without those that were forgotten since.

    Args:
        storage: the run's folder.
        shard: only the photos of this shard: little more is read than their rows.
        columns: only these; None for all.

    Raises:
        RunError: the manifest is missing or damaged.
    """
    forgotten = read_forgotten(storage)
    wanted = None if columns is None else list({*columns, "image_id"} if forgotten else columns)
    try:
        with storage.open(MANIFEST_FILE) as file:
            rows = None if shard is None else pc.field("shard") == shard
            manifest = _MANIFEST_FORMAT.make_fragment(file).to_table(columns=wanted, filter=rows)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{storage.uri(MANIFEST_FILE)}: cannot be read ({error}); start anew with --existing overwrite"
        ) from error
    if forgotten:
        there = pc.invert(pc.is_in(manifest.column("image_id"), pa.array(sorted(forgotten), pa.string())))
        manifest = manifest.filter(there)
    return manifest if columns is None else manifest.select(list(columns))


def read_forgotten(storage: Storage) -> set[str]:
    """The image_id of every photo that `retinafocus forget` took out of a run: it counts as never listed.

    Raises:
        RunError: the list is damaged.
    """
    try:
        data = storage.read(FORGOTTEN_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    try:
        return set(json.loads(data))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{storage.uri(FORGOTTEN_FILE)}: is no list of names ({error}); restore it from a copy"
        ) from error


def read_ledger(storage: Storage) -> list[dict[str, Any]]:
    """The records that count of a run's ledger, in the order of the shards.

    Raises:
        RunError: one is damaged, or not of the shard that its name says.
    """
    current = current_records(storage.names(LEDGER_FOLDER))
    names = {ledger_name(shard, generation): (shard, generation) for shard, generation in current.items()}
    records = []
    for name, data in storage.read_many(names):
        record = _parse(name, data)
        if not record.keys() >= _RECORD_KEYS or (record["shard"], record["generation"]) != names[name]:
            raise RunError(f"{name}: is not the record of that shard; delete it and run `detect` again to redo it")
        records.append(record)
    return records


def _parse(path: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}: is not JSON ({error}); restore it from a copy or start a new run") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds no JSON object; restore it from a copy or start a new run")
    return value
