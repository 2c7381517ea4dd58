"""Shards shared out between workers of unlike speed: each takes one when it is free. Needs no Ray."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any


class SharedShards:
    """The shards that no worker has yet, and how fast each kind of worker turned out to be.

    Args:
        shards: rows of `pending_shards`, the largest first.
    """

    def __init__(self, shards: Sequence[dict[str, Any]]) -> None:
        self._waiting = deque(shards)
        self._photos_waiting = sum(_photos(row) for row in shards)
        self._photos: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, kind: str, at_work: Mapping[str, int]) -> dict[str, Any] | None:
        """The next shard for a worker of a kind.

        The fastest kind takes the largest shards and the others the smallest, so that no slow worker is left with a
        large one at the end. One that would still be at its shard when the fastest had done everything takes none.

        Args:
            kind: of the worker.
            at_work: workers of each kind that are alive.

        Returns:
            The shard, which is the worker's until `done` or `give_back`; None where there is none for it now.
        """
        if not self._waiting:
            return None
        fastest = self._fastest()
        if fastest is None or fastest == kind:
            row = self._waiting.popleft()
        else:
            if (alive := at_work.get(fastest, 0)) and self._photos[kind]:
                without_it = self._photos_waiting * self._pace(fastest) / alive
                if _photos(self._waiting[-1]) * self._pace(kind) > without_it:
                    return None
            row = self._waiting.pop()
        self._photos_waiting -= _photos(row)
        return row

    def give_back(self, row: dict[str, Any]) -> None:
        """A shard whose worker died waits again, before the others."""
        self._waiting.appendleft(row)
        self._photos_waiting += _photos(row)

    def done(self, kind: str, row: dict[str, Any], seconds: float) -> None:
        """A worker of that kind took so long for a shard."""
        self._photos[kind] += _photos(row)
        self._seconds[kind] += seconds

    def _fastest(self) -> str | None:
        """Of the kinds that have done something; None until two have."""
        return min(self._photos, key=self._pace) if len(self._photos) > 1 else None

    def _pace(self, kind: str) -> float:
        """Seconds that one worker takes for a photo."""
        return self._seconds[kind] / self._photos[kind]


def _photos(row: dict[str, Any]) -> int:
    return max(1, int(row["photos"]))  # a shard whose photos were all taken out is a commit all the same
