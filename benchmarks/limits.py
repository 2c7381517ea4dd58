"""What large photos take of the process that looks at them alone, beside what `detect` allows them by default.

    python -m benchmarks.limits                                  4K, 8K and 100 Mpx and more, files of all kinds
    python -m benchmarks.limits --mode exhaustive                the same, everything looked at on every level
    python -m benchmarks.limits --sizes 7680x4320 --kinds png --weights mine.safetensors

Each photo goes through a process of its own as with `detect --careful`, started anew for each, so that what libraries
take when they are first used counts. Its memory is read every few milliseconds. Prints a Markdown table; docs/jobs.md
holds a recorded one.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

from pipelines.careful import CarefulLook, LookConfig
from pipelines.limits import Limits
from pipelines.looking import Row
from retinafocus import DetectorConfig
from retinafocus.cascade import CascadeConfig
from retinafocus.weights import find_weights

SIZES = "3840x2160,7680x4320,12288x8192,15360x8640"
"""The last is the largest that is decoded at once (`--max-pixels`)."""

KINDS = {
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "png16": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 90]),
}
"""`png16` has 16 bits for each sample; it and `webp` take most memory for each pixel."""

# Between two looks at a process's memory.
SAMPLE_SECONDS = 0.004


@dataclass
class Taken:
    """What a process took for one photo."""

    wall: float = 0.0
    cpu: float = 0.0
    data_bytes: int = 0
    """Peak of memory of its own that it may write, beyond what it held before: what the limit counts."""
    resident_bytes: int = 0
    """Peak of what lay in memory, beyond what did before."""
    _over: threading.Event = field(default_factory=threading.Event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help=f"widths and heights (default: {SIZES})")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of files: {', '.join(KINDS)} (default: all)")
    parser.add_argument("--mode", default="auto", choices=("auto", "focus", "exhaustive"))
    parser.add_argument("--weights", help="weights file (default: the ones that ship)")
    options = parser.parse_args()
    detector = DetectorConfig(device="cpu", threads=1, cascade=CascadeConfig(mode=options.mode))
    limits = Limits()
    config = LookConfig(weights=str(find_weights(options.weights)), detector=detector, storage=None, limits=limits)
    memory = limits.bytes_for(detector.max_pixels)
    print(f"limits: {limits.photo_seconds:g} s, {memory / 2**30:.2f} GiB\n")
    print("| photo | Mpx | file MB | faces | wall s | CPU s | of the time | memory GiB | of the limit | resident GiB |")
    print("|---" * 2 + "|---:" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes.split(","):
            width, height = map(int, size.split("x"))
            for kind in options.kinds.split(","):
                path = _photo(Path(folder), width, height, kind)
                faces, taken = _look(config, path)
                print(
                    f"| {size} {kind} | {width * height / 1e6:.1f} | {path.stat().st_size / 1e6:.1f} | {faces} "
                    f"| {taken.wall:.1f} | {taken.cpu:.1f} | {100 * taken.cpu / limits.photo_seconds:.1f} % "
                    f"| {taken.data_bytes / 2**30:.2f} | {100 * taken.data_bytes / memory:.0f} % "
                    f"| {taken.resident_bytes / 2**30:.2f} |",
                    flush=True,
                )
                path.unlink()


def _photo(folder: Path, width: int, height: int, kind: str) -> Path:
    """A picture with soft shapes and the grain of a camera, so that its files are as large as those of photographs."""
    random = np.random.default_rng(width)
    shapes = random.integers(0, 256, (max(2, height // 120), max(2, width // 120), 3), dtype=np.uint8)
    picture = cv2.resize(shapes, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = random.integers(-8, 9, (512, 512, 3), dtype=np.int16)
    for top in range(0, height, 512):
        for left in range(0, width, 512):
            part = picture[top : top + 512, left : left + 512]
            part[:] = np.clip(part + grain[: part.shape[0], : part.shape[1]], 0, 255)
    suffix, settings = KINDS[kind]
    path = folder / f"photo{suffix}"
    if kind == "png16":
        picture = picture.astype(np.uint16) * 257
    if not cv2.imwrite(str(path), picture, settings):
        raise SystemExit(f"{path}: could not be written")
    return path


def _look(config: LookConfig, path: Path) -> tuple[str, Taken]:
    """Look at one photo in a new process: faces (or what it failed with), and what it took."""
    unknown = dict.fromkeys(("bytes", "modified", "etag", "checksum"))
    row: Row = {"uri": str(path), "image_id": "0" * 24, **unknown, "vanished": False}
    with CarefulLook(config, threading.Event()) as look:
        process = look._start()._process
        with _watched(process.pid) as taken:
            looked = look.look(row)
    return (f"{len(looked.faces):,}" if looked.faces is not None else looked.status), taken


@contextmanager
def _watched(process: int) -> Iterator[Taken]:
    """What the process takes while the block runs."""
    taken, began, cpu = Taken(), perf_counter(), _cpu_seconds(process)
    data, resident = _memory(process)

    def watch() -> None:
        while not taken._over.wait(SAMPLE_SECONDS):
            now = _memory(process)
            taken.data_bytes = max(taken.data_bytes, now[0] - data)
            taken.resident_bytes = max(taken.resident_bytes, now[1] - resident)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        taken._over.set()
        thread.join()
    taken.wall, taken.cpu = perf_counter() - began, _cpu_seconds(process) - cpu


def _memory(process: int) -> tuple[int, int]:
    """Bytes of its own that it may write, and of those in memory; zeros once it is gone."""
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0, 0
    return int(fields[5]) * resource.getpagesize(), int(fields[1]) * resource.getpagesize()


def _cpu_seconds(process: int) -> float:
    """That it has used up; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
