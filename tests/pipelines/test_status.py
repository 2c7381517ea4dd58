"""How far a run is, from its ledger alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.synthetic_run import write_manifest, write_run
from pipelines.cli import main
from pipelines.status import run_status
from retinafocus.errors import RunError
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import RUN_FILE, ledger_name, read_ledger


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """Three shards of 4 photos, committed 10, 20 and 40 seconds after the start."""
    storage = LocalStorage(tmp_path / "run")
    write_run(storage, 3, 4, failed_every=4)
    for record, second in zip(read_ledger(storage), (10, 20, 40), strict=True):
        record["finished"] = f"2026-01-01T00:00:{second}.000+00:00"
        storage.put(ledger_name(record["shard"]), json.dumps(record).encode())
    return storage


def test_complete_run(storage: LocalStorage) -> None:
    status = run_status(storage.location)
    assert status.to_dict() == {
        "location": storage.location, "state": "complete", "photos": 12, "done": 12, "failed": 3, "remaining": 0,
        "faces": 9, "statuses": {"ok": 9, "corrupt": 3}, "photos_per_second": 0.3, "seconds_left": None,
        "started": "2026-01-01T00:00:00+00:00", "last_commit": "2026-01-01T00:00:40.000+00:00",
    }  # fmt: skip


def test_run_at_work_says_when_it_will_be_done(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    storage.delete(ledger_name(2))
    with storage.locked():
        status = run_status(storage.location)
        assert (status.state, status.done, status.remaining) == ("running", 8, 4)
        assert (status.photos_per_second, status.seconds_left) == (0.4, 10.0)
        assert main(["status", storage.location]) == 0
    words = capsys.readouterr().out
    assert "photos   8 of 12 done (67 %), 4 remain\nstatuses 6 ok, 2 corrupt\nfaces    6\n" in words
    assert "rate     0.4 photos/s, about 10 s left; last commit 2026-01-01T00:00:20" in words
    assert main(["status", storage.location, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"


def test_rate_is_of_the_last_command(storage: LocalStorage) -> None:
    info = json.loads(storage.read(RUN_FILE)) | {"started": "2026-01-01T00:00:30+00:00"}
    storage.put(RUN_FILE, json.dumps(info).encode())
    assert run_status(storage.location).photos_per_second == 0.4  # 4 photos in 10 s


def test_archive_that_was_only_listed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(RunError, match="no run here"):
        run_status(storage.location)
    write_manifest(storage, 2, 3)
    status = run_status(storage.location)
    assert (status.state, status.photos, status.remaining, status.photos_per_second) == ("listed", 6, 6, None)
    assert status.report().endswith("photos   0 of 6 done (0 %), 6 remain")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["manifest", "photos.parquet"]
