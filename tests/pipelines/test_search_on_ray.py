"""Searches with Ray Tune: a killed driver loses at most the trials that were running; `tune focus` from end to end."""

from __future__ import annotations

import functools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage
from tune import focus_trials
from tune.proposals import make_proposals
from tune.space import parse_space
from tune.sweep import LEDGER_FILE, RECORD_FILE, Evaluate, Prepare, SweepJob, SweepPlan, read_ledger, run_sweep

from .search_here import kill_when_held

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
        time.sleep(0 if resume else 0.2)
        yield {"score": -abs(settings["x"] - 0.3), "cost": settings["x"]}

    return evaluate


job = SweepJob(
    output=output, space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={}, address=address,
    workers=1 if resume else 2, objectives={"score": "max", "cost": "min"}, trials=7, batch=1,
    search="sobol", seed=3, resume=resume,
)
print(len(run_sweep(job, prepare)))
"""


def test_killed_driver_loses_only_trials_that_were_running(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, output = tmp_path / "search.py", tmp_path / "out"
    script.write_text(SEARCH)
    output.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, str(script), str(output), ray_cluster]
    process = subprocess.Popen([*command, "new"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while len(read_ledger(output / LEDGER_FILE)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_ledger(output / LEDGER_FILE)
    assert 2 <= len(before) < 7
    assert (output / "ray").exists()
    began = (output / "began.txt").read_text().split()
    with (output / LEDGER_FILE).open("a") as ledger:
        ledger.write('{"number": 6, "set')  # killed in the middle of a line
    monkeypatch.setattr(sys, "argv", [str(script), str(output), ray_cluster, "resume"])
    runpy.run_path(str(script), run_name="__main__")  # here, where Ray is loaded
    assert not (output / "ray").exists()
    trials = read_ledger(output / LEDGER_FILE)
    assert trials[: len(before)] == before
    assert sorted(trial.number for trial in trials) == list(range(7))
    times = Counter((output / "began.txt").read_text().split())
    lost = {number for number, count in times.items() if count > 1}
    assert len(lost) <= 2  # as many as there were processes
    assert lost <= set(began) - {str(trial.number) for trial in before}
    assert pq.read_table(output / "trials.parquet").num_rows == 7
    # Processes are used again. How often hangs on Ray: one that is not free in time has another started beside it.
    assert len((output / "prepared.txt").read_text().split()) < sum(times.values())


def _failing() -> Evaluate:
    def evaluate(number: int, settings: dict[str, float]):  # type: ignore[no-untyped-def]
        if number == 1:
            raise RunError(f"trial {number} does not like {settings['x']:.1f}")
        yield {"score": 1.0}
        yield {"score": float("nan") if number == 2 else 6 / (3 - number)}

    return evaluate


def test_failed_trials_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    """Process and search hand each other what Ray would carry: three settings at a time, then the one that is left."""
    from tune.search_on_ray import _Actor, _Batches

    job = SweepJob(
        output=tmp_path, space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={},
        objectives={"score": "max"}, trials=4, batch=3, search="sobol",
    )  # fmt: skip
    proposals = make_proposals("sobol", job.space, seed=0, objectives=job.objectives, start=[])
    plan = SweepPlan(job, proposals, [], lambda trial: None)
    searcher, actor = _Batches(plan), object.__new__(_Actor)
    (tmp_path / RECORD_FILE).touch()
    for number, name in enumerate("ab"):
        config = searcher.suggest(name)
        assert config is not None
        if number:
            assert actor.reset_config(config)
        else:
            actor.setup(config, prepare=_failing, record=tmp_path / RECORD_FILE, steps=1)
        while not (result := actor.step())["done"]:
            pass
        searcher.on_trial_complete(name, result)
    assert searcher.end is None
    outcomes = [(trial.results, trial.error[:23]) for trial in plan.trials.values()]
    assert outcomes == [
        ({"score": 2.0}, ""), ({}, "trial 1 does not like 0"), ({}, "score is nan"), ({}, "ZeroDivisionError: divi"),
    ]  # fmt: skip
    assert read_ledger(tmp_path / LEDGER_FILE) == list(plan.trials.values())


def _by_value(function: Prepare) -> Prepare:
    """So that processes that cannot import this file get it."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function


FOCUS_DRIVER = """
import sys
from search_here import main
from tune import focus_trials

focus_trials.SIDES = (64, 128)  # larger ones take seconds to time
sys.exit(main())
"""


def test_tune_focus_from_end_to_end_with_a_kill_in_the_middle(
    ray_cluster: str,
    labelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its processes are at work in other folders, and the folders that are named must not be looked for there.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(focus_trials, "SIDES", (64, 128))  # larger ones take seconds to time
    space = tmp_path / "space.toml"
    space.write_text(
        '"cascade.chips.0.threshold" = { from = 0.01, to = 0.5, log = true }\n"post.nms_iou" = [0.3, 0.5]\n'
    )
    output, labelled = Path("out"), os.path.relpath(labelled_folder)
    words = ["tune", "focus", labelled, "-o", "out", "--space", "space.toml", "--engine", "torch"]
    words += ["--trials", "6", "--workers", "1", "--search", "sobol"]
    kill_when_held(["-c", FOCUS_DRIVER, "6", *words])
    before = read_ledger(output / LEDGER_FILE)
    assert [trial.number for trial in before] == [0, 1, 2, 3]  # a batch; the next was under way
    looked = {path: path.stat().st_mtime_ns for path in output.glob("levels/*.parquet")}
    words += ["--address", ray_cluster]
    assert cli.main([*words, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("levels/*.parquet")} == looked, "looked at again"
    assert read_ledger(output / LEDGER_FILE)[: len(before)] == before
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
    shutil.copytree(labelled_folder, "others")
    more = ["--resume", "--max-cost", str(most), "--report-folder", "others"]
    assert cli.main([*words, *more]) == 0  # another point of the same search
    assert (output / LEDGER_FILE).read_text() == ledger
    default, chosen, whole = pq.read_table(output / "report.parquet").to_pylist()
    assert (default["settings"], chosen["settings"], whole["settings"]) == (
        "default settings", "chosen", "every level whole",
    )  # fmt: skip
    tried = {(row["ap"], row["mpx"]) for row in trials.to_pylist()[:2]}
    assert {(row["ap"], row["mpx"]) for row in (default, whole)} == tried  # copies of the same photos
    assert [default[name] for name in ("difference", "difference_low", "difference_high")] == [0, 0, 0]
    assert chosen["difference"] == chosen["ap"] - default["ap"]
    assert "8 photos that had no part in the choice" in capsys.readouterr().out
    with open_storage(output).locked():
        assert cli.main([*words, "--resume"]) == 1
    assert "another command is at work" in capsys.readouterr().err
    assert cli.main([*words, "--resume", "--seed", "1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


def test_trials_that_are_not_promising_are_left_early(ray_cluster: str, tmp_path: Path) -> None:
    job = SweepJob(
        output=tmp_path / "out", space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={}, steps=4,
        address=ray_cluster, workers=1, objectives={"score": "max"}, trials=7, search="sobol", seed=3,
    )  # fmt: skip
    trials = run_sweep(job, _by_value(functools.partial(_growing, tmp_path / "ended.txt")))
    assert [trial.error for trial in trials if trial.error] == ["trial 1 does not like growing"]
    assert trials[1].results == {}
    trials = [trial for trial in trials if not trial.error]
    steps = [trial.results["step"] for trial in trials]
    assert max(steps) == 4
    assert min(steps) == 1
    assert [trial.left_early for trial in trials] == [count < 4 for count in steps]
    assert max(trials, key=lambda trial: trial.results["score"]).results["step"] == 4
    ends = (tmp_path / "ended.txt").read_text().split()  # left early or not, a trial gets to its end
    assert sorted(map(int, ends)) == sorted(trial.number for trial in trials)


def _growing(ended: Path) -> Evaluate:
    def evaluate(number: int, settings: dict[str, float]):  # type: ignore[no-untyped-def]
        if number == 1:
            raise RunError("trial 1 does not like growing")
        try:
            for step in range(1, 5):
                yield {"score": step * settings["x"], "step": float(step)}
        finally:
            with ended.open("a") as file:
                file.write(f"{number}\n")

    return evaluate


def _unready() -> Evaluate:
    raise RunError("the photos are not there")


def test_process_that_cannot_get_ready_ends_the_search_and_no_trial_is_lost(ray_cluster: str, tmp_path: Path) -> None:
    job = SweepJob(
        output=tmp_path / "out", space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={},
        address=ray_cluster, workers=1, objectives={"score": "max"}, trials=2, search="sobol",
    )  # fmt: skip
    with pytest.raises(RunError, match=r"on .*: the photos are not there; finished trials are kept, --resume goes on"):
        run_sweep(job, _by_value(_unready))
    assert read_ledger(job.output / LEDGER_FILE) == []
    with pytest.raises(SettingsError, match="there is a search in it already; add --resume"):
        run_sweep(job, _by_value(_unready))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"cpus": 5.0}, r"the cluster has 4 CPUs of the 5 that a trial needs; let", id="CPUs"),
        pytest.param({"gpus": 1.0}, r"4 CPUs of the 1 that a trial needs, 0 GPUs of the 1 that", id="GPUs"),
        pytest.param({"cpus_beside": 4.0}, r"4 CPUs of the 5 that", id="beside"),
        pytest.param({"cpus_beside": 2.0, "workers": 2}, r"workers is 2, .* of the 3 .* --workers 1", id="workers"),
    ],
)
def test_trial_that_the_cluster_cannot_hold_is_refused(
    ray_cluster: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    job = SweepJob(
        output=tmp_path / "out", space=parse_space("x = { from = 0.0, to = 1.0 }", "test"), record={},
        address=ray_cluster, objectives={"score": "max"}, search="sobol", **changes,
    )  # fmt: skip
    with pytest.raises(SettingsError, match=message):
        run_sweep(job, _by_value(_failing))


def test_ledger_that_cannot_be_written_ends_the_search(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    from tune.search_on_ray import _Batches

    space, objectives = parse_space("x = { from = 0.0, to = 1.0 }", "test"), {"score": "max"}
    job = SweepJob(output=tmp_path, space=space, record={}, objectives=objectives, trials=9, search="sobol")
    proposals = make_proposals("sobol", space, seed=0, objectives=objectives, start=[])
    searcher = _Batches(SweepPlan(job, proposals, [], lambda trial: None))
    assert searcher.suggest("a") is not None
    (tmp_path / LEDGER_FILE).mkdir()
    searcher.on_trial_complete("a", {"told": json.dumps([[0, {"score": 1.0}, 0.1, "", False]])})
    assert "trials.jsonl: cannot be written (Is a directory)" in str(searcher.end)
    assert str(searcher.suggest("b")) == Searcher.FINISHED
