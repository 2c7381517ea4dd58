"""What `retinafocus detect` will do: every setting checked and resolved, every photo listed, nothing written."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.forecast import Forecast, forecast
from pipelines.inventory import Inventory, list_photos, manifest_table
from pipelines.store import LocalStore
from pipelines.workers import CPU_THREADS, Workers, resolve_workers
from retinafocus.cascade import CascadeConfig
from retinafocus.detector import DetectorConfig
from retinafocus.engines import resolve_engine
from retinafocus.errors import RunError, SettingsError
from retinafocus.faces import SCHEMA_VERSION
from retinafocus.focus.chips import ChipConfig
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, TABLES, read_manifest, read_run_file
from retinafocus.weights import WeightsInfo, find_weights, read_info

# Above this predicted wall time `--runner auto` chooses Ray: its ten seconds of start-up no longer matter, and it
# replaces a worker that dies.
LOCAL_SECONDS = 300.0


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
        if not self.output or "://" in self.output:
            raise SettingsError(f"output is {self.output!r}; give a folder (object stores cannot be written yet)")
        for text in self.inputs:
            if os.path.isdir(text) and os.path.realpath(text) == os.path.realpath(self.output):
                raise SettingsError(f"output is {self.output!r}, the folder of the photos; give a folder of its own")
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
    found: dict[str, Any] | None
    """`run.json` as it lay in the folder when this was planned."""


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
    focused = job.detector.cascade.uses_focus(info.preset)  # raises where the weights cannot
    if not focused and any(chips.threshold is not None for chips in job.detector.cascade.chips):
        raise SettingsError(
            "focus-threshold has no effect where every level is looked at whole (mode exhaustive, or weights without a "
            "focus branch); leave it out"
        )
    store = LocalStore(job.output)
    earlier = read_run_file(store.root)
    if earlier is not None and job.existing == "error":
        raise RunError(f"{job.output}: holds a run already; continue it with --existing resume or choose another -o")
    resumes = earlier is not None and job.existing == "resume" and store.exists(MANIFEST_FILE)
    if earlier is None:
        _refuse_foreign_folder(store.root)
    workers = resolve_workers(job.workers, job.detector.device)
    engine = resolve_engine(job.detector.engine, workers.device)
    detector = replace(job.detector, device=workers.device, engine=engine, threads=CPU_THREADS)
    inventory = None
    if resumes:
        _check_same_settings(earlier or {}, run_settings(job, detector, info))
        manifest = read_manifest(store.root)
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
        found=earlier,
    )


def detector_config(options: argparse.Namespace) -> DetectorConfig:
    """The detector's settings with those replaced that were given on the command line."""
    names = ("min_face", "score_threshold", "device", "engine", "max_pixels")
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    cascade = CascadeConfig(
        mode=options.mode or CascadeConfig().mode, chips=(ChipConfig(threshold=options.focus_threshold),)
    )
    return DetectorConfig(**given, cascade=cascade)


def run_settings(job: DetectJob, detector: DetectorConfig, weights: WeightsInfo) -> dict[str, Any]:
    """What the tables are a function of, besides the photos: two runs may only be mixed where all of it is equal."""
    return {
        "inputs": [os.path.abspath(text) if "://" not in text else text for text in job.inputs],
        "root": job.root and os.path.abspath(os.path.expanduser(job.root)),
        "limit": job.limit,
        "detector": asdict(detector),
        # The hash covers tensors only: the same tensors read with other anchors give other faces.
        "weights_sha256": weights.sha256,
        "preset": weights.preset.to_dict(),
        "schema_version": SCHEMA_VERSION,
    }


def _check_same_settings(earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    before = _flat(earlier.get("settings", {}))
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


def _refuse_foreign_folder(folder: Path) -> None:
    ours = [name for name in (*TABLES, LEDGER_FOLDER, "manifest") if (folder / name).exists()]
    if ours:
        raise RunError(f"{folder}: has {ours[0]}/ but no {RUN_FILE}, so it is no run of ours; choose another -o folder")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose a folder for -o")
