"""`retinafocus train`: START READING HERE. Checks everything, then lets one process or several do the work.

What each of them does is in `train_worker`; how several are started and watched, in `train_on_ray`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from importlib import metadata
from pathlib import Path

from pipelines.addresses import check_cluster_address
from pipelines.settings import settings_toml
from pipelines.train_config import TrainConfig, first_difference, read_train_config
from pipelines.train_log import METRICS, UNREADABLE, Row, read_metrics
from pipelines.train_worker import (
    BEST_FILE,
    LAST_FILE,
    STOP_FILE,
    LocalSession,
    build_samples,
    epochs,
    evaluation_photos,
    pictures_folder,
    work,
)
from retinafocus.draw import contact_sheet, save_picture
from retinafocus.engines import resolve_device
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.evaluation.wider_protocol import protocol_photos
from retinafocus.training.show import draw_sample
from retinafocus.training.start import starting_model

RUN_FILE, SETTINGS_FILE = "run.json", "settings.toml"

SAMPLE_CELL = (480, 480)
"""(height, width) of a sample on the contact sheet, in pixels."""


def train(config: TrainConfig, *, resume: bool = False, runner: str = "auto", address: str | None = None) -> str:
    """Train, or go on training.

    Args:
        config: the settings.
        resume: go on with the training in the output folder, if there is one.
        runner: local (one worker, in this process), ray, or auto: ray for several workers or an address.
        address: of a running Ray cluster.

    Returns:
        What came out, in a few lines.

    Raises:
        SettingsError: settings contradict each other, this machine, or the training that is to go on.
        WeightsError, LabelError: weights to start from or labels do not fit.
        RunError: the output folder holds a training and `resume` is not set, or the training failed.
    """
    config = with_device(config)
    runner = _resolve_runner(config, runner, address)
    check_training(config, runner)
    _open_folder(config, resume, runner)
    if runner == "local":
        work(config, LocalSession(config))
    else:
        from pipelines.train_on_ray import train_on_ray

        train_on_ray(config, address)
    return _summary(config)


def train_by_epochs(config: TrainConfig, *, resume: bool = False) -> Generator[Row]:
    """Train in this process, or go on training, one epoch at a time; see `train_worker.epochs`.

    Args:
        config: the settings; one worker.
        resume: as for `train`.

    Raises:
        As `train`.
    """
    config = with_device(config)
    runner = _resolve_runner(config, "local", None)
    check_training(config, runner)
    _open_folder(config, resume, runner)
    yield from epochs(config, LocalSession(config))


def with_device(config: TrainConfig) -> TrainConfig:
    """The settings with what "auto" stands for as the device."""
    if config.device != "auto":
        return config
    return dataclasses.replace(config, device="cuda" if resolve_device("auto") == "cuda" else "cpu")


def show_samples(config: TrainConfig, count: int, output: str) -> None:
    """Draw the first samples of a training with all that they teach on one contact sheet (.png or .jpg).

    Raises:
        SettingsError: the count is below 1, or as for `train`.
    """
    if count < 1:
        raise SettingsError(f"show-samples is {count}; choose at least 1")
    samples = build_samples(config, _print_error)
    anchors = samples.samples.anchors
    pictures = [draw_sample(samples[number], anchors) for number in range(count)]
    save_picture(output, contact_sheet(pictures, min(count, 4), SAMPLE_CELL))


def _resolve_runner(config: TrainConfig, runner: str, address: str | None) -> str:
    if address is not None:
        check_cluster_address(address)
    if runner == "auto":
        runner = "ray" if config.workers > 1 or address else "local"
    if runner == "local" and (config.workers > 1 or address):
        raise SettingsError(f"the runner local has one worker, here, and workers is {config.workers}; use --runner ray")
    return runner


def check_training(config: TrainConfig, runner: str) -> None:
    """Find what would stop the workers before any of them starts.

    Args:
        config: with the device resolved.
        runner: local or ray.

    Raises:
        SettingsError, WeightsError, LabelError: as `train`.
    """
    if runner == "local" and config.device == "cuda" and resolve_device("auto") != "cuda":
        raise SettingsError("device is cuda, but no CUDA device can be used here; choose cpu")
    if not config.output:
        raise SettingsError(
            "output is not set; name a folder, such as output = 'runs/first' or --set output=runs/first"
        )
    if config.precision != "float32" and config.device == "cpu":
        raise SettingsError(f"precision is {config.precision}, but no CUDA device can be used; choose float32")
    if config.loop.batch_norm == "synchronised" and config.device == "cpu":
        raise SettingsError("loop.batch_norm is synchronised, which works on CUDA only; choose train")
    build_samples(config, _print_error)
    photos = evaluation_photos(config)
    if config.evaluation.protocol == "widerface":
        protocol_photos(photos, pictures_folder(config))  # refuses names that the protocol could not tell apart
    judged, learned = config.evaluation.folder, config.data.folders
    if judged and Path(judged).resolve() in {Path(folder).resolve() for folder in learned}:
        print(f"note: evaluation.folder {judged} is also learned from: its AP says nothing of other photos")
    if (start := config.model).init or start.backbone:
        starting_model(start.to_preset(), init=start.init, backbone=start.backbone, heads=start.heads)


def _open_folder(config: TrainConfig, resume: bool, runner: str) -> None:
    """Make the output folder, or see that the training in it is this one."""
    folder = Path(config.output)
    record = folder / RUN_FILE
    (folder / STOP_FILE).unlink(missing_ok=True)  # of a process that was killed before it took it away
    if record.is_file():
        if not resume:
            raise RunError(f"{folder}: holds a training; add --resume to go on with it, or choose another output")
        difference = first_difference(read_train_config(folder / SETTINGS_FILE), config)
        if difference:
            raise SettingsError(f"{folder}: {difference}; go on with the old value, or choose another output")
        before = json.loads(record.read_text(encoding="utf-8"))["runner"]
        if before != runner:
            raise SettingsError(
                f"{folder}: was trained with --runner {before}; its checkpoints are there: use it again"
            )
        (folder / UNREADABLE).unlink(missing_ok=True)  # they may have been mended since
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(settings_toml(config), encoding="utf-8")
    versions = {name: metadata.version(name) for name in ("retinafocus", "torch", "torchvision")}
    _write_json(record, {"runner": runner, "device": config.device, "versions": versions})


def _print_error(error: PhotoError) -> None:
    print(f"passed over: {error.reason}")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _summary(config: TrainConfig) -> str:
    folder = Path(config.output)
    rows = read_metrics(folder)
    lines = [f"trained {rows[-1]['step']:,} steps; metrics in {folder / METRICS}"] if rows else []
    judged = [row for row in rows if row.get("ap") is not None]
    if judged:
        best = max(judged, key=lambda row: row["ap"])
        lines.append(f"best     AP {100 * best['ap']:.1f} at step {best['step']:,}: {folder / BEST_FILE}")
    return "\n".join([*lines, f"last     {folder / LAST_FILE}"])
