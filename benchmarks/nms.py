"""How long suppression takes: ours, torchvision's, and torchvision's per tile (the batched trick).

    python -m benchmarks.nms [--threshold 0.4] [--sizes 1000 5000 30000 100000]

Prints a Markdown table; benchmarks/README.md holds a recorded one. Times are CPU time of one thread, which other work
on the machine distorts less than the clock. Three layouts on a 3840 x 2160 photo:

* spread: squares of 8..24 px anywhere; nearly all are kept, the worst case of torchvision's loop;
* crowd: 20 jittered candidates on each of N / 20 faces of 8..64 px, what a network gives for a crowd;
* piled: all candidates on one face of 100 px, the best case of torchvision's loop.

The batched trick calls torchvision once per 512 px tile of box centres. It is no equal: it misses the pairs that
lie across tile borders, and the last column says how many boxes it keeps that should have been dropped.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from retinafocus.nms import nms

PHOTO = (3840.0, 2160.0)
TILE = 512
REPEATS = 7
LONG_ENOUGH_S = 4.0


def squares(centres: NDArray[np.float64], sides: NDArray[np.float64]) -> torch.Tensor:
    """(N, 2) centres and (N,) sides -> (N, 4) float32 xyxy, in photo pixels."""
    return torch.from_numpy(np.hstack([centres - sides[:, None] / 2, centres + sides[:, None] / 2])).float()


def spread(count: int, random: np.random.Generator) -> torch.Tensor:
    return squares(random.uniform(0, PHOTO, (count, 2)), random.uniform(8, 24, count))


def crowd(count: int, random: np.random.Generator) -> torch.Tensor:
    faces = random.uniform(0, PHOTO, (count // 20, 2)).repeat(20, axis=0)
    sides = np.exp(random.uniform(np.log(8), np.log(64), count // 20)).repeat(20)
    jitter = random.normal(0, 0.08, faces.shape) * sides[:, None]
    return squares(faces + jitter, sides * np.exp(random.normal(0, 0.1, len(sides))))


def piled(count: int, random: np.random.Generator) -> torch.Tensor:
    return squares(random.normal(1000, 4, (count, 2)), 100 * np.exp(random.normal(0, 0.05, count)))


def per_tile(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    columns, rows = ((boxes[:, :2] + boxes[:, 2:]) / 2 // TILE).long().unbind(1)
    kept: torch.Tensor = torchvision.ops.batched_nms(boxes, scores, rows * 1000 + columns, threshold)
    return kept


def median_ms(call: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Median milliseconds of up to seven calls (fewer when they are slow) and what the call gives."""
    kept = call()
    times: list[float] = []
    while len(times) < REPEATS and (not times or sum(times) < LONG_ENOUGH_S):
        start = time.process_time()
        kept = call()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times), kept


def table_row(layout: Callable[[int, np.random.Generator], torch.Tensor], count: int, threshold: float) -> str:
    random = np.random.default_rng(0)
    boxes = layout(count, random)
    scores = torch.from_numpy(random.random(len(boxes))).float()
    ours, kept = median_ms(lambda: nms(boxes, scores, threshold))
    theirs, expected = median_ms(lambda: torchvision.ops.nms(boxes, scores, threshold))
    tiled, tiled_kept = median_ms(lambda: per_tile(boxes, scores, threshold))
    if not torch.equal(kept, expected):
        raise SystemExit(f"{layout.__name__} {count}: not the indices of torchvision")
    return (
        f"| {layout.__name__} | {len(boxes):,} | {len(kept):,} | {ours:.1f} | {theirs:.1f} "
        f"| {theirs / ours:.1f} | {tiled:.1f} | {len(tiled_kept) - len(kept)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 30_000, 100_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, one thread, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, numpy {np.__version__}, IoU threshold {options.threshold}\n"
    )
    print("| layout | boxes | kept | ours ms | torchvision ms | torchvision / ours | per tile ms | kept too many |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for layout in (spread, crowd, piled):
        for count in options.sizes:
            print(table_row(layout, count, options.threshold), flush=True)


if __name__ == "__main__":
    main()
