"""`retinafocus detect`: an archive of photographs in, tables of faces out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.forecast import Forecast, forecast
from pipelines.inventory import Inventory, list_photos, manifest_table, shard_rows
from pipelines.ledger import delete_leftovers, pending_shards, reconcile
from pipelines.on_threads import run_on_threads
from pipelines.report import Progress
from pipelines.stages import StageConfig
from pipelines.store import LocalStore
from pipelines.workers import Workers, resolve_workers
from retinafocus.detector import DetectorConfig
from retinafocus.engines import resolve_device
from retinafocus.errors import RunError, SettingsError
from retinafocus.faces import SCHEMA_VERSION
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, TABLES, read_run_file
from retinafocus.weights import WeightsInfo, find_weights, read_info

# Above this predicted wall time `--runner auto` chooses Ray: its ten seconds of start-up no longer matter, and it
# replaces a worker that dies.
LOCAL_SECONDS = 300.0

# A worker's complaint about a whole shard (a full disk, say) is hardly ever about that shard alone.
MAX_SHARD_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class DetectJob:
    """Everything `retinafocus detect` was asked for."""

    inputs: Sequence[str]
    """Folders, photos, globs or lists of photos."""

    output: str
    """Folder of the run; made if missing, continued if it holds a run."""

    weights: str | None = None
    """Name or path of the weights; None takes the ones that ship."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """What to look for."""

    workers: str | None = None
    """`N`, `cpu=N` or `gpu=N`; None fills the machine."""

    runner: str = "auto"
    """`local` (this process), `ray`, or `auto`."""

    address: str | None = None
    """A running Ray cluster (`auto` or HOST:PORT); None starts a private one when Ray runs."""

    existing: str = "resume"
    """What to do with a run found in the output folder: `resume`, `error` or `overwrite`."""

    root: str | None = None
    """What the photos' identities are relative to."""

    limit: int | None = None
    """Only the first so many photos."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("runner", self.runner, ("auto", "local", "ray")),
            ("existing", self.existing, ("resume", "error", "overwrite")),
        ):
            if value not in choices:
                raise SettingsError(f"{name} is {value!r}; choose {', '.join(choices)}")
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"limit is {self.limit}; choose 1 or more photos")
        if self.address is not None and self.runner == "local":
            raise SettingsError("address names a Ray cluster, runner is local; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job with nothing left open: what `--dry-run` prints and a run carries out."""

    job: DetectJob
    weights: WeightsInfo
    weights_path: Path
    inventory: Inventory | None
    """None where a frozen manifest of an earlier attempt is continued."""
    manifest: pa.Table
    detector: DetectorConfig
    workers: Workers
    runner: str
    forecast: Forecast | None
    """None where nobody asked and nothing hangs on it."""
    earlier: dict[str, Any] | None
    """`run.json` of the run that is continued; None for a new run."""


def plan(job: DetectJob, *, with_forecast: bool = False) -> Plan:
    """Check every setting and list the photos, without writing anything.

    Args:
        job: what was asked for.
        with_forecast: also measure how long it will take (always done where `runner=auto` has to know).

    Raises:
        SettingsError, WeightsError, RunError: what is wrong, before the first photo is looked at.
    """
    weights_path = find_weights(job.weights)
    info = read_info(weights_path)
    store = LocalStore(job.output)
    earlier = read_run_file(store.root)
    if earlier is not None and job.existing == "error":
        raise RunError(f"{job.output}: holds a run already; continue it with --existing resume or choose another -o")
    detector = replace(job.detector, device=resolve_device(job.detector.device))
    resumes = earlier is not None and job.existing == "resume" and store.exists(MANIFEST_FILE)
    if earlier is None:
        _refuse_foreign_folder(store.root)
    workers = resolve_workers(job.workers, detector.device)
    detector = replace(detector, device=workers.device)
    inventory = None
    if resumes:
        _check_same_settings(earlier or {}, _settings(job, detector, info))
        manifest = pq.read_table(store.root / MANIFEST_FILE)
    else:
        inventory = list_photos(job.inputs, root=job.root, limit=job.limit)
        manifest = manifest_table(inventory)
    runner = "ray" if job.runner == "auto" and job.address else job.runner
    expected = None
    if with_forecast or runner == "auto":
        expected = forecast(manifest, str(weights_path), detector, workers)
    if runner == "auto" and expected is not None:
        runner = "ray" if expected.seconds > LOCAL_SECONDS else "local"
    return Plan(
        job=job,
        weights=info,
        weights_path=weights_path.resolve(),
        inventory=inventory,
        manifest=manifest,
        detector=detector,
        workers=workers,
        runner=runner,
        forecast=expected,
        earlier=earlier if resumes else None,
    )


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


def detector_config(options: argparse.Namespace) -> DetectorConfig:
    """The detector's settings with those replaced that were given on the command line."""
    names = ("min_face", "score_threshold", "device", "max_pixels")
    return DetectorConfig(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})


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
        detector=replace(planned.detector, threads=workers.threads),
        metadata={
            "retinafocus.version": metadata.version("retinafocus"),
            "retinafocus.weights_sha256": planned.weights.sha256,
            "retinafocus.preset": planned.weights.preset.name,
        },
    )
    if planned.runner == "local":
        return run_on_threads(
            config, shards, workers=workers.count, threads_per_worker=workers.threads, on_photo=progress.photo
        )
    from pipelines.on_ray import RayPlan, run_on_ray  # Ray takes seconds to import; only this way needs it

    ray_plan = RayPlan(
        workers=workers.count,
        cpus_per_worker=workers.threads,
        gpus_per_worker=1.0 if workers.device == "cuda" else 0.0,
        address=job.address,
    )
    return run_on_ray(config, shards, ray_plan)


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


def _settings(job: DetectJob, detector: DetectorConfig, weights: WeightsInfo) -> dict[str, Any]:
    """What the tables are a function of, besides the photos: two runs may only be mixed where all of it is equal."""
    settings = asdict(detector)
    settings.pop("threads")  # how fast, not what
    return {
        "inputs": [os.path.abspath(text) if "://" not in text else text for text in job.inputs],
        "root": job.root,
        "limit": job.limit,
        "detector": settings,
        # The hash covers tensors only: the same tensors read with other anchors give other faces.
        "weights_sha256": weights.sha256,
        "preset": weights.preset.to_dict(),
        "schema_version": SCHEMA_VERSION,
    }


def _check_same_settings(earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    before = _flat(earlier.get("settings", {}))
    now = _flat(json.loads(_json(settings)))
    different = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if different:
        raise RunError(
            f"the run in the output folder has other settings ({'; '.join(different)}); "
            f"use the same ones to continue it, --existing overwrite to begin anew, or another -o"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def _refuse_foreign_folder(folder: Path) -> None:
    ours = [name for name in (*TABLES, LEDGER_FOLDER, "manifest") if (folder / name).exists()]
    if ours:
        raise RunError(f"{folder}: has {ours[0]}/ but no {RUN_FILE}, so it is no run of ours; choose another -o folder")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose a folder for -o")


def _clear(store: LocalStore) -> None:
    # The ledger and the manifest first: without them a clearing that is cut short leaves nothing to resume. run.json
    # last: until it is gone the folder says whose it is.
    for name in (LEDGER_FOLDER, "manifest", *TABLES):
        if (store.root / name).exists():
            shutil.rmtree(store.root / name)
    store.delete(RUN_FILE)


def _run_record(planned: Plan) -> dict[str, Any]:
    info = planned.weights
    return {
        "settings": _settings(planned.job, planned.detector, info),
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
