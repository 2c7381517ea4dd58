"""Train on several processes through Ray Train. Only this module and `on_ray` import Ray.

Ray starts the workers, starts them again when one dies, and keeps the checkpoints: in the folder `ray` of the output,
so that the same command after a killed driver finds the last one that was registered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The controller looks at its workers this often; each report waits for it, and the default of 2 s is long for a test.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

from pipelines import on_ray  # isort: skip  # sets Ray's variables before Ray is imported
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from pipelines.train_config import TrainConfig, with_absolute_paths
from pipelines.train_log import describe_row, read_metrics
from pipelines.train_worker import CHECKPOINT_FILE, RAY_FOLDER, STOP_FILE, work
from retinafocus.errors import RunError, SettingsError

CHECKPOINTS_KEPT = 2


def train_on_ray(config: TrainConfig, address: str | None) -> None:
    """Train with `config.workers` processes of a Ray cluster, from the last registered checkpoint on.

    Args:
        config: checked; its output folder exists and every machine sees it.
        address: of a running cluster; None uses the one joined already or starts one on this machine.

    Raises:
        SettingsError: the cluster is too small or cannot be reached.
        RunError: the workers failed more often than `max_failures`.
    """
    config = with_absolute_paths(config, Path.cwd())
    cpus = 1 + config.loaders
    gpus = 1.0 if config.device == "cuda" else 0.0
    resources = {"CPU": float(cpus), "GPU": gpus}
    started = on_ray.connect(address, cpus=config.workers * cpus)
    try:
        _check_room(config.workers, resources)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=gpus > 0, resources_per_worker=resources),
            run_config=RunConfig(
                name=RAY_FOLDER,
                storage_path=str(Path(config.output).resolve()),
                failure_config=FailureConfig(max_failures=config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            ),
        )
        with _own_interrupt(), _Follower(config):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RunError(f"{config.output}: the training failed: {_cause(error)}; mend it and add --resume") from error
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def _own_interrupt() -> Iterator[None]:
    """Let Ctrl-C end in a KeyboardInterrupt: Ray's answer to it stops the workers and then exits with code 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        signal.signal(signal.SIGINT, before)


def _check_room(workers: int, needs: dict[str, float]) -> None:
    has = ray.cluster_resources()
    for name, each in needs.items():
        if has.get(name, 0.0) < workers * each:
            raise SettingsError(
                f"workers: {workers} workers of {each:g} {name}s are {workers * each:g}, the cluster has "
                f"{has.get(name, 0.0):g}; set fewer workers or loaders, or add nodes"
            )


def _worker(loop: dict[str, Any]) -> None:
    work(loop["config"], RaySession(Path(loop["config"].output)))


class RaySession:
    """One of the processes that Ray Train started; see `train_worker.Session`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        # A single worker needs nobody to agree with, and so computes exactly what the local runner does.
        self.wrap: Callable[[torch.nn.Module], torch.nn.Module] | None = self._distribute if self.workers > 1 else None

    def _distribute(self, model: torch.nn.Module) -> torch.nn.Module:
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def restore(self, load: Callable[[Path], None]) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                load(Path(folder) / CHECKPOINT_FILE)

    def commit(self, done: dict[str, float], save: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if self.rank == 0:
                save(Path(folder) / CHECKPOINT_FILE)
            ray.train.report(done, checkpoint=Checkpoint.from_directory(folder) if self.rank == 0 else None)

    def goes_on(self) -> bool:
        stopped = torch.tensor([(self.folder / STOP_FILE).exists()], dtype=torch.uint8, device=self.device)
        if self.workers > 1:  # the first one's word counts, for the others may look a moment later
            distributed.broadcast(stopped, 0)
        return not stopped.item()


class _Follower(threading.Thread):
    """Prints the metrics as the workers write them: what they print themselves stays in Ray's logs."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(daemon=True)
        self.folder, self.steps = Path(config.output), config.loop.steps
        self.ended = threading.Event()
        self.seen = {row["step"] for row in read_metrics(self.folder)}

    def run(self) -> None:
        while not self.ended.wait(1.0):
            self.show()

    def show(self) -> None:
        for row in read_metrics(self.folder):
            if row["step"] not in self.seen:
                self.seen.add(row["step"])
                print(describe_row(row, self.steps), flush=True)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()
        self.show()


def _cause(error: BaseException) -> str:
    """The first worker's own words, without the trace."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
