"""The search over trainings, without training; the trials themselves are in tests/pipelines/test_tune_training.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import settings_of, settings_toml
from pipelines.train_config import NAMED, TrainConfig, read_train_config
from retinafocus.errors import SettingsError
from retinafocus.storage import open_storage
from tune.proposals import spread_of
from tune.space import parse_space
from tune.sweep import Trial
from tune.training import settings_file
from tune.training_trials import (
    TrainingTrials,
    base_settings,
    best_of,
    check_space,
    config_of,
    default_space,
    drop_weights,
    evaluations_of,
    resources_of,
    trial_folder,
)


def config(values: dict[str, Any]) -> TrainConfig:
    return settings_of(TrainConfig, values, "test", named=NAMED)


BASE = config({"model": {"preset": "mobilenet025-1mb"}, "data": {"folders": ["somewhere"]}, "loop": {"steps": 500}})


def trial(number: int, ap: float, step: int = 500, error: str = "") -> Trial:
    results = {} if error else {"ap": ap, "ap_step": step, "step": 500.0, "last_ap": ap}
    return Trial(number=number, settings={"loop.learning_rate": 0.1}, results=results, seconds=1.0, error=error)


def test_trial_has_the_base_settings_but_for_its_own() -> None:
    settings = {"loop.learning_rate": 0.5, "sample.crop.face_sides": [8.0, 200.0], "sample.match": "paper"}
    made = config_of(BASE, settings)
    assert made.loop == dataclasses.replace(BASE.loop, learning_rate=0.5)
    assert made.sample.crop == dataclasses.replace(BASE.sample.crop, face_sides=(8.0, 200.0))
    assert made.sample.match == NAMED[type(made.sample.match)]["paper"]
    assert (made.data, made.loss, made.model) == (BASE.data, BASE.loss, BASE.model)
    assert config_of(BASE, {}) == BASE


def test_paths_begin_where_the_command_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "mobile025").mkdir()  # no weights, so the name is that of ours
    base = {"data": {"folders": ["a", "/b"]}, "evaluation": {"folder": "c/d"}, "model": {"init": "mine.safetensors"}}
    monkeypatch.chdir(tmp_path)
    trials = TrainingTrials(base=config(base), output=tmp_path / "out")
    monkeypatch.chdir("/")  # processes are at work in folders of their own
    made = trials.config_of(3, {})
    assert (made.data.folders, made.evaluation.folder) == ((f"{tmp_path}/a", "/b"), f"{tmp_path}/c/d")
    assert (made.model.init, made.output) == (f"{tmp_path}/mine.safetensors", f"{tmp_path}/out/trials/3")
    made = trials.config_of(3, {"data.folders": ["e"], "model.init": "mobile025"})
    assert (made.data.folders, made.model.init) == ((f"{tmp_path}/e",), "mobile025")


def test_first_trial_is_the_base_settings() -> None:
    space = parse_space('"loop.learning_rate" = [0.1, 0.2]\n"sample.crop.face_sides" = [[1.0, 2.0]]', "test")
    assert base_settings(BASE, space) == {"loop.learning_rate": 0.01, "sample.crop.face_sides": [4.0, 400.0]}
    whole = parse_space(default_space(BASE), "test")
    assert config_of(BASE, base_settings(BASE, whole)) == BASE


def test_default_space_has_what_changes_something() -> None:
    plain = parse_space(default_space(BASE), "test")
    assert not {"loop.freeze", "loop.backbone_factor", "loss.focus_weight"} & set(plain.searched)
    tuned = config({"model": {"preset": "mobile025", "init": "mobile025"}, "sample": {"kind": "chips"}})
    whole = parse_space(default_space(tuned), "test")
    assert {"loop.freeze", "loop.backbone_factor", "loss.focus_weight"} < set(whole.searched)
    assert not [name for name in whole.searched if name.startswith("sample.crop")]
    for base in (BASE, tuned):
        check_space(base, parse_space(default_space(base), "test"))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        pytest.param(
            '"loop.lerning_rate" = [0.1, 0.2]', "loop.lerning_rate: there is no such setting; did you mean learning_",
            id="misspelt",
        ),
        pytest.param('"loop.momentum" = { from = 0.5, to = 1.5 }', "momentum 0 up to, not including, 1", id="range"),
        pytest.param('"loop.freeze" = ["none", "stam"]', r"loop.freeze: is \"stam\"; choose one of none", id="choice"),
        pytest.param('"loop.learning_rate" = ["much", "little"]', "give a number", id="type"),
        pytest.param('"loop.steps" = [100, 200]', "loop.steps cannot be searched, for trials are comp", id="steps"),
        pytest.param('"evaluation.min_face" = [10, 20]', "compared on the same photos; set it in", id="judge"),
        pytest.param('"loop.momentum" = [0.1]\nworkers = 4', "workers cannot be searched, for it says", id="fixed"),
        pytest.param('"loop.freeze" = ["none", "all-but-focus"]', "has no focus branch", id="contradiction"),
    ],
)  # fmt: skip
def test_space_that_makes_no_sense_is_refused(space: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_space(BASE, parse_space(space, "test"))


@pytest.mark.parametrize(
    ("steps", "epoch", "every", "evaluations"),
    [
        pytest.param(8, 4, 1, 2, id="each epoch"),
        pytest.param(10, 4, 1, 3, id="a short last epoch"),
        pytest.param(10, 4, 2, 2, id="after 8 and 10 steps"),
        pytest.param(8, 4, 3, 1, id="at the end only"),
        pytest.param(24, 4, 3, 2, id="after 12 and 24 steps"),
    ],
)
def test_number_of_evaluations(steps: int, epoch: int, every: int, evaluations: int) -> None:
    made = config({"loop": {"steps": steps, "warmup_steps": 0}, "epoch_steps": epoch, "evaluation": {"every": every}})
    assert evaluations_of(made) == evaluations


@pytest.mark.parametrize(
    ("settings", "resources"),
    [
        pytest.param({"loaders": 0}, {"cpus": 1.0, "gpus": 0.0}, id="alone"),
        pytest.param({"loaders": 2, "threads": 4}, {"cpus": 6.0, "gpus": 0.0}, id="threads and loaders"),
        pytest.param({"device": "cuda"}, {"cpus": 2.0, "gpus": 1.0}, id="one GPU"),
        pytest.param(
            {"workers": 2, "loaders": 3}, {"cpus": 0.01, "cpus_beside": 8.0, "gpus_beside": 0.0}, id="two workers"
        ),
        pytest.param(
            {"workers": 4, "device": "cuda"}, {"cpus": 0.01, "cpus_beside": 8.0, "gpus_beside": 4.0}, id="four GPUs"
        ),
    ],
)
def test_what_a_trial_holds(settings: dict[str, Any], resources: dict[str, float]) -> None:
    assert resources_of(config({"device": "cpu"} | settings)) == resources


@pytest.mark.parametrize(("trials", "spread"), [(4, 8), (32, 8), (64, 16), (300, 32)])
def test_few_trials_are_led_by_what_was_found_sooner(trials: int, spread: int) -> None:
    assert spread_of(trials) == spread


def test_best_is_the_highest_ap_and_the_first_of_equals() -> None:
    trials = [trial(2, 0.5), trial(1, 0.5), trial(0, 0.4), trial(3, 0, error="lost")]
    best = best_of(trials)
    assert best is not None
    assert best.number == 1
    assert best_of(trials[3:]) is None


def test_weights_of_the_best_and_of_the_base_settings_are_kept(tmp_path: Path) -> None:
    names = ("checkpoint.pt", "best.safetensors", "last.safetensors", "metrics.jsonl", "ray/checkpoint")
    for number in range(4):
        for name in names:
            path = trial_folder(tmp_path, number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    done = [trial(0, 0.4), trial(1, 0.6), trial(2, 0.5)]  # 3 is running
    with open_storage(trial_folder(tmp_path, 0)).locked():
        drop_weights(tmp_path, done, searching=True)
        assert (trial_folder(tmp_path, 0) / "checkpoint.pt").exists()
        drop_weights(tmp_path, done, searching=False)
    (trial_folder(tmp_path, 0) / ".lock").unlink()
    left = {number: sorted(path.name for path in trial_folder(tmp_path, number).iterdir()) for number in range(4)}
    assert left[0] == left[1] == ["best.safetensors", "metrics.jsonl"]
    assert left[2] == ["metrics.jsonl"]
    assert left[3] == ["best.safetensors", "checkpoint.pt", "last.safetensors", "metrics.jsonl", "ray"]
    drop_weights(tmp_path, [], searching=False)


def test_settings_file_is_that_of_a_training(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    base = dataclasses.replace(BASE, output="somewhere")
    path.write_text(settings_file(base, trial(1, 0.5, step=300), [trial(0, 0.4), trial(1, 0.5)]))
    assert "Trial 1 of 2: AP 50.00 % after 300 steps" in path.read_text()
    made = read_train_config(path)
    assert made == config_of(BASE, {"loop.learning_rate": 0.1})
    assert settings_toml(made) in path.read_text()
