"""What the scaling table is computed from: the start-up told apart, one worker as the measure of several."""

from __future__ import annotations

import pytest

from benchmarks.scaling import Measured, compare, efficiency, table, waiting_seconds


def _measured(photos: int, wall: float, network: float, waiting: float = 0.0) -> Measured:
    return Measured(
        photos=photos, wall=wall, processor=2 * wall, stages={"network": network, "read": 0.0},
        shards=[10] * (photos // 10), waiting=waiting,
    )  # fmt: skip


def test_two_workers_are_compared_with_one_without_the_start_up() -> None:
    # One worker: 20 s of start-up and 0.5 s a photo. Two: 24 s and 0.3 s a photo, of which each worker has 0.6.
    one = (1, _measured(10, 25.0, 4.0), _measured(110, 75.0, 44.0), 55.0)
    two = (2, _measured(10, 27.0, 5.0), _measured(110, 57.0, 55.0, waiting=11.4), 33.0)
    rows = compare([one, two])
    assert [row.wall for row in rows] == [50.0, 30.0]
    assert [row.start for row in rows] == pytest.approx([20.0, 24.0])
    assert [efficiency(rows, row) for row in rows] == pytest.approx([1.0, 50 / 60])
    assert [row.worker_seconds["network"] for row in rows] == pytest.approx([0.4, 0.5])
    assert rows[1].waiting == pytest.approx(0.1)
    # Expected for 110 photos, of which 100 are compared.
    assert [row.model for row in rows] == pytest.approx([50.0, 30.0])
    assert "| 2 workers | 30.0 | 3.33 | 0.83 | 30.0 | 0.600 | 2.00 | 500 (1.25) | 0 (0.00) | 10.0 % | 24.0 |" in table(
        rows
    )


def test_workers_wait_from_their_last_shard_to_the_last_of_all() -> None:
    finished = {"a": ("00:10", "00:40"), "b": ("00:20", "00:25"), "c": ("00:30",)}
    records = [
        {"worker": worker, "finished": f"2026-01-01T00:{time}.000+00:00"}
        for worker, times in finished.items()
        for time in times
    ]
    assert waiting_seconds(records) == 15.0 + 10.0
