"""How many workers a cluster holds, and how many of those asked for are started. Needs no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.workers import Workers
from retinafocus.errors import SettingsError

# One processor of a cluster stays without a worker: for Ray's servers and the command itself, which hands out shards.
FREE_CPUS = 1

# Ray counts in ten-thousandths.
_ROUNDING = 1e-6

_AS_MANY_AS_FIT = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a job wants of a cluster."""

    workers: Workers
    fills: bool
    """It takes all that is there, as nobody said how many workers."""
    waits: bool
    """Nodes may come: a range of workers need not find all room that its least wants."""
    shards: int
    """No more workers than these are of use."""
    memory: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes that a worker on a device is expected to take; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How many workers of a kind are started, and what each holds."""

    workers: Workers
    least: int
    """At once."""
    most: int
    """As room is found."""
    needs: dict[str, float]
    """By the names of Ray."""


def find_crews(demand: Demand, nodes: Sequence[Mapping[str, float]], say: Callable[[str], None]) -> list[Crew]:
    """How many workers of each kind to start.

    Args:
        demand: of the job.
        nodes: what each that is there has, by the names of Ray: CPU, GPU, memory (bytes).
        say: told where memory decides how many there are, or where it cannot be heeded.

    Raises:
        SettingsError: the cluster cannot hold as many as were asked for.
    """
    kinds = demand.workers.kinds
    bare = [{"CPU": 1.0, **({"GPU": kind.gpus_each} if kind.gpus_each else {})} for kind in kinds]
    wanted = [_AS_MANY_AS_FIT if demand.fills else _at_once(kind) for kind in kinds]
    found = room(nodes, list(zip(bare, wanted, strict=True)))
    for kind, fits in zip(kinds, found, strict=True):
        if fits < (1 if demand.fills else _at_once(kind)) and not _waits(demand, kind):
            raise SettingsError(_no_room_words(demand, found, nodes))
    # An autoscaler brings no node for memory that its description of the nodes does not mention, and many do not.
    known = [None if _waits(demand, kind) else demand.memory.get(kind.device) for kind in kinds]
    heavy = [need | ({"memory": float(taken)} if taken else {}) for need, taken in zip(bare, known, strict=True)]
    held = room(nodes, list(zip(heavy, wanted, strict=True)))
    needs = heavy
    if held != found:
        if demand.workers.chosen or not all(held):
            needs, held, so = bare, found, "it is not asked for; use fewer workers if memory runs short"
        else:
            so = f"so {held[0]} workers are started where processors would allow {found[0]}"
        say(f"{_memory_words(heavy, nodes)}: {so}")
    counts = [_at_once(kind) for kind in kinds] if demand.workers.chosen else held
    return [
        Crew(
            workers=kind,
            least=min(count, demand.shards),
            most=max(1, min(count if kind.least is None else kind.count, demand.shards)),
            needs=need,
        )
        for kind, need, count in zip(kinds, needs, counts, strict=True)
    ]


def room(nodes: Sequence[Mapping[str, float]], kinds: Sequence[tuple[Mapping[str, float], int]]) -> list[int]:
    """How many workers of each kind find a place, the first kind first.

    A worker needs all it needs on one node. Workers without a GPU go where no GPUs are first, as Ray does it.

    Args:
        nodes: what each has of each resource.
        kinds: what one worker needs of each resource (`CPU` among them), and how many are wanted.

    Returns:
        Of each kind, how many of those wanted fit beside the ones before, with `FREE_CPUS` left over.
    """
    left = [dict(node) for node in nodes]
    spare = int(sum(node.get("CPU", 0.0) for node in left)) - FREE_CPUS
    found = []
    for need, wanted in kinds:
        count = 0
        for node in sorted(left, key=lambda node: node.get("GPU", 0.0)):
            taken = max(0, min(_fitting(node, need), wanted - count, spare))
            for name, amount in need.items():
                node[name] = node.get(name, 0.0) - taken * amount
            count, spare = count + taken, spare - taken
        found.append(count)
    return found


def _waits(demand: Demand, kind: Workers) -> bool:
    return demand.waits and kind.least is not None


def _at_once(kind: Workers) -> int:
    return kind.count if kind.least is None else kind.least


def _fitting(node: Mapping[str, float], need: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0.0) / amount + _ROUNDING) for name, amount in need.items() if amount)


def _no_room_words(demand: Demand, found: list[int], nodes: Sequence[Mapping[str, float]]) -> str:
    kinds = demand.workers.kinds
    gpus = any(kind.gpus_each for kind in kinds)
    there = " and ".join(
        f"{int(sum(node.get(name, 0.0) for node in nodes))} {name}s" for name in ("CPU", "GPU")[: 1 + gpus]
    )
    holds = ["one CPU" + (f" and {kind.gpus_each:g} GPU on the same node" if kind.gpus_each else "") for kind in kinds]
    if not sum(found):
        return (
            f"the cluster has {there}; one {kinds[0].device} worker needs {holds[0]}, and Ray itself {FREE_CPUS} CPU: "
            "add nodes, name LEAST..MOST workers to wait for nodes that come, or use --runner local"
        )
    asked = " and ".join(f"{_at_once(kind)} workers of {each} each" for kind, each in zip(kinds, holds, strict=True))
    named = [f"{'gpu' if kind.gpus_each else 'cpu'}={count}" for kind, count in zip(kinds, found, strict=True) if count]
    fits = str(found[0]) if len(kinds) == 1 else ",".join(named)
    return (
        f"workers: {asked} beside one CPU for Ray itself do not fit, the cluster has {there}; use --workers {fits} or "
        "add nodes"
    )


def _memory_words(needs: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> str:
    each = " or ".join(f"{need['memory'] / 1e9:.1f} GB" for need in needs if "memory" in need)
    has = sum(node.get("memory", 0.0) for node in nodes) / 1e9
    return f"memory   a worker is expected to take {each}, and Ray has {has:.1f} GB to give on this cluster"
