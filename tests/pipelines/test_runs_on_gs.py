"""A run with its photos and its tables in a store that speaks Google's interface: the same rows as on a disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.google_store import GoogleStore
from pipelines.cli import main
from pipelines.validate import validate
from retinafocus import open_run
from retinafocus.errors import RunError
from retinafocus.runs import Run
from retinafocus.storage import StorageConfig, open_storage


@pytest.fixture(autouse=True)
def no_keys_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes to Google's store want a key, and keys are got from Google but for this one."""
    names = ("client_email", "private_key", "private_key_id")
    key = {**dict.fromkeys(names, ""), "gcs_base_url": "http://127.0.0.1:9", "disable_oauth": True}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))


def test_run_in_a_google_store_is_that_on_a_disk(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    on_disk = run_job(archive / "day2", tmp_path / "out", tiny_weights, limit=3)
    names = [Path(path).name for path in on_disk.manifest().column("path").to_pylist()]
    with GoogleStore("bucket") as store:
        config = StorageConfig(endpoint=store.endpoint)
        for name in names:
            open_storage("gs://bucket/in", config).put(name, (archive / "day2" / name).read_bytes())
        reached = ["--endpoint", store.endpoint]
        assert main(["index", "gs://bucket/in", "-o", "gs://bucket/out", *reached]) == 0
        settings = ["--weights", str(tiny_weights), "--device", "cpu", "--runner", "local", "--workers", "2"]
        assert main(["detect", "-o", "gs://bucket/out", *settings, *reached]) == 0
        assert validate("gs://bucket/out", config).problems == {}
        run = open_run("gs://bucket/out", config)
        assert run.faces().drop_columns(["uri"]) == on_disk.faces().drop_columns(["uri"])
        beside = ["uri", "modified"]
        assert run.images().drop_columns(beside) == on_disk.images().drop_columns(beside)
        assert set(run.images().column("uri").to_pylist()) == {f"gs://bucket/in/{name}" for name in names}
        assert main(["forget", "gs://bucket/out", f"gs://bucket/in/{names[0]}", *reached]) == 0
        assert main(["validate", "gs://bucket/out", *reached]) == 0
        assert len(open_run("gs://bucket/out", config).images()) == 2
        assert not [key for key in store.objects if key.startswith("out/.")]  # nor the lock


def test_google_store_keeps_conditions_and_lists_many() -> None:
    with GoogleStore("bucket") as store:
        config = StorageConfig(endpoint=store.endpoint)
        storage = open_storage("gs://bucket/a%20run", config)
        storage.check_writable()
        names = [f"faces/{number:03d}.parquet" for number in range(120)]
        for name in names:
            storage.put(name, name.encode())
        assert [entry.name for entry in storage.entries()] == list(storage.names("faces")) == names
        assert [storage.create_once(f"faces/{number}", b"new") for number in ("x", "x")] == [True, False]
        storage.delete("faces/not there")
        with pytest.raises(FileNotFoundError):
            storage.read("faces/not there")
        with storage.open(names[0]) as file:
            file.seek(6)
            assert file.read(3) == b"000"


def test_lock_in_a_google_store_is_one_commands_and_a_dead_ones_is_replaced() -> None:
    with GoogleStore("bucket") as store:
        storage = open_storage("gs://bucket/run", StorageConfig(endpoint=store.endpoint))
        with storage.locked() as hold:
            hold.check()
            with pytest.raises(RunError, match="another command is at work on this run"):
                storage.locked().__enter__()
            dead = {**json.loads(storage.read(".lock")), "started": 0.0}  # of a process that had this one's number
        storage.put(".lock", json.dumps(dead).encode())
        left_over = f".lock-clock-{'0' * 32}"
        storage.put(left_over, b"")
        with storage.locked() as hold:
            assert json.loads(storage.read(".lock"))["started"] > 0
            assert storage.sweep(hold) == 0  # too young
        assert [entry.name for entry in storage.entries()] == [left_over]
