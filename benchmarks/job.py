"""What a run costs beside its floor: decoding every photo once and doing nothing else.

    python -m benchmarks.job [--weights FILE] [--photos 24] [--workers 2]

Makes the demo's 4K pictures, then measures on them, in turn: the bare full decode (one thread), `detect --runner local`
and `detect --runner ray`. Prints a Markdown table; benchmarks/README.md holds recorded ones. "worker-s" is what the
workers spent reading, decoding, in the network and on the rest, as `run.json` adds it up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.demo import make_archive
from retinafocus.photos import decode
from retinafocus.runs import open_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="weights file (default: the ones that ship)")
    parser.add_argument("--photos", type=int, default=24, help="4K pictures to make (default: 24)")
    parser.add_argument("--workers", type=int, default=2, help="workers of both runs (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        make_archive(photos, options.photos)
        floor = _decode_seconds(photos)
        print(f"| {options.photos} photos of 3840 x 2160 | worker-s per photo | of the floor | whole command s |")
        print("|---|---:|---:|---:|")
        print(f"| bare decode, one thread | {floor:.3f} | 1.0 | - |")
        for runner in ("local", "ray"):
            wall = _detect(photos, Path(folder) / runner, runner, options)
            seconds = open_run(Path(folder) / runner).info["totals"]["seconds"]
            busy = sum(seconds.values()) / options.photos
            name = f"detect, {runner}, {options.workers} workers"
            print(f"| {name} | {busy:.3f} | {busy / floor:.1f} | {wall:.1f} |")
        local, ray = open_run(Path(folder) / "local"), open_run(Path(folder) / "ray")
        same = local.faces().equals(ray.faces()) and local.images().equals(ray.images())
        print(f"\ntables of both runs equal: {same}; the last run's workers spent {seconds} s")


def _decode_seconds(photos: Path) -> float:
    """CPU seconds of one full decode, the mean over the photos."""
    encoded = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]
    decode(encoded[0])
    start = time.process_time()
    for data in encoded:
        decode(data)
    return (time.process_time() - start) / len(encoded)


def _detect(photos: Path, out: Path, runner: str, options: argparse.Namespace) -> float:
    """Wall seconds of one command."""
    command = [sys.executable, "-m", "pipelines.cli", "detect", str(photos), "-o", str(out), "--device", "cpu"]
    command += ["--workers", str(options.workers), "--runner", runner]
    command += ["--weights", options.weights] if options.weights else []
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
