"""How long the network takes on one picture: every engine that runs here, one thread and all of them.

    python -m benchmarks.engines [--weights FILE] [--repeats 15]

Prints Markdown tables; benchmarks/README.md holds recorded ones. The network alone: uint8 pixels in, its outputs out;
no decoding, no post-processing. One thread is CPU time, which other work on the machine distorts less than the clock;
all threads, and a GPU (with the way of the pixels to it), are the clock's. Medians of warm calls, the engines taking
turns, so that what slows the machine slows all. "torch" is eager PyTorch with batch norms folded and channels last.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from retinafocus.engines import ENGINES, INT8, Engine, available_engines, engine_versions, make_engine
from retinafocus.engines.torch_engine import pictures_at_once
from retinafocus.models import RetinaFocus
from retinafocus.weights import find_weights, load_model

# (height, width): what the RetinaFace paper times (VGA, HD, 4K), a UHD photo, and that photo's level at a quarter.
SIZES = ((480, 640), (540, 960), (1080, 1920), (2160, 3840), (2160, 4096))

# RetinaFace, arXiv 1905.00641, table 5: MobileNet-0.25 on an NVIDIA Tesla P40, and on one and all threads of an Intel
# i7-6700K, without its dense branch.
PUBLISHED = {(480, 640): "1.4 / 17.2 / 5.5", (1080, 1920): "6.1 / 130.4 / 50.3", (2160, 4096): "25.6 / - / -"}

# OpenVINO compiles a size of up to a megapixel anew when it has come a hundred times; a large one never.
WARM_CALLS, WARM_CALLS_LARGE, LARGE = 110, 2, 2**20
WARM_SECONDS = 20.0


def cpu_engines() -> list[str]:
    usable = {report.name for report in available_engines() if report.usable and report.device == "cpu"}
    return [name for name in ENGINES if name in usable]


def integers(model: RetinaFocus) -> bool:
    """Whether the weights and what is installed can compute in 8-bit integers."""
    return model.ranges is not None and "openvino" in cpu_engines()


def medians_ms(
    engines: Sequence[Engine], size: tuple[int, int], clock: Callable[[], float], repeats: int
) -> list[float]:
    """Of each engine, for one picture."""
    height, width = size
    times: list[list[float]] = [[] for _ in engines]
    batches = []
    for engine in engines:
        count = pictures_at_once(height, width, engine.batch)
        batches.append(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))
        calls, until = 0, time.monotonic() + WARM_SECONDS
        while calls < (WARM_CALLS_LARGE if height * width > LARGE else WARM_CALLS) and time.monotonic() < until:
            engine.run(batches[-1])
            calls += 1
    for _ in range(repeats):
        for engine, batch, taken in zip(engines, batches, times, strict=True):
            start = clock()
            engine.run(batch)
            taken.append((clock() - start) / len(batch))
    return [1000 * statistics.median(taken) for taken in times]


def print_rows(weights: str | None, threads: int, repeats: int) -> None:
    """One line for each size, of a process that has that many threads."""
    model = load_model(find_weights(weights))
    engines = [make_engine(model, name=name, device="cpu", threads=threads) for name in cpu_engines()]
    if integers(model):
        engines.append(make_engine(model, name="openvino", device="cpu", precision=INT8, threads=threads))
    clock = time.process_time if threads == 1 else time.perf_counter
    for size in SIZES:
        found = medians_ms(engines, size, clock, repeats)
        cells = [f"{ms:.1f} ({found[0] / ms:.2f})" for ms in found]
        print(f"| {size[1]} x {size[0]} | {threads} | {' | '.join(cells)} |", flush=True)


def print_gpu(weights: str | None, repeats: int) -> None:
    if not torch.cuda.is_available():
        print("GPU: not measured, PyTorch finds none here.")
        return
    precisions = ("float32", "float16")
    model = load_model(find_weights(weights))
    engines = [make_engine(model, name="torch", device="cuda", precision=precision) for precision in precisions]
    print(f"{torch.cuda.get_device_name()}, ms for one picture\n")
    print(f"| picture | {' | '.join(precisions)} |\n|---|{'---:|' * len(precisions)}")
    for size in SIZES:
        cells = [f"{ms:.2f}" for ms in medians_ms(engines, size, time.perf_counter, repeats)]
        print(f"| {size[1]} x {size[0]} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    parser.add_argument("--repeats", type=int, default=15, help="calls for each time")
    parser.add_argument("--threads", type=int, help="print the rows of that many threads and nothing else")
    options = parser.parse_args()
    if options.threads:
        print_rows(options.weights, options.threads, options.repeats)
        return
    names = cpu_engines()
    if integers(load_model(find_weights(options.weights))):
        names.append(f"openvino {INT8}")
    versions = dict(pair for name in cpu_engines() for pair in engine_versions(name).items())
    print(f"Python {platform.python_version()}, {', '.join(' '.join(pair) for pair in versions.items())}")
    print(f"{find_weights(options.weights).name}; ms for one picture (and how many times as fast as torch)\n")
    print(f"| picture | threads | {' | '.join(names)} |\n|---|---:|{'---:|' * len(names)}", flush=True)
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        # Its own process: the number of threads is the whole process's.
        command = [sys.executable, "-m", "benchmarks.engines", f"--threads={threads}", f"--repeats={options.repeats}"]
        subprocess.run([*command, *([f"--weights={options.weights}"] if options.weights else [])], check=True)
    print()
    print_gpu(options.weights, options.repeats)
    published = "; ".join(f"{width} x {height}: {ms}" for (height, width), ms in PUBLISHED.items())
    print(f"\nPublished for MobileNet-0.25, GPU (P40) / one thread / all threads (i7-6700K), ms: {published}.")


if __name__ == "__main__":
    main()
