"""How much faster two workers are than one, and where the rest goes, beside what `retinafocus plan --cluster` expects.

    python -m benchmarks.scaling [--photos 512] [--first 32] [--workers 1 2] [--runner ray] [--json FILE]

Makes a dozen of the demo's 4K pictures, links them until there are enough photos, and looks at them with `detect`, for
each number of workers in a process of its own. With `--runner nodes` each worker has a Ray node of its own, all on this
machine. Each number first looks at a few photos alone: what those cost beyond their share is the start-up, which is
told apart. Of the rest it tells

* the efficiency: time of one worker / (workers x their time);
* cores: processor seconds of the whole machine for a second. A worker decodes the next photo beside the network, so one
  alone has more than a core, and as many workers as cores have less than one each;
* slower workers: milliseconds of a worker for a photo, by stage, and how many times those of one alone (in brackets).
  Workers share memory, caches and cores;
* waiting at the end: workers that have no shard left while another is at its last, of all time of the workers;
* the model: what `plan --sample 256 --workers N --cluster NODES` expects, its start apart.

Needs a quiet machine with as many cores as workers. Prints a Markdown table; benchmarks/README.md holds recorded ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.overhead import link_archives
from pipelines.cluster_model import START_SECONDS, Node, PhotoCost, predict
from pipelines.sampling import measure
from pipelines.workers import resolve_workers
from retinafocus.detector import DetectorConfig
from retinafocus.runs import open_run
from retinafocus.storage import StorageConfig

SAMPLE = 256
"""Photos that the model knows the time of."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One command."""

    photos: int
    wall: float
    """Seconds of the whole command."""
    processor: float
    """Of the whole machine, which does nothing else."""
    stages: dict[str, float]
    """Seconds of the workers, summed over them."""
    shards: list[int]
    """Photos of each."""
    waiting: float
    """Seconds that workers had no shard left while another was at its last, summed over them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What some workers took for the photos beyond the first few."""

    workers: int
    photos: int
    wall: float
    start: float
    """Seconds of wall time until the first photo and after the last."""
    processor: float
    worker_seconds: dict[str, float]
    """A photo, by stage."""
    waiting: float
    """Share of the workers' time."""
    model: float
    """Wall seconds that were expected from a sample's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=512, help="beside the first few (default: 512)")
    parser.add_argument("--first", type=int, default=32, help="photos whose command shows the start-up (default: 32)")
    parser.add_argument("--pictures", type=int, default=12, help="different pictures (default: 12)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="1 first (default: 1 2)")
    parser.add_argument("--runner", choices=("ray", "nodes", "local"), default="ray")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.workers[0] != 1:
        parser.error("the first number of workers is 1: the others are compared with it")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        few, everything = link_archives(Path(folder), options.pictures, options.first, options.photos)
        sample = sorted(str(photo) for photo in everything.iterdir())[:SAMPLE]
        for workers in options.workers:
            with _nodes(workers if options.runner == "nodes" else 0) as address:
                runs = [
                    _measure(photos, Path(folder), workers, options.runner, address) for photos in (few, everything)
                ]
            pool = resolve_workers(str(workers), "cpu")
            seconds = measure(sample, DetectorConfig(device="cpu"), None, pool, StorageConfig()).worker_seconds
            cost, shared = PhotoCost(seconds=seconds, file_bytes=0.0), options.runner != "nodes"
            shape = Node(workers=workers if shared else 1)
            expected = predict(cost, runs[1].shards, shape, 1 if shared else workers).seconds - START_SECONDS
            print(f"{workers} workers: {runs[1].wall:.1f} s", file=sys.stderr, flush=True)
            measured.append((workers, *runs, expected))
    rows = compare(measured)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(
            json.dumps([asdict(row) | {"efficiency": efficiency(rows, row)} for row in rows], indent=1)
        )


def compare(measured: Sequence[tuple[int, Measured, Measured, float]]) -> list[Row]:
    """What the photos beyond the first few took.

    Args:
        measured: number of workers (1 first), the run of the first few photos, the run of all, and the seconds that the
            model expects of that, its start apart.
    """
    rows: list[Row] = []
    for workers, few, everything, expected in measured:
        photos = everything.photos - few.photos
        wall = everything.wall - few.wall
        rows.append(
            Row(
                workers=workers,
                photos=photos,
                wall=wall,
                start=few.wall - wall * few.photos / photos,
                processor=everything.processor - few.processor,
                worker_seconds={
                    name: (seconds - few.stages[name]) / photos for name, seconds in sorted(everything.stages.items())
                },
                waiting=everything.waiting / (workers * everything.wall),
                # The first few are in these shards, and not in what is compared.
                model=expected * photos / everything.photos,
            )
        )
    return rows


def efficiency(rows: Sequence[Row], row: Row) -> float:
    """Of one worker's speed, what each of several has left; 0..1."""
    return rows[0].wall / (row.workers * row.wall)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    stages = sorted(rows[0].worker_seconds)
    lines = [
        f"| {rows[0].photos:,} photos of 3840 x 2160 | s | photos/s | efficiency | model: s | CPU s a photo | cores | "
        + "".join(f"{name}: worker ms a photo | " for name in stages)
        + "waiting at the end | start-up s |",
        "|---" + "|---:" * (8 + len(stages)) + "|",
    ]
    for row in rows:
        alone, together = rows[0].worker_seconds, row.worker_seconds
        spent = [f"{1e3 * together[name]:.0f} ({together[name] / max(alone[name], 1e-9):.2f})" for name in stages]
        lines.append(
            f"| {row.workers} workers | {row.wall:.1f} | {row.photos / row.wall:.2f} | {efficiency(rows, row):.2f} | "
            f"{row.model:.1f} | {row.processor / row.photos:.3f} | {row.processor / row.wall:.2f} | "
            f"{' | '.join(spent)} | {100 * row.waiting:.1f} % | {row.start:.1f} |"
        )
    return "\n".join(lines)


def waiting_seconds(records: Sequence[dict[str, Any]]) -> float:
    """Seconds between each worker's last shard and the last of all, summed over the workers."""
    last: dict[str, datetime] = {}
    for record in records:
        finished = datetime.fromisoformat(record["finished"])
        last[record["worker"]] = max(finished, last.get(record["worker"], finished))
    end = max(last.values())
    return sum((end - each).total_seconds() for each in last.values())


@contextlib.contextmanager
def _nodes(count: int) -> Iterator[str | None]:
    """The address of a cluster on this machine: a head for the command, and nodes with a processor for a worker each.

    Args:
        count: of those nodes; 0 for no cluster, and no address.
    """
    if not count:
        yield None
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def _measure(photos: Path, folder: Path, workers: int, runner: str, address: str | None) -> Measured:
    out = folder / f"out-{workers}-{photos.name}"
    command = [sys.executable, "-m", "pipelines.cli", "detect", str(photos), "-o", str(out), "--device", "cpu"]
    command += ["--workers", str(workers)]
    command += ["--runner", runner] if address is None else ["--address", address]
    wall, processor = time.perf_counter(), _busy_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, processor = time.perf_counter() - wall, _busy_seconds() - processor
    run = open_run(out)
    return Measured(
        photos=run.info["totals"]["photos"],
        wall=wall,
        processor=processor,
        stages=run.info["totals"]["seconds"],
        shards=[record["photos"] for record in run.records],
        waiting=waiting_seconds(run.records),
    )


def _busy_seconds() -> float:
    """That the machine's processors have worked: asking each process, again and again, would take a share of a core."""
    times = psutil.cpu_times()
    return sum(float(getattr(times, name, 0.0)) for name in ("user", "nice", "system", "irq", "softirq"))


if __name__ == "__main__":
    main()
