"""Training through Ray Train: two workers, and whatever is killed, no step is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.settings import settings_toml
from pipelines.train import train
from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_log import read_metrics
from pipelines.train_worker import STOP_FILE
from retinafocus.errors import SettingsError
from retinafocus.weights import read_info

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(240),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STEPS = 14


@pytest.fixture
def config(labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.chdir(tmp_path)  # the workers are at work in other folders, and must not look for these there
    folder = os.path.relpath(labelled_folder)
    settings = tmp_path / "two.toml"
    settings.write_text(
        f"""
        output = "run"
        batch = 4
        epoch_steps = 1
        workers = 2
        loaders = 0
        device = "cpu"
        data.folders = ["{folder}"]
        evaluation = {{folder = "{folder}", min_face = 20, every = 7}}
        sample.crop.side = 64
        loop = {{steps = {STEPS}, warmup_steps = 2}}
        """
    )
    return read_train_config(settings)


def test_killed_worker_and_killed_driver_lose_and_double_no_step(
    ray_cluster: str, config: TrainConfig, tmp_path: Path
) -> None:
    output = Path(config.output)
    settings = tmp_path / "again.toml"
    settings.write_text(settings_toml(config))
    command = [sys.executable, "-m", "pipelines.cli", "train", "--config", str(settings), "--address", ray_cluster]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: len(read_metrics(output)) >= 3 or process.poll() is not None)
    first = _workers(output)
    assert len(first) == 2
    os.kill(first[1], signal.SIGKILL)
    _wait(lambda: _workers(output) != first or process.poll() is not None)
    restarted_at = len(read_metrics(output))
    assert 2 <= restarted_at < STEPS
    _wait(lambda: read_metrics(output)[-1]["step"] > restarted_at + 1 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_metrics(output)[-1]["step"] < STEPS
    (output / STOP_FILE).touch()  # left over from a trial that was killed while it was left
    summary = train(config, resume=True)
    rows = read_metrics(output)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "ap" in row] == [7, 14]
    assert f"trained {STEPS} steps" in summary
    assert read_info(output / "last.safetensors").metadata["trained_steps"] == str(STEPS)


def test_cluster_that_is_too_small_is_refused_before_the_first_step(ray_cluster: str, config: TrainConfig) -> None:
    many = TrainConfig(
        **{name: getattr(config, name) for name in ("output", "device", "data", "loop")}, workers=3, batch=6, loaders=1
    )
    with pytest.raises(SettingsError, match=r"3 workers of 2 CPUs are 6, the cluster has 4; set fewer workers"):
        train(many)
    assert read_metrics(Path(config.output)) == []


def _workers(output: Path) -> list[int]:
    """Process ids of the training's workers."""
    path = output / "workers.json"
    try:
        return [int(name.rpartition(":")[2]) for name in json.loads(path.read_text())]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
