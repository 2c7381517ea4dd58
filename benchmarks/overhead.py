"""What Ray and the ledger cost beside a bare loop that looks at the same photos and writes nothing.

    python -m benchmarks.overhead [--photos 1000] [--first 32] [--pictures 12] [--again]
    python -m benchmarks.overhead --alternate

Makes a dozen of the demo's 4K pictures, links them until there are enough photos, and looks at them with one worker in
three ways, each a process of its own: a loop over the files that reads and decodes ahead as a worker does; `detect
--runner local`; `detect --runner ray`. Each way looks at the first few photos alone and then at all of them. The
difference is what the photos cost; what the few cost beyond that is the start-up, which is told apart. With --again the
loop goes a second time, after the others: how far its two figures are apart says what the machine's other work does.
With --alternate the loop and a worker's stage, the ledger's commits and all, take turns in one process, shard by shard:
what a busy machine does to one of them it then does to the other, but Ray is not in it.

Processor seconds are of the command and of every process it started (Ray's servers included), which on a machine that
does much else say more than the clock. Prints a Markdown table; benchmarks/README.md holds recorded ones.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from benchmarks.process_tree import ProcessTree, processor_seconds
from pipelines import planning
from pipelines.demo import make_archive
from pipelines.index import IndexJob, ListingProgress, index
from pipelines.manifest import shard_rows
from pipelines.stages import DetectShard, StageConfig
from retinafocus.cascade import PreparedPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.runs import open_run, read_manifest
from retinafocus.storage import open_storage

WAYS = ("loop", "local", "ray", "loop again")


@dataclass(frozen=True)
class Cost:
    """Of one command."""

    wall: float
    processor: float
    others: float
    """Of the processor seconds: what was spent beside the process that spent most, which is the worker's."""
    worker: float | None
    """Seconds that the worker spent reading, decoding, in the network and on the rest, as `run.json` adds them up."""

    def beyond(self, few: Cost) -> Cost:
        """What the photos cost that the few were not."""
        worker = None if self.worker is None or few.worker is None else self.worker - few.worker
        return Cost(self.wall - few.wall, self.processor - few.processor, self.others - few.others, worker)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000, help="beside the first few (default: 1000)")
    parser.add_argument("--first", type=int, default=32, help="photos whose command shows the start-up (default: 32)")
    parser.add_argument("--pictures", type=int, default=12, help="different pictures (default: 12)")
    parser.add_argument("--again", action="store_true", help="the loop a second time, at the end")
    parser.add_argument("--alternate", action="store_true", help="loop and stage in turns, in one process")
    parser.add_argument("--loop", metavar="FOLDER", help="be the loop itself, over the photos of a folder")
    options = parser.parse_args()
    if options.loop:
        look_at_all(sorted(Path(options.loop).glob("*.jpg")))
        return
    with tempfile.TemporaryDirectory() as folder:
        few, all_photos = link_archives(Path(folder), options.pictures, options.first, options.photos)
        if options.alternate:
            alternate(all_photos, Path(folder) / "out")
            return
        costs = {}
        for way in WAYS if options.again else WAYS[:-1]:
            name = way.split()[0]
            costs[way] = _measure(name, few, Path(folder)), _measure(name, all_photos, Path(folder))
            print(f"{way}: {costs[way]}", file=sys.stderr, flush=True)
    print_table(costs, options.first, options.photos)


def look_at_all(photos: Sequence[Path]) -> int:
    """The bare loop: faces of all photos, with a worker's settings and read-ahead; nothing is written."""
    planned = planning.plan(_job(photos[0].parent, "nowhere"))
    return _loop(Detector.from_pretrained(str(planned.weights_path), planned.detector), photos)


def _loop(detector: Detector, photos: Sequence[Path]) -> int:
    if detector.engine.batch > 1:
        raise RuntimeError("this engine takes several photos at once, the loop does not")
    remaining, faces = iter(photos), 0
    ahead: deque[Future[PreparedPhoto]] = deque()
    with ThreadPoolExecutor(StageConfig.read_ahead) as pool:

        def refill() -> None:
            while len(ahead) < StageConfig.read_ahead and (photo := next(remaining, None)) is not None:
                ahead.append(pool.submit(detector.prepare, photo))

        refill()
        while ahead:
            prepared = ahead.popleft().result()
            refill()
            faces += len(detector.look(prepared).faces)
    return faces


def alternate(photos: Path, out: Path) -> None:
    """The loop and a worker's stage over the same photos in turns; prints what each took."""
    planned = planning.plan(_job(photos, str(out)))
    index(IndexJob(inputs=[str(photos)], output=str(out)), ListingProgress())
    config = StageConfig(
        output=str(out),
        weights=str(planned.weights_path),
        weights_sha256=planned.weights.sha256,
        detector=planned.detector,
    )
    stage = DetectShard(config)
    manifest = read_manifest(open_storage(out))
    spent = {"loop": [0.0, 0.0], "stage": [0.0, 0.0]}
    for number, row in enumerate(shard_rows(manifest)):
        names = manifest.filter(pc.equal(manifest.column("shard"), row["shard"])).column("uri").to_pylist()
        ways: dict[str, Callable[[], object]] = {
            "loop": partial(_loop, stage.detector, [Path(name) for name in names]),
            "stage": partial(stage.detect_shard, {**row, "generation": 0, "retry": ""}),
        }
        for way in sorted(ways, reverse=number % 2 == 1):
            wall, processor = time.perf_counter(), time.process_time()
            ways[way]()
            spent[way][0] += time.process_time() - processor
            spent[way][1] += time.perf_counter() - wall
    print(f"| {manifest.num_rows:,} photos of 3840 x 2160 | CPU s | of the loop | wall s | of the loop |")
    print("|---|---:|---:|---:|---:|")
    for way, (processor, wall) in spent.items():
        shares = processor / spent["loop"][0], wall / spent["loop"][1]
        print(f"| {way} | {processor:.1f} | {shares[0]:.3f} | {wall:.1f} | {shares[1]:.3f} |")


def print_table(costs: dict[str, tuple[Cost, Cost]], first: int, photos: int) -> None:
    """The costs of each way, of the first few and of all photos, as a Markdown table."""
    print(f"| {photos:,} photos of 3840 x 2160 | CPU s | of the loop | beside the worker's process | wall s | ", end="")
    print("of the loop | worker s | start-up: CPU s | wall s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    base = costs["loop"][1].beyond(costs["loop"][0])
    for way, (few, whole) in costs.items():
        cost, share = whole.beyond(few), first / photos
        start_wall, start_processor = few.wall - share * cost.wall, few.processor - share * cost.processor
        worker = "-" if cost.worker is None else f"{cost.worker:.1f}"
        print(
            f"| {way} | {cost.processor:.1f} | {cost.processor / base.processor:.3f} | {cost.others:.1f} | "
            f"{cost.wall:.1f} | {cost.wall / base.wall:.3f} | {worker} | {start_processor:.1f} | {start_wall:.1f} |"
        )


def link_archives(folder: Path, different: int, first: int, photos: int) -> tuple[Path, Path]:
    """A folder of the first few photos, and one of those and all others: links to the same pictures in turn.

    Args:
        folder: to make both in.
        different: pictures to make.
        first: photos of the first folder.
        photos: so many more are in the second.
    """
    make_archive(folder / "pictures", different)
    pictures = sorted((folder / "pictures").glob("*.jpg"))
    for name, count in (("few", first), ("all", first + photos)):
        (folder / name).mkdir()
        for number in range(count):
            os.link(pictures[number % len(pictures)], folder / name / f"{number:06d}.jpg")
    return folder / "few", folder / "all"


def _measure(way: str, photos: Path, folder: Path) -> Cost:
    out = folder / f"{way}-{photos.name}"
    if way == "loop":
        command = [sys.executable, "-m", "benchmarks.overhead", "--loop", str(photos)]
    else:
        command = [sys.executable, "-m", "pipelines.cli", "detect", str(photos), "-o", str(out)]
        command += ["--device", "cpu", "--workers", "1", "--runner", way]
    start, reaped = time.perf_counter(), _reaped_seconds()
    tree = ProcessTree(command)
    with processor_seconds(tree) as spent:
        code = tree.command.wait()
    wall = time.perf_counter() - start
    tree.end()
    # The system's own sum is exact, but leaves out processes that nobody waited for (Ray's); what was seen while they
    # lived has those, and misses the last moments of each.
    processor = max(_reaped_seconds() - reaped, sum(spent.values()))
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}")
    seconds = None if way == "loop" else sum(open_run(out).info["totals"]["seconds"].values())
    return Cost(wall, processor, sum(spent.values()) - max(spent.values()), seconds)


def _reaped_seconds() -> float:
    """Processor seconds of all ended commands and of those of their descendants that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _job(photos: Path, output: str) -> planning.DetectJob:
    detector = DetectorConfig(device="cpu")
    return planning.DetectJob(inputs=[str(photos)], output=output, detector=detector, workers="1", runner="local")


if __name__ == "__main__":
    main()
