"""What `retinafocus detect` will do: every setting checked and resolved, every photo listed, nothing written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines.addresses import check_cluster_address
from pipelines.detect_config import DetectSettings, read_detect_settings
from pipelines.forecast import Forecast, forecast
from pipelines.index import ListingProgress, check_output, refuse_foreign_folder
from pipelines.inventory import PLAN_COLUMNS, Inventory, InventoryConfig, absolute_inputs, list_photos, plan_table
from pipelines.ledger import unrecorded_shards
from pipelines.limits import Limits
from pipelines.manifest import Listing, read_listing
from pipelines.node_weights import weights_here
from pipelines.retry import shards_to_do
from pipelines.workers import CPU_THREADS, Workers, resolve_workers
from retinafocus.detector import DetectorConfig
from retinafocus.engines import INT8, check_precision, check_ranges, resolve_engine
from retinafocus.errors import FAILURES, RunError, SettingsError
from retinafocus.faces import SCHEMA_VERSION
from retinafocus.runs import (
    LEDGER_FOLDER,
    MANIFEST_FILE,
    RUN_FILE,
    current_records,
    read_forgotten,
    read_ledger,
    read_manifest,
    read_run_file,
)
from retinafocus.storage import Storage, StorageConfig, open_storage
from retinafocus.weights import WeightsInfo, read_info

# Above this predicted wall time `--runner auto` chooses Ray: its ten seconds of start-up no longer matter, and it
# replaces a worker that dies.
LOCAL_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class DetectJob:
    """Everything `retinafocus detect` was asked for."""

    inputs: Sequence[str]
    """Folders, prefixes, photos, globs or lists of photos; none takes the manifest in the output folder."""

    output: str
    """Folder of the run; made if missing, continued if it holds a run."""

    weights: str | None = None
    """Name or path of the weights, or their URI in an object store; None takes the ones that ship."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """What to look for."""

    workers: str | None = None
    """`N`, `cpu=N`, `gpu=N` or `gpu=N,cpu=N`, `LEAST..MOST` for a number; None fills the machine."""

    gpus_per_worker: float | None = None
    """Of a GPU that each GPU worker holds, up to 1; None for a whole one."""

    runner: str = "auto"
    """`local` (this process), `ray`, or `auto`."""

    address: str | None = None
    """A running Ray cluster (`auto` or HOST:PORT); None starts a private one when Ray runs."""

    existing: str = "resume"
    """What to do with a run found in the output folder: `resume`, `error` or `overwrite`."""

    root: str | None = None
    """What the photos' identities are relative to."""

    allow_outside: bool = False
    """Admit photos outside the stated root."""

    limit: int | None = None
    """Only the first so many photos."""

    retry: tuple[str, ...] = ()
    """Statuses whose photos are looked at again."""

    max_error_rate: float | None = None
    """Share of failed photos above which the run stops; None for any."""

    limits: Limits = field(default_factory=Limits)
    """What a photo, and the files read ahead, may take of a worker."""

    careful: bool = False
    """Every photo in a process of its own that may die of it. No forecast is made, so `auto` takes the local runner."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    """How object stores are reached."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("runner", self.runner, ("auto", "local", "ray")),
            ("existing", self.existing, ("resume", "error", "overwrite")),
        ):
            if value not in choices:
                raise SettingsError(f"{name} is {value!r}; choose {', '.join(choices)}")
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"limit is {self.limit}; choose 1 or more photos")
        if self.max_error_rate is not None and not 0 <= self.max_error_rate <= 1:
            raise SettingsError(f"max-error-rate is {self.max_error_rate:g}; choose a share, 0..1")
        if unknown := [status for status in self.retry if status not in FAILURES]:
            raise SettingsError(f"retry is {unknown[0]!r}; choose failed or some of {', '.join(FAILURES)}")
        check_output(self.output, self.inputs)
        if not self.inputs and (self.root is not None or self.limit is not None or self.allow_outside):
            raise SettingsError("root, limit and allow-outside say how to list INPUT; name it, or leave them out")
        if self.address is not None and self.runner == "local":
            raise SettingsError("address names a Ray cluster, runner is local; leave one of them out")
        if self.address is not None:
            check_cluster_address(self.address)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job with nothing left open: what `--dry-run` prints and a run carries out."""

    job: DetectJob
    storage: Storage
    """The run's folder."""
    weights: WeightsInfo
    weights_path: Path
    listing: Listing
    """What was listed."""
    inventory: Inventory | None
    """The photos that were listed just now; None where the manifest in the output folder is taken."""
    manifest: pa.Table
    """`pipelines.inventory.PLAN_COLUMNS` of every photo."""
    detector: DetectorConfig
    """Of the workers; see `beside`."""
    beside: DetectorConfig | None
    """Of the CPU workers beside GPU workers; None where all are alike."""
    workers: Workers
    runner: str
    forecast: Forecast | None
    """None where nobody asked and nothing hangs on it."""
    earlier: dict[str, Any] | None
    """`run.json` of the run that is continued; None for a new run."""
    found: dict[str, Any] | None
    """`run.json` as it lay in the folder when this was planned."""


def plan(job: DetectJob, *, with_forecast: bool = False, progress: ListingProgress | None = None) -> Plan:
    """Check every setting and list the photos, without writing anything.

    Args:
        job: what was asked for.
        with_forecast: also measure how long what is left will take (always done where `runner=auto` has to know).
        progress: told of photos as they are listed.

    Raises:
        SettingsError, WeightsError, RunError: what is wrong, before the first photo is looked at.
    """
    weights_path = weights_here(job.weights, job.storage)
    info = read_info(weights_path)
    workers = _workers(job)
    detector = _detector(job, info, workers)
    beside = None if workers.beside is None else _detector(job, info, workers.beside)
    storage = open_storage(job.output, job.storage)
    found = _found(job, storage)
    earlier = found if job.existing == "resume" and storage.exists(MANIFEST_FILE) else None
    if earlier is None and job.existing != "overwrite":
        _refuse_maimed_run(storage, RUN_FILE if found is None else MANIFEST_FILE)
    listing = None if job.inputs and job.existing == "overwrite" else read_listing(storage)
    if listing is None:
        inventory = _list(job, storage, progress)
        listing, manifest = inventory, plan_table(inventory)
    else:
        settings = run_settings(job, detector, info, listing, beside)
        _check_same_settings(earlier["settings"] if earlier else settings | _listed(listing), settings)
        inventory, manifest = None, read_manifest(storage, columns=PLAN_COLUMNS)
    planned = Plan(
        job=job,
        storage=storage,
        weights=info,
        weights_path=weights_path.resolve(),
        listing=listing,
        inventory=inventory,
        manifest=manifest,
        detector=detector,
        beside=beside,
        workers=workers,
        runner=job.runner,
        forecast=None,
        earlier=earlier,
        found=found,
    )
    return _with_runner(planned, with_forecast=with_forecast)


def what_to_do(planned: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
    """What the ledger leaves to be done, as it stands now.

    Returns:
        Records of the ledger (none where nothing hangs on what they say); rows for the workers (`pending_shards`); and
        what `run.json` keeps of a retry, None without one.
    """
    storage, job, manifest, resumed = planned.storage, planned.job, planned.manifest, planned.earlier is not None
    relisted = bool(planned.listing.version or read_forgotten(storage))
    if not relisted and not job.retry and job.max_error_rate is None:
        # Their names are enough, and there may be thousands of them in a store that takes its time for each.
        return [], unrecorded_shards(storage.names(LEDGER_FOLDER) if resumed else (), manifest), None
    records = read_ledger(storage) if resumed else []  # those of a run that is begun anew do not count
    return records, *shards_to_do(records, manifest, job.retry, planned.earlier)


def _with_runner(planned: Plan, *, with_forecast: bool) -> Plan:
    """The plan with its runner chosen, and with a forecast where somebody asked or the choice hangs on it."""
    job, expected = planned.job, None
    runner = "ray" if job.runner == "auto" and (job.address or planned.workers.need_ray) else job.runner
    if (with_forecast or runner == "auto") and _can_forecast(planned):
        expected = _expected(planned)
    if runner == "auto":
        runner = "ray" if expected is not None and expected.seconds > LOCAL_SECONDS else "local"
    return replace(planned, runner=runner, forecast=expected)


def _can_forecast(planned: Plan) -> bool:
    """Whether this process can look at photos as the workers will: not at photos that may kill it, not for two kinds of
    workers, and not on GPUs that only the cluster has."""
    missing = planned.workers.device == "cuda" and not torch.cuda.is_available()
    return not (planned.job.careful or planned.beside is not None or missing)


def _expected(planned: Plan) -> Forecast:
    """The forecast for the photos that are still to be looked at."""
    _, shards, _ = what_to_do(planned)
    manifest, numbers = planned.manifest, [row["shard"] for row in shards if row["photos"]]
    wanted = pc.is_in(manifest.column("shard"), pa.array(numbers, pa.int32()))
    present = manifest.filter(pc.and_(wanted, pc.invert(manifest.column("vanished"))))
    whole = forecast(present, str(planned.weights_path), planned.detector, planned.workers, planned.job.storage)
    # Of a shard that is done again, only some photos are looked at.
    return whole.of(min(present.num_rows, sum(row["photos"] for row in shards)))


def _found(job: DetectJob, storage: Storage) -> dict[str, Any] | None:
    """`run.json` as it lies in the output folder, which must be free, ours to begin anew, or ours to go on with."""
    found = read_run_file(storage)
    if found is None:
        refuse_foreign_folder(storage)
    elif job.existing == "error":
        raise RunError(f"{job.output}: holds a run already; continue it with --existing resume or choose another -o")
    return found


def _refuse_maimed_run(storage: Storage, missing: str) -> None:
    """Make sure that a run that lost a file is not taken for one that has not begun, and cleared."""
    if current_records(storage.names(LEDGER_FOLDER)):
        raise RunError(
            f"{storage.location}: has finished shards but no {missing}; restore that file from a copy, or begin anew "
            "with --existing overwrite"
        )


def _workers(job: DetectJob) -> Workers:
    """The workers that were asked for, which the runner must be able to run."""
    workers = resolve_workers(
        job.workers, job.detector.device, gpus_each=job.gpus_per_worker, on_cluster=job.address is not None
    )
    if workers.need_ray and job.runner == "local":
        raise SettingsError(
            f"workers is {job.workers}, runner is local; GPU and CPU workers together, and workers that come later, "
            "need --runner ray"
        )
    return workers


def _detector(job: DetectJob, weights: WeightsInfo, workers: Workers) -> DetectorConfig:
    """The detector's settings with nothing left open, checked against the weights and the device."""
    asked = job.detector
    focused = asked.cascade.uses_focus(weights.preset)  # raises where the weights cannot
    if not focused and any(chips.threshold is not None for chips in asked.cascade.chips):
        raise SettingsError(
            "focus-threshold has no effect where every level is looked at whole (mode exhaustive, or weights without a "
            "focus branch); leave it out"
        )
    engine = resolve_engine(asked.engine, workers.device)
    check_precision(asked.precision, workers.device, engine)
    check_ranges(asked.precision, weights.ranges)
    return replace(asked, device=workers.device, engine=engine, threads=CPU_THREADS)


def detector_config(options: argparse.Namespace) -> DetectorConfig:
    """The settings of the detector: the defaults, over them those of the file `--config`, over them the flags.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown or out of range.
    """
    names = ("min_face", "score_threshold", "device", "engine", "precision", "max_pixels")
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    file = getattr(options, "config", None)
    settings = DetectSettings() if file is None else read_detect_settings(Path(file))
    cascade = settings.cascade
    if options.mode is not None:
        cascade = replace(cascade, mode=options.mode)
    if (threshold := options.focus_threshold) is not None:
        cascade = replace(cascade, chips=tuple(replace(chips, threshold=threshold) for chips in cascade.chips))
    return replace(settings.to_detector(), **given, cascade=cascade)


def run_settings(
    job: DetectJob,
    detector: DetectorConfig,
    weights: WeightsInfo,
    listing: Listing,
    beside: DetectorConfig | None = None,
) -> dict[str, Any]:
    """What the tables are a function of, besides the photos: two runs may only be mixed where all of it is equal.

    Args:
        job: what was asked for.
        detector: with nothing left open.
        weights: of the run.
        listing: of its photos.
        beside: the detector of the CPU workers beside GPU workers; only a run that was asked for with both has both.
    """
    listed = _listed(listing)
    if job.inputs:
        root = None if job.root is None else absolute_inputs([job.root])[0]
        asked = (absolute_inputs(job.inputs), root, job.limit, job.allow_outside)
        listed = dict(zip(listed, asked, strict=True))
    return {
        **listed,
        "detector": asdict(detector),
        # The hash covers tensors only: the same tensors read with other anchors give other faces.
        "weights_sha256": weights.sha256,
        "preset": weights.preset.to_dict(),
        **({"ranges_sha256": weights.ranges_sha256} if detector.precision == INT8 else {}),
        **({"beside": {"device": beside.device, "engine": beside.engine}} if beside is not None else {}),
        "schema_version": SCHEMA_VERSION,
    }


def _listed(listing: Listing) -> dict[str, Any]:
    """The part of the settings that says which photos."""
    return {
        "inputs": listing.inputs,
        "root": listing.stated_root,
        "limit": listing.limit,
        "allow_outside": listing.allow_outside,
    }


def _list(job: DetectJob, storage: Storage, progress: ListingProgress | None) -> Inventory:
    if not job.inputs:
        raise SettingsError(
            f"there is no INPUT, and {storage.location} holds no manifest; name folders, photos, globs or lists"
        )
    config = InventoryConfig(root=job.root, allow_outside=job.allow_outside, limit=job.limit, storage=job.storage)
    with progress or nullcontext():
        inventory = list_photos(job.inputs, config, progress.add if progress else None)
    return inventory.without(read_forgotten(storage))


def _check_same_settings(before: dict[str, Any], settings: dict[str, Any]) -> None:
    # A run of an earlier version lacks settings that came later: it went by what are their defaults.
    later = {"detector": asdict(DetectorConfig())}
    before = _flat(json.loads(json.dumps(later))) | _flat(json.loads(json.dumps(before)))
    now = _flat(json.loads(json.dumps(settings)))
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
