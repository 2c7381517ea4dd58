"""Where the time of a training goes: processor milliseconds of each part for each crop, at several sides.

    python -m benchmarks.training --config FILE [--set a.b=c ...] [--sides 320 640] [--batches 12]

FILE holds the settings of a training (`configs/`), which `--set` changes as `retinafocus train` does; the photos are
those of its `data.folders`. Prints a Markdown table; benchmarks/README.md holds recorded ones. Times are CPU time of
one thread, which other work on the machine distorts less than the clock. Every photo is read and decoded anew for each
crop that shows it; a training keeps the decoded ones (`data.cache_gib`), so that this part vanishes where they fit.
Samples are made in processes of their own, `loaders` for each worker, beside the network.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch

from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_worker import build_samples
from retinafocus.models import RetinaFocus
from retinafocus.training import loop, samples
from retinafocus.training.loop import Training
from retinafocus.training.pixels import PhotoPixels
from retinafocus.training.start import starting_model

SAMPLING = "cut and zoom"
STEPPING = "step: bound, optimizer, averaging"
PARTS = {
    (PhotoPixels, "__call__"): "read and decode photos",
    (samples, "random_crop"): SAMPLING,
    (samples, "random_chip"): SAMPLING,
    (samples, "distort"): "light, colour, blur, noise, damage",
    (samples, "anchor_targets"): "targets of the anchors",
    (samples, "focus_labels"): "labels of the focus map",
    (samples, "collate"): "put into a batch",
    (RetinaFocus, "forward"): "forward",
    (loop, "detection_losses"): "losses",
    (torch.Tensor, "backward"): "backward",
    (Training, "step"): STEPPING,
}
"""What is timed, each without the others that it calls, and where it is called from."""

WARM_BATCHES = 3


class Stopwatch:
    """CPU seconds of this thread by part; a part that is called from another one is not counted there."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def timed(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed_work(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return work(*arguments, **named)

        return timed_work

    def _turn(self) -> None:
        now = time.thread_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="settings of the training, in TOML")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="a.b=c, another value for a setting"
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[320, 640], help="of the crops (default: 320 640)")
    parser.add_argument("--batches", type=int, default=12, help="measured for each side (default: 12)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    times = {}
    for side in options.sides:
        own = [
            f"sample.crop.side={side}",
            "data.cache_gib=0",
            "device=cpu",
            "loop.batch_norm=train",
            "precision=float32",
        ]
        config = read_train_config(options.config, [*options.overrides, *own])
        times[side] = crop_times(config, options.batches)
    print(f"preset {config.model.preset}, {config.sample.kind}, batches of {config.batch}, torch {torch.__version__}\n")
    print_table(times)


def crop_times(config: TrainConfig, batches: int) -> dict[str, float]:
    """CPU milliseconds of each part for each crop, in the order of `PARTS`."""
    watch = Stopwatch()
    source = build_samples(config, lambda _: None)
    model = starting_model(config.model.to_preset(), seed=config.seed).to(memory_format=torch.channels_last)
    training = Training(model, config.loop, config.loss)
    with ExitStack() as patches:
        for (owner, name), part in PARTS.items():
            patches.enter_context(patch.object(owner, name, watch.timed(getattr(owner, name), part)))
        for number in range(-WARM_BATCHES, batches):
            if number == 0:
                watch.seconds.clear()
            first = (number + WARM_BATCHES) * config.batch
            training.step(samples.collate(source[place] for place in range(first, first + config.batch)))
    return {part: watch.seconds[part] * 1000 / (batches * config.batch) for part in dict.fromkeys(PARTS.values())}


def print_table(times: dict[int, dict[str, float]]) -> None:
    print("| CPU ms for each crop | " + " | ".join(f"{side} px | share" for side in times) + " |")
    print("|---|" + "---:|---:|" * len(times))
    for part in next(iter(times.values())):
        cells = (f"{own[part]:.2f} | {100 * own[part] / sum(own.values()):.0f} %" for own in times.values())
        print(f"| {part} | {' | '.join(cells)} |")
    sums = [sum(own.values()) for own in times.values()]
    print("| all | " + " | ".join(f"{total:.1f} | 100 %" for total in sums) + " |")
    print("| crops a second of one processor | " + " | ".join(f"{1000 / total:.1f} | " for total in sums) + " |")


if __name__ == "__main__":
    main()
