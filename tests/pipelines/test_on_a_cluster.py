"""The command on a cluster of several nodes with token authentication: sent there, looked after, counted.

Each node is what an operator starts (`ray start`), as a process of its own. Where the system lets us, nodes see other
file systems than the machine: mount namespaces hide the weights from two of them, and from a third the photos.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.metrics_on_ray import METRICS, exported_name
from retinafocus import open_run
from retinafocus.runs import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

BIN = Path(sys.executable).parent
UNSHARE = shutil.which("unshare")
CAN_HIDE = UNSHARE is not None and subprocess.run([UNSHARE, "-rm", "true"], capture_output=True).returncode == 0


@dataclass
class Cluster:
    """A head and its nodes, as processes of this test."""

    folder: Path
    address: str
    """HOST:PORT of its head."""
    jobs: str
    """Of its job server."""
    environment: dict[str, str]

    def run(self, *words: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """A command on the machine of the user, who has the token."""
        command, environment = [str(word) for word in words], {**self.environment, **changes}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    def ask(self, words: str) -> str:
        """What the cluster says of its nodes (`nodes`)."""
        code = f"import ray; ray.init('{self.address}', log_to_driver=False); nodes = ray.nodes(); print({words})"
        return self.run(sys.executable, "-c", code).stdout.strip()

    @contextmanager
    def node(self, name: str, hidden: tuple[Path, ...] = ()) -> Iterator[None]:
        """One more node of one processor, which does not see some folders, with temporary files of its own."""
        temporary = self.folder / name
        temporary.mkdir()
        low = 21000 + 500 * len(list(self.folder.glob("node-*")))
        start: list[object] = [BIN / "ray", "start", "--block", f"--address={self.address}", "--num-cpus=1"]
        start += [f"--min-worker-port={low}", f"--max-worker-port={low + 400}", *_common()]
        if hidden:
            mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in hidden)
            start = ["unshare", "-rm", "sh", "-c", f"{mounts} && exec {shlex.join(str(word) for word in start)}"]
        with _started(start, {**self.environment, "TMPDIR": str(temporary)}, self.folder / f"{name}.log"):
            yield


def _common() -> list[object]:
    return ["--object-store-memory=80000000", f"--dashboard-agent-listen-port={_free_port()}"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _started(command: list[object], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A part of Ray that runs; begun again where a busy machine was too slow for Ray's own time limits."""
    for _ in range(3):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(word) for word in command], env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 90
        while time.monotonic() < until and process.poll() is None and "runtime started" not in log.read_text():
            time.sleep(0.5)
        if process.poll() is None and "runtime started" in log.read_text():
            break
        _stop(process)
    else:
        pytest.fail(f"Ray did not start: {log.read_text()[-2000:]}")
    try:
        yield
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # what `ray start --block` started goes with it
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 photos and one that is none."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(11)
    for number in range(32):
        small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{number:02d}.jpg"), cv2.resize(small, (960, 720), interpolation=cv2.INTER_CUBIC))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return root


@pytest.fixture(scope="module")
def cluster(tiny_weights: Path) -> Iterator[Cluster]:
    """A head of two processors and two nodes of one, which do not see the weights, in a folder of a short name."""
    pytest.importorskip("aiohttp", reason="needs ray[default]")
    with tempfile.TemporaryDirectory(prefix="rf", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "token").write_text(secrets.token_hex(32))
        (folder / "token").chmod(0o600)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "HOME": name, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "TMPDIR": name,
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300",
        }  # fmt: skip
        port, jobs = _free_port(), _free_port()
        head: list[object] = [BIN / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
        head += ["--node-ip-address=127.0.0.1", f"--dashboard-port={jobs}", f"--temp-dir={folder}/r", *_common()]
        head += [f"--ray-client-server-port={_free_port()}", "--min-worker-port=20000", "--max-worker-port=20400"]
        cluster = Cluster(folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs}", environment)
        stack.enter_context(_started(head, environment, folder / "head.log"))
        for number in range(2):
            stack.enter_context(cluster.node(f"node-{number}", (tiny_weights.parent,) if CAN_HIDE else ()))
        assert cluster.ask("sum(node['Alive'] for node in nodes)") == "3"
        yield cluster


@pytest.fixture(scope="module")
def here(
    run_job: Callable[..., Run], photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(photos, tmp_path_factory.mktemp("here"), tiny_weights, runner="local", workers="1")


def test_ray_job_submit_of_the_documented_command_gives_the_tables_of_this_machine(
    cluster: Cluster, photos: Path, here: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    command = ["retinafocus", "detect", photos, "-o", tmp_path / "out", "--weights", tiny_weights, "--address", "auto"]
    submit = [BIN / "ray", "job", "submit", "--address", cluster.jobs, "--", *command]
    refused = cluster.run(*submit, RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
    assert "Missing authentication token" in refused.stderr
    done = cluster.run(*submit)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes with CPUs: each sees the photos and the output, and has the weights" in done.stdout
    run = open_run(tmp_path / "out")
    assert run.info["status"] == "complete"
    assert run.info["runner"] == "ray"
    assert run.faces().equals(here.faces())
    assert run.images().equals(here.images())
    assert (cluster.folder / "token").read_text() not in done.stdout + done.stderr


@pytest.mark.skipif(not CAN_HIDE, reason="the system lets nobody make mount namespaces")
def test_weights_that_the_head_alone_sees_came_to_each_node_once(cluster: Cluster) -> None:
    for number in range(2):
        kept = list((cluster.folder / f"node-{number}").glob("retinafocus-weights-*/*.safetensors"))
        assert len(kept) == 1


def test_command_sends_itself_and_ends_as_the_job_does(
    cluster: Cluster, photos: Path, here: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    detect = [BIN / "retinafocus", "detect", "--address", cluster.jobs, "--weights", tiny_weights]
    done = cluster.run(*detect, photos, "-o", tmp_path / "out")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted as job retinafocus-" in done.stderr
    assert "photos   33: 32 looked at, 1 failed" in done.stdout
    assert open_run(tmp_path / "out").images().equals(here.images())
    nothing = cluster.run(*detect, tmp_path / "nowhere", "-o", tmp_path / "none")
    assert nothing.returncode == 2, nothing.stdout + nothing.stderr
    stranger = cluster.run(*detect, photos, "-o", tmp_path / "other", RAY_AUTH_MODE="disabled")
    assert stranger.returncode == 2
    assert "the cluster wants its token; set RAY_AUTH_MODE=token" in stranger.stderr


def test_ctrl_c_leaves_the_job_at_work_and_the_same_command_follows_it(
    cluster: Cluster, photos: Path, here: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    words = [BIN / "retinafocus", "detect", "--address", cluster.jobs, photos, "-o", tmp_path / "out"]
    words += ["--weights", tiny_weights]
    first = subprocess.Popen(
        [str(word) for word in words],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline()  # it has begun
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 4, errors
    assert "detached: the job goes on without this command; watch it with `ray job logs" in errors
    again = cluster.run(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "this command is at work there already, as job retinafocus-" in again.stderr
    run = open_run(tmp_path / "out")
    assert run.info["history"] == []
    assert run.images().equals(here.images())


def test_workers_are_counted_on_their_nodes_for_prometheus(
    cluster: Cluster, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    words = [BIN / "retinafocus", "detect", photos, "-o", tmp_path / "counted", "--weights", tiny_weights]
    done = cluster.run(*words, "--address", cluster.address, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    ports = cluster.ask("*[node['MetricsExportPort'] for node in nodes]").split()
    assert len(ports) == 3
    photos_total, until, found = exported_name("retinafocus_photos") + "{", time.monotonic() + 90, 0.0
    while time.monotonic() < until and found < 33:
        time.sleep(1)
        lines = []
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                lines += [line for line in page.read().decode().splitlines() if 'run="counted"' in line]
        found = sum(float(line.split()[-1]) for line in lines if line.startswith(photos_total))
    assert found == 33
    assert {line.partition("{")[0] for line in lines} == {exported_name(name) for name in METRICS}


@pytest.mark.skipif(not CAN_HIDE, reason="the system lets nobody make mount namespaces")
def test_node_that_sees_neither_photos_nor_output_is_named_before_the_first_shard(
    cluster: Cluster, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with cluster.node("blind", (photos, out)):
        words = [BIN / "retinafocus", "detect", photos, "-o", out, "--weights", tiny_weights]
        done = cluster.run(*words, "--address", cluster.address)
    print(done.stderr)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of the cluster's 4 nodes cannot work on this run. node " in done.stderr
    assert f"does not see the run in {out}; mount the same folder on every node" in done.stderr
    assert "can read none of" in done.stderr
    assert not list(out.glob("faces/*"))
