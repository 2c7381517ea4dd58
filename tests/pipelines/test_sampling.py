"""`retinafocus plan --sample` and `--cluster`: what is measured, and what is said of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from pipelines.cluster_plan import sample_words
from pipelines.sampling import Measured, measure, rates, sample_size
from pipelines.workers import Workers
from retinafocus import DetectorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import StorageConfig


@pytest.mark.parametrize(
    ("text", "photos", "count"),
    [
        ("0.1%", 1_000_000, 1000),
        ("0.1%", 999_001, 1000),
        ("100%", 50, 50),
        ("20", 1000, 20),
        ("1", 1000, 16),
        ("0.1%", 100, 16),
        ("500", 10, 10),
    ],
)
def test_size_of_a_sample(text: str, photos: int, count: int) -> None:
    assert sample_size(text, photos) == count


@pytest.mark.parametrize("text", ["", "%", "x", "0", "-1%", "0.5", "101%", "nan", "inf%"])
def test_size_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give a share of the photos such as"):
        sample_size(text, 1000)


def record(worker: str, second: float, photos: int) -> dict[str, Any]:
    finished = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=second)
    return {"worker": worker, "finished": finished.isoformat(timespec="milliseconds"), "looked_at": photos}


def test_rate_of_each_worker_is_without_its_first_shard() -> None:
    slow = [record("a", 10, 5), record("a", 12, 5), record("a", 15, 5)]  # 10 photos in 5 s
    fast = [record("b", 14.5, 4), record("b", 11, 9)]  # 4 in 3.5 s, in whatever order they are told
    assert rates([*slow, *fast, record("c", 9, 7)]) == pytest.approx([2.0, 4 / 3.5])
    with pytest.raises(RunError, match="too small to tell a rate"):
        rates([record("a", 1, 5), record("b", 2, 5)])
    with pytest.raises(RunError, match="too small"):
        rates([])


def test_sample_is_looked_at_by_all_workers(archive: Path, tiny_weights: Path, tmp_path: Path) -> None:
    uris = [str(path) for path in sorted(archive.glob("day*/*.jpg"))]
    (tmp_path / "cut.jpg").write_bytes(Path(uris[0]).read_bytes()[:-200])
    config = DetectorConfig(device="cpu", engine="torch")
    workers = Workers(count=2, device="cpu", chosen=True)
    found = measure([*uris, str(tmp_path / "cut.jpg")], config, str(tiny_weights), workers, StorageConfig())
    assert found.photos == 24
    assert found.failed == {"truncated": 1}
    assert found.workers in (1, 2)
    assert found.worker_seconds > 0
    assert set(found.seconds) == {"read", "decode", "network", "other"}
    assert min(found.seconds.values()) > 0
    assert found.deviation > 0


def test_sample_that_cannot_be_looked_at_is_an_error(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    workers = Workers(count=1, device="cpu", chosen=True)
    with pytest.raises(RunError, match="only 0 photos of the sample could be looked at"):
        measure(
            [str(tmp_path / "empty.jpg")], DetectorConfig(engine="torch"), str(tiny_weights), workers, StorageConfig()
        )


def test_time_and_price_of_all_are_said() -> None:
    measured = Measured(
        photos=100, failed=Counter(), workers=2, worker_seconds=0.5, deviation=0.1,
        seconds={"read": 0.01, "decode": 0.1, "network": 0.3, "other": 0.05},
    )  # fmt: skip
    words = "\n".join(sample_words(measured, 1_000_000, 4, 2.0))
    # 125,000 s with four workers: 34.7 h, 69.44 at 2 an hour.
    assert "0.500 s a photo and worker, 4.0 photos/s" in words
    assert "about 34.7 h [95 %: about 31.2 h to about 38.2 h, from how photos differ], 69.44 at 2 an hour" in words
    assert "too few shards for 4 workers" in words
    assert "of fewer than 256 photos" in words
    enough = replace(measured, photos=256)
    assert "note" not in "\n".join(sample_words(enough, 1_000_000, 2, None))
    assert "note" not in "\n".join(sample_words(measured, 100, 2, None))  # all of them: there is nothing more to say


def test_plan_with_a_sample_and_clusters(archive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--weights", str(tiny_weights), "--device", "cpu", "--engine", "torch", "--workers", "1"]
    cluster = [
        "--cluster",
        "1",
        "4",
        "--node-workers",
        "2",
        "--price-per-node-hour",
        "3.6",
        "--store-bandwidth",
        "0.01",
    ]
    assert cli.main(["plan", str(archive), *options, "--sample", "100%", *cluster]) == 0
    words = capsys.readouterr().out
    rows = {line[:27].strip(): line[27:].split() for line in words.splitlines()}
    assert "sample   24 photos looked at by 1 worker at once" in words
    assert rows["nodes of 2 workers"] == ["1", "4"]
    assert rows["what more of would help"] == ["store", "store"]
    assert len(rows["price of a million photos"]) == 2
    assert "nodes lost on the way" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--node-workers", "2"], "--node-workers is of a cluster", id="no cluster"),
        pytest.param(["--price-per-node-hour", "2"], "prices a --sample or a --cluster", id="price of nothing"),
        pytest.param(["--cluster", "0"], "cluster is 0", id="no nodes"),
        pytest.param(["--cluster", "1.5"], "give numbers of nodes", id="half a node"),
        pytest.param(["--sample", "lots"], "sample is 'lots'", id="sample"),
    ],
)
def test_wrong_use_is_refused(
    archive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["plan", str(archive), "--weights", str(tiny_weights), "--engine", "torch", *words]) == 2
    assert message in capsys.readouterr().err
