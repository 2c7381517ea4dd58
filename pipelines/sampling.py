"""What an archive costs, measured on a share of it: a real run, as the archive's own will be, in a folder that goes.

All workers are at work at once, so what they cost each other (the memory's speed, the disk) is in the figures.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.detect_config import DetectSettings
from pipelines.settings import settings_toml
from pipelines.workers import Workers
from retinafocus.detector import DetectorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import open_run, read_ledger
from retinafocus.storage import StorageConfig, open_storage

STEPS = ("read", "decode", "network", "other")

FEWEST = 16
"""Photos of a sample: each worker needs some, and one photo says little of the next."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What looking at a sample took."""

    photos: int
    failed: Counter[str]
    """Photos that were not looked at, by status."""

    workers: int
    """That were at work at once: fewer than there are, where the sample was cut into too few shards for them."""

    worker_seconds: float
    """That a worker takes for a photo, the others beside it."""

    seconds: dict[str, float]
    """Of one worker for a photo, on average, by `STEPS`. Reading and decoding go on beside the network, so their sum
    is no time."""

    deviation: float
    """Half of the 95 % interval of the time for a photo, as a share of it; from how photos differ."""


def sample_size(text: str, photos: int) -> int:
    """How many photos `--sample` asks for.

    Args:
        text: a share (`0.1%`) or a number of photos.
        photos: that there are.

    Raises:
        SettingsError: it is neither.
    """
    share = text.endswith("%")
    try:
        wanted = float(text.removesuffix("%")) * (photos / 100 if share else 1)
    except ValueError:
        wanted = math.nan
    if not 0 < wanted < math.inf or (not share and wanted != int(wanted)) or (share and wanted > photos):
        raise SettingsError(f"sample is {text!r}; give a share of the photos such as 0.1%, or a number of them")
    return min(photos, max(FEWEST, math.ceil(wanted)))


def measure(
    uris: Sequence[str], detector: DetectorConfig, weights: str | None, workers: Workers, storage: StorageConfig
) -> Measured:
    """Look at photos as `retinafocus detect` does, with all workers, and say what it took.

    Args:
        uris: of the photos; one at least.
        detector: what to look for.
        weights: name or path; None takes the ones that ship.
        workers: of this machine.
        storage: how object stores are reached.

    Raises:
        RunError: the run failed, or too few photos could be looked at to tell a time.
    """
    with tempfile.TemporaryDirectory(prefix="retinafocus-sample-") as folder:
        out = Path(folder) / "out"
        # Parquet keeps names as they are, whatever is in them.
        pq.write_table(pa.table({"uri": pa.array(uris)}), Path(folder) / "sample.parquet")
        settings = DetectSettings(**{each.name: getattr(detector, each.name) for each in fields(DetectSettings)})
        (Path(folder) / "settings.toml").write_text(settings_toml(settings), encoding="utf-8")
        device = "gpu" if workers.device == "cuda" else "cpu"
        words = [str(Path(folder) / "sample.parquet"), f"--output={out}", f"--config={Path(folder) / 'settings.toml'}"]
        words += [f"--workers={device}={workers.count}", "--runner=local", *_storage_words(storage)]
        words += [] if weights is None else [f"--weights={weights}"]
        # A process of its own: a photo that kills its decoder must not end the plan.
        done = subprocess.run([sys.executable, "-m", "pipelines.cli", "detect", *words], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RunError(f"the sample could not be looked at (exit code {done.returncode}); the reason is said above")
        return _measured(out)


def _storage_words(storage: StorageConfig) -> list[str]:
    words = [f"--{name}={value}" for name in ("region", "profile", "endpoint") if (value := getattr(storage, name))]
    return [
        *words,
        *(f"--{name.replace('_', '-')}" for name in ("requester_pays", "anonymous") if getattr(storage, name)),
    ]


def _measured(out: Path) -> Measured:
    run = open_run(out)
    statuses = Counter(run.images().column("status").to_pylist())
    looked_at = statuses.pop("ok", 0)
    timing = run.timing()
    steps = {step: np.asarray(timing.column(f"ms_{step}"), np.float64) / 1e3 for step in STEPS}
    each = steps["decode"] + steps["network"] + steps["other"]
    each = each[each > 0]
    if len(each) < 2 or looked_at < 2:
        raise RunError(f"only {looked_at} photos of the sample could be looked at; take a larger one")
    found = rates(read_ledger(open_storage(str(out))))
    return Measured(
        photos=len(each),
        failed=statuses,
        workers=len(found),
        worker_seconds=len(found) / sum(found),
        seconds={step: float(times.sum() / len(each)) for step, times in steps.items()},
        deviation=float(1.96 * each.std(ddof=1) / math.sqrt(len(each)) / each.mean()),
    )


def rates(records: Sequence[dict[str, Any]]) -> list[float]:
    """Photos per second of each worker of a run, from the first shard it finished to its last: its start is not in it.

    Args:
        records: of the ledger.

    Returns:
        One for each worker that finished several shards.

    Raises:
        RunError: none did.
    """
    by_worker: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for record in records:
        by_worker[record["worker"]].append((datetime.fromisoformat(record["finished"]), record["looked_at"]))
    found = []
    for ends in map(sorted, by_worker.values()):
        seconds = (ends[-1][0] - ends[0][0]).total_seconds()
        if seconds > 0:
            found.append(sum(count for _, count in ends[1:]) / seconds)
    if not found:
        raise RunError("the sample is too small to tell a rate; take a larger one")
    return found
