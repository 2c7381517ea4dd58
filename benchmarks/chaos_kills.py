"""Killing a command from outside: what, and when."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from benchmarks.process_tree import ProcessTree
from retinafocus.runs import LEDGER_FOLDER, TABLES
from retinafocus.storage import Storage

PHASES = ("start-up", "work", "commit", "end")
"""Before the command changed anything; photos are looked at; parts of a shard are there and its record is not; every
shard has its record (adding up, clean-up, the last words)."""

COMMAND, AT_WORK, RAY_WORKER, CAREFUL = "command", "process at work", "Ray worker", "careful child"
TARGETS = (COMMAND, AT_WORK, RAY_WORKER, CAREFUL)

# How often the victims of the next kill are looked for: that takes longer than a commit does.
VICTIMS_SECONDS = 0.25

COMMAND_SECONDS = 900.0
"""A command that takes longer hangs: those of a chaos run take seconds, on a busy machine a minute."""


@dataclass(frozen=True)
class Kill:
    """One that was done."""

    target: str
    phase: str


@dataclass(frozen=True)
class Aim:
    """One that is wanted."""

    target: str
    phase: str
    """To be reached first."""
    delay: float
    """Seconds from then on."""


class Observer:
    """Tells from the run's folder alone how far a command is.

    Args:
        storage: the run's.
        begins_with: the file that the command writes first.
        shards: that the step commits.
    """

    def __init__(self, storage: Storage, begins_with: str, shards: int) -> None:
        self._storage, self._begins_with, self._shards = storage, begins_with, shards
        self._records = set(self._storage.names(LEDGER_FOLDER))
        self.begins_anew()

    def begins_anew(self) -> None:
        """A process starts: what lies there now is not its doing."""
        self._before, self._parts = self._first_file(), self._parts_there()

    def goes_on(self) -> None:
        """A worker was killed: parts that lie there now will have no record."""
        self._parts = self._parts_there()

    def phase(self) -> str:
        """Of `PHASES`."""
        if self._first_file() == self._before:
            return "start-up"
        done = {_shard(name) for name in set(self._storage.names(LEDGER_FOLDER)) - self._records}
        if len(done) >= self._shards:
            return "end"
        begun = {_shard(name.replace("part-", "")) for name in self._parts_there() - self._parts}
        return "commit" if begun - done else "work"

    def _first_file(self) -> bytes:
        try:
            return self._storage.read(self._begins_with)
        except FileNotFoundError:
            return b""

    def _parts_there(self) -> set[str]:
        return {name for table in TABLES for name in self._storage.names(table)}


def _shard(name: str) -> str:
    return name.rsplit("/", 1)[1][:8]


def run_and_kill(
    tree: ProcessTree,
    observer: Observer,
    aims: Iterator[Aim],
    *,
    draws: random.Random,
    look_seconds: float,
    meanwhile: Callable[[str], None],
) -> list[Kill]:
    """Wait for a command to end, and kill what the aims say on the way; what was killed.

    Args:
        tree: the command, just started.
        observer: of its run.
        aims: asked for the next one as soon as one is done, while the command lives.
        draws: choose among processes of a kind.
        look_seconds: pause between two looks at the run.
        meanwhile: called with each phase that is seen.

    Raises:
        TimeoutError: the command does not end.
    """
    kills: list[Kill] = []
    aim, due, until = next(aims, None), None, time.monotonic() + COMMAND_SECONDS
    looked, victims = 0.0, list[psutil.Process]()
    while tree.command.poll() is None:
        if (now := time.monotonic()) > until:
            raise TimeoutError(f"the command did not end within {COMMAND_SECONDS:g} s")
        phase = observer.phase()
        meanwhile(phase)
        if aim is not None and due is None and PHASES.index(phase) >= PHASES.index(aim.phase):
            due = now + aim.delay
        if aim is not None and now >= looked + VICTIMS_SECONDS:
            looked, victims = now, [process for process in tree.living() if _kind(process, tree) == aim.target]
        if aim is not None and due is not None and now >= due and _killed(victims, draws):
            kills.append(Kill(aim.target, phase))
            if aim.target == COMMAND:
                break
            (observer.begins_anew if aim.target == AT_WORK else observer.goes_on)()
            aim, due, looked = next(aims, None), None, 0.0
        time.sleep(look_seconds if aim is not None else 0.1)
    tree.command.wait()
    return kills


def _killed(victims: list[psutil.Process], draws: random.Random) -> bool:
    """Kill one of them; False if none is there (yet, or any more)."""
    try:
        victim = draws.choice(victims)
        if victim.status() == psutil.STATUS_ZOMBIE:
            return False
        victim.kill()
    except (IndexError, psutil.Error):
        return False
    return True


def _kind(process: psutil.Process, tree: ProcessTree) -> str:
    if process.pid == tree.command.pid:
        return COMMAND
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return "gone"
    if "pipelines.careful:serve" in words:
        return CAREFUL
    if "pipelines.cli:work" in words:
        return AT_WORK
    return RAY_WORKER if "DetectShard" in words else "other"
