"""One trial of `retinafocus tune training`: a training with its own settings, judged after each epoch.

A training of one worker runs in the trial's process and does nothing between two evaluations. One of several workers is
a job of Ray Train that the process starts and follows. Either goes on from its checkpoint where it was killed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.settings import settings_of, settings_toml
from pipelines.train import RUN_FILE, SETTINGS_FILE, check_training, train, train_by_epochs
from pipelines.train_config import NAMED, TrainConfig, first_difference, read_train_config, with_absolute_paths
from pipelines.train_log import Row, read_metrics
from pipelines.train_worker import BEST_FILE, CHECKPOINT_FILE, LAST_FILE, RAY_FOLDER, STOP_FILE
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import LOCK_FILE, open_storage
from tune.space import Choice, Settings, Space, nested
from tune.sweep import Evaluate, Results, Trial

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TRIALS_FOLDER = "trials"

SPACE = """\
"loop.learning_rate" = { from = 0.0003, to = 0.03, log = true }
"loop.weight_decay" = { from = 0.0001, to = 0.002, log = true }
"loss.box_weight" = { from = 0.5, to = 4.0, log = true }
"loss.landmark_weight" = { from = 0.1, to = 2.0, log = true }
"loss.negative_ratio" = [3.0, 7.0]
"""
"""What is searched if no file says so; and beside it, where the base settings have what it is about:"""

SPACE_OF_FOCUS = '"loss.focus_weight" = { from = 0.5, to = 8.0, log = true }\n'

SPACE_OF_CROPS = """\
"sample.crop.aimed" = { from = 0.2, to = 1.0 }
"sample.crop.grid" = [0.0, 0.3, 0.6]
"""

SPACE_OF_START = """\
"loop.freeze" = ["none", "stem", "stage1", "body"]
"loop.backbone_factor" = [0.1, 0.3, 1.0]
"""

UNSEARCHABLE = {
    "loop.steps": "trials are compared after the same steps",
    "epoch_steps": "trials are compared after the same steps",
    "evaluation": "trials are compared on the same photos",
    "output": "each trial has its own folder",
    "licence": "it changes no result",
    **dict.fromkeys(("workers", "loaders", "threads", "device", "max_failures", "data.cache_gib"), "it says where"),
}
"""Why these settings, and those below them, are the same in all trials."""

PROCESS_CPUS = 0.01
"""Of the process of a trial whose workers are others: it waits for them. Ray wants more than 0."""

FOLLOWED_EVERY = 0.5
"""Seconds between two looks at what the workers of a trial wrote."""

FREED_WITHIN = 60.0
"""Seconds until the process that a killed search left behind is surely gone."""


def default_space(base: TrainConfig) -> str:
    """What is searched if no file says so, as TOML: of the settings that change something from there."""
    text = SPACE
    if base.model.to_preset().focus is not None:
        text += SPACE_OF_FOCUS
    if base.sample.kind == "crops":
        text += SPACE_OF_CROPS
    if base.model.init or base.model.backbone:
        text += SPACE_OF_START
    return text


def config_of(base: TrainConfig, settings: Settings) -> TrainConfig:
    """The settings of a training: those of the base, but for those of the trial.

    Raises:
        SettingsError: one is unknown, of another type or out of range, or they contradict each other.
    """
    values = tomllib.loads(settings_toml(base))
    _merge(values, nested(settings))
    return settings_of(TrainConfig, values, "search space", named=NAMED)


def base_settings(base: TrainConfig, space: Space) -> Settings:
    """What the settings of a space are in the base settings."""
    values = tomllib.loads(settings_toml(base))
    found: Settings = {}
    for name in [*space.searched, *space.fixed]:
        value: Any = values
        for part in name.split("."):
            value = value[int(part)] if isinstance(value, list) else value.get(part)
            if value is None:
                break
        if value is not None:
            found[name] = value
    return found


def corners_of(base: TrainConfig, space: Space) -> list[TrainConfig]:
    """Settings at the ends of all ranges, and with every choice.

    Raises:
        SettingsError: as `config_of`.
    """
    lowest = space.at([0.0] * len(space.searched))
    tried = [lowest, space.at([1.0] * len(space.searched))]
    for name, kind in space.searched.items():
        if isinstance(kind, Choice):
            tried += [{**lowest, name: value} for value in kind.values]
    return [config_of(base, settings) for settings in tried]


def check_space(base: TrainConfig, space: Space) -> None:
    """Refuse what cannot be searched, before anything is computed.

    Args:
        base: checked, so that its device can be used, and with an output.
        space: every end of a range and every choice is tried.

    Raises:
        SettingsError: a setting is unknown or has to be the same in all trials, or leads out of what it may be.
        WeightsError, LabelError: weights to start from or labels do not fit.
    """
    for name in [*space.searched, *space.fixed]:
        for fixed, reason in UNSEARCHABLE.items():
            if name == fixed or name.startswith(f"{fixed}."):
                raise SettingsError(f"search space: {name} cannot be searched, for {reason}; set it in --config")
    starts = [(base.model, base.data)]
    for config in corners_of(base, space):
        if (config.model, config.data) not in starts:  # files that must be there
            starts.append((config.model, config.data))
            check_training(config, "ray")


def runner_of(base: TrainConfig) -> str:
    """How the trials train."""
    return "ray" if base.workers > 1 else "local"


def resources_of(base: TrainConfig) -> dict[str, Any]:
    """What a trial holds of a cluster, by the names of `tune.sweep.SweepJob`.

    Args:
        base: with the device resolved.
    """
    gpus = float(base.device == "cuda")
    if base.workers == 1:
        return {"cpus": float(max(1, base.threads) + base.loaders), "gpus": gpus}
    cpus = float(base.workers * (1 + base.loaders))
    return {"cpus": PROCESS_CPUS, "cpus_beside": cpus, "gpus_beside": base.workers * gpus}


def evaluations_of(base: TrainConfig) -> int:
    """How often a training is judged."""
    epochs = math.ceil(base.loop.steps / base.epoch_steps)
    return math.ceil(epochs / base.evaluation.every)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTrials:
    """What every process needs to try settings; called, it gets ready."""

    base: TrainConfig
    """With the device resolved."""

    output: Path
    """Of the search; an absolute path."""

    home: Path = field(default_factory=Path.cwd)
    """Where the paths of settings begin: at the command, for a process of Ray's has a current folder of its own."""

    def __call__(self) -> Evaluate:
        """Nothing to load that would serve more than one training."""
        return self.evaluate

    def evaluate(self, number: int, settings: Settings) -> Iterator[Results]:
        """Train, and tell after each evaluation how good the network is.

        Yields:
            `ap`, the highest so far, after `ap_step` steps, which is that of the weights kept; `last_ap`, the one
            after all `step` steps until now.

        Raises:
            SettingsError: the settings contradict each other.
            WeightsError, LabelError, RunError: the training failed.
        """
        config = self.config_of(number, settings)
        with ExitStack() as stack:
            _hold(Path(config.output), stack)
            _clear_other(config, runner_of(config))
            best = best_step = 0.0
            for row in stack.enter_context(closing(_rows(config))):
                if row.get("ap") is None:
                    continue
                if not best_step or row["ap"] > best:
                    best, best_step = row["ap"], row["step"]
                yield {"ap": best, "ap_step": best_step, "step": row["step"], "last_ap": row["ap"]}

    def config_of(self, number: int, settings: Settings) -> TrainConfig:
        """Of a trial, with absolute paths.

        Raises:
            SettingsError: as `config_of`.
        """
        config = with_absolute_paths(config_of(self.base, settings), self.home)
        # Several trials share a machine: all its processors for each of them would be too many.
        threads = config.threads or 1
        return dataclasses.replace(config, output=str(trial_folder(self.output, number)), threads=threads)


def trial_folder(output: Path, number: int) -> Path:
    """Where a trial trains."""
    return output / TRIALS_FOLDER / str(number)


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial of the highest AP, of equal ones the first; None if all failed."""
    sound = [trial for trial in trials if trial.results]
    return min(sound, key=lambda trial: (-trial.results["ap"], trial.number), default=None)


def drop_weights(output: Path, trials: Sequence[Trial], *, searching: bool) -> None:
    """Delete the checkpoints of trials that are done, and the weights of all but the best one and trial 0.

    Args:
        output: of the search.
        trials: that are done.
        searching: a trial that was left early may be about to end: leave what is in use, for a later call.
    """
    best = best_of(trials)
    kept = {0} if best is None else {0, best.number}
    for trial in trials:
        folder = trial_folder(output, trial.number)
        if searching and open_storage(folder).is_locked():
            continue
        names = [CHECKPOINT_FILE, f"{CHECKPOINT_FILE}.part", LAST_FILE]
        for name in [*names, *([] if trial.number in kept else [BEST_FILE])]:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)


def _merge(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def _hold(folder: Path, stack: ExitStack) -> None:
    """Make the folder of a trial and keep others out: the process of a killed search may still train there."""
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + FREED_WITHIN
    while True:
        try:
            stack.enter_context(open_storage(folder).locked())
            return
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _clear_other(config: TrainConfig, runner: str) -> None:
    """Delete the training in a trial's folder if it is not this one: what is proposed after a kill may be another."""
    folder = Path(config.output)
    if (folder / RUN_FILE).is_file():
        before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["runner"]
        if before == runner and not first_difference(read_train_config(folder / SETTINGS_FILE), config):
            return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def _rows(config: TrainConfig) -> Generator[Row]:
    """The metrics of all epochs, each once, those of before a kill first."""
    folder = Path(config.output)
    going = _followed(config) if runner_of(config) == "ray" else train_by_epochs(config, resume=True)
    last = 0
    with closing(going):
        for row in itertools.chain(read_metrics(folder), going):
            if row["step"] > last:
                last = row["step"]
                yield row


def _followed(config: TrainConfig) -> Generator[Row]:
    """The metrics that workers of Ray Train write, some more than once.

    A training that is left ends after the epoch it is in, and is waited for: where its process ended before it, Ray
    would hold the workers' CPUs and GPUs until the whole search is over (Ray 2.60; the actor that is to free them needs
    Ray's dashboard).
    """
    stop = Path(config.output) / STOP_FILE
    ended: Future[str] = Future()

    def work() -> None:
        try:
            ended.set_result(train(config, resume=True, runner="ray"))
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            over = bool(wait([ended], FOLLOWED_EVERY).done)
            yield from read_metrics(Path(config.output))
            if over:
                ended.result()
                return
    finally:
        stop.touch()
        wait([ended])
        stop.unlink(missing_ok=True)
