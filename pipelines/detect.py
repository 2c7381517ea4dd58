"""`retinafocus detect`: an archive of photographs in, tables of faces out."""

from __future__ import annotations

import json
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.inventory import shard_rows
from pipelines.ledger import delete_leftovers, our_files, pending_shards, reconcile
from pipelines.on_threads import run_on_threads
from pipelines.planning import Plan, run_settings
from pipelines.report import Progress
from pipelines.stages import StageConfig
from pipelines.store import LocalStore
from retinafocus.engines import engine_versions
from retinafocus.errors import RunError
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, TABLES, read_run_file

# A worker's complaint about a whole shard (a full disk, say) is hardly ever about that shard alone.
MAX_SHARD_ERRORS = 3


def run(planned: Plan, progress: Progress) -> dict[str, Any]:
    """Carry out a plan: look at every photo that has no row yet, then reconcile.

    Returns:
        What `run.json` holds at the end.

    Raises:
        RunError: the output cannot be written, or shards remain undone.
        KeyboardInterrupt: stopped from outside; what is committed stays, the same command goes on.
    """
    store = LocalStore(planned.job.output)
    store.check_writable()
    with store.locked():
        if read_run_file(store.root) != planned.found:
            raise RunError(f"{store.root}: another command worked on this run meanwhile; run the same command again")
        if planned.earlier is None:
            record = _begin(planned, store)
        shards = pending_shards(store, shard_rows(planned.manifest))
        if planned.earlier is not None:
            if planned.earlier["status"] == "complete" and not shards:
                return planned.earlier
            record = {**_run_record(planned), "status": "running"}
            store.put(RUN_FILE, _json(record))
        return _look(planned, store, record, shards, progress)


def _begin(planned: Plan, store: LocalStore) -> dict[str, Any]:
    """Lay out a new run; what `run.json` holds now."""
    record = {**_run_record(planned), "status": "running"}
    _clear(store)
    store.put(RUN_FILE, _json(record))
    # After run.json: a folder with a manifest and without it would look like somebody else's.
    sink = pa.BufferOutputStream()
    pq.write_table(planned.manifest, sink, compression="zstd", row_group_size=4096)
    store.put(MANIFEST_FILE, sink.getvalue().to_pybytes())
    return record


def _look(
    planned: Plan, store: LocalStore, record: dict[str, Any], shards: list[dict[str, int]], progress: Progress
) -> dict[str, Any]:
    started = perf_counter()
    pending = sum(row["photos"] for row in shards)
    progress.start(planned.manifest.num_rows, done=planned.manifest.num_rows - pending)
    try:
        if shards:
            _consume(_run_shards(planned, shards, progress), progress)
    finally:
        progress.stop()
    totals = reconcile(store, planned.manifest)
    if missing := totals.pop("missing_shards"):
        raise RunError(
            f"{len(missing)} shards were not finished (the first is {missing[0]}): their workers died; "
            f"run the same command again, with fewer workers if memory was short"
        )
    delete_leftovers(store)
    totals |= {"wall_seconds": round(perf_counter() - started, 3), "photos_this_time": pending}
    finished = {**record, "status": "complete", "finished": _now(), "totals": totals}
    store.put(RUN_FILE, _json(finished))
    return finished


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM (what a scheduler sends) end a run as Ctrl-C does: cleanly, to be continued."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_shards(planned: Plan, shards: list[dict[str, int]], progress: Progress) -> Iterator[pa.Table]:
    job, workers = planned.job, planned.workers
    config = StageConfig(
        output=str(Path(job.output).resolve()),
        weights=str(planned.weights_path),
        weights_sha256=planned.weights.sha256,
        detector=planned.detector,
        metadata={
            "retinafocus.version": metadata.version("retinafocus"),
            "retinafocus.weights_sha256": planned.weights.sha256,
            "retinafocus.preset": planned.weights.preset.name,
        },
    )
    if planned.runner == "local":
        return run_on_threads(config, shards, workers=workers, on_photo=progress.photo)
    from pipelines.on_ray import RayPlan, run_on_ray  # Ray takes seconds to import; only this way needs it

    return run_on_ray(config, shards, RayPlan(workers=workers, address=job.address))


def _consume(results: Iterator[pa.Table], progress: Progress) -> None:
    errors: list[str] = []
    with closing(results):  # type: ignore[type-var]  # both runners are generators
        for table in results:
            for row in table.to_pylist():
                progress.shard(row)
                if row["error"] is not None:
                    errors.append(f"shard {row['shard']}: {row['error']}")
            if len(errors) >= MAX_SHARD_ERRORS:
                break
    if errors:
        raise RunError(f"{'; '.join(errors)}; mend the cause and run the same command again: finished shards are kept")


def _clear(store: LocalStore) -> None:
    # The ledger and the manifest come first in `our_files`: without them a clearing that is cut short leaves nothing
    # to resume. run.json last: until it is gone the folder says whose it is.
    for name in our_files(store):
        store.delete(name)
    for folder in (LEDGER_FOLDER, "manifest", *TABLES):
        store.remove_folder(folder)
    store.delete(RUN_FILE)


def _run_record(planned: Plan) -> dict[str, Any]:
    info = planned.weights
    return {
        "settings": run_settings(planned.job, planned.detector, info),
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
        },
        "command": sys.argv,
        "started": _now(),
    }


def _archive(planned: Plan) -> dict[str, Any]:
    if planned.earlier is not None:
        archive: dict[str, Any] = planned.earlier["archive"]  # listed once, when the run began
        return archive
    inventory = planned.inventory
    assert inventory is not None
    return {
        "root": inventory.root,
        "photos": planned.manifest.num_rows,
        "skipped": dict(inventory.skipped),
        "listed": _now(),
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, default=str).encode()
