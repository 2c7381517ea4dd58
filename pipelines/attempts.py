"""Marks of attempts: a worker that dies cannot say so, but the mark it set before it began stays.

Whoever takes up a shard where an earlier attempt left its mark goes carefully (`pipelines.careful`). A mark may also be
left by something innocent, a machine that lost its power: then the shard only takes longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby

from pipelines.ledger import ATTEMPTS_FOLDER
from retinafocus.errors import RunError
from retinafocus.storage import Storage

MAX_ATTEMPTS = 5
"""Attempts at a shard whose workers died, before one command gives it up: the first may be a photo's fault, the others
are not, and no cluster should be killed for ever."""


@contextmanager
def marked(storage: Storage, shard: int, attempt: str, worker: str = "") -> Iterator[list[str]]:
    """Mark an attempt at a shard while the block runs; the marks stay only where the process dies in it.

    Args:
        storage: the run's folder.
        shard: number of the shard.
        attempt: a name no other attempt has.
        worker: who makes the attempt.

    Yields:
        The workers that died at it before, "" for those nobody knows: after any, go carefully.

    Raises:
        RunError: the workers of too many attempts died.
    """
    earlier = [name for name in storage.names(ATTEMPTS_FOLDER) if _shard(name) == f"{shard:08d}"]
    if len(earlier) >= MAX_ATTEMPTS:
        raise RunError(
            f"its worker died {len(earlier)} times, also when photos went one by one; see the system's log for why "
            "(memory?) and try fewer workers"
        )
    own = f"{ATTEMPTS_FOLDER}/{shard:08d}-{attempt}"
    dead = [_read(storage, name) for name in earlier]
    storage.put(own, worker.encode())
    try:
        yield dead
    except BaseException:
        _delete(storage, [own])  # this worker lives
        raise
    _delete(storage, [*earlier, own])


def count_anew(storage: Storage) -> None:
    """Keep one mark of each shard: a new command may try as often as the one before, but knows where to go carefully.

    Call it only when no worker of the run is at work any more.
    """
    for _, marks in groupby(sorted(storage.names(ATTEMPTS_FOLDER)), key=_shard):
        _delete(storage, list(marks)[1:])


def _read(storage: Storage, name: str) -> str:
    """Who left a mark; "" where it says nothing."""
    try:
        return storage.read(name).decode(errors="replace")
    except FileNotFoundError:  # who was thought dead lives, and has just taken it away
        return ""


def _shard(name: str) -> str:
    return name.rsplit("/", 1)[1].partition("-")[0]


def _delete(storage: Storage, names: list[str]) -> None:
    # A mark that stays costs time at worst, and goes with the run's other leftovers: no reason to fail a shard.
    with suppress(OSError):
        for name in names:
            storage.delete(name)
