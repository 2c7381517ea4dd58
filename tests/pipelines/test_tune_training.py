"""`retinafocus tune training` without Ray: trials that go on, workers that are followed, what is reported."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_log import read_metrics
from pipelines.train_worker import STOP_FILE
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage
from retinafocus.weights import load_model, read_info
from tune import training, training_trials
from tune.space import Settings
from tune.sweep import SweepJob, Trial
from tune.training_trials import TrainingTrials, trial_folder

from .conftest import wait_until

pytest.importorskip("matplotlib")


@pytest.fixture
def base(short_training: Path) -> TrainConfig:
    return read_train_config(short_training)


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
            wait_until(lambda: (folder / STOP_FILE).exists())
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
