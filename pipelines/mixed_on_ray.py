"""GPU workers and CPU workers at the same shards: two pools of Ray actors, which one Ray Data job cannot have.

Each actor has one call in flight: it starts, it gets ready, or it is at a shard. What a dead one had goes back to the
others, and a new one takes its place wherever there is room: started here and not by Ray, which would start one that
dies before it can answer for ever. The ledger decides what counts, as ever: a shard that is done twice counts once, and
one that kills its workers is gone about carefully and given up in the end (`attempts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions

from pipelines.room import FREE_CPUS
from pipelines.sharing import SharedShards
from retinafocus.errors import RunError

# How often to look whether there is room for another actor, and whether to say something.
LOOK_SECONDS = 5.0

# An actor that dies so often while it gets ready, without a photo in its hands, will not get ready.
MAX_BAD_STARTS = 5

# What a call says whose actor, or whose answer, is no more.
_DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Actors that are alike."""

    name: str
    """For people; no two kinds have the same."""
    make: Callable[[], Callable[[pa.Table], pa.Table]]
    """Called in each actor: what looks at a row that names a shard."""
    least: int
    """So many are started at once, whether there is room or not: a cluster that grows sees what is wanted."""
    most: int
    """As many are started as find room."""
    needs: dict[str, float]
    """Of each actor, by the names of Ray: CPU, GPU, memory."""


@ray.remote
class ShardWorker:
    """One worker."""

    def __init__(self, make: Callable[[], Callable[[pa.Table], pa.Table]]) -> None:
        self._make = make
        self._stage: Callable[[pa.Table], pa.Table] | None = None

    def start(self) -> None:
        """Do nothing; the answer waits for a node where there is none for now."""

    def get_ready(self) -> None:
        """Load what is needed."""
        self._made()

    def look(self, row: dict[str, Any]) -> pa.Table:
        """Do one shard."""
        return self._made()(pa.Table.from_pylist([row]))

    def _made(self) -> Callable[[pa.Table], pa.Table]:
        if self._stage is None:
            self._stage = self._make()
        return self._stage


@dataclass(eq=False)
class _Worker:
    """An actor as the loop knows it."""

    kind: Kind
    actor: Any
    step: str = "start"
    """What it was asked last: `start`, `get_ready` or `look`."""
    row: dict[str, Any] | None = None
    """The shard it is at, with `look`."""
    since: float = 0.0
    """When it began with that."""
    bad_starts: int = 0
    alive: bool = False
    """It got ready, and has not died since."""


@dataclass
class _Crew:
    """All actors, and what each of them was asked."""

    kinds: Sequence[Kind]
    grows: bool
    """Whether nodes may come: then all are started, and those without room make a cluster grow that can."""
    workers: list[_Worker] = field(default_factory=list)
    calls: dict[Any, _Worker] = field(default_factory=dict)
    idle: list[_Worker] = field(default_factory=list)

    def grow(self) -> None:
        """Start the actors that must be there, and then, one by one, those that find room."""
        for kind in self.kinds:
            there = [worker for worker in self.workers if worker.kind is kind]
            at_once = kind.most if self.grows else kind.least
            for _ in range(at_once - len(there)):
                self._start(kind)
            if at_once <= len(there) < kind.most and all(worker.alive for worker in there) and _has_room(kind):
                self._start(kind)

    def alive(self) -> dict[str, int]:
        """How many of each kind got ready and live."""
        return {kind.name: sum(worker.alive for worker in self.workers if worker.kind is kind) for kind in self.kinds}

    def ask(self, worker: _Worker, step: str, row: dict[str, Any] | None = None) -> None:
        """Ask an actor for its next step."""
        worker.step, worker.row, worker.since = step, row, monotonic()
        call = getattr(worker.actor, step).remote(*(() if row is None else (row,)))
        self.calls[call] = worker

    def hand_out(self, shared: SharedShards) -> None:
        """Give every idle actor a shard, where there is one for it."""
        alive = self.alive()
        for worker in list(self.idle):
            row = shared.take(worker.kind.name, alive)
            if row is not None:
                self.idle.remove(worker)
                self.ask(worker, "look", row)

    def answer(self, call: Any, shared: SharedShards) -> pa.Table | None:
        """Take what an actor answered; the counts of a shard, if it was one.

        Raises:
            RunError: actors of that kind die before they look at a photo.
            RayTaskError: what went wrong in an actor that lives.
        """
        worker = self.calls.pop(call)
        try:
            counts: pa.Table | None = ray.get(call)
        except _DEATHS as error:
            self._died(worker, error, shared)
            return None
        if worker.step == "start":
            self.ask(worker, "get_ready")
            return None
        if worker.row is not None:
            shared.done(worker.kind.name, worker.row, monotonic() - worker.since)
        worker.row, worker.alive, worker.bad_starts = None, True, 0
        self.idle.append(worker)
        return counts

    def end(self) -> None:
        """Leave nothing behind on the cluster."""
        for worker in self.workers:
            ray.kill(worker.actor)

    def _start(self, kind: Kind) -> None:
        worker = _Worker(kind, _new_actor(kind))
        self.workers.append(worker)
        self.ask(worker, "start")

    def _died(self, worker: _Worker, error: ray.exceptions.RayError, shared: SharedShards) -> None:
        worker.alive = False
        if worker.row is not None:
            shared.give_back(worker.row)
        else:
            worker.bad_starts += 1
            if worker.bad_starts >= MAX_BAD_STARTS:
                last = str(error).strip().splitlines()[-1]
                raise RunError(
                    f"a {worker.kind.name} worker died {worker.bad_starts} times before its first photo ({last}); see "
                    "Ray's log on its node, then run the same command again: finished shards are kept"
                )
        ray.kill(worker.actor)  # it may only be out of reach, and what it had is another's now
        worker.actor = _new_actor(worker.kind)
        self.ask(worker, "start")


def _new_actor(kind: Kind) -> Any:
    cpus, gpus, memory = (kind.needs.get(name, 0.0) for name in ("CPU", "GPU", "memory"))
    options = {"num_cpus": cpus, "num_gpus": gpus, "memory": int(memory) or None}
    return ShardWorker.options(max_restarts=0, max_task_retries=0, **options).remote(kind.make)  # type: ignore[attr-defined]


def _has_room(kind: Kind) -> bool:
    """Whether one more actor may find a place, with a processor left over."""
    free = ray.available_resources()
    return all(free.get(name, 0.0) >= amount + FREE_CPUS * (name == "CPU") for name, amount in kind.needs.items())


def look_together(
    kinds: Sequence[Kind], shards: Sequence[dict[str, Any]], *, grows: bool, on_round: Callable[[bool], None]
) -> Iterator[pa.Table]:
    """Look at every shard; yields each committed shard's row of counts as it comes.

    Args:
        kinds: of actors.
        shards: rows that name them, the largest first.
        grows: whether nodes may come: then all are started, and those without room make a cluster grow that can.
        on_round: called every few seconds, and with each shard: whether any worker is ready.

    Raises:
        RunError: workers die before they look at a photo.
        RayError: Ray failed, or a worker did.
    """
    shared, crew = SharedShards(shards), _Crew(kinds, grows)
    undone, grown = len(shards), -LOOK_SECONDS
    try:
        while undone:
            if monotonic() - grown >= LOOK_SECONDS:
                crew.grow()
                grown = monotonic()
            crew.hand_out(shared)
            answered, _ = ray.wait(list(crew.calls), timeout=LOOK_SECONDS)
            for call in answered:
                counts = crew.answer(call, shared)
                if counts is not None:
                    undone -= 1
                    yield counts
            on_round(any(crew.alive().values()))
    finally:
        crew.end()
