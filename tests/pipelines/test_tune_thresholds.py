"""`tune thresholds` from end to end; killed while it looks at photos and while it searches, it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.detect_config import read_detect_settings
from tune.sweep import LEDGER_FILE, read_ledger

pytest.importorskip("matplotlib")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# The command, slow enough to be killed in the midst of its pass; each photo is a part.
COMMAND = """
import sys, time
from pipelines import cli
from retinafocus import Detector
from tune import photo_parts

photo_parts.PHOTOS_IN_A_PART = 1
look = Detector.look


def slow_look(self, prepared):
    time.sleep(0.3)
    return look(self, prepared)


Detector.look = slow_look
sys.exit(cli.main(sys.argv[1:]))
"""


def _killed_when(enough: Callable[[], bool], script: Path, words: list[str]) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script), *words], env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not enough() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_search_goes_on_and_ends_as_one_that_was_not(
    ray_cluster: str, labelled_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    script, output = tmp_path / "command.py", tmp_path / "out"
    script.write_text(COMMAND)
    words = ["tune", "thresholds", str(labelled_folder), "--engine", "torch", "--search", "sobol", "--workers", "1"]
    words += ["--trials", "64", "--address", ray_cluster, "-o"]

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (output / "raw" / "photos").glob("*.parquet")}

    _killed_when(lambda: len(parts()) >= 2, script, [*words, str(output)])
    first = parts()
    assert 2 <= len(first) < 8
    _killed_when(lambda: len(read_ledger(output / LEDGER_FILE)) >= 8, script, [*words, str(output)])
    looked, before = parts(), read_ledger(output / LEDGER_FILE)
    assert len(looked) == 8
    assert first.items() <= looked.items()  # what was there was not looked at again
    assert 8 <= len(before) < 64
    assert cli.main([*words, str(output)]) == 2
    assert "there is a search in it already; add --resume" in capsys.readouterr().err
    assert cli.main([*words, str(output), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "chosen on 4 with" in said
    assert "trials   64, 0 failed; for the best F1" in said
    assert parts() == looked
    trials = read_ledger(output / LEDGER_FILE)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == list(range(64))
    table = pq.read_table(output / "trials.parquet")
    assert {"post.nms_iou", "score_threshold", "goal", "precision", "recall", "f1", "ap"} < set(table.column_names)
    assert cli.main([*words, str(output), "--resume", "--min-recall", "0.5"]) == 2
    assert "goal was 'F1', is 'precision at a recall of at least 0.5'" in capsys.readouterr().err
    other = tmp_path / "other"  # never killed, with the same raw detections
    assert cli.main([*words, str(other), "--raw", str(output / "raw")]) == 0
    assert (other / "settings.toml").read_text() == (output / "settings.toml").read_text()
    assert not (other / "raw").exists()
    assert (other / "report.md").read_text() == (output / "report.md").read_text()
    chosen = read_detect_settings(other / "settings.toml")
    best = max(trials, key=lambda trial: trial.results["goal"]).results
    assert chosen.score_threshold in {t.results["score_threshold"] for t in trials if t.results["f1"] == best["f1"]}
