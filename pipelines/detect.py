"""`retinafocus detect`: an archive of photographs in, tables of faces out."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from time import perf_counter
from typing import Any

import pyarrow as pa

from pipelines.attempts import count_anew
from pipelines.budget import ErrorBudget
from pipelines.forget import drop_forgotten
from pipelines.ledger import ATTEMPTS_FOLDER, delete_leftovers, our_files, reconcile
from pipelines.manifest import manifest_batches, manifest_bytes, read_listing
from pipelines.on_threads import run_on_threads
from pipelines.planning import Plan, run_settings, what_to_do
from pipelines.report import Progress
from pipelines.stages import StageConfig
from retinafocus.engines import INT8, engine_versions
from retinafocus.errors import BudgetError, RunError
from retinafocus.runs import (
    LEDGER_FOLDER,
    MANIFEST_FILE,
    RUN_FILE,
    TABLES,
    new_mark,
    read_ledger,
    read_run_file,
)
from retinafocus.storage import Hold, Storage, redacted

# A worker's complaint about a whole shard (a full disk, say) is hardly ever about that shard alone.
MAX_SHARD_ERRORS = 3

# What `run.json` tells of a command, beside what it tells of the whole run.
_OF_A_COMMAND = ("started", "command", "runner", "workers", "versions")


def run(planned: Plan, progress: Progress, begin: Callable[[Plan], None] = lambda planned: None) -> dict[str, Any]:
    """Carry out a plan: look at every photo that has no row yet, then reconcile.

    Args:
        planned: what is to be done.
        progress: told how far it is.
        begin: called with the plan once the folder is this command's alone, before the first photo.

    Returns:
        What `run.json` holds at the end.

    Raises:
        BudgetError: too many photos failed; what is committed stays.
        RunError: the output cannot be written, or shards remain undone.
        KeyboardInterrupt: stopped from outside; what is committed stays, the same command goes on.
    """
    storage = planned.storage
    storage.check_writable()
    with progress.events.of_run(storage.location), storage.locked() as hold, _failing_clearly(storage):
        listed = planned.inventory is not None or read_listing(storage) == planned.listing
        if read_run_file(storage) != planned.found or not listed:
            raise RunError(
                f"{storage.location}: another command worked on this run meanwhile; run the same command again"
            )
        begin(planned)
        if planned.found is None:
            progress.begun()  # whatever lies there from now on is ours, also if this process dies while it begins
        if planned.earlier is None:
            _begin(planned, storage, hold)
        progress.begun()
        drop_forgotten(storage)
        records, shards, retry = what_to_do(planned)
        if planned.earlier is not None and planned.earlier["status"] == "complete" and not shards:
            storage.sweep(hold)
            progress.nothing_to_do()
            return planned.earlier
        record = _run_record(planned) | ({"retry": retry} if retry else {})
        storage.put(RUN_FILE, _json(record))
        progress.events.begun(record, shards, resumed=planned.earlier is not None)
        return _look(planned, hold, _Work(record, records, shards), progress)


@dataclass(frozen=True)
class _Work:
    """What a command has to do."""

    record: dict[str, Any]
    """`run.json` while it goes on."""
    done: list[dict[str, Any]]
    """Records of the ledger when it began; see `planning.what_to_do`."""
    shards: list[dict[str, Any]]
    """What is to be done."""


@contextmanager
def _failing_clearly(storage: Storage) -> Iterator[None]:
    """Say which folder it was when the command itself (not a worker) can no longer write or read the run."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"{storage.location}: the run cannot be written or read any more ({reason}); mend the cause and run the "
            "same command again: finished shards are kept"
        ) from error


def _begin(planned: Plan, storage: Storage, hold: Hold) -> None:
    """Lay out a new run."""
    _clear(storage, hold, keep_manifest=planned.inventory is None)
    storage.put(RUN_FILE, _json(_run_record(planned)))
    if (inventory := planned.inventory) is not None:
        storage.put(MANIFEST_FILE, manifest_bytes(manifest_batches(inventory, inventory.photos), inventory))


def _look(planned: Plan, hold: Hold, work: _Work, progress: Progress) -> dict[str, Any]:
    started, storage, photos = perf_counter(), planned.storage, planned.manifest.num_rows
    todo = {row["shard"]: row["generation"] for row in work.shards}
    done = [record for record in work.done if record["shard"] not in todo]
    budget = ErrorBudget(planned.job.max_error_rate, done, photos)
    pending = sum(row["photos"] for row in work.shards)
    progress.start(photos, done=photos - pending)
    try:
        if todo:
            count_anew(storage)
            _consume(_run_shards(planned, work, progress), len(todo), progress, budget)
    finally:
        progress.stop()
    records = read_ledger(storage)
    totals = reconcile(records, planned.manifest)
    missing = set(totals.pop("missing_shards")) | todo.keys() - _reached(records, todo)
    if missing:
        progress.events.lost(sorted(missing))
        raise RunError(
            f"{len(missing)} shards were not finished (the first is {min(missing)}): their workers died; "
            f"run the same command again, with fewer workers if memory was short"
        )
    delete_leftovers(storage, records, hold)
    totals |= {"wall_seconds": round(perf_counter() - started, 3), "photos_this_time": pending}
    finished = {**work.record, "status": "complete", "finished": _now(), "totals": totals}
    finished.pop("retry", None)
    hold.check()
    storage.put(RUN_FILE, _json(finished))
    progress.events.finished(finished)
    storage.sweep(hold)
    return finished


def _reached(records: list[dict[str, Any]], generations: dict[int, int]) -> set[int]:
    """The shards whose record is of the generation wanted, or later."""
    return {record["shard"] for record in records if record["generation"] >= generations.get(record["shard"], 0)}


def _run_shards(planned: Plan, work: _Work, progress: Progress) -> Iterator[pa.Table]:
    job, workers = planned.job, planned.workers
    config = StageConfig(
        output=planned.storage.location,
        weights=str(planned.weights_path),
        weights_sha256=planned.weights.sha256,
        ranges_sha256=planned.weights.ranges_sha256 if planned.detector.precision == INT8 else None,
        detector=planned.detector,
        limits=job.limits,
        storage=job.storage,
        careful=job.careful,
        mark=work.record["mark"],
        always_answers=planned.runner != "local",
        name_failures=progress.events.wanted,
        metadata={
            "retinafocus.version": metadata.version("retinafocus"),
            "retinafocus.weights_sha256": planned.weights.sha256,
            "retinafocus.preset": planned.weights.preset.name,
        },
    )
    if planned.runner == "local":
        return run_on_threads(config, work.shards, workers=workers, on_photo=progress.photo)
    from pipelines.on_ray import RayPlan, run_on_ray  # Ray takes seconds to import; only this way needs it
    from pipelines.worker_memory import expected_bytes

    plan = RayPlan(
        workers=workers, address=job.address, beside=planned.beside, memory=expected_bytes(planned, work.shards)
    )
    return run_on_ray(config, work.shards, plan, progress.note)


def _consume(results: Iterator[pa.Table], shards: int, progress: Progress, budget: ErrorBudget) -> None:
    errors: dict[str, list[int]] = {}
    with closing(results):  # type: ignore[type-var]  # both runners are generators
        for table in results:
            for row in table.to_pylist():
                shards -= 1
                progress.shard(row)
                budget.add(row["photos"], row["failed"])
                if row["error"] is not None:
                    errors.setdefault(row["error"], []).append(row["shard"])
            if sum(map(len, errors.values())) >= MAX_SHARD_ERRORS or (budget.exceeded and shards):
                break
    if errors:
        words = "; ".join(f"{_shards(numbers)}: {error}" for error, numbers in errors.items())
        raise RunError(f"{words}; mend the cause and run the same command again: finished shards are kept")
    if budget.exceeded and shards:
        raise BudgetError(
            f"{budget.words()}; finished shards are kept: look at the errors in images/, then run the same command "
            "again with a higher rate"
        )


def _shards(numbers: list[int]) -> str:
    return f"shard{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _clear(storage: Storage, hold: Hold, *, keep_manifest: bool) -> None:
    # The ledger and the manifest come first in `our_files`: without them a clearing that is cut short leaves nothing
    # to resume. run.json last: until it is gone the folder says whose it is.
    for name in our_files(storage):
        if not (keep_manifest and name == MANIFEST_FILE):
            hold.check()
            storage.delete(name)
    for folder in (ATTEMPTS_FOLDER, LEDGER_FOLDER, "manifest", *TABLES):
        storage.remove_folder(folder)
    storage.delete(RUN_FILE)


def _run_record(planned: Plan) -> dict[str, Any]:
    """What `run.json` holds while the run goes on; `history` has what earlier commands at it were."""
    info, earlier = planned.weights, planned.earlier
    history = [] if earlier is None else [*earlier.get("history", []), {name: earlier[name] for name in _OF_A_COMMAND}]
    return {
        "status": "running",
        **new_mark(),
        "settings": run_settings(planned.job, planned.detector, info, planned.listing, planned.beside),
        "runner": planned.runner,
        "workers": asdict(planned.workers),
        "weights": {
            "path": str(planned.weights_path),
            "sha256": info.sha256,
            "source": info.source,
            "licence": info.licence,
        },
        "archive": _archive(planned),
        "versions": {
            "python": platform.python_version(),
            **{
                name: metadata.version(name)
                for name in ("retinafocus", "torch", "opencv-python", "simplejpeg", "pillow", "pyarrow", "ray")
            },
            **engine_versions(planned.detector.engine),
            **({} if planned.beside is None else engine_versions(planned.beside.engine)),
        },
        "command": [redacted(word) for word in sys.argv],
        "started": _now(),
        "history": history,
    }


def _archive(planned: Plan) -> dict[str, Any]:
    listing = planned.listing
    return {
        "root": listing.root,
        "photos": planned.manifest.num_rows,
        "skipped": listing.skipped,
        "listed": listing.listed,
        "version": listing.version,
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, default=str).encode()
