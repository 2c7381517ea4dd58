"""How fast, and for how much, a cluster of so many nodes looks at an archive: worked out, not run.

The model knows workers, which take shards one after another, largest first, as the runners do; the network of a node,
and what all of them read from; and the time until the first photo. Shards are handed out in a simulation, so what is
lost at the end, when some workers have nothing left to do, is in the figures. Nodes that are lost, and a store that
answers slowly where it is asked too often, are not.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from retinafocus.errors import SettingsError

START_SECONDS = 25.0
"""From the command to the first photo: Ray starts its actors, which load the network (benchmarks/README.md: 17 s more
than without Ray, on two cores). Nodes that must be rented first take longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoCost:
    """One photo of an archive, on average."""

    seconds: float
    """That a worker takes for it, all workers of its node at work."""

    file_bytes: float
    """To be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine of a cluster; all are alike."""

    workers: int
    bytes_per_second: float = math.inf
    """That its network brings."""

    price_per_hour: float | None = None
    """In whatever currency."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"node-workers is {self.workers}; choose 1 or more")
        if not self.bytes_per_second > 0:
            raise SettingsError("node-bandwidth must be more than 0 MB/s")
        if self.price_per_hour is not None and not 0 <= self.price_per_hour < math.inf:
            raise SettingsError(f"price-per-node-hour is {self.price_per_hour:g}; give what a node costs, 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a cluster is expected to do."""

    nodes: int
    photos_per_second: float
    """Over the whole run, its start included."""

    limit: str
    """What more of would help: `workers`, `node network`, `store`, or `shards` (there are too few to share out)."""

    efficiency: float
    """Photos per second and node, of what a node does that never waits for anything; 0..1."""

    seconds: float
    node_hours: float
    price: float | None
    """Of the whole run; None without a price of a node."""

    price_per_million: float | None
    """The same for a million such photos."""


def predict(
    cost: PhotoCost, shards: Sequence[int], node: Node, nodes: int, *, store_bytes_per_second: float = math.inf
) -> Prediction:
    """What so many nodes do with an archive.

    Args:
        cost: of a photo.
        shards: photos of each; one shard with one photo at least.
        node: what each of them is.
        nodes: how many.
        store_bytes_per_second: that the store gives to all of them together.

    Raises:
        SettingsError: a number is below 1, or there is no bandwidth.
    """
    if nodes < 1:
        raise SettingsError(f"cluster is {nodes}; give numbers of nodes, 1 or more")
    if not store_bytes_per_second > 0:
        raise SettingsError("store-bandwidth must be more than 0 MB/s")
    photos, workers = sum(shards), nodes * node.workers
    # A photo is read while the one before is looked at, so only the slower of the two counts.
    takes = {
        "workers": cost.seconds,
        "node network": cost.file_bytes * node.workers / node.bytes_per_second,
        "store": cost.file_bytes * workers / store_bytes_per_second,
    }
    limit = max(takes, key=lambda name: takes[name])
    work = makespan([takes[limit] * photos_of for photos_of in shards], workers)
    even = takes[limit] * photos / workers
    seconds = START_SECONDS + work
    hours = nodes * seconds / 3600
    price = None if node.price_per_hour is None else hours * node.price_per_hour
    return Prediction(
        nodes=nodes,
        photos_per_second=photos / seconds,
        # More waits for the last shards than for anything else: smaller ones, or fewer workers, would be as fast.
        limit="shards" if work > 2 * even else limit,
        efficiency=cost.seconds * photos / (workers * seconds),
        seconds=seconds,
        node_hours=hours,
        price=price,
        price_per_million=None if price is None else 1e6 * price / photos,
    )


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last worker is done, where each takes the largest job left as soon as it is free; 0 without jobs.

    Args:
        seconds: of each job.
        workers: 1 or more.
    """
    free = [0.0] * min(workers, len(seconds))
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free, default=0.0)
