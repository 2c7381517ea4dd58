"""How much faster two workers are than one, and where the rest goes, beside what `retinafocus plan --cluster` expects.

    python -m benchmarks.scaling [--photos 512] [--first 32] [--workers 1 2] [--runner ray] [--json FILE]

Makes a dozen of the demo's 4K pictures, links them until there are enough photos, and looks at them with `detect`, for
each number of workers in a process of its own. Each number first looks at a few photos alone: what those cost beyond
their share is the start-up, which is told apart. Of the rest it tells

* the efficiency: time of one worker / (workers x their time);
* slower workers: milliseconds of a worker for a photo, by stage, and how many times those of one alone (in brackets).
  Workers share memory, caches and cores;
* waiting at the end: workers that have no shard left while another is at its last, of all time of the workers;
* the model: the time that one worker's seconds a photo give with `pipelines.cluster_model`, which knows the shards and
  nothing of what workers share.

Needs a quiet machine with as many cores as workers. Prints a Markdown table; benchmarks/README.md holds recorded ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.overhead import link_archives
from benchmarks.process_tree import ProcessTree, processor_seconds
from pipelines.cluster_model import makespan
from retinafocus.runs import open_run


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One command."""

    photos: int
    wall: float
    """Seconds of the whole command."""
    processor: float
    """Of all its processes."""
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
    """Wall seconds that were expected from one worker's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=512, help="beside the first few (default: 512)")
    parser.add_argument("--first", type=int, default=32, help="photos whose command shows the start-up (default: 32)")
    parser.add_argument("--pictures", type=int, default=12, help="different pictures (default: 12)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="1 first (default: 1 2)")
    parser.add_argument("--runner", choices=("ray", "local"), default="ray")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.workers[0] != 1:
        parser.error("the first number of workers is 1: the others are compared with it")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        few, everything = link_archives(Path(folder), options.pictures, options.first, options.photos)
        for workers in options.workers:
            runs = [_measure(photos, Path(folder), workers, options.runner) for photos in (few, everything)]
            print(f"{workers} workers: {runs[1].wall:.1f} s", file=sys.stderr, flush=True)
            measured.append((workers, *runs))
    rows = compare(measured)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(
            json.dumps([asdict(row) | {"efficiency": efficiency(rows, row)} for row in rows], indent=1)
        )


def compare(measured: Sequence[tuple[int, Measured, Measured]]) -> list[Row]:
    """What the photos beyond the first few took.

    Args:
        measured: number of workers (1 first), the run of the first few photos, the run of all.
    """
    rows: list[Row] = []
    for workers, few, everything in measured:
        photos = everything.photos - few.photos
        wall = everything.wall - few.wall
        one = rows[0].wall / rows[0].photos if rows else wall / photos
        expected = [one * count for count in everything.shards]
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
                model=makespan(expected, workers) * photos / everything.photos,
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
        f"| {rows[0].photos:,} photos of 3840 x 2160 | s | photos/s | efficiency | model: s | CPU s a photo | "
        + "".join(f"{name}: worker ms a photo | " for name in stages)
        + "waiting at the end | start-up s |",
        "|---" + "|---:" * (7 + len(stages)) + "|",
    ]
    for row in rows:
        alone, together = rows[0].worker_seconds, row.worker_seconds
        spent = [f"{1e3 * together[name]:.0f} ({together[name] / max(alone[name], 1e-9):.2f})" for name in stages]
        lines.append(
            f"| {row.workers} workers | {row.wall:.1f} | {row.photos / row.wall:.2f} | {efficiency(rows, row):.2f} | "
            f"{row.model:.1f} | {row.processor / row.photos:.3f} | {' | '.join(spent)} | {100 * row.waiting:.1f} % | "
            f"{row.start:.1f} |"
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


def _measure(photos: Path, folder: Path, workers: int, runner: str) -> Measured:
    out = folder / f"out-{workers}-{photos.name}"
    command = [sys.executable, "-m", "pipelines.cli", "detect", str(photos), "-o", str(out), "--device", "cpu"]
    command += ["--workers", str(workers), "--runner", runner]
    start = time.perf_counter()
    tree = ProcessTree(command)
    with processor_seconds(tree) as spent:
        code = tree.command.wait()
    wall = time.perf_counter() - start
    tree.end()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}")
    run = open_run(out)
    return Measured(
        photos=run.info["totals"]["photos"],
        wall=wall,
        processor=sum(spent.values()),
        stages=run.info["totals"]["seconds"],
        shards=[record["photos"] for record in run.records],
        waiting=waiting_seconds(run.records),
    )


if __name__ == "__main__":
    main()
