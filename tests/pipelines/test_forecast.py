"""The forecast: from headers and one photo, in proportion to photos and workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.forecast import forecast
from pipelines.inventory import list_photos, manifest_table
from pipelines.workers import Workers
from retinafocus import DetectorConfig


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
