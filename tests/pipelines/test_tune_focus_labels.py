"""`tune focus-labels` from end to end: killed in the middle, gone on with, and settings that a training takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.train_config import read_train_config
from retinafocus.weights import load_model
from tune import label_judge
from tune.sweep import LEDGER_FILE, read_ledger

from .conftest import draw_face
from .search_here import kill_when_held

pytest.importorskip("matplotlib")

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


# Points of a branch's curve: two, as each is a network of its own that looks at all photos.
FEW = {"SHARES": (0.04, 0.25), "FINER": (0.25,)}

DRIVER = f"""
import sys
from search_here import main
from tune import label_judge

vars(label_judge).update({FEW})
sys.exit(main())
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


def test_killed_search_goes_on_and_gives_settings_that_a_training_takes(
    searches_here: None,
    photos: Path,
    labelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in FEW.items():
        monkeypatch.setattr(label_judge, name, value)
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "space.toml").write_text(SPACE)
    output = tmp_path / "out"
    folders = [os.path.relpath(folder) for folder in (labelled_folder, photos)]  # trials are at work elsewhere
    words = ["tune", "focus-labels", folders[0], "--judge", folders[1], "-o", "out", "--crops", "8"]
    words += ["--config", "config.toml", "--space", "space.toml"]
    words += ["--steps", "4", "--trials", "3", "--finalists", "1", "--repeats", "1", "--search", "sobol"]
    kill_when_held(["-c", DRIVER, "6", *words])
    ledger = output / LEDGER_FILE
    before = read_ledger(ledger)
    assert [trial.number for trial in before] == [0]  # the next was judged twice of four times
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    assert kept
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
