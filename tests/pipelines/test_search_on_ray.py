"""Searches with Ray Tune: a killed driver loses at most the trials that were running; `tune focus` from end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage
from tune.space import parse_space
from tune.sweep import LEDGER_FILE, Evaluate, Prepare, SweepJob, read_ledger, run_sweep

pytest.importorskip("matplotlib")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(240),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEARCH = """
import sys, time
from pathlib import Path
from tune.space import parse_space
from tune.sweep import SweepJob, run_sweep

output, address, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"


def prepare():
    (output / "prepared.txt").open("a").write("once\\n")

    def evaluate(number, settings):
        (output / "began.txt").open("a").write(f"{number}\\n")
        time.sleep(0.25)
        yield {"score": -abs(settings["x"] - 0.3), "cost": settings["x"]}

    return evaluate


job = SweepJob(
    output=output, space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={}, address=address, workers=2,
    objectives={"score": "max", "cost": "min"}, trials=14, batch=1, search="sobol", seed=3, resume=resume,
)
print(len(run_sweep(job, prepare)))
"""


def test_killed_driver_loses_only_trials_that_were_running(ray_cluster: str, tmp_path: Path) -> None:
    script, output = tmp_path / "search.py", tmp_path / "out"
    script.write_text(SEARCH)
    output.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, str(script), str(output), ray_cluster]
    process = subprocess.Popen([*command, "new"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while len(read_ledger(output / LEDGER_FILE)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_ledger(output / LEDGER_FILE)
    assert 4 <= len(before) < 14
    began = (output / "began.txt").read_text().split()
    with (output / LEDGER_FILE).open("a") as ledger:
        ledger.write('{"number": 13, "set')  # killed in the middle of a line
    again = subprocess.run([*command, "resume"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    trials = read_ledger(output / LEDGER_FILE)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == list(range(14))
    times = Counter((output / "began.txt").read_text().split())
    lost = {number for number, count in times.items() if count > 1}
    assert len(lost) <= 2  # as many as there were processes
    assert lost <= set(began) - {str(trial.number) for trial in before}
    assert pq.read_table(output / "trials.parquet").num_rows == 14
    # Processes are used again. How often hangs on Ray: one that is not free in time has another started beside it.
    assert len((output / "prepared.txt").read_text().split()) < sum(times.values())


def _failing() -> Evaluate:
    def evaluate(number: int, settings: dict[str, float]):  # type: ignore[no-untyped-def]
        if number % 2:
            raise RunError(f"trial {number} does not like {settings['x']:.1f}")
        yield {"score": 1.0}
        yield {"score": 2.0}

    return evaluate


def test_failed_trials_are_told_and_the_others_go_on(ray_cluster: str, tmp_path: Path) -> None:
    job = SweepJob(
        output=tmp_path / "out", space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={},
        address=ray_cluster, workers=2, objectives={"score": "max"}, trials=4, batch=3, search="sobol",
    )  # fmt: skip
    trials = run_sweep(job, _by_value(_failing))
    outcomes = [(trial.results, trial.error[:7]) for trial in trials]
    assert outcomes == [({"score": 2.0}, ""), ({}, "trial 1"), ({"score": 2.0}, ""), ({}, "trial 3")]
    with pytest.raises(SettingsError, match="there is a search in it already; add --resume"):
        run_sweep(job, _by_value(_failing))


def _by_value(function: Prepare) -> Prepare:
    """So that processes that cannot import this file get it."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function


def test_tune_focus_from_end_to_end(
    ray_cluster: str, labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.toml"
    space.write_text(
        '"cascade.chips.0.threshold" = { from = 0.01, to = 0.5, log = true }\n"post.nms_iou" = [0.3, 0.5]\n'
    )
    output = tmp_path / "out"
    words = ["tune", "focus", str(labelled_folder), "-o", str(output), "--space", str(space), "--engine", "torch"]
    words += ["--trials", "6", "--workers", "2", "--search", "sobol", "--address", ray_cluster]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "trials   6, 0 failed" in said
    check = pq.read_table(output / "check.parquet").to_pylist()
    assert len(check) == 6
    for row in check:
        assert row["ap"] == row["ap_cascade"]
        assert row["mpx"] == row["mpx_cascade"]
    trials = pq.read_table(output / "trials.parquet")
    assert {"cascade.chips.0.threshold", "post.nms_iou", "ap", "mpx", "core_seconds"} < set(trials.column_names)
    assert sum(pq.read_table(output / "front.parquet").column("chosen").to_pylist()) == 1
    assert (output / "front.png").stat().st_size > 1000
    ledger = (output / LEDGER_FILE).read_text()
    most = max(json.loads(line)["results"]["mpx"] for line in ledger.splitlines())
    assert cli.main([*words, "--resume", "--max-cost", str(most)]) == 0  # another point of the same search
    assert (output / LEDGER_FILE).read_text() == ledger
    with open_storage(output).locked():
        assert cli.main([*words, "--resume"]) == 1
    assert "another command is at work" in capsys.readouterr().err
    assert cli.main([*words, "--resume", "--seed", "1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


def test_trials_that_are_not_promising_are_left_early(ray_cluster: str, tmp_path: Path) -> None:
    job = SweepJob(
        output=tmp_path / "out", space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={}, steps=8,
        address=ray_cluster, workers=2, objectives={"score": "max"}, trials=12, search="sobol", seed=3,
    )  # fmt: skip
    trials = run_sweep(job, _by_value(_growing))
    assert [trial.error for trial in trials if trial.error] == ["trial 1 does not like growing"]
    assert trials[1].results == {}
    trials = [trial for trial in trials if not trial.error]
    steps = [trial.results["step"] for trial in trials]
    assert max(steps) == 8
    assert min(steps) == 1
    assert max(trials, key=lambda trial: trial.results["score"]).results["step"] == 8


def _growing() -> Evaluate:
    def evaluate(number: int, settings: dict[str, float]):  # type: ignore[no-untyped-def]
        if number == 1:
            raise RunError("trial 1 does not like growing")
        for step in range(1, 9):
            yield {"score": step * settings["x"], "step": float(step)}

    return evaluate
