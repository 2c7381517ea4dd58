"""`retinafocus tune training` on Ray: a search that was killed goes on, Ray Train within Ray Tune."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.train_config import read_train_config
from pipelines.train_log import read_metrics
from retinafocus.weights import read_info
from tune.space import Settings, parse_space
from tune.sweep import LEDGER_FILE, Evaluate, Results, SweepJob, read_ledger, run_sweep
from tune.training_trials import TrainingTrials, evaluations_of, resources_of, trial_folder

from .conftest import wait_until
from .search_here import kill_in_mid_search

pytest.importorskip("matplotlib")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(240),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPACE = '"loop.learning_rate" = { from = 0.001, to = 0.02, log = true }\n"loop.freeze" = ["none", "stem"]\n'


def test_killed_search_goes_on_with_the_trials_that_were_running(
    ray_cluster: str, short_training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    output = tmp_path / "out"
    words = ["tune", "training", "--config", str(short_training), "-o", str(output), "--trials", "3"]
    words += ["--space", str(tmp_path / "space.toml"), "--search", "sobol"]
    kill_in_mid_search(5, words)
    words += ["--workers", "1", "--address", ray_cluster]
    before, cut = read_ledger(output / LEDGER_FILE), trial_folder(output, 1)
    assert [trial.number for trial in before] == [0]
    assert [row["step"] for row in read_metrics(cut)] == [1, 2]
    first = read_metrics(cut)[0]
    assert cli.main([*words, "--resume"]) == 0
    said = capsys.readouterr().out
    trials = read_ledger(output / LEDGER_FILE)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == [0, 1, 2]
    for number in range(3):
        steps = [row["step"] for row in read_metrics(trial_folder(output, number))]
        assert steps == list(range(1, len(steps) + 1))  # none lost, none doubled
    assert read_metrics(cut)[0] == first  # its seconds too: it went on, and was not begun anew
    assert "trials   3 of 3 steps" in said
    _check_results(output, tmp_path)
    assert cli.main([*words, "--resume", "--set", "batch=4"]) == 2
    assert "batch was 2, is 4" in capsys.readouterr().err


def _check_results(output: Path, tmp_path: Path) -> None:
    table = pq.read_table(output / "trials.parquet")
    assert {"loop.learning_rate", "loop.freeze", "ap", "step", "left_early"} < set(table.column_names)
    rows = {row["trial"]: row for row in table.to_pylist()}
    assert rows[0]["loop.learning_rate"] == 0.01  # of the base settings
    best = max(rows, key=lambda number: (rows[number]["ap"], -number))
    chosen = read_train_config(output / "settings.toml")
    assert (chosen.loop.learning_rate, chosen.loop.freeze) == (
        rows[best]["loop.learning_rate"], rows[best]["loop.freeze"],
    )  # fmt: skip
    assert (output / "curves.png").stat().st_size > 1000
    assert float(json.loads(read_info(output / "best.safetensors").metadata["evaluation"])["ap"]) == pytest.approx(
        rows[best]["ap"], abs=1e-5
    )
    assert {path.parent.name for path in output.glob("trials/*/*.safetensors")} == {"0", str(best)}
    assert not list(output.glob("trials/*/checkpoint.pt"))
    train = ["train", "--config", str(output / "settings.toml"), "-o", str(tmp_path / "chosen")]
    assert cli.main([*train, "--set", "loop.steps=1"]) == 0


@pytest.mark.slow
def test_trial_of_two_workers_ends_when_it_is_left_early(
    ray_cluster: str, short_training: Path, tmp_path: Path
) -> None:
    base = read_train_config(short_training)
    two = dataclasses.replace(base, workers=2, loop=dataclasses.replace(base.loop, steps=8))
    short = dataclasses.replace(base, loop=dataclasses.replace(base.loop, steps=2))  # in the trial's own process
    output = tmp_path / "out"
    job = SweepJob(
        output=output, space=parse_space(SPACE, "test"), record={}, objectives={"ap": "max"}, trials=2,
        search="sobol", address=ray_cluster, steps=evaluations_of(two), **resources_of(two),
    )  # fmt: skip
    done = run_sweep(job, _ByHand(*(TrainingTrials(base=each, output=output) for each in (short, two))))
    assert [trial.error for trial in done] == ["", ""]
    assert [trial.left_early for trial in done] == [False, True]
    assert done[0].results["step"] == 2
    assert done[1].results["step"] == 1
    assert len(read_metrics(trial_folder(output, 1))) < 8  # and so did its workers, soon after
    names = json.loads((trial_folder(output, 1) / "workers.json").read_text())
    assert len(names) == 2
    wait_until(lambda: not any(_lives(int(name.rpartition(":")[2])) for name in names))
    assert not any(_lives(int(name.rpartition(":")[2])) for name in names)
    assert (output / "trials.parquet").exists()


class _ByHand:
    """Trials of which the first is by far the best, whatever was learned; each has its own base settings."""

    def __init__(self, *trials: TrainingTrials) -> None:
        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]  # not importable there
        self.trials = trials

    def __call__(self) -> Evaluate:
        evaluates = [trials() for trials in self.trials]

        def judged(number: int, settings: Settings) -> Iterator[Results]:
            for results in evaluates[number](number, settings):
                yield {**results, "ap": 1.0 - number}

        return judged


def _lives(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
