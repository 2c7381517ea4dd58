"""Workers in this process: what one does not finish, nobody commits, and a stop reaches all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import on_threads
from pipelines.stages import DetectShard, StageConfig
from pipelines.workers import Workers
from retinafocus import DetectorConfig
from retinafocus.errors import WeightsError
from retinafocus.runs import Run
from retinafocus.weights import read_info

TWO = Workers(count=2, device="cpu", chosen=True)


@pytest.fixture
def config(run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path) -> StageConfig:
    """A run of which every shard is still to be done."""
    run = run_job(archive, tmp_path, tiny_weights)
    for record in run.records:
        (tmp_path / "_ledger" / f"{record['shard']:08d}.json").unlink()
    return StageConfig(
        output=str(tmp_path), weights=str(tiny_weights), weights_sha256=read_info(tiny_weights).sha256,
        detector=DetectorConfig(device="cpu", threads=1),
    )  # fmt: skip


def _committed(config: StageConfig) -> int:
    return len(list((Path(config.output) / "_ledger").glob("*.json")))


def test_closing_early_stops_every_worker_at_its_next_photo(config: StageConfig) -> None:
    shards = [{"shard": number, "generation": 0, "retry": ""} for number in range(12)]
    results = on_threads.run_on_threads(config, shards, workers=TWO, on_photo=lambda faces: None)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]
    assert 1 <= _committed(config) < 6  # without the stop, all twelve


def test_error_of_one_worker_is_raised_and_stops_the_others(
    config: StageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DetectShard.detect_shard

    def broken(self: DetectShard, row: dict[str, Any]) -> object:
        if row["shard"] == 1:
            raise SystemExit("not an error of a photo or shard")
        return whole(self, row)

    monkeypatch.setattr(DetectShard, "detect_shard", broken)
    shards = [{"shard": number, "generation": 0, "retry": ""} for number in range(12)]
    with pytest.raises(SystemExit):
        list(on_threads.run_on_threads(config, shards, workers=TWO, on_photo=lambda faces: None))
    assert _committed(config) < 11


def test_worker_with_other_weights_than_the_run_refuses(config: StageConfig) -> None:
    from dataclasses import replace

    other = replace(config, weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match="where the run was started; copy that file to every machine"):
        list(on_threads.run_on_threads(other, [{"shard": 0}], workers=TWO, on_photo=lambda faces: None))
