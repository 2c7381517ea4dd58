"""The forecast: from headers and one photo, in proportion to photos and workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import planning
from pipelines.forecast import Forecast, forecast
from pipelines.inventory import list_photos, manifest_table
from pipelines.report import describe_plan
from pipelines.workers import Workers
from retinafocus import DetectorConfig
from retinafocus.runs import FORGOTTEN_FILE, Run


def _workers(count: int) -> Workers:
    return Workers(count=count, device="cpu", chosen=True)


def test_forecast_is_per_photo_times_photos_over_workers(archive: Path, tiny_weights: Path) -> None:
    manifest = manifest_table(list_photos([str(archive)]))
    expected = forecast(manifest, str(tiny_weights), DetectorConfig(device="cpu"), _workers(3))
    assert expected.sampled == 16
    assert 0 < expected.seconds_per_photo < 10
    assert expected.seconds == pytest.approx(expected.seconds_per_photo * 24 / 3)
    # 160..183 x 120 px at full size and, since faces may fill the short side, nothing coarser at a band up to 160 px.
    assert 0.0192 <= expected.network_megapixels <= 0.0220


def test_photos_that_cannot_be_read_give_no_forecast_and_no_error(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    manifest = manifest_table(list_photos([str(tmp_path)]))
    expected = forecast(manifest, str(tiny_weights), DetectorConfig(device="cpu"), _workers(1))
    assert (expected.sampled, expected.seconds) == (0, 0.0)


def _expensive(manifest: pa.Table, *settings: object) -> Forecast:
    """A forecast of a hundred seconds for each photo."""
    photos = manifest.num_rows
    return Forecast(
        photos=photos, network_megapixels=1.0, exhaustive_megapixels=1.0, seconds_per_photo=100.0,
        seconds=100.0 * photos, sampled=photos, looked_at=photos,
    )  # fmt: skip


def _job(archive: Path, weights: Path, output: Path, **settings: Any) -> planning.DetectJob:
    settings = {"detector": DetectorConfig(device="cpu"), "workers": "1", **settings}
    return planning.DetectJob(inputs=[str(archive)], output=str(output), weights=str(weights), **settings)


def test_resumed_run_is_forecast_by_what_is_left_of_it(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_job(archive, tmp_path / "out", tiny_weights)
    (tmp_path / "out" / "_ledger" / "00000003.json").unlink()
    left = [row["uri"] for row in run.manifest().to_pylist() if row["shard"] == 3]
    asked = []

    def expensive(manifest: pa.Table, *settings: object) -> Forecast:
        asked.append(manifest.column("uri").to_pylist())
        return _expensive(manifest)

    monkeypatch.setattr(planning, "forecast", expensive)
    planned = planning.plan(_job(archive, tiny_weights, tmp_path / "out"))
    assert (planned.runner, asked) == ("local", [left])
    assert "expected about 3 min for the 2 photos that are left" in describe_plan(planned)
    for anew in (
        _job(archive, tiny_weights, tmp_path / "new"),
        _job(archive, tiny_weights, tmp_path / "out", existing="overwrite"),
    ):
        assert planning.plan(anew).runner == "ray"
        assert len(asked[-1]) == 24


def test_finished_run_is_resumed_without_looking_at_a_photo(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=2)
    monkeypatch.delattr("retinafocus.detector.Detector.from_pretrained")
    planned = planning.plan(_job(archive, tiny_weights, tmp_path, limit=2), with_forecast=True)
    assert planned.runner == "local"
    assert "expected nothing: every photo is done already" in describe_plan(planned)


def test_retry_is_forecast_by_the_photos_that_failed(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(archive / "day2", photos)
    (photos / "photo-00.jpg").write_bytes(b"")
    monkeypatch.setattr("pipelines.manifest.MINIMUM_SHARDS", 1)  # all in one shard
    run_job(photos, tmp_path / "out", tiny_weights, limit=4)
    monkeypatch.setattr(planning, "forecast", _expensive)
    planned = planning.plan(_job(photos, tiny_weights, tmp_path / "out", limit=4, retry=("truncated",)))
    assert planned.forecast is not None
    assert (planned.forecast.photos, planned.forecast.seconds) == (1, 100.0)


def test_run_that_only_loses_a_photo_is_forecast_without_looking_at_one(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.manifest.MINIMUM_SHARDS", 1)  # all in one shard
    run = run_job(archive, tmp_path, tiny_weights, limit=2)
    forgotten = run.manifest().column("image_id")[0].as_py()
    run.storage.put(FORGOTTEN_FILE, f'["{forgotten}"]'.encode())  # `retinafocus forget` was cut short
    monkeypatch.delattr("retinafocus.detector.Detector.from_pretrained")
    planned = planning.plan(_job(archive, tiny_weights, tmp_path, limit=2))
    assert [row["generation"] for row in planning.what_to_do(planned)[1]] == [1]
    assert planned.forecast is not None
    assert (planned.forecast.photos, planned.forecast.seconds) == (0, 0.0)
