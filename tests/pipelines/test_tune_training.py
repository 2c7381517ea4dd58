"""`retinafocus tune training`: trials that go on, searches that are killed, Ray Train within Ray Tune."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipelines import cli
from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_log import read_metrics
from pipelines.train_worker import STOP_FILE
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage
from retinafocus.weights import load_model, read_info
from tune import training, training_trials
from tune.space import Settings, parse_space
from tune.sweep import LEDGER_FILE, Evaluate, Results, SweepJob, Trial, read_ledger, run_sweep
from tune.training_trials import TrainingTrials, evaluations_of, resources_of, trial_folder

pytest.importorskip("matplotlib")

ray_test = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # Ray leaves sockets and files to the interpreter's end, and warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPACE = '"loop.learning_rate" = { from = 0.001, to = 0.02, log = true }\n"loop.freeze" = ["none", "stem"]\n'


@pytest.fixture
def settings(labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the base settings: three epochs of one step."""
    monkeypatch.chdir(tmp_path)  # Ray's processes are at work in other folders, and must not look for these there
    folder = os.path.relpath(labelled_folder)
    path = tmp_path / "base.toml"
    path.write_text(
        f"""
        batch = 2
        epoch_steps = 1
        loaders = 0
        device = "cpu"
        data.folders = ["{folder}"]
        evaluation = {{folder = "{folder}", min_face = 20, photos = 2}}
        model.preset = "mobilenet025-1mb"
        sample.crop.side = 64
        loop = {{steps = 3, warmup_steps = 1}}
        """
    )
    return path


@pytest.fixture
def base(settings: Path) -> TrainConfig:
    return read_train_config(settings)


def _weights(trials: TrainingTrials, number: int) -> dict[str, torch.Tensor]:
    return load_model(trial_folder(trials.output, number) / "last.safetensors").state_dict()


def test_trial_that_was_cut_short_goes_on_from_its_checkpoint(base: TrainConfig, tmp_path: Path) -> None:
    trials = TrainingTrials(base=base, output=tmp_path / "out")
    evaluate = trials()
    settings: Settings = {"loop.learning_rate": 0.02}
    whole = list(evaluate(0, settings))
    assert [results["step"] for results in whole] == [1, 2, 3]
    assert [results["ap"] for results in whole] == [
        max(each["last_ap"] for each in whole[: place + 1]) for place in range(3)
    ]
    going = evaluate(1, settings)
    begun = [next(going), next(going)]
    going.close()  # type: ignore[attr-defined]
    folder = trial_folder(tmp_path / "out", 1)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2]
    assert not open_storage(folder).is_locked()
    written = (folder / "metrics.jsonl").read_text()
    again = list(evaluate(1, settings))
    assert begun == whole[:2]
    assert again == whole
    assert (folder / "metrics.jsonl").read_text().startswith(written)
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3]
    ends = [_weights(trials, number) for number in (0, 1)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_training_of_other_settings_in_a_trials_folder_is_begun_anew(base: TrainConfig, tmp_path: Path) -> None:
    trials = TrainingTrials(base=base, output=tmp_path / "out")
    evaluate = trials()
    list(evaluate(0, {"loop.learning_rate": 0.02}))
    results = list(evaluate(0, {"loop.learning_rate": 0.01}))
    assert [each["step"] for each in results] == [1, 2, 3]
    assert read_train_config(trial_folder(trials.output, 0) / "settings.toml").loop.learning_rate == 0.01
    recipe = read_info(trial_folder(trials.output, 0) / "last.safetensors").metadata["recipe"]
    assert "learning_rate = 0.01\n" in recipe
    with pytest.raises(SettingsError, match=r"loop\.backbone_factor must be 0 or more"):
        next(evaluate(1, {"loop.backbone_factor": -1.0}))


def test_training_of_several_workers_is_followed_to_its_end(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a stand-in for Ray Train: 0 ends by itself, 1 is left after the first row, 2 fails after it."""
    left = []

    def train(config: TrainConfig, *, resume: bool, runner: str) -> str:
        assert (resume, runner) == (True, "ray")
        folder = Path(config.output)
        for step in range(1, 4 if folder.name == "0" else 2):
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "ap": step / 10}) + "\n")
        if folder.name == "1":
            _wait(lambda: (folder / STOP_FILE).exists())
            time.sleep(0.1)  # the epoch that it is in
            left.append(folder.name)
        if folder.name == "2":
            raise RunError("the workers died")
        return ""

    monkeypatch.setattr(training_trials, "train", train)
    monkeypatch.setattr(training_trials, "FOLLOWED_EVERY", 0.01)
    evaluate = TrainingTrials(base=dataclasses.replace(base, workers=2), output=tmp_path / "out")()
    assert [results["step"] for results in evaluate(0, {})] == [1, 2, 3]
    going = evaluate(1, {})
    assert next(going) == {"ap": 0.1, "ap_step": 1, "step": 1, "last_ap": 0.1}
    assert left == []
    going.close()  # type: ignore[attr-defined]
    assert left == ["1"]  # it was waited for
    with pytest.raises(RunError, match="the workers died"):
        list(evaluate(2, {}))
    assert not list(tmp_path.glob(f"out/trials/*/{STOP_FILE}"))


def test_report_of_one_photo_and_without_the_gpu_of_the_trials(
    base: TrainConfig, labelled_folder: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(labelled_folder, alone)
    for name in ("images.parquet", "labels.parquet"):
        pq.write_table(pq.read_table(alone / name, filters=[("image", "==", "0.png")]), alone / name)

    def search(job: SweepJob, *_: object) -> list[Trial]:
        folder = trial_folder(job.output, 0)
        folder.mkdir(parents=True)
        shutil.copyfile(tiny_weights, folder / "best.safetensors")
        (folder / "metrics.jsonl").write_text('{"step": 3, "ap": 0.5}\n')
        results = {"ap": 0.5, "ap_step": 3.0, "step": 3.0, "last_ap": 0.5}
        return [Trial(number=0, settings=dict(job.start[0]), results=results, seconds=1.0)]

    monkeypatch.setattr(training, "run_sweep", search)
    job = training.TrainingJob(
        base=dataclasses.replace(base, device="cuda"), output="out", report_folder="alone", address="elsewhere:6379"
    )
    said = training.tune_training(job)
    assert re.search(r"^ +best +evaluation +\d+\.\d\d \[", said, re.MULTILINE)
    assert re.search(r"^ +best +report +\d+\.\d\d$", said, re.MULTILINE)  # an interval takes two photos
    rows = pq.read_table("out/report.parquet").to_pylist()
    assert [(row["photos"], row["ap_low"] is None) for row in rows] == [("evaluation", False), ("report", True)]


def test_photos_that_any_trial_may_learn_from_are_no_report(
    base: TrainConfig, labelled_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(labelled_folder, tmp_path / "more")
    space = tmp_path / "space.toml"
    space.write_text(f'"data.folders" = [["{labelled_folder}"], ["{labelled_folder}", "more"]]')
    job = training.TrainingJob(base=base, output="out", space=str(space), report_folder=f"{tmp_path}/more")
    with pytest.raises(SettingsError, match=r"report-folder .*more has a part in the training or the choice"):
        training.tune_training(job)


class TestOnRay:
    pytestmark = ray_test

    def test_killed_search_goes_on_with_the_trials_that_were_running(
        self, ray_cluster: str, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "space.toml").write_text(SPACE)
        output = tmp_path / "out"
        words = ["tune", "training", "--config", str(settings), "-o", str(output), "--trials", "3", "--workers", "1"]
        words += ["--space", str(tmp_path / "space.toml"), "--search", "sobol", "--address", ray_cluster]
        words += ["--set", "evaluation.every=3"]  # at the end only, so that no trial is left early
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def running() -> Path | None:
            done = {trial.number for trial in read_ledger(output / LEDGER_FILE)}
            begun = [trial_folder(output, number) for number in (1, 2) if number not in done]
            return next((folder for folder in begun if len(read_metrics(folder)) == 2), None)

        _wait(lambda: running() is not None or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cut = running()
        before = read_ledger(output / LEDGER_FILE)
        assert cut is not None
        assert len(before) < 3
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
        self._check_results(output, settings, tmp_path)
        assert cli.main([*words, "--resume", "--set", "batch=4"]) == 2
        assert "batch was 2, is 4" in capsys.readouterr().err

    def _check_results(self, output: Path, settings: Path, tmp_path: Path) -> None:
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

    def test_trial_of_two_workers_ends_when_it_is_left_early(
        self, ray_cluster: str, base: TrainConfig, tmp_path: Path
    ) -> None:
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
        _wait(lambda: not any(_lives(int(name.rpartition(":")[2])) for name in names))
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


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
