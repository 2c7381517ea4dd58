"""`tune thresholds` from end to end; killed while it looks at photos and while it searches, it goes on."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.detect_config import read_detect_settings
from tune.sweep import LEDGER_FILE, read_ledger

from .search_here import kill_in_mid_search, kill_when_held

pytest.importorskip("matplotlib")

# The command, which holds still in the midst of its pass; each photo is a part.
IN_ITS_PASS = """
import sys
from pipelines import cli
from retinafocus import Detector
from search_here import holding_at
from tune import photo_parts

photo_parts.PHOTOS_IN_A_PART = 1
Detector.look = holding_at(4, Detector.look)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_killed_search_goes_on_and_ends_as_one_that_was_not(
    searches_here: None, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["tune", "thresholds", str(labelled_folder), "--engine", "torch", "--search", "sobol", "--workers", "1"]
    words += ["--trials", "64", "-o"]

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (output / "raw" / "photos").glob("*.parquet")}

    kill_when_held(["-c", IN_ITS_PASS, *words, str(output)])
    first = parts()
    assert len(first) == 3
    kill_in_mid_search(13, [*words, str(output)])
    looked, before = parts(), read_ledger(output / LEDGER_FILE)
    assert len(looked) == 8
    assert first.items() <= looked.items()  # what was there was not looked at again
    assert len(before) == 8  # a batch; the next was under way
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
