"""Whether a run that was disturbed is the undisturbed one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.validate import validate
from retinafocus.runs import SORT_KEYS, TABLES, Run, open_run
from retinafocus.storage import StorageConfig

# Rows that differ, shown of one table.
SHOWN = 3


@dataclass
class Verdict:
    """What is wrong with a run; all of it empty where nothing is."""

    lost: int = 0
    """Photos and faces of the undisturbed run that no file has."""
    doubled: int = 0
    """Photos and faces that are there more than once, or that the undisturbed run has not."""
    problems: list[str] = field(default_factory=list)


def compare(reference: Run, location: str, config: StorageConfig | None = None) -> Verdict:
    """Hold a run that says it is complete against the undisturbed one.

    Rows are counted in the files that lie there, whatever the ledger says: what a plain glob reads.
    """
    verdict = Verdict()
    try:
        run = open_run(location, config)
        verdict.problems += [
            f"validate: {check}: {words}"
            for check, found in validate(location, config).problems.items()
            for words in found
        ]
        if not run.complete:
            verdict.problems.append("run.json does not say complete")
        for table in TABLES:
            _compare_files(table, reference.table(table), run, verdict)
        for table in ("faces", "images"):
            verdict.problems += _differences(table, reference.table(table), run.table(table))
    except Exception as error:  # a broken run may break its readers in any way, and that is what is wrong with it
        verdict.problems.append(f"{type(error).__name__}: {error}")
    return verdict


def _compare_files(table: str, expected: pa.Table, run: Run, verdict: Verdict) -> None:
    keys = [name for name, _ in SORT_KEYS[table]]
    parts = [TABLES[table].empty_table()]
    for name in run.storage.names(table):
        try:
            parts.append(pq.read_table(pa.BufferReader(run.storage.read(name)), schema=TABLES[table]))
        except (pa.ArrowInvalid, OSError) as error:
            verdict.problems.append(f"{name} cannot be read: {error}")
    wanted, there = _keys(expected, keys), _keys(pa.concat_tables(parts), keys)
    lost, surplus = wanted - there, there - wanted
    if table != "timing":
        verdict.lost += lost.total()
        verdict.doubled += surplus.total()
    for what, rows in (("lost", lost), ("too many", surplus)):
        if rows:
            verdict.problems.append(f"{table}: {rows.total()} rows {what} in its files, the first {min(rows)}")


def _keys(table: pa.Table, keys: list[str]) -> Counter[tuple[object, ...]]:
    return Counter(zip(*(table.column(key).to_pylist() for key in keys), strict=True))


def _differences(table: str, expected: pa.Table, got: pa.Table) -> list[str]:
    if got.equals(expected):
        return []
    pairs = zip(expected.to_pylist(), got.to_pylist(), strict=False)
    rows = [f"{table}: {one} became {other}" for one, other in pairs if one != other]
    return [f"{table}: not the rows of the undisturbed run", *rows[:SHOWN]]
