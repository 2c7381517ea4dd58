"""The job through Ray Data: the same tables as in-process, whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.limits import Limits
from pipelines.report import Progress
from pipelines.room import Crew
from pipelines.stages import StageConfig
from pipelines.workers import Workers
from retinafocus import DetectorConfig, open_run
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import Run

from .conftest import add_fault, rows_without

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(240),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def larger_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 photos of about a tenth of a second each, so that there is time to kill what looks at them."""
    root = tmp_path_factory.mktemp("larger")
    random = np.random.default_rng(11)
    for number in range(32):
        small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{number:02d}.jpg"), cv2.resize(small, (960, 720), interpolation=cv2.INTER_CUBIC))
    return root


@pytest.fixture(scope="module")
def undisturbed(
    run_job: Callable[..., Run], larger_archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(larger_archive, tmp_path_factory.mktemp("undisturbed"), tiny_weights, runner="local", workers="2")


def test_ray_that_does_not_start_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import on_ray

    def timed_out(**settings: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(on_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray.ray, "init", timed_out)
    with pytest.raises(RunError, match=r"Ray did not start here \(The current node timed out .* --runner local"):
        on_ray.connect(None, cpus=1)


def test_two_actors_write_the_tables_of_the_local_run(
    run_job: Callable[..., Run],
    ray_cluster: str,
    larger_archive: Path,
    undisturbed: Run,
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    run = run_job(larger_archive, tmp_path, tiny_weights, runner="ray", workers="cpu=2")
    assert run.info["runner"] == "ray"
    assert len(run.records) >= 4
    workers = set(run.timing().column("worker").to_pylist())
    assert len({worker.split(":")[1] for worker in workers}) == 2
    assert f":{os.getpid()}:" not in "".join(workers)
    assert run.faces().equals(undisturbed.faces())
    assert run.images().equals(undisturbed.images())


def test_range_of_workers_begins_with_the_least_and_changes_nothing(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run = run_job(archive, tmp_path / "range", tiny_weights, runner="auto", workers="1..9")  # the cluster has 3 for it
    assert (run.info["runner"], run.info["workers"]["least"], run.info["workers"]["count"]) == ("ray", 1, 9)
    local = run_job(archive, tmp_path / "local", tiny_weights)
    assert run.faces().equals(local.faces())
    assert run.images().equals(local.images())


def test_killed_driver_loses_and_doubles_nothing(
    run_job: Callable[..., Run],
    ray_cluster: str,
    larger_archive: Path,
    undisturbed: Run,
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = _start(larger_archive, out, tiny_weights, ray_cluster)
    _wait_for_commits(process, out, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    at_kill = _committed(out)
    assert 0 < at_kill < len(undisturbed.records)
    run = run_job(larger_archive, out, tiny_weights, runner="ray", workers="1")
    assert run.complete
    assert run.faces().equals(undisturbed.faces())
    assert run.images().equals(undisturbed.images())


def test_killed_actor_loses_and_doubles_nothing(
    ray_cluster: str, larger_archive: Path, undisturbed: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = _start(larger_archive, out, tiny_weights, ray_cluster)
    _wait_for_commits(process, out, 1)
    killed = open_run(out).records[0]["worker"]
    os.kill(int(killed.split(":")[1]), signal.SIGKILL)
    assert _committed(out) < len(undisturbed.records)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    run = open_run(out)
    assert len({record["worker"] for record in run.records} - {killed}) > 1
    assert run.faces().equals(undisturbed.faces())
    assert run.images().equals(undisturbed.images())


@pytest.mark.parametrize(
    ("fault", "status"), [("segfault", "crashed"), pytest.param("hang", "timeout", marks=pytest.mark.slow)]
)
def test_photo_that_ends_its_actor_is_a_row(
    run_job: Callable[..., Run],
    ray_cluster: str,
    larger_archive: Path,
    undisturbed: Run,
    tiny_weights: Path,
    tmp_path: Path,
    fault: str,
    status: str,
) -> None:
    deadly = "07.jpg"
    photos = tmp_path / "photos"
    shutil.copytree(larger_archive, photos)
    add_fault(photos / deadly, fault)
    limits = Limits(photo_seconds=20)
    run = run_job(photos, tmp_path / "out", tiny_weights, runner="ray", workers="cpu=2", limits=limits)
    assert run.complete
    failures = {row["uri"]: row["status"] for row in run.images().to_pylist() if row["status"] != "ok"}
    assert [(Path(uri).name, found) for uri, found in failures.items()] == [(deadly, status)]
    # The photos are copies: their addresses are others, and nothing else.
    before, after = (
        [[{**row, "uri": Path(row["uri"]).name} for row in table] for table in rows_without(each, [deadly])]
        for each in (undisturbed, run)
    )
    assert after == before


@pytest.mark.slow
def test_node_that_is_taken_away_loses_and_doubles_nothing(
    larger_archive: Path, undisturbed: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", LOSE_A_NODE, str(larger_archive), str(out), str(tiny_weights)]
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"}
    # A folder of its own, so that no other test takes this cluster for the one to join; sockets want a short name.
    with tempfile.TemporaryDirectory(prefix="rf") as folder:
        environment = {**os.environ, **settings, "RAY_TMPDIR": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "alive when the node went: True" in done.stdout
    run = open_run(out)
    assert run.complete
    assert run.faces().equals(undisturbed.faces())
    assert run.images().equals(undisturbed.images())


# A cluster of its own: a process can only be part of one. Its head has one processor, which Ray's own work needs.
LOSE_A_NODE = """
import sys, threading, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipelines import detect, planning
from pipelines.report import Progress
from retinafocus import DetectorConfig

photos, out, weights = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()
job = planning.DetectJob(
    inputs=[photos], output=out, weights=weights, runner="ray", workers="2", detector=DetectorConfig(device="cpu")
)
work = threading.Thread(target=lambda: detect.run(planning.plan(job), Progress()))
try:
    work.start()
    while work.is_alive() and len(list(Path(out).glob("_ledger/*.json"))) < 2:
        time.sleep(0.01)
    cluster.remove_node(nodes[0], allow_graceful=False)
    print("alive when the node went:", work.is_alive())
    cluster.add_node(num_cpus=1)
    work.join()
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_terminated_command_says_how_to_go_on(
    ray_cluster: str, larger_archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    process = _start(larger_archive, tmp_path / "out", tiny_weights, ray_cluster)
    _wait_for_commits(process, tmp_path / "out", 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4, errors
    assert "stopped; finished shards are kept, the same command goes on from there" in errors


def test_cluster_that_is_too_small_is_refused_before_the_first_photo(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SettingsError, match=r"workers: 9 workers .* the cluster has 4 CPUs; use --workers 3 or add nodes"
    ):
        run_job(archive, tmp_path, tiny_weights, runner="ray", workers="9")
    assert list(tmp_path.glob("faces/*")) == []


def test_job_that_waits_for_a_busy_cluster_says_so_and_goes_on(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import ray

    from pipelines import on_ray

    @ray.remote(num_cpus=4)
    class SomebodyElse:
        def is_there(self) -> bool:
            return True

    other, said = SomebodyElse.remote(), []
    assert ray.get(other.is_there.remote())

    def note(progress: Progress, words: str) -> None:
        said.append(words)
        ray.kill(other)

    monkeypatch.setattr(on_ray, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(Progress, "note", note)
    assert run_job(archive, tmp_path, tiny_weights, runner="ray", workers="cpu=2", limit=2).complete
    assert said[0] == (
        "waiting for a worker: the cluster has 4 CPUs, all in use; the job goes on as soon as one is free"
    )


def test_job_that_waits_for_a_busy_cluster_stops_at_once_and_asks_for_nothing_more(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util import placement_group_table

    from pipelines import on_ray

    @ray.remote(num_cpus=4)
    class SomebodyElse:
        def is_there(self) -> bool:
            return True

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    other = SomebodyElse.remote()
    assert ray.get(other.is_there.remote())
    monkeypatch.setattr(on_ray, "WAIT_SECONDS", 60.0)
    crew = Crew(workers=Workers(count=1, device="cpu", chosen=True), least=1, most=1, needs={"CPU": 1.0})
    before, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            on_ray._wait_for_room(crew, print)
    finally:
        signal.signal(signal.SIGALRM, before)
        ray.kill(other)
    assert time.monotonic() - began < 20
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}


def test_cluster_that_wants_its_token_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import AuthenticationError

    from pipelines import on_ray

    # What Ray 2.60 raises without the token's file, and with another token or none.
    errors = [AuthenticationError("No such file. Ensure that"), ConnectionError("Failed to connect")]

    def refused(**settings: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(on_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray.ray, "init", refused)
    for said in (r"cannot be joined \(No such file\); set", r"`ray start --head`, or if it wants a token, set"):
        with pytest.raises(SettingsError, match=rf"address 1\.2\.3\.4:5: .*{said} RAY_AUTH_MODE=token and RAY_"):
            on_ray.connect("1.2.3.4:5", cpus=1)


def test_run_that_is_given_up_ends_its_workers_before_it_leaves_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import on_ray

    order: list[str] = []

    def look_together(*arguments: object, **settings: object) -> Iterator[pa.Table]:
        try:
            while True:
                yield pa.table({})
        finally:
            order.append("workers end")

    cpu = Workers(count=1, device="cpu", chosen=True)
    workers = Workers(count=1, device="cuda", chosen=True, gpus_each=1.0, beside=cpu)
    crews = [Crew(workers=kind, least=1, most=1, needs={"CPU": 1.0}) for kind in workers.kinds]
    config = StageConfig(output="out", weights="w", weights_sha256="", detector=DetectorConfig(device="cpu"))
    monkeypatch.setattr(on_ray, "connect", lambda *arguments, **settings: True)
    monkeypatch.setattr(on_ray.ray, "nodes", list)
    monkeypatch.setattr(on_ray.ray, "shutdown", lambda: order.append("Ray is left"))
    monkeypatch.setattr(on_ray, "find_crews", lambda *arguments: crews)
    monkeypatch.setattr(on_ray, "look_together", look_together)
    results = on_ray.run_on_ray(config, [], on_ray.RayPlan(workers=workers, address=None), print)
    with closing(results):  # type: ignore[type-var]
        next(results)
    assert order == ["workers end", "Ray is left"]


def test_gpu_worker_that_dies_comes_back_though_cpu_workers_wait_for_every_processor(
    ray_cluster: str, tiny_weights: Path, tmp_path: Path
) -> None:
    from pipelines import on_ray

    died, back = tmp_path / "died", tmp_path / "back"

    def make(kind: str) -> Callable[[pa.Table], pa.Table]:
        def look(row: pa.Table) -> pa.Table:
            patience = time.monotonic() + 20
            if kind == "GPU" and died.exists():
                back.touch()
            elif kind == "GPU":
                died.touch()
                os._exit(1)
            while not back.exists() and time.monotonic() < patience:
                time.sleep(0.05)
            return row

        return look

    # The GPU is pretended, and more CPU workers are asked for than there are processors.
    cpu = Workers(count=6, least=1, device="cpu", chosen=True)
    workers = Workers(count=1, least=0, device="cuda", chosen=True, gpus_each=1.0, beside=cpu)
    crews = [Crew(workers=kind, least=1, most=kind.count, needs={"CPU": 1.0}) for kind in workers.kinds]
    config = StageConfig(
        output=str(tmp_path), weights=str(tiny_weights), weights_sha256="", detector=DetectorConfig(device="cpu")
    )
    kinds = on_ray._kinds(config, on_ray.RayPlan(workers=workers, address=ray_cluster), crews)
    shards: list[dict[str, Any]] = [{"shard": number, "photos": 1} for number in range(12)]
    pretended = [replace(kind, make=partial(make, kind.name)) for kind in kinds]
    done = list(on_ray.look_together(pretended, shards, grows=True, on_round=lambda ready: None))
    assert sorted(pa.concat_tables(done).column("shard").to_pylist()) == list(range(12))
    assert back.exists()


def _start(photos: Path, out: Path, weights: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", "detect", str(photos), "-o", str(out), "--weights", str(weights)]
    command += ["--device", "cpu", "--runner", "ray", "--workers", "2", "--address", address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait_for_commits(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while _committed(out) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def _committed(out: Path) -> int:
    ledger = out / "_ledger"
    return (
        sum(1 for path in ledger.iterdir() if path.suffix == ".json" and path.name[0] != ".") if ledger.is_dir() else 0
    )
