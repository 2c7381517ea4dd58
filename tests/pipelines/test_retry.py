"""Which shards a retry does, and the error budget."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.budget import ErrorBudget
from pipelines.retry import shards_to_do


def _record(shard: int, generation: int = 0, **statuses: int) -> dict[str, Any]:
    photos = sum(statuses.values())
    return {
        "shard": shard, "generation": generation, "manifest_version": 0, "photos": photos, "statuses": statuses,
    }  # fmt: skip


def _manifest(*photos: int) -> pa.Table:
    shards = [shard for shard, count in enumerate(photos) for _ in range(count)]
    numbers = pa.array([0] * len(shards), pa.int32())
    return pa.table({"shard": pa.array(shards, pa.int32()), "bytes": pa.array(shards, pa.int64()), "version": numbers})


def _shards(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted((row["shard"], row["generation"]) for row in rows)


MANIFEST = _manifest(3, 3, 3, 3)


def test_without_a_retry_failed_photos_stay_failed() -> None:
    records = [_record(0, ok=2, corrupt=1), _record(1, ok=3)]
    rows, kept = shards_to_do(records, MANIFEST, (), None)
    assert _shards(rows) == [(2, 0), (3, 0)]
    assert kept is None


def test_retry_does_shards_with_such_failures_and_the_unfinished_ones() -> None:
    records = [_record(0, ok=2, corrupt=1), _record(1, 4, ok=1, timeout=2), _record(2, ok=3)]
    rows, kept = shards_to_do(records, MANIFEST, ("corrupt", "timeout"), {"status": "complete"})
    assert _shards(rows) == [(0, 1), (1, 5), (3, 0)]
    assert {row["shard"]: row["photos"] for row in rows} == {0: 1, 1: 2, 3: 3}
    assert kept == {"statuses": ["corrupt", "timeout"], "shards": {"0": 1, "1": 5}}


def test_retry_that_was_cut_short_tries_no_photo_twice() -> None:
    begun = {"retry": {"statuses": ["corrupt"], "shards": {"0": 1, "1": 1}}}
    # Shard 0 was done again and failed again; shard 2 was first done by the retry's command, and has failures.
    records = [_record(0, 1, ok=2, corrupt=1), _record(1, ok=2, corrupt=1), _record(2, ok=2, corrupt=1)]
    rows, kept = shards_to_do(records, MANIFEST, ("corrupt",), begun)
    assert _shards(rows) == [(1, 1), (3, 0)]
    assert kept == begun["retry"]
    rows, _ = shards_to_do(records, MANIFEST, ("corrupt", "timeout"), begun)  # another retry
    assert _shards(rows) == [(0, 2), (1, 1), (2, 1), (3, 0)]


@pytest.mark.parametrize(
    ("share", "photos", "failed", "whole", "exceeded"),
    [
        pytest.param(None, 100, 100, 100, False, id="no budget"),
        pytest.param(0.1, 99, 99, 1000, False, id="too few to say"),
        pytest.param(0.1, 100, 10, 1000, False, id="just the share"),
        pytest.param(0.1, 100, 11, 1000, True, id="more than the share"),
        pytest.param(0.0, 100, 1, 1000, True, id="no failure admitted"),
        pytest.param(0.5, 3, 2, 3, True, id="a small run at its end"),
        pytest.param(0.5, 0, 0, 3, False, id="nothing yet"),
    ],
)
def test_budget_is_exceeded_above_its_share(
    share: float | None, photos: int, failed: int, whole: int, exceeded: bool
) -> None:
    budget = ErrorBudget(share, [_record(0, ok=2, corrupt=0)] if photos > 2 else [], whole)
    budget.add(photos - budget.photos, failed)
    assert budget.exceeded is exceeded


def test_vanished_photos_are_no_failures() -> None:
    budget = ErrorBudget(0.0, [_record(0, ok=60, vanished=60)], 120)
    assert (budget.photos, budget.failed, budget.exceeded) == (120, 0, False)
    budget.add(30, 3)
    assert budget.words() == "3 of 150 photos failed (2.0 %), more than --max-error-rate 0 admits"
