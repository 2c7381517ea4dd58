"""What `retinafocus plan` says of clusters, and of a sample that was looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.cluster_model import Node, PhotoCost, Prediction, predict
from pipelines.report import duration
from pipelines.sampling import STEPS, Measured

ENOUGH = 256
"""Photos of a sample whose shards have 16 or more, as those of an archive have: with 64, times were 9 to 26 % too long
(benchmarks/README.md)."""


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """Clusters to compare."""

    nodes: Sequence[int]
    node: Node
    store_bytes_per_second: float = math.inf
    """That the store gives to all nodes together."""

    def predictions(self, cost: PhotoCost, shards: Sequence[int]) -> list[Prediction]:
        """One for each number of nodes."""
        store = self.store_bytes_per_second
        return [predict(cost, shards, self.node, nodes, store_bytes_per_second=store) for nodes in self.nodes]


def sample_words(measured: Measured, photos: int, workers: int, price_per_hour: float | None) -> list[str]:
    """What a sample took, and what the whole archive will take here.

    Args:
        measured: the sample.
        photos: of the archive.
        workers: of this machine.
        price_per_hour: of this machine, if known.
    """
    failed = ", ".join(f"{count:,} {status}" for status, count in measured.failed.most_common())
    steps = ", ".join(f"{step} {measured.seconds[step]:.3f}" for step in STEPS)
    seconds = photos * measured.worker_seconds / workers
    low, high = (seconds * (1 + sign * measured.deviation) for sign in (-1, 1))
    lines = [
        f"sample   {measured.photos:,} photos looked at by {_count(measured.workers, 'worker')} at once: "
        f"{measured.worker_seconds:.3f} s a photo and worker, {measured.workers / measured.worker_seconds:.1f} photos/s"
        + (f"; not looked at: {failed}" if failed else ""),
        f"         of it {steps} s (reading and decoding go on beside the network)",
        f"all      {photos:,} photos with {_count(workers, 'worker')}: {duration(seconds)} "
        f"[95 %: {duration(low)} to {duration(high)}, from how photos differ]",
    ]
    if price_per_hour is not None:
        lines[-1] += f", {price_per_hour * seconds / 3600:,.2f} at {price_per_hour:g} an hour"
    if measured.photos < min(ENOUGH, photos):
        lines.append(
            f"note     of fewer than {ENOUGH:,} photos the shards are so small that their beginnings count, when a "
            "photo is decoded and the network waits: all of the archive goes faster than this"
        )
    if measured.workers < workers:
        lines.append(
            f"note     the sample was cut into too few shards for {workers} workers; take a larger one to see what "
            "all of them cost each other"
        )
    return lines


def cluster_words(cluster: ClusterJob, predictions: Sequence[Prediction]) -> list[str]:
    """A column for each number of nodes."""
    workers = cluster.node.workers
    rows = [
        [f"nodes of {_count(workers, 'worker')}", *(f"{each.nodes:,}" for each in predictions)],
        ["photos/s", *(f"{each.photos_per_second:,.1f}" for each in predictions)],
        ["of what they could", *(f"{100 * each.efficiency:.0f} %" for each in predictions)],
        ["what more of would help", *(each.limit for each in predictions)],
        ["time, start included", *(duration(each.seconds) for each in predictions)],
        ["node-hours", *(f"{each.node_hours:,.2f}" for each in predictions)],
    ]
    if cluster.node.price_per_hour is not None:
        rows += [
            ["price", *(f"{each.price:,.2f}" for each in predictions)],
            ["price of a million photos", *(f"{each.price_per_million:,.2f}" for each in predictions)],
        ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
