"""Shards shared out between fast and slow workers, in a simulation whose clock is worked out."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import pytest

from pipelines.sharing import SharedShards


def _shards(*photos: int) -> list[dict[str, Any]]:
    return [{"shard": number, "photos": count} for number, count in enumerate(photos)]


def _simulate(
    shards: list[dict[str, Any]], workers: dict[str, tuple[int, float]], dies: tuple[str, float] | None = None
) -> tuple[float, Counter[str]]:
    """Hand out every shard to workers of known seconds a photo.

    Args:
        shards: to be done.
        workers: of each kind, how many, and the seconds they take for a photo.
        dies: a kind, and when all of it is gone for good.

    Returns:
        When the last shard was done; photos done by each kind.
    """
    shared, alive = SharedShards(shards), {kind: count for kind, (count, _) in workers.items()}
    idle = [kind for kind, (count, _) in workers.items() for _ in range(count)]
    events: list[tuple[float, int, str, dict[str, Any] | None]] = [(dies[1], -1, dies[0], None)] if dies else []
    done: Counter[str] = Counter()
    numbers: list[int] = []
    now, ticket, last = 0.0, 0, 0.0
    while True:
        for kind in list(idle):
            if (row := shared.take(kind, alive)) is not None:
                idle.remove(kind)
                heapq.heappush(events, (now + row["photos"] * workers[kind][1], ticket, kind, row))
                ticket += 1
        if not events:
            break
        now, _, kind, row = heapq.heappop(events)
        if row is None:
            alive[kind], idle = 0, [each for each in idle if each != kind]
            for event in [event for event in events if event[2] == kind]:
                shared.give_back(event[3])  # type: ignore[arg-type]
            events = [event for event in events if event[2] != kind]
            heapq.heapify(events)
            continue
        shared.done(kind, row, row["photos"] * workers[kind][1])
        done[kind] += row["photos"]
        numbers.append(row["shard"])
        idle.append(kind)
        last = now
    assert sorted(numbers) == [row["shard"] for row in shards]  # every shard once
    return last, done


def test_each_kind_does_what_its_speed_is_worth() -> None:
    # 1000 photos: two GPUs do 20 a second, six CPU workers 6 a second; all together 38.5 s if no one ever waited.
    shards = _shards(*[20] * 50)
    seconds, done = _simulate(shards, {"gpu": (2, 0.1), "cpu": (6, 1.0)})
    assert done["gpu"] == pytest.approx(1000 * 20 / 26, abs=80)
    assert 1000 / 26 <= seconds <= 1000 / 26 + 4


def test_slow_worker_takes_no_shard_that_everyone_would_wait_for() -> None:
    # The CPU worker would take 100 s for a shard that the GPU does in 1.
    seconds, done = _simulate(_shards(*[100] * 12), {"gpu": (1, 0.01), "cpu": (1, 1.0)})
    assert done["cpu"] == 100  # the first, when nobody knew
    assert seconds == pytest.approx(100)
    shared = SharedShards(_shards(100, 100))
    shared.done("gpu", {"photos": 100}, 1.0)
    shared.done("cpu", {"photos": 100}, 100.0)
    assert shared.take("cpu", {"gpu": 1, "cpu": 1}) is None
    assert shared.take("cpu", {"gpu": 0, "cpu": 1}) is not None  # nobody else is there to do it


def test_fast_workers_take_the_large_shards_and_slow_ones_the_small() -> None:
    shared = SharedShards(_shards(50, 40, 30, 20, 10))
    shared.done("gpu", {"photos": 10}, 1.0)
    shared.done("cpu", {"photos": 10}, 2.0)
    at_work = {"gpu": 1, "cpu": 1}
    assert [shared.take(kind, at_work)["shard"] for kind in ("gpu", "cpu", "gpu")] == [0, 4, 1]  # type: ignore[index]


def test_workers_of_a_kind_that_goes_leave_their_shards_to_the_others() -> None:
    seconds, done = _simulate(_shards(*[10] * 40), {"gpu": (2, 0.1), "cpu": (2, 1.0)}, dies=("gpu", 5.5))
    assert done["gpu"] == 100  # five shards each
    assert done["cpu"] == 300
    assert seconds == pytest.approx(150)


def test_shard_of_no_photos_is_handed_out_and_nothing_waits_at_the_end() -> None:
    shared = SharedShards(_shards(0))
    assert shared.take("cpu", {"cpu": 1}) == {"shard": 0, "photos": 0}
    shared.done("cpu", {"photos": 0}, 0.1)
    assert shared.take("cpu", {"cpu": 1}) is None
    assert len(shared) == 0
