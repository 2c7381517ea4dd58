"""Run the shards on Ray Data: one row is one shard, one actor is one worker. The only module that imports Ray."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
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
from ray.data import ActorPoolStrategy

from pipelines.stages import DetectShard, StageConfig
from retinafocus.errors import SettingsError

# Ray Data's own tasks (handing out the rows) need a processor that no actor holds: without one the job stands still
# for half an hour and then dies, with no warning in between.
FREE_CPUS = 1

# Shards given up because their worker died twice, before the job itself gives up.
MAX_DEAD_SHARDS = 16


@dataclass(frozen=True, kw_only=True)
class RayPlan:
    """How many actors and what each holds."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    address: str | None
    """A running cluster to join; None starts a private one on this machine for the length of the job."""


def run_on_ray(config: StageConfig, shards: list[dict[str, int]], plan: RayPlan) -> Iterator[pa.Table]:
    """Look at every shard; yields each committed shard's row of counts as it comes.

    Raises:
        SettingsError: the cluster is too small for the workers asked for, or cannot be reached.
    """
    started = _connect(plan)
    try:
        _check_room(plan)
        _set_context()
        with warnings.catch_warnings():
            # max_restarts and max_task_retries have no other way in before Ray 2.64 (hence the upper bound on ray).
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
                DetectShard,
                fn_constructor_kwargs={"config": config},
                batch_format="pyarrow",
                batch_size=1,
                compute=ActorPoolStrategy(size=min(plan.workers, len(shards))),
                num_cpus=plan.cpus_per_worker,
                num_gpus=plan.gpus_per_worker,
                # A dead actor must always be replaced (with a bound, the job hangs once it is spent); a shard that
                # kills its actor is tried once more and then given up, so that it cannot kill actors for ever.
                max_restarts=-1,
                max_task_retries=1,
            )
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    finally:
        if started:
            ray.shutdown()


def _connect(plan: RayPlan) -> bool:
    """Join the cluster, or start one; True if it was started here."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if plan.address is None:
        # More processors than the machine has are only a number to Ray: they let its own small tasks run beside us.
        cpus = max(os.cpu_count() or 1, plan.workers * plan.cpus_per_worker + FREE_CPUS)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        return True
    try:
        ray.init(address=plan.address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise SettingsError(
            f"address {plan.address}: no Ray cluster answers there ({error}); start one with `ray start --head`"
        ) from error
    return True


def _check_room(plan: RayPlan) -> None:
    has = ray.cluster_resources()
    cpus, needed = has.get("CPU", 0.0), plan.workers * plan.cpus_per_worker + FREE_CPUS
    if cpus < needed:
        room = max(0, int((cpus - FREE_CPUS) // plan.cpus_per_worker))
        raise SettingsError(
            f"workers: {plan.workers} workers of {plan.cpus_per_worker} CPUs and one CPU for Ray itself are "
            f"{needed} CPUs, the cluster has {cpus:g}; use --workers {room} or add nodes"
        )
    gpus = has.get("GPU", 0.0)
    if gpus < plan.workers * plan.gpus_per_worker:
        raise SettingsError(f"workers: {plan.workers} GPU workers asked for, the cluster has {gpus:g} GPUs")


def _set_context() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A shard whose worker dies twice must not end the others: what is missing is read off the ledger at the end.
    context.max_errored_blocks = MAX_DEAD_SHARDS
