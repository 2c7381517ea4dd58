"""What every machine of a run must see: found out before the first shard, in words that say what to mend."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipelines import preflight
from pipelines.ledger import ATTEMPTS_FOLDER
from pipelines.manifest import photo_uri
from pipelines.preflight import NodeCheck, node_check
from pipelines.stages import DetectShard, StageConfig
from retinafocus import DetectorConfig
from retinafocus.errors import RunError
from retinafocus.runs import Run
from retinafocus.storage import StorageConfig
from retinafocus.weights import read_info

from .conftest import add_fault

if TYPE_CHECKING:
    from tests.conftest import S3Server


@pytest.fixture
def check(tmp_path: Path) -> NodeCheck:
    """Of a run in `out` that looks at two photos; this machine can work on it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps({"mark": "ours"}))
    photos = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    for photo in photos:
        photo.write_bytes(b"photo")
    return NodeCheck(
        version=metadata.version("retinafocus"), output=str(tmp_path / "out"), mark="ours",
        photos=tuple(str(photo) for photo in photos),
    )  # fmt: skip


def test_machine_that_sees_all_of_it_is_fine_and_nothing_stays_behind(check: NodeCheck) -> None:
    assert check.problems() == []
    check.require("here")
    assert [path.name for path in Path(check.output).iterdir()] == ["run.json"]


def test_one_photo_that_is_gone_is_a_row_and_no_fault_of_the_machine(check: NodeCheck) -> None:
    Path(check.photos[0]).unlink()
    assert check.problems() == []


def test_machine_without_the_photos_is_told_from_one_without_the_output(check: NodeCheck) -> None:
    for photo in check.photos:
        Path(photo).unlink()
    (problem,) = check.problems()
    assert problem == (
        f"can read none of 2 photos that were tried, {check.photos[0]} among them (not_found); mount the photos there "
        "under the same path, or give the node the keys of their store"
    )
    with pytest.raises(RunError, match=r"node n1: can read none of 2 photos"):
        check.require("n1")


def test_names_that_are_no_text_are_seen(check: NodeCheck, tmp_path: Path) -> None:
    photo = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    photo.write_bytes(b"photo")
    assert replace(check, photos=(photo_uri(os.fsencode(photo)),)).problems() == []
    photo.unlink()
    (problem,) = replace(check, photos=(photo_uri(os.fsencode(photo)),)).problems()
    assert "caf%E9.jpg among them (not_found)" in problem


def test_photo_that_could_not_be_read_for_a_moment_is_seen(check: NodeCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(preflight, "read_start", failing)
    assert check.problems() == []


def test_output_that_is_not_there_is_not_made(check: NodeCheck, tmp_path: Path) -> None:
    (problem,) = replace(check, output=str(tmp_path / "elsewhere")).problems()
    assert problem.startswith(f"does not see the run in {tmp_path}/elsewhere; mount the same folder on every node")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("found", [{"mark": "another's"}, {}, []], ids=["another run", "no mark", "no run"])
def test_another_folder_of_the_same_name_is_not_taken_for_the_run(check: NodeCheck, found: object) -> None:
    (Path(check.output) / "run.json").write_text(json.dumps(found))
    (problem,) = check.problems()
    assert problem.startswith(f"has another folder under the name {check.output}; mount the same folder on every node")


def test_object_stores_are_asked_like_folders(s3_server: S3Server, check: NodeCheck) -> None:
    for name, data in (("run/run.json", b'{"mark": "ours"}'), ("my photos/1.jpg", b"photo")):
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=name, Body=data)
    photo, config = f"{s3_server.location}/my%20photos/1.jpg", StorageConfig(attempts=1)
    there = replace(check, output=f"{s3_server.location}/run", photos=(photo,), storage=config)
    assert there.problems() == []
    found = s3_server.client.list_objects_v2(Bucket=s3_server.bucket, Prefix="run/")["Contents"]
    assert [entry["Key"] for entry in found] == ["run/run.json"]
    output, photos = replace(there, output=f"{s3_server.location}/other", photos=(photo + ".gone",)).problems()
    assert output.startswith(f"does not see the run in {s3_server.location}/other; mount the same folder on every node")
    assert photos.startswith(f"can read none of 1 photos that were tried, {photo}.gone among them (not_found)")


def test_another_version_is_named(check: NodeCheck) -> None:
    here = metadata.version("retinafocus")
    assert replace(check, version="99").problems() == [
        f"has RetinaFocus {here}, the command was started with 99; install the same on all nodes"
    ]


def test_photos_are_tried_over_all_that_is_to_be_done_without_those_that_vanished(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run = run_job(archive, tmp_path / "out", tiny_weights)
    shards = [{"shard": record["shard"]} for record in run.records]
    check = node_check(shards, output=run.location, mark=run.info["mark"], storage=None)
    assert check.problems() == []
    assert 4 <= len(set(check.photos)) == len(check.photos) <= 8
    assert {Path(photo).parent.name for photo in check.photos} == {"day one", "day2"}


def test_neighbours_that_are_gone_do_not_stand_for_a_whole_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = pa.table({"uri": [f"{number:03d}" for number in range(200)], "vanished": [False] * 200})
    monkeypatch.setattr(preflight, "read_manifest", lambda *which, **columns: listed)
    check = node_check([{"shard": 0}], output=str(tmp_path), mark=None, storage=None)
    assert check.photos == ("000", "025", "050", "075", "100", "125", "150", "175")
    check = node_check([{"shard": number} for number in range(3)], output=str(tmp_path), mark=None, storage=None)
    assert check.photos == ("000", "100") * 3


def test_worker_on_a_machine_that_cannot_work_says_so_of_each_shard(check: NodeCheck, tiny_weights: Path) -> None:
    config = StageConfig(
        output=check.output, weights=str(tiny_weights), weights_sha256=read_info(tiny_weights).sha256,
        detector=DetectorConfig(device="cpu", engine="torch"), check=replace(check, mark="another's"),
        always_answers=True,
    )  # fmt: skip
    rows = pa.table({"shard": [3], "generation": [0], "retry": [""]})
    (answer,) = DetectShard(config)(rows).to_pylist()
    assert answer["shard"] == 3
    assert answer["error"].startswith("RunError: node ")
    assert ": has another folder under the name" in answer["error"]
    assert [path.name for path in Path(check.output).iterdir()] == ["run.json"]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[StageConfig]:
    """What the workers of the cluster were given; one of them does not see the photos."""
    from pipelines import on_ray

    prepare, given = on_ray.prepare_nodes, []

    def prepare_then_lose_a_mount(config: StageConfig, *rest: object) -> StageConfig:
        import ray

        @ray.remote(num_cpus=4)
        class SomebodyElse:
            def is_there(self) -> bool:
                return True

        other = SomebodyElse.remote()  # nodes that others keep busy answer all the same
        assert ray.get(other.is_there.remote())
        config = prepare(config, *rest)  # type: ignore[arg-type]
        ray.kill(other)
        assert config.check is not None
        given.append(config)
        return replace(config, check=replace(config.check, photos=("/not/mounted.jpg",)))

    monkeypatch.setattr(on_ray, "prepare_nodes", prepare_then_lose_a_mount)
    return given


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_node_that_lost_its_mount_ends_the_run_with_its_reason(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path,
    prepared: list[StageConfig],
) -> None:  # fmt: skip
    with pytest.raises(RunError, match=r"RunError: node .+: can read none of 1 photos .+; mount the photos there"):
        run_job(archive, tmp_path / "out", tiny_weights, runner="ray", workers="cpu=2", address=ray_cluster)
    (config,) = prepared
    assert config.node_weights is not None
    assert config.tell is not None
    assert not list((tmp_path / "out").glob("faces/*.parquet"))


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_worker_that_died_and_cannot_start_again_ends_the_run_instead_of_holding_it_for_ever(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from pipelines import on_ray

    prepare, mount, out = on_ray.prepare_nodes, tmp_path / "mount", tmp_path / "out"
    mount.write_bytes(b"photo")

    def prepare_to_lose_a_mount(config: StageConfig, *rest: object) -> StageConfig:
        config = prepare(config, *rest)  # type: ignore[arg-type]
        assert config.check is not None
        return replace(config, check=replace(config.check, photos=(str(mount),)))

    def lose_it() -> None:
        while not list(out.glob(f"{ATTEMPTS_FOLDER}/0*")):  # a worker is at a shard
            time.sleep(0.02)
        mount.unlink()

    monkeypatch.setattr(on_ray, "prepare_nodes", prepare_to_lose_a_mount)
    (tmp_path / "photos").mkdir()
    shutil.copy(archive / "day2" / "photo-00.jpg", tmp_path / "photos" / "1.jpg")
    add_fault(tmp_path / "photos" / "1.jpg", "segfault")
    threading.Thread(target=lose_it, daemon=True).start()
    with pytest.raises(RunError, match=r"shard 0: RunError: node .+: can read none of 1 photos .+; mount the photos"):
        run_job(tmp_path / "photos", out, tiny_weights, runner="ray", workers="cpu=1", address=ray_cluster)
