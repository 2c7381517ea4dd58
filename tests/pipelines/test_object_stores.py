"""A run with its photos and its tables in an object store: the same rows as on a disk, whatever the store does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import FaultyProxy, RandomFaults
from pipelines import ledger
from pipelines.cli import main
from retinafocus import open_run
from retinafocus.errors import RunError
from retinafocus.runs import Run
from retinafocus.storage import StorageConfig, open_storage

FAULTS = dict.fromkeys(("error", "slow_down", "reset", "lost", "late_error", "cut"), 0.03)


@pytest.fixture(scope="module")
def on_disk(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(archive, tmp_path_factory.mktemp("on-disk"), tiny_weights)


@pytest.fixture
def bucket(s3_server: Any, archive: Path) -> str:
    """The archive in a bucket, below a prefix."""
    for path in archive.rglob("*"):
        if path.is_file():
            key = f"in/{path.relative_to(archive)}"
            s3_server.client.put_object(Bucket=s3_server.bucket, Key=key, Body=path.read_bytes())
    return str(s3_server.location)


def _comparable(run: Run) -> tuple[Any, Any]:
    """`faces` and `images` without what tells where a photo lies and when it was put there."""
    return run.faces().drop_columns(["uri"]), run.images().drop_columns(["uri", "modified"])


def test_tables_equal_those_of_a_run_on_disk_through_a_faulty_store(
    run_job: Callable[..., Run], bucket: str, s3_server: Any, on_disk: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    with FaultyProxy(s3_server.endpoint, RandomFaults(FAULTS, seed=5)) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, timeout_seconds=5)
        run = run_job(f"{bucket}/in", f"{bucket}/out%20a", tiny_weights, storage=storage)
        assert sum(proxy.injected.values()) > 10
    assert run.complete
    assert _comparable(run) == _comparable(on_disk)
    assert run.location == f"{bucket}/out%20a"
    assert run.images().column("uri")[0].as_py().startswith(f"{bucket}/in/day")
    names = [entry.name for entry in open_storage(f"{bucket}/out%20a").entries()]
    assert len(names) == 2 + 4 * len(run.records)  # run.json, the manifest, three tables and a record of each shard
    info = s3_server.client.get_object(Bucket=s3_server.bucket, Key="out a/run.json")["Body"].read().decode()
    assert "a-secret-of-the-tests" not in info
    assert main(["validate", run.location]) == 0
    assert main(["draw", run.location, "-o", str(tmp_path), "--limit", "1"]) == 0
    assert len(list(tmp_path.glob("*.jpg"))) == 1


def test_unfinished_run_goes_on_where_it_stopped(
    run_job: Callable[..., Run], bucket: str, s3_server: Any, on_disk: Run, tiny_weights: Path
) -> None:
    whole = run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights)
    storage = open_storage(whole.location)
    info = json.loads(storage.read("run.json"))
    storage.put("run.json", json.dumps({**info, "status": "running"}).encode())
    storage.delete("_ledger/00000003.json")
    again = run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights)
    assert _comparable(again) == _comparable(on_disk)
    assert again.info["totals"]["photos_this_time"] == whole.records[3]["photos"]
    kept = {record["shard"]: record["attempt"] for record in again.records}
    assert [shard for shard, attempt in kept.items() if attempt != whole.records[shard]["attempt"]] == [3]
    assert sorted(again.files("images")) == sorted(storage.uri(name) for name in storage.names("images"))


def test_second_command_on_the_same_run_is_refused(
    run_job: Callable[..., Run], bucket: str, tiny_weights: Path
) -> None:
    with open_storage(f"{bucket}/out").locked(), pytest.raises(RunError, match="another command is at work"):
        run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights)


def test_store_that_stays_away_ends_the_run_clearly(
    run_job: Callable[..., Run], bucket: str, s3_server: Any, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "COMMIT_DELAYS", (0.001,))

    def no_ledger(method: str, path: str) -> str | None:
        return "slow_down" if method == "PUT" and "_ledger/0" in path else None

    with FaultyProxy(s3_server.endpoint, no_ledger) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, attempts=2, retry_seconds=1)
        with pytest.raises(RunError, match=r"503 Service Unavailable, SlowDown.*run the same command again"):
            run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights, storage=storage)
    assert not open_run(f"{bucket}/out").complete
    assert run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights).complete


def test_photos_that_the_store_keeps_back_or_that_change_are_rows(
    run_job: Callable[..., Run], bucket: str, s3_server: Any, tiny_weights: Path, archive: Path
) -> None:
    photo = (archive / "day2" / "photo-00.jpg").read_bytes()

    def keep_back(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith("photo-00.jpg"):  # other content of the same size, after the listing
            key = "in/day2/photo-00.jpg"
            s3_server.client.put_object(Bucket=s3_server.bucket, Key=key, Body=photo[:-2] + b"\xff\xd8")
        return "error" if method == "GET" and re.search(r"photo-0[1-4]\.jpg", path) else None

    with FaultyProxy(s3_server.endpoint, keep_back) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, attempts=2)
        run = run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights, storage=storage)
    assert run.complete
    failed = {row["uri"].rsplit("/", 1)[1]: row for row in run.images().to_pylist() if row["status"] != "ok"}
    assert {name: row["status"] for name, row in failed.items()} == {
        "photo-00.jpg": "changed",
        **dict.fromkeys(["photo-01.jpg", "photo-02.jpg", "photo-03.jpg", "photo-04.jpg"], "read_error"),
    }
    assert failed["photo-01.jpg"]["error"] == "the storage failed (500 Internal Server Error, InternalError)"
    assert all(row["faces"] is None for row in failed.values())


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_actors_read_and_write_the_store_as_the_settings_say(
    run_job: Callable[..., Run], ray_cluster: str, bucket: str, s3_server: Any, on_disk: Run, tiny_weights: Path
) -> None:
    # The cluster has an environment of its own: all its actors know of the store came with the settings.
    everybody = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": f"arn:aws:s3:::{s3_server.bucket}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    s3_server.client.put_bucket_policy(Bucket=s3_server.bucket, Policy=policy)
    storage = StorageConfig(endpoint=s3_server.endpoint, region="us-east-1", anonymous=True)
    run = run_job(f"{bucket}/in", f"{bucket}/out", tiny_weights, runner="ray", workers="cpu=2", storage=storage)
    assert run.info["runner"] == "ray"
    assert _comparable(run) == _comparable(on_disk)
