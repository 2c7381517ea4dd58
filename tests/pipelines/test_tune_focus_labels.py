"""`tune focus-labels` from end to end: killed in the middle, gone on with, and settings that a training takes.

Ray runs what is killed. What goes on runs in this process, as each process of Ray's takes seconds to start; that a
search goes on under Ray is shown in test_search_on_ray.py.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import cli
from pipelines.train_config import read_train_config
from retinafocus.weights import load_model
from tune.sweep import LEDGER_FILE, Prepare, SweepJob, SweepPlan, read_ledger

from .conftest import draw_face

pytest.importorskip("matplotlib")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(360),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = """
[sample.crop]
side = 64
[sample.focus]
smallest = 3.0
small = 40.0
large = 64.0
"""

SPACE = """
"model.focus" = ["C4", "P3"]
"sample.focus.small" = { from = 20.0, to = 60.0 }
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos large enough for chips, each with a drawn face of 28 px and one of 60 px."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    random, images, labels = np.random.default_rng(5), [], []
    for number in range(4):
        name = f"{number}.png"
        small = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = np.ascontiguousarray(cv2.resize(small, (360, 340), interpolation=cv2.INTER_CUBIC) // 2, np.uint8)
        for left, width in ((40 + 9 * number, 25), (200, 54)):
            labels.append({"image": name, "kind": "human"} | draw_face(picture, left, 90, width))
        images.append({"image": name, "width": 360, "height": 340, "source": "drawn"})
        assert cv2.imwrite(str(root / "images" / name), picture)
    pq.write_table(pa.Table.from_pylist(images), root / "images.parquet")
    pq.write_table(pa.Table.from_pylist(labels), root / "labels.parquet")
    return root


def search_here(job: SweepJob, plan: SweepPlan, prepare: Prepare) -> None:
    """In place of `search_on_ray`: what it is given travels as to a process of Ray's, which works in another folder."""
    evaluate, home = pickle.loads(pickle.dumps(prepare)), Path.cwd()
    threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        os.chdir("/")
        evaluate = evaluate()
        while batch := plan.next_batch():
            for number, settings in batch:
                os.chdir("/")
                *_, results = evaluate(number, settings)
                os.chdir(home)
                plan.finish(number, results, 0.0)
    finally:
        os.chdir(home)
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def test_killed_search_goes_on_and_gives_settings_that_a_training_takes(
    ray_cluster: str,
    photos: Path,
    labelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "space.toml").write_text(SPACE)
    output = tmp_path / "out"
    folders = [os.path.relpath(folder) for folder in (labelled_folder, photos)]  # Ray's processes are at work elsewhere
    words = ["tune", "focus-labels", folders[0], "--judge", folders[1], "-o", "out", "--crops", "8"]
    words += ["--config", "config.toml", "--space", "space.toml"]
    words += ["--steps", "4", "--trials", "3", "--finalists", "1", "--repeats", "1", "--search", "sobol"]
    words += ["--workers", "1", "--address", ray_cluster]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pipelines.cli", *words]
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger, deadline = output / LEDGER_FILE, time.monotonic() + 150
    while len(read_ledger(ledger)) < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_ledger(ledger)
    assert 1 <= len(before) < 3
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    assert kept
    monkeypatch.setattr("tune.search_on_ray.search_on_ray", search_here)
    assert cli.main([*words, "--resume"]) == 0
    said = capsys.readouterr().out
    trials = read_ledger(ledger)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == list(range(3))
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")} == kept, "looked at again"
    assert before[0].number == 0
    assert before[0].settings == {"model.focus": "P3", "sample.focus.small": 40.0}
    assert before[0].results["trained"] == 1.0
    assert "photos   ranked on 2 with 4 faces; checked on 2 with 4 faces" in said
    assert "weights' own" in said
    table = pq.read_table(output / "trials.parquet")
    assert {"model.focus", "sample.focus.small", "mean_ap", "cost", "trained"} < set(table.column_names)
    check = pq.read_table(output / "check.parquet").to_pylist()
    assert {-1, 0} < {row["trial"] for row in check}
    assert {"ap", "ap_low", "ap_high", "mpx", "cost", "threshold_0", "threshold_1"} < set(check[0])
    assert (output / "focus-labels.png").read_bytes()[:4] == b"\x89PNG"
    (trained,) = output.glob("finals/*/trial-0-1.safetensors")
    assert load_model(trained).preset.focus is not None

    settings = read_train_config(output / "settings.toml")
    assert settings.loop.freeze == "all-but-focus"
    assert settings.model.focus in ("C4", "P3")
    assert settings.sample.crop.side == 64
    runs = ["train", "--config", str(output / "settings.toml"), "-o", str(tmp_path / "run"), "--set", "loop.steps=1"]
    runs += ["--set", "loop.warmup_steps=0", "--set", "batch=2", "--set", "loaders=0", "--set", "device=cpu"]
    assert cli.main(runs) == 0
    network = load_model(tmp_path / "run" / "last.safetensors")
    assert network.preset.focus is not None
    assert network.preset.focus.feature == settings.model.focus

    finals = next(output.glob("finals/*/trials.jsonl")).read_text()
    assert cli.main([*words, "--resume"]) == 0  # nothing is left to do
    assert next(output.glob("finals/*/trials.jsonl")).read_text() == finals
    assert cli.main([*words, "--resume", "--steps", "12"]) == 2
    assert "steps_of_training was 4, is 12" in capsys.readouterr().err
    record = json.loads((output / "sweep.json").read_text())  # what a refusal names
    assert (record["crops"], record["batch"], record["min_face"], record["by_people"]) == (8, 8, 20.0, False)
    assert [json.loads(line)["number"] for line in finals.splitlines()] == [0, 1, 2]
