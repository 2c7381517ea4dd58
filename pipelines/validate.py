"""`retinafocus validate`: whether a run is what it says. Needs the run's folder alone, or a copy of it.

Everything is worked out again from the tables and the manifest; nothing is believed because the run's own program said
so. Nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.forget import still_listed
from pipelines.ledger import leftovers, pending_shards, reconcile
from pipelines.shard_tables import read_part
from pipelines.table_checks import CHECKS, check_shard
from retinafocus.errors import RunError
from retinafocus.runs import FORGOTTEN_FILE, TABLES, Run, open_run, read_manifest
from retinafocus.storage import StorageConfig

# Looked at without opening a table, in the order of the report.
QUICK_CHECKS = {
    "run": "run.json says that the run is complete",
    "manifest": "every photo is listed once, none that was forgotten",
    "ledger": "every shard has a record, of just the photos that are listed",
    "totals": "run.json has the sums of the records",
    "files": "every part that a record names is there",
    "leftovers": "no other file lies where the tables are",
}
FULL_CHECKS = {**QUICK_CHECKS, "hashes": "every part is the one that was written", **CHECKS}

# Lines shown of one check that failed.
SHOWN = 5


@dataclass
class Findings:
    """What was checked, and what was found wrong."""

    location: str
    photos: int
    faces: int
    checks: dict[str, str]
    """Name and meaning of each check that was made."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Of each check that failed, what is wrong."""

    def add(self, check: str, words: str) -> None:
        """One thing is wrong."""
        self.problems.setdefault(check, []).append(words)

    def report(self) -> str:
        """For people: one line for each check, the first problems of each that failed."""
        lines = [f"run      {self.location}: {self.photos:,} photos, {self.faces:,} faces"]
        for check, meaning in self.checks.items():
            found = self.problems.get(check, [])
            lines.append(f"{'FAILED' if found else 'ok':<8} {check}: {meaning}")
            lines += [f"{'':<8} - {words}" for words in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"{'':<8} - and {len(found) - SHOWN:,} more")
        failed = len(self.problems)
        lines.append(f"result   {f'{failed} of {len(self.checks)} checks failed' if failed else 'all checks passed'}")
        return "\n".join(lines)


def validate(location: str, config: StorageConfig | None = None, *, quick: bool = False) -> Findings:
    """Check a run.

    Args:
        location: the `-o` of `retinafocus detect`, or a copy of that folder.
        config: how an object store is reached.
        quick: look at the ledger and the names of files only, and open no table.

    Raises:
        RunError: there is no run, or what leads to its tables is damaged.
    """
    run = open_run(location, config)
    manifest = read_manifest(run.storage)
    counts = {name: sum(record[name] for record in run.records) for name in ("photos", "faces")}
    findings = Findings(run.location, **counts, checks=QUICK_CHECKS if quick else FULL_CHECKS)
    for check, words in _quick(run, manifest):
        findings.add(check, words)
    if not quick:
        for check, words in _full(run, manifest):
            findings.add(check, words)
    return findings


def _quick(run: Run, manifest: pa.Table) -> Iterator[tuple[str, str]]:
    records = list(run.records)
    if not run.complete:
        yield "run", f"its status is {run.info['status']}; finish it with `retinafocus detect`"
    yield from _manifest_problems(run, manifest)
    for row in pending_shards(records, manifest):
        yield "ledger", f"shard {row['shard']}: {row['photos']} of its photos are still to be done"
    try:
        sums = reconcile(records, manifest)
    except RunError as error:
        yield "ledger", str(error)
    else:
        for name, total in run.info.get("totals", {}).items():
            if name in sums and sums[name] != total:
                yield "totals", f"{name} is {total}, the records say {sums[name]}"
    there = {name for table in TABLES for name in run.storage.names(table)}
    named = {file["name"] for record in records for file in record["files"].values()}
    for name in sorted(named - there):
        yield "files", f"{name} is missing"
    # A plain glob would read these along with the tables.
    foreign = {name for name in there - named if name.endswith(".parquet")}
    for name in sorted(foreign | set(leftovers(run.storage, records))):
        yield "leftovers", f"{name} is named by no record"


def _manifest_problems(run: Run, manifest: pa.Table) -> Iterator[tuple[str, str]]:
    doubled = manifest.num_rows - pc.count_distinct(manifest.column("image_id")).as_py()
    if doubled:
        yield "manifest", f"{doubled} photos are listed twice"
    if left := still_listed(run.storage):
        yield "manifest", f"{left} photos of {FORGOTTEN_FILE} are still listed; finish it with `retinafocus detect`"


def _full(run: Run, manifest: pa.Table) -> Iterator[tuple[str, str]]:
    there = {name for table in TABLES for name in run.storage.names(table)}
    whole = [record for record in run.records if all(file["name"] in there for file in record["files"].values())]
    parts = run.storage.read_many(record["files"][table]["name"] for record in whole for table in TABLES)
    listed = _Listed(manifest)
    for record in whole:
        tables = {}
        for table in TABLES:
            name, data = next(parts)
            if hashlib.sha256(data).hexdigest() == record["files"][table]["sha256"]:
                tables[table] = read_part(data)
            else:
                yield "hashes", f"{name} was changed or damaged: {len(data):,} bytes of another hash"
        if len(tables) == len(TABLES):
            yield from check_shard(record, tables, listed.photos(record["shard"]))


class _Listed:
    """Photos of each shard in the manifest, without a list of all of them."""

    def __init__(self, manifest: pa.Table) -> None:
        shards = manifest.column("shard").to_numpy()
        self._order = np.argsort(shards, kind="stable")
        self._shards = shards[self._order]
        self._names = manifest.column("image_id")

    def photos(self, shard: int) -> list[str]:
        first, end = np.searchsorted(self._shards, [shard, shard + 1])
        names: list[str] = self._names.take(pa.array(self._order[first:end])).to_pylist()
        return names
