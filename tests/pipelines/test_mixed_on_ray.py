"""GPU workers and CPU workers at one run, on a cluster of several nodes whose GPUs are pretended: the same tables."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.limits import Limits
from pipelines.validate import validate
from pipelines.workers import Workers
from retinafocus import DetectorConfig, open_run
from retinafocus.errors import RunError, SettingsError, WeightsError
from retinafocus.runs import Run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ONE_SHARD = [{"shard": 0, "photos": 1}]

# A cluster of its own: a process can only be part of one. Its head has one processor, which stays free. Workers with
# a pretended GPU look with the CPU like the others. Servers that only show or scale a cluster take time to start, and
# are left out.
THREE_NODES = """
import importlib, os, sys, threading, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

loading = threading.Thread(target=importlib.import_module, args=("pipelines.on_ray",))  # while the nodes start
loading.start()
SMALL = {"num_cpus": 1, "include_log_monitor": False}
cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False, "no_monitor": True})
nodes = [cluster.add_node(**SMALL, num_gpus=1), cluster.add_node(**SMALL)]
loading.join()

import cv2
import torch

from pipelines import detect, on_ray, planning
from pipelines.report import Progress
from pipelines.stages import DetectShard
from pipelines.workers import Workers
from retinafocus import DetectorConfig, open_run

photos, out, weights = sys.argv[1:]
DOOMED = Path(out).with_name("doomed")


class NamedWorker(DetectShard):
    "Tells where it works. The first GPU worker stops at its second shard until its node is taken away; CPU ones wait."

    def __init__(self, config):
        super().__init__(config)
        self.node = ray.get_runtime_context().get_node_id()
        self.kind = "GPU" if ray.get_gpu_ids() else "CPU"
        if self.kind == "GPU" and not DOOMED.exists():
            DOOMED.write_text(self.node)
        threads = torch.get_num_threads(), cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"]
        self.worker = ":".join(map(str, (self.kind, self.node, os.getpid(), *threads)))
        self.done = 0

    def __call__(self, batch):
        while self.done and not self.may_go_on():
            time.sleep(0.05)
        self.done += 1
        return super().__call__(batch)

    def may_go_on(self):
        doomed = DOOMED.read_text() if DOOMED.exists() else ""
        if self.kind == "GPU":
            return self.node != doomed
        return any(r["worker"].startswith("GPU") and doomed not in r["worker"] for r in open_run(out).records)


def pretended(*arguments, **settings):
    cpu = Workers(count=1, device="cpu", chosen=True)
    return Workers(count=1, device="cpu", chosen=True, gpus_each=0.5, beside=cpu)


on_ray.DetectShard, planning.resolve_workers = NamedWorker, pretended
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()
job = planning.DetectJob(
    inputs=[photos], output=out, weights=weights, runner="ray", workers="gpu=1,cpu=1",
    detector=DetectorConfig(device="cpu", engine="torch"),
)
work = threading.Thread(target=lambda: detect.run(planning.plan(job), Progress()))
try:
    work.start()
    while work.is_alive() and not Path(out, "run.json").exists():
        time.sleep(0.05)
    nodes.append(cluster.add_node(**SMALL, num_gpus=1))
    print("alive when a node came:", work.is_alive())
    while work.is_alive() and len(list(Path(out).glob("_ledger/*.json"))) < 2:
        time.sleep(0.05)
    cluster.remove_node(next(node for node in nodes if node.node_id == DOOMED.read_text()), allow_graceful=False)
    print("alive when a node went:", work.is_alive())
    work.join()
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_both_kinds_on_several_nodes_of_which_one_comes_and_one_goes_write_the_tables_of_a_laptop(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _run_on_three_nodes([str(archive), str(out), str(tiny_weights)])
    assert done.returncode == 0, done.stderr
    assert "alive when a node came: True" in done.stdout
    assert "alive when a node went: True" in done.stdout
    detector = DetectorConfig(device="cpu", engine="torch")
    run, laptop = open_run(out), run_job(archive, tmp_path / "laptop", tiny_weights, detector=detector)
    assert run.complete, done.stderr
    assert run.faces().equals(laptop.faces())
    assert run.images().equals(laptop.images())
    assert validate(str(out)).problems == {}
    names = [record["worker"].split(":") for record in run.records]
    doomed = (tmp_path / "doomed").read_text()
    gpu_nodes, cpu_nodes = ({name[1] for name in names if name[0] == kind} for kind in ("GPU", "CPU"))
    assert doomed in gpu_nodes  # its first shard counts
    assert len(gpu_nodes) == 2
    assert cpu_nodes
    # One thread for the network, for resizing and for everything else, as Ray and the settings have it.
    assert {tuple(name[3:]) for name in names} == {("1", "1", "1")}


def _run_on_three_nodes(words: list[str]) -> subprocess.CompletedProcess[str]:
    """The script with these words; again where Ray's servers did not come up, which happens on a busy machine."""
    # A node that was killed refuses to answer at once: it is given up after five times half a second, and not three.
    settings = {
        "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "90",
        "RAY_health_check_period_ms": "500",
    }  # fmt: skip
    for _ in range(3):
        # A folder of its own, so that no other test takes this cluster for the one to join; sockets want a short name.
        with tempfile.TemporaryDirectory(prefix="rf") as folder:
            done = subprocess.run(
                [sys.executable, "-c", THREE_NODES, *words],
                env={**os.environ, **settings, "RAY_TMPDIR": folder}, capture_output=True, text=True,
            )  # fmt: skip
        if "timed out during startup" not in done.stderr:
            break
    return done


def test_shard_of_a_worker_that_dies_is_done_by_another_and_a_kind_starts_when_there_is_room(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import mixed_on_ray

    died, second_began = tmp_path / "died", tmp_path / "second"

    def make(kind: str) -> Callable[[pa.Table], pa.Table]:
        def look(row: pa.Table) -> pa.Table:
            shard, patience = row["shard"][0].as_py(), time.monotonic() + 60
            if kind == "CPU":
                second_began.touch()
            if shard == 3 and not died.exists():
                died.write_text(str(os.getpid()))
                os._exit(1)
            while shard > 5 and not second_began.exists() and time.monotonic() < patience:
                time.sleep(0.05)
            return row.append_column("worker", pa.array([os.getpid()])).append_column("kind", pa.array([kind]))

        return look

    first = mixed_on_ray.Kind(name="GPU", make=partial(make, "GPU"), least=1, most=1, needs={"CPU": 1.0})
    second = mixed_on_ray.Kind(name="CPU", make=partial(make, "CPU"), least=0, most=1, needs={"CPU": 1.0})
    shards: list[dict[str, Any]] = [{"shard": number, "photos": 1} for number in range(12)]
    ready: list[bool] = []
    monkeypatch.setattr(mixed_on_ray, "LOOK_SECONDS", 0.5)
    done = list(mixed_on_ray.look_together([first, second], shards, grows=False, on_round=ready.append))
    rows = {row["shard"]: row for row in pa.concat_tables(done).to_pylist()}
    assert sorted(rows) == list(range(12))
    assert len(done) == 12
    assert {row["kind"] for row in rows.values()} == {"GPU", "CPU"}
    assert rows[3]["worker"] != int(died.read_text())
    assert ready[-1]


def test_worker_that_dies_before_its_first_photo_ends_the_job_in_words(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import mixed_on_ray

    dying = mixed_on_ray.Kind(name="GPU", make=partial(os._exit, 7), least=1, most=1, needs={"CPU": 1.0})
    monkeypatch.setattr(mixed_on_ray, "MAX_BAD_STARTS", 2)
    with pytest.raises(RunError, match=r"a GPU worker died 2 times before its first photo .* run the same command"):
        list(mixed_on_ray.look_together([dying], ONE_SHARD, grows=True, on_round=lambda ready: None))


class _Deadly:
    """Ends the process that takes it out of a message, as a library does that its machine cannot load."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (7,)

    def __call__(self) -> Callable[[pa.Table], pa.Table]:
        raise AssertionError


def test_worker_that_dies_before_it_is_there_ends_the_job_in_words(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import mixed_on_ray

    dying = mixed_on_ray.Kind(name="GPU", make=_Deadly(), least=1, most=1, needs={"CPU": 1.0})
    monkeypatch.setattr(mixed_on_ray, "MAX_BAD_STARTS", 2)
    with pytest.raises(RunError, match=r"a GPU worker died 2 times before its first photo"):
        list(mixed_on_ray.look_together([dying], ONE_SHARD, grows=True, on_round=lambda ready: None))


def test_worker_that_cannot_work_on_its_node_says_why(ray_cluster: str) -> None:
    from ray.exceptions import RayTaskError

    from pipelines import mixed_on_ray

    def make() -> Callable[[pa.Table], pa.Table]:
        raise SettingsError("device is 'cuda'; usable here: cpu")

    lame = mixed_on_ray.Kind(name="GPU", make=make, least=1, most=1, needs={"CPU": 1.0})
    with pytest.raises(RayTaskError) as caught:
        list(mixed_on_ray.look_together([lame], ONE_SHARD, grows=True, on_round=lambda ready: None))
    assert isinstance(caught.value.cause, SettingsError)  # what `run_on_ray` raises
    assert str(caught.value.cause) == "device is 'cuda'; usable here: cpu"


def test_both_kinds_say_at_their_start_that_they_cannot_work(tiny_weights: Path, tmp_path: Path) -> None:
    from pipelines import on_ray
    from pipelines.room import Crew
    from pipelines.stages import StageConfig

    cpu = Workers(count=1, device="cpu", chosen=True)
    workers = Workers(count=1, device="cuda", chosen=True, gpus_each=1.0, beside=cpu)
    config = StageConfig(
        output=str(tmp_path), weights=str(tiny_weights), weights_sha256="others", ranges_sha256=None, metadata={},
        detector=DetectorConfig(device="cuda"), limits=Limits(), storage=None, always_answers=True,
    )  # fmt: skip
    crews = [Crew(workers=kind, least=1, most=1, needs={"CPU": 1.0}) for kind in workers.kinds]
    plan = on_ray.RayPlan(workers=workers, address=None, beside=DetectorConfig(device="cpu"))
    kinds = on_ray._kinds(config, plan, crews)
    assert [kind.name for kind in kinds] == ["GPU", "CPU"]
    for kind in kinds:
        with pytest.raises(WeightsError, match="others where the run was started; copy that file"):
            kind.make()
