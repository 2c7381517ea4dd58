"""`retinafocus tune anchor-search`: killed in the middle, gone on with, and chosen from again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.settings import settings_of
from pipelines.train_config import NAMED, TrainConfig, read_train_config
from retinafocus.anchors import AnchorConfig
from retinafocus.datasets.labelled import LANDMARK_COLUMNS
from retinafocus.models import get_preset
from tune.anchor_trials import AnchorTrials, starts_of
from tune.proposals import SobolProposals
from tune.space import read_space
from tune.sweep import LEDGER_FILE, read_ledger
from tune.training_trials import config_of

from .search_here import kill_in_mid_search

pytest.importorskip("matplotlib")

SIDES = np.repeat([10.0, 14.0, 22.0, 30.0, 45.0, 90.0], 20)
"""Of square faces: octaves with 40, 40, 20 and 20."""

SPACE = """\
per_level = [1, 2]
"scale.0" = { from = 0.5, to = 2.0, log = true }
"scale.1" = { from = 0.5, to = 2.0, log = true }
"scale.2" = { from = 0.5, to = 2.0, log = true }
"""

TRIALS = 80


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of one photo without the picture."""
    folder = tmp_path_factory.mktemp("labels")
    pq.write_table(
        pa.Table.from_pylist([{"image": "a.jpg", "width": 800, "height": 600, "source": "a"}]),
        folder / "images.parquet",
    )
    rows = [
        {"image": "a.jpg", "kind": "human", "x1": 5.0, "y1": 5.0, "x2": 5.0 + side, "y2": 5.0 + side} for side in SIDES
    ]
    table = pa.Table.from_pylist(rows)
    for name in LANDMARK_COLUMNS:
        table = table.append_column(name, pa.nulls(len(rows), pa.float32()))
    pq.write_table(table, folder / "labels.parquet")
    return folder


def test_killed_search_goes_on_and_gives_what_an_undisturbed_one_gives(
    searches_here: None, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, space = tmp_path / "out", tmp_path / "space.toml"
    space.write_text(SPACE)
    words = ["tune", "anchor-search", str(labels), "-o", str(output), "--factors", "1", "--space", str(space)]
    words += ["--trials", str(TRIALS), "--workers", "1", "--search", "sobol", "--seed", "5"]
    words += ["--measure", "coverage"]
    kill_in_mid_search(20, words)
    before = read_ledger(output / LEDGER_FILE)
    assert [trial.number for trial in before] == list(range(16))  # a batch; the next was under way
    assert cli.main([*words, "--resume"]) == 0
    assert f"trials   {TRIALS}, 0 failed; 2 that no other beats in coverage and number" in capsys.readouterr().out
    trials = read_ledger(output / LEDGER_FILE)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == list(range(TRIALS))
    faces = np.stack([SIDES, SIDES], axis=1)
    evaluate = AnchorTrials(faces)()
    proposals = SobolProposals(read_space(space), 5, starts_of(read_space(space), faces))
    for trial in trials[::8]:
        assert trial.settings == proposals.ask(trial.number)
        assert [trial.results] == list(evaluate(trial.number, trial.settings))
    _check_result(output)
    ledger = (output / LEDGER_FILE).read_bytes()
    assert cli.main([*words, "--resume", "--max-per-cell", "1"]) == 0  # another point of the same search
    assert (output / LEDGER_FILE).read_bytes() == ledger
    assert read_train_config(output / "anchors.toml").model.to_preset().anchors.per_cell == 1
    assert cli.main([*words, "--resume", "--factors", "0.5"]) == 2
    assert "the search in it is another (faces was " in capsys.readouterr().err


def _check_result(output: Path) -> None:
    names = {path.name for path in output.iterdir()}
    assert {"trials.parquet", "anchors.md", "anchors.png", "front.png", "coverage.parquet", "sweep.json"} < names
    front = pq.read_table(output / "front.parquet").to_pylist()
    assert [row["per_level"] for row in front] == [2, 1]
    assert [row["chosen"] for row in front] == [True, False]
    best = max(row["coverage"] for row in pq.read_table(output / "trials.parquet").to_pylist() if row["per_level"] == 2)
    assert front[0]["coverage"] == best
    chosen = AnchorConfig(sizes=tuple(map(tuple, front[0]["sizes"])), ratio=front[0]["h_over_w"])
    assert read_train_config(output / "anchors.toml").model.to_preset().anchors == chosen
    space = read_space(output / "training-space.toml")
    base = settings_of(TrainConfig, {}, "test", named=NAMED)
    sets = [config_of(base, space.at([place])).model.to_preset().anchors for place in (1 / 6, 1 / 2, 5 / 6)]
    assert [each.per_cell for each in sets] == [2, 1, 2]
    assert sets[0] == get_preset("mobile025").anchors
    assert sets[2] == chosen
    rows = pq.read_table(output / "coverage.parquet").to_pylist()
    assert [*dict.fromkeys(row["set"] for row in rows)][-2:] == [f"trial {front[1]['trial']}", "chosen"]
