"""What each process of a training does, wherever it runs: epochs of steps, evaluations, checkpoints, exports.

After each epoch come the evaluation, the best weights, the line of metrics and the checkpoint, in this order: a process
killed at any moment leaves a folder to go on from, in which nothing is missing and nothing doubled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import torch
from torch import distributed
from torch.utils.data import DataLoader

from pipelines.settings import settings_toml
from pipelines.train_config import TrainConfig
from pipelines.train_log import UNREADABLE, Row, TrainLog, count_unreadable, describe_row
from pipelines.workers import usable_cores
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.training.loop import Training, fit
from retinafocus.training.pixels import PhotoPixels, ReadableSamples
from retinafocus.training.samples import Batch, CropSamples, Sample, collate
from retinafocus.training.start import starting_model
from retinafocus.training.validation import detect_labelled, detection_metrics, protocol_metrics
from retinafocus.weights import save_model

CHECKPOINT_FILE, WORKERS_FILE = "checkpoint.pt", "workers.json"
BEST_FILE, LAST_FILE = "best.safetensors", "last.safetensors"

STOP_FILE = ".stop"
"""Of the output folder: where it appears, a training of several processes ends after the epoch it is in. One that
is left over from before is deleted at the start."""

RAY_FOLDER = "ray"
"""Of Ray Train's checkpoints, in the output folder; it is the name of the run too, by which Ray finds them again."""


class Session(Protocol):
    """Where a process of a training runs: alone, or as one of several."""

    rank: int
    """Of this process, from 0; 0 writes."""

    workers: int
    device: torch.device

    wrap: Callable[[torch.nn.Module], torch.nn.Module] | None
    """See `Training`."""

    def restore(self, load: Callable[[Path], None]) -> None:
        """Call `load` with the last checkpoint's file, if there is one."""

    def commit(self, done: dict[str, float], save: Callable[[Path], None]) -> None:
        """Make a checkpoint of what `save` writes; all processes call it equally often."""

    def goes_on(self) -> bool:
        """Whether the training is still wanted; asked after each epoch, and the same in all processes."""


def work(config: TrainConfig, session: Session) -> None:
    """What each process of a training does, from the last checkpoint to the end."""
    for _ in epochs(config, session):
        pass


def epochs(config: TrainConfig, session: Session) -> Generator[Row]:
    """Train epoch by epoch, from the last checkpoint on.

    Yields:
        The metrics of each epoch, once its checkpoint is made. Nothing is computed before the next ones are asked for:
        a training whose iterator is closed has stopped.
    """
    folder = Path(config.output)
    # Said outright: left alone, it would depend on what this process did before and on how it was started.
    torch.set_num_threads(config.threads or max(1, usable_cores() // config.workers))
    _record_workers(session, folder)
    training = _build_training(config, session)
    session.restore(training.load)
    log = TrainLog(folder, training.steps_done, config.loop.steps) if session.rank == 0 else None
    judge = Judge(config, session)
    with ExitStack() as stack:
        batches = Timed(stack.enter_context(closing(_batches(config, session, training.steps_done))))
        if log is not None:
            stack.callback(log.close)
        while training.steps_done < config.loop.steps:
            row = _train_epoch(training, batches, config, session)
            if judge.is_due(training.steps_done):
                row |= judge.metrics(training)
            if log is not None:
                _keep_best(training, config, log, row)
                row["unreadable"] = count_unreadable(folder)
                log.add(row)
                print(describe_row(log.rows[-1], config.loop.steps), flush=True)
            session.commit(row, training.save)
            yield row if log is None else log.rows[-1]
            if not session.goes_on():
                return
        if log is not None:
            _export(training, config, folder / LAST_FILE, {})


def _build_training(config: TrainConfig, session: Session) -> Training:
    start = config.model
    model = starting_model(
        start.to_preset(), init=start.init, backbone=start.backbone, seed=config.seed, heads=start.heads
    )
    model = model.to(session.device).to(memory_format=torch.channels_last)
    return Training(model, config.loop, config.loss, precision=config.precision, wrap=session.wrap)


class RankBatches:
    """The sample numbers of one worker's batches, from a step on.

    Step s takes the samples from s * batch on, shared out in order: the same ones for any number of workers.
    """

    def __init__(self, config: TrainConfig, rank: int, first_step: int) -> None:
        self.share = config.batch // config.workers
        self.first = rank * self.share
        self.batch = config.batch
        self.steps = range(first_step, config.loop.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            start = step * self.batch + self.first
            yield list(range(start, start + self.share))


def _batches(config: TrainConfig, session: Session, first_step: int) -> Generator[Batch]:
    """This worker's batches from a step on, on its device."""
    loader: DataLoader[Sample] = DataLoader(
        build_samples(config, _Unreadable(Path(config.output) / UNREADABLE)),
        batch_sampler=RankBatches(config, session.rank, first_step),
        collate_fn=collate,
        num_workers=config.loaders,
        prefetch_factor=4 if config.loaders else None,
        worker_init_fn=_start_loader,
        pin_memory=session.device.type == "cuda",
    )
    for batch in loader:
        moved = (None if part is None else part.to(session.device, non_blocking=True) for part in batch)
        yield Batch._make(moved)


def _start_loader(_: int) -> None:
    """One thread per loader process: they are as many as there are processors for them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


class Timed:
    """Passes batches on and adds up the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - start
        return batch


def _train_epoch(training: Training, batches: Timed, config: TrainConfig, session: Session) -> dict[str, float]:
    """Steps up to the next multiple of `epoch_steps`; the metrics, the same in all workers."""
    steps = min(config.epoch_steps - training.steps_done % config.epoch_steps, config.loop.steps - training.steps_done)
    losses: dict[str, float] = {}
    start, waited = time.perf_counter(), batches.seconds
    fit(training, islice(batches, steps), report=lambda _, means: losses.update(means), report_every=steps)
    seconds = time.perf_counter() - start
    row = _mean_over_workers(losses | {"waiting": (batches.seconds - waited) / seconds}, session)
    done = training.steps_done
    place = {"step": done, "epoch": -(-done // config.epoch_steps), "crops": done * config.batch}
    return place | row | {"crops_per_s": steps * config.batch / seconds}


def _mean_over_workers(values: dict[str, float], session: Session) -> dict[str, float]:
    if session.workers == 1:
        return values
    means = torch.tensor(list(values.values()), dtype=torch.float64, device=session.device)
    distributed.all_reduce(means)
    return dict(zip(values, (means / session.workers).tolist(), strict=True))


class Judge:
    """Evaluates the averaged weights on the evaluation photos, shared out among the workers."""

    def __init__(self, config: TrainConfig, session: Session) -> None:
        self.config = config
        self.session = session
        self.photos = evaluation_photos(config)

    def is_due(self, steps_done: int) -> bool:
        """Whether the epoch that ends here is one to evaluate after."""
        if not self.photos:
            return False
        epoch, rest = divmod(steps_done, self.config.epoch_steps)
        return steps_done == self.config.loop.steps or (not rest and epoch % self.config.evaluation.every == 0)

    def metrics(self, training: Training) -> dict[str, float]:
        """The scorer's numbers; the same in all workers."""
        rank, workers = self.session.rank, self.session.workers
        if workers > 1:
            # Batch norm without synchronisation counts each worker's own crops: those of the first are what is kept.
            for tensor in training.averaged.model.state_dict().values():
                distributed.broadcast(tensor, 0)
        mine = detect_labelled(
            training.averaged.model,
            self.photos[rank::workers],
            min_face=self.config.evaluation.min_face,
            device=str(self.session.device),
        )
        shares: list[list[PhotoDetections | None]] = [mine] * workers
        if workers > 1:
            distributed.all_gather_object(shares, mine)
        found: list[PhotoDetections | None] = [None] * len(self.photos)
        for place, share in enumerate(shares):
            found[place::workers] = share
        metrics = detection_metrics(self.photos, found)
        if self.config.evaluation.protocol == "widerface":
            metrics |= protocol_metrics(self.photos, found, pictures_folder(self.config))
        return metrics


def _keep_best(training: Training, config: TrainConfig, log: TrainLog, row: dict[str, float]) -> None:
    """Export the averaged weights if they are the best so far."""
    if "ap" not in row or float(f"{row['ap']:.6g}") <= log.best():
        return
    judged = {name: value for name, value in row.items() if name == "step" or name.startswith(("ap", "map", "recall"))}
    _export(training, config, Path(config.output) / BEST_FILE, judged)


def _export(training: Training, config: TrainConfig, path: Path, judged: dict[str, float]) -> None:
    """Write the averaged weights with the whole recipe."""
    extra = {
        "recipe": settings_toml(_without_places(config)),
        "trained_steps": str(training.steps_done),
        "evaluation": json.dumps(judged),
    }
    start = config.model.init or config.model.backbone or "random weights"
    source = f"retinafocus train {metadata.version('retinafocus')}, from {Path(start).name}"
    save_model(training.averaged.model, path, licence=config.licence, source=source, extra=extra)


def _without_places(config: TrainConfig) -> TrainConfig:
    """The recipe as it may be given away with the weights: what was learned from, not where it lay on whose disk."""
    data = dataclasses.replace(config.data, folders=tuple(Path(folder).name for folder in config.data.folders))
    model = dataclasses.replace(
        config.model, init=Path(config.model.init).name, backbone=Path(config.model.backbone).name
    )
    evaluation = dataclasses.replace(config.evaluation, folder=Path(config.evaluation.folder).name)
    return dataclasses.replace(config, output="", data=data, model=model, evaluation=evaluation)


class LocalSession:
    """One process, this one; checkpoints are a file of the output folder."""

    def __init__(self, config: TrainConfig) -> None:
        self.rank, self.workers = 0, 1
        self.wrap: Callable[[torch.nn.Module], torch.nn.Module] | None = None
        self.device = torch.device(config.device)
        self.checkpoint = Path(config.output) / CHECKPOINT_FILE

    def restore(self, load: Callable[[Path], None]) -> None:
        if self.checkpoint.is_file():
            load(self.checkpoint)

    def commit(self, done: dict[str, float], save: Callable[[Path], None]) -> None:
        save(self.checkpoint)

    def goes_on(self) -> bool:
        """Yes: who no longer wants it asks for no further epoch."""
        return True


class _Unreadable:
    """Writes down photos that cannot be decoded, each once per process; short appended lines never mix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: set[str] = set()

    def __call__(self, error: PhotoError) -> None:
        line = json.dumps({"status": error.status, "reason": error.reason})
        if line not in self.told:
            self.told.add(line)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _record_workers(session: Session, folder: Path) -> None:
    """Say which processes train: what an operator looks at or ends."""
    names = [f"{os.uname().nodename}:{os.getpid()}"]
    if session.workers > 1:
        names *= session.workers
        distributed.all_gather_object(names, names[0])
    if session.rank == 0:
        (folder / WORKERS_FILE).write_text(json.dumps(names) + "\n", encoding="utf-8")


def read_folder(path: str) -> list[LabelledPhoto]:
    """The labelled photos of a folder, in whatever form it has them; no picture is opened.

    Raises:
        SettingsError: there is no such folder.
        LabelError: its labels cannot be read.
    """
    if not Path(path).is_dir():
        raise SettingsError(f"{path}: there is no such folder of labelled photos (paths start at the current folder)")
    return read_parquet_folder(Path(path))


def build_samples(config: TrainConfig, tell: Callable[[PhotoError], None]) -> ReadableSamples:
    """The samples of a training; which photo and which crop depends on the seed and the sample's number alone."""
    photos = [photo for folder in config.data.folders for photo in read_folder(folder)]
    if not photos:
        raise SettingsError("data.folders names no labelled photos; set data.folders = ['FOLDER', ...]")
    pixels = PhotoPixels(photos, cache_bytes=int(config.data.cache_gib * 2**30), largest=config.data.largest_mpx * 1e6)
    sample = dataclasses.replace(config.sample, seed=config.seed + config.sample.seed)
    preset, weights = config.model.to_preset(), config.data.source_weights
    return ReadableSamples(CropSamples(photos, pixels, preset=preset, config=sample, source_weights=weights), tell)


def pictures_folder(config: TrainConfig) -> Path:
    """Where the evaluation photos lie, below which their names begin."""
    return Path(config.evaluation.folder) / "images"


def evaluation_photos(config: TrainConfig) -> list[LabelledPhoto]:
    wanted = config.evaluation
    if not wanted.folder:
        return []
    photos = [photo for photo in read_folder(wanted.folder) if not wanted.sources or photo.source in wanted.sources]
    if not any(len(photo.boxes) for photo in photos):
        raise SettingsError(f"evaluation.folder {wanted.folder} has no labelled face (of evaluation.sources, if set)")
    count = min(wanted.photos or len(photos), len(photos))
    return [photos[number * len(photos) // count] for number in range(count)]
