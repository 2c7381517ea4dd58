"""Run the shards on Ray Data: one row is one shard, one actor is one worker."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Ray reads these when it is imported. setdefault: what the user has set stays.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray Data hands its actors a reference at birth, which makes Ray's core print an error line for each restartable pool
# (ray issue 53727). It cannot be avoided or filtered by itself; set the variable to "info" to look into Ray itself.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.stages import DetectShard, StageConfig
from pipelines.workers import Workers
from retinafocus.errors import RetinaFocusError, RunError, SettingsError

# Ray Data's own tasks (handing out the rows) need a processor that no actor holds: without one the job stands still
# for half an hour and then dies, with no warning in between.
FREE_CPUS = 1

# A busy cluster is waited for: with a word after so long, and then another now and then.
WAIT_SECONDS = 5.0
FURTHER_WAIT_SECONDS = 60.0

# Shards whose answer Ray lost, before the job itself gives up.
MAX_LOST_SHARDS = 16


@dataclass(frozen=True, kw_only=True)
class RayPlan:
    """Where the actors come from."""

    workers: Workers
    address: str | None
    """A running cluster to join; None starts a private one on this machine for the length of the job."""

    @property
    def gpus_per_worker(self) -> int:
        """Of each actor; beside one CPU."""
        return int(self.workers.device == "cuda")


def run_on_ray(
    config: StageConfig, shards: list[dict[str, Any]], plan: RayPlan, on_wait: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Look at every shard; yields each committed shard's row of counts as it comes.

    Args:
        config: for the workers.
        shards: rows that name them.
        plan: where the workers come from.
        on_wait: told what the job waits for, where others have taken all of a cluster.

    Raises:
        SettingsError: the cluster is too small for the workers asked for, or cannot be reached.
    """
    started = connect(plan.address, cpus=plan.workers.count)
    try:
        count = _workers(plan, len(shards))
        if not started:
            _wait_for_room(plan, on_wait)
        _set_context()
        with warnings.catch_warnings():
            # max_restarts and max_task_retries have no other way in before Ray 2.64 (hence the upper bound on ray).
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
                DetectShard,
                fn_constructor_kwargs={"config": config},
                batch_format="pyarrow",
                batch_size=1,
                compute=ActorPoolStrategy(size=count),
                num_cpus=1,
                num_gpus=plan.gpus_per_worker,
                # A dead actor must always be replaced: with a bound, the job hangs once it is spent. Retries are not
                # bounded here either, as those of a shard that only waited behind a deadly one would count: a worker
                # refuses a shard that was begun too often (`attempts.MAX_ATTEMPTS`).
                max_restarts=-1,
                max_task_retries=-1,
            )
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        cause = error.__cause__ or error
        if isinstance(cause, RetinaFocusError):
            raise cause from error
        last = str(error).strip().splitlines()[-1]
        raise RunError(f"Ray gave up: {last}; finished shards are kept, run the same command again") from error
    finally:
        if started:
            ray.shutdown()


def connect(address: str | None, *, cpus: int) -> bool:
    """Join the cluster, or start one; True if it was started here.

    Args:
        address: of a running cluster; None starts a private one on this machine.
        cpus: what the actors will hold of a private one.

    Raises:
        SettingsError: no cluster answers at that address.
        RunError: a private one did not start.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _kept_handler():
        if address is None:
            # More processors than the machine has are only a number to Ray: they let its own small tasks run beside us.
            count = max(os.cpu_count() or 1, cpus + FREE_CPUS)
            try:
                ray.init(address="local", num_cpus=count, include_dashboard=False, **quiet)
            except Exception as error:  # Ray 2.60 raises nothing more exact where its servers do not come up in time
                raise RunError(
                    f"Ray did not start here ({error}); where the machine is busy, run the same command again later, "
                    "or use --runner local"
                ) from error
            return True
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise SettingsError(
                f"address {address}: no Ray cluster answers there ({error}); start one with `ray start --head`"
            ) from error
    return True


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Keep our answer to SIGTERM: Ray puts its own in place, which ends the process without a word to the user."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _workers(plan: RayPlan, shards: int) -> int:
    """How many actors to start.

    Raises:
        SettingsError: the cluster cannot hold as many as were asked for.
    """
    has = ray.cluster_resources()
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    there = f"{cpus} CPUs and {gpus} GPUs" if plan.gpus_per_worker else f"{cpus} CPUs"
    room = min(cpus - FREE_CPUS, gpus) if plan.gpus_per_worker else cpus - FREE_CPUS
    wanted = plan.workers.count if plan.workers.chosen or plan.address is None else room
    if room < 1:
        raise SettingsError(
            f"the cluster has {there}; one {plan.workers.device} worker and Ray itself need {1 + FREE_CPUS} CPUs"
            f"{' and 1 GPU' if plan.gpus_per_worker else ''}: add nodes, or use --runner local"
        )
    if wanted > room:
        raise SettingsError(
            f"workers: {wanted} workers of one {'GPU' if plan.gpus_per_worker else 'CPU'} each beside one CPU for Ray "
            f"itself do not fit, the cluster has {there}; use --workers {room} or add nodes"
        )
    return min(wanted, shards)


def _wait_for_room(plan: RayPlan, on_wait: Callable[[str], None]) -> None:
    """Wait until one worker fits beside what others do on the cluster, which Ray Data would do without a word.

    A placement group asks for the room: as any demand it also makes a cluster grow that can.
    """
    room = placement_group([{"CPU": 1, "GPU": plan.gpus_per_worker}])
    try:
        seconds, ready = WAIT_SECONDS, room.ready()
        while not ray.wait([ready], timeout=seconds)[0]:  # not `room.wait`, which heeds no Ctrl-C until it is over
            on_wait(_waiting_words(plan))
            seconds = FURTHER_WAIT_SECONDS
    finally:
        remove_placement_group(room)


def _waiting_words(plan: RayPlan) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    there = []
    for kind in ("CPU", "GPU")[: 1 + plan.gpus_per_worker]:
        count, left = int(has.get(kind, 0)), int(free.get(kind, 0))
        there.append(f"{count} {kind}s, {f'{count - left} of them' if left else 'all'} in use")
    needed = "a CPU and a GPU are free on one node" if plan.gpus_per_worker else "one is free"
    return f"waiting for a worker: the cluster has {'; '.join(there)}; the job goes on as soon as {needed}"


def _set_context() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A shard without an answer must not end the others: what is missing is read off the ledger at the end.
    context.max_errored_blocks = MAX_LOST_SHARDS
