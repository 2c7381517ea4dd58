"""How a run lies on disk, and how to read one: `open_run(OUT)`.

    OUT/
      manifest/photos.parquet      every photo of the run, frozen before the first one is looked at
      faces/part-SHARD-ATTEMPT.parquet
      images/part-...              exactly one row for every photo of the manifest
      timing/part-...
      _ledger/SHARD.json           one record per finished shard, naming its parts: written once, last
      run.json                     settings, versions, totals; `"status": "complete"` at the end

A part that no record of the ledger names does not exist, whatever lies in the folders. Plain globs over `faces/` are
right once `run.json` says complete (what no record names has been deleted by then); before that, read through
`open_run`, which asks the ledger.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.errors import RunError
from retinafocus.faces import FACES_SCHEMA, IMAGES_SCHEMA, TIMING_SCHEMA

MANIFEST_FILE = "manifest/photos.parquet"
LEDGER_FOLDER = "_ledger"
RUN_FILE = "run.json"
TABLES: dict[str, pa.Schema] = {"faces": FACES_SCHEMA, "images": IMAGES_SCHEMA, "timing": TIMING_SCHEMA}

# Order of the rows wherever tables of a run are read whole: equal runs give equal tables.
SORT_KEYS = {
    "faces": [("image_id", "ascending"), ("face", "ascending")],
    "images": [("image_id", "ascending")],
    "timing": [("image_id", "ascending")],
}


def ledger_name(shard: int) -> str:
    """The name of a shard's record, relative to the run's folder."""
    return f"{LEDGER_FOLDER}/{shard:08d}.json"


@dataclass(frozen=True)
class Run:
    """A run's committed tables. Open it with `open_run`."""

    folder: Path
    """The run's output folder."""

    info: dict[str, Any]
    """What `run.json` holds: status, settings, versions, totals."""

    records: tuple[dict[str, Any], ...]
    """The ledger's records in the order of the shards."""

    @property
    def complete(self) -> bool:
        """Whether every photo of the manifest is accounted for."""
        return self.info.get("status") == "complete"

    def files(self, table: str) -> list[str]:
        """Paths of the committed parts of `faces`, `images` or `timing`."""
        return [str(self.folder / record["files"][table]["name"]) for record in self.records]

    def table(self, table: str) -> pa.Table:
        """One table whole, sorted by image: `faces`, `images` or `timing`."""
        parts = [pq.read_table(path, schema=TABLES[table]) for path in self.files(table)]
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
        return read_manifest(self.folder)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a finished or unfinished run for reading.

    Args:
        folder: the `-o` of `retinafocus detect`.

    Returns:
        The run as its ledger stands now.

    Raises:
        RunError: there is no run in that folder, or its `run.json` or ledger is damaged.
    """
    path = Path(folder)
    info = read_run_file(path)
    if info is None:
        raise RunError(f"{path}: no run here ({RUN_FILE} is missing); give the -o folder of `retinafocus detect`")
    return Run(folder=path, info=info, records=tuple(read_ledger(path)))


def read_run_file(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a folder, or None where there is none.

    Raises:
        RunError: there is one that no run of ours wrote, or that cannot be read.
    """
    try:
        text = (folder / RUN_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"{folder / RUN_FILE}: cannot be read: {error.strerror}") from error
    info = _parse(folder / RUN_FILE, text)
    if not {"status", "settings", "archive"} <= info.keys():
        raise RunError(f"{folder / RUN_FILE}: was not written by RetinaFocus; choose another folder")
    return info


def read_manifest(folder: Path) -> pa.Table:
    """The photos a run was asked to look at.

    Raises:
        RunError: the manifest is missing or damaged.
    """
    try:
        return pq.read_table(folder / MANIFEST_FILE)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{folder / MANIFEST_FILE}: cannot be read ({error}); start anew with --existing overwrite"
        ) from error


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """All records of a run's ledger in the order of the shards."""
    ledger = folder / LEDGER_FOLDER
    if not ledger.is_dir():
        return []
    paths = sorted(path for path in ledger.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    return [_parse(path, path.read_text(encoding="utf-8")) for path in paths]


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}: is not JSON ({error}); restore it from a copy or start a new run") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds no JSON object; restore it from a copy or start a new run")
    return value
