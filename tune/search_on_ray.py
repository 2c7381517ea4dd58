"""Run the trials of a search with Ray Tune. The only module of `tune` that imports Ray.

A process (actor) is used again and again and takes several settings at a time: what it loads it loads once, and what
Ray needs for a trial counts once for all of them.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# Our own answer to Ctrl-C: what is finished is in the ledger already.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A trial that failed has no results; the scheduler passes it over, but Ray would end the whole search.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# A trial that is left early ends by itself, however long that takes: killed, it would keep what it has started.
os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "86400")
# The older output, which can be silent: the newer one prints a box and where to find what nobody looks at.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from pipelines import on_ray  # isort: skip  # sets Ray's variables before Ray is imported
import ray
from ray.tune import FailureConfig, RunConfig, Trainable, TuneConfig, Tuner, with_parameters, with_resources
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from retinafocus.errors import RetinaFocusError, RunError, SettingsError
from tune.sweep import RAY_FOLDER, RECORD_FILE, Prepare, Results, SweepJob, SweepPlan

LOST = "the process that tried it died"


def search_on_ray(job: SweepJob, plan: SweepPlan, prepare: Prepare) -> None:
    """Try what the plan has left.

    Raises:
        SettingsError: no cluster answers at the address, or it has no room for the trials.
        RunError: Ray did not start, or a process could not get ready.
    """
    cpus = job.cpus + job.cpus_beside
    workers = job.workers or max(1, int((os.cpu_count() or 1) / cpus))
    started = on_ray.connect(job.address, cpus=math.ceil(workers * cpus))
    searcher = _Batches(plan)
    try:
        room = _room(job)
        if job.workers is None:
            workers = room if job.address is not None else min(workers, room)
        record = (job.output / RECORD_FILE).resolve()
        actor = with_parameters(_Actor, prepare=prepare, record=record, steps=job.steps)
        tuner = Tuner(
            with_resources(actor, {"CPU": job.cpus, "GPU": job.gpus}),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(job),
                num_samples=-(-plan.left // job.batch),
                max_concurrent_trials=workers,
                # A process that is kept for another trial would leave what it started on the cluster running.
                reuse_actors=not job.cpus_beside,
            ),
            run_config=RunConfig(
                name=f"ray-{time.time_ns()}",
                storage_path=str((job.output / RAY_FOLDER).resolve()),
                verbose=0,
                failure_config=FailureConfig(max_failures=1),
            ),
        )
        tuner.fit()
    finally:
        if started:
            ray.shutdown()
    if searcher.end is not None:
        raise searcher.end


def _room(job: SweepJob) -> int:
    """How many trials the cluster holds at a time.

    Raises:
        SettingsError: not one, or fewer than were asked for.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    holds, room = [], math.inf
    for kind, own, beside in (("CPU", job.cpus, job.cpus_beside), ("GPU", job.gpus, job.gpus_beside)):
        there = sum(machine.get(kind, 0.0) for machine in machines)
        if own + beside:
            holds.append(f"{there:g} {kind}s of the {own + beside:g} that a trial needs")
            room = min(room, int(there / (own + beside) + 1e-9))
    if room < 1:
        raise SettingsError(f"the cluster has {', '.join(holds)}; let a trial need less, or add machines")
    needs = {"CPU": job.cpus, "GPU": job.gpus}
    if not any(all(machine.get(kind, 0.0) >= need for kind, need in needs.items()) for machine in machines):
        needed = " and ".join(f"{need:g} {kind}s" for kind, need in needs.items() if need)
        raise SettingsError(f"a trial needs {needed}, which no machine of the cluster has; let it need less")
    if job.workers is not None and job.workers > room:
        raise SettingsError(
            f"workers is {job.workers}, the cluster has {', '.join(holds)}; use --workers {room:.0f} or add machines"
        )
    return int(room)


def _scheduler(job: SweepJob) -> TrialScheduler | None:
    if job.steps == 1:
        return None
    name, kind = next(iter(job.objectives.items()))
    return ASHAScheduler(metric=name, mode=kind, max_t=job.steps, grace_period=max(1, job.steps // 8))


class _Batches(Searcher):
    """Hands out the plan's settings, and gives it what became of them."""

    def __init__(self, plan: SweepPlan) -> None:
        super().__init__()
        self._plan = plan
        self._given: dict[str, tuple[list[int], float]] = {}
        self.end: Exception | None = None
        """What ends the search: Ray would take it for a trial's misfortune and go on."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        batch = [] if self.end else self._plan.next_batch()
        if not batch:
            return Searcher.FINISHED  # type: ignore[return-value]  # a text that Ray knows
        self._given[trial_id] = ([number for number, _ in batch], time.monotonic())
        # As text: Ray would take the settings apart, and resolve some of them.
        return {"batch": json.dumps(batch)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        numbers, began = self._given.pop(trial_id, ([], 0.0))
        if result and result.get("unready"):
            self.end = RunError(f"{result['unready']}; finished trials are kept, --resume goes on with them")
        if self.end is not None:
            return  # the trials are still to be tried
        told = {} if error or not result else {number: each for number, *each in json.loads(result["told"])}
        try:
            for number in numbers:
                self._plan.finish(number, *told.get(number, ({}, time.monotonic() - began, LOST, False)))
        except Exception as cause:
            self.end = cause

    def __getstate__(self) -> dict[str, Any]:
        """Without the plan, which has files and locks: Ray keeps a copy of a search that it never gets to use."""
        return {name: value for name, value in vars(self).items() if name != "_plan"}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a search goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class _Actor(Trainable):
    """A process that tries settings; one of Ray's trials is a batch of ours."""

    def setup(self, config: dict[str, Any], **of_the_search: Any) -> None:
        prepare: Prepare = of_the_search["prepare"]
        record: Path = of_the_search["record"]
        self._steps: int = of_the_search["steps"]
        self._unready = ""
        self._going: Iterator[Results] | None = None
        try:
            if not record.exists():
                raise RunError(f"{record.parent} is not there; choose a folder that every machine of the cluster sees")
            self._evaluate = prepare()
        except RetinaFocusError as error:
            self._unready = f"on {platform.node()}: {error}"
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """The process is no longer needed."""
        self._leave()

    def _begin(self, config: dict[str, Any]) -> None:
        self._leave()
        self._batch = [(number, settings) for number, settings in json.loads(config["batch"])]
        self._last: Results = {}
        self._taken, self._spent = 0, 0.0

    def _leave(self) -> None:
        """End a trial that was left early: what it does last, it does now."""
        if isinstance(self._going, Generator):
            self._going.close()
        self._going = None

    def step(self) -> dict[str, Any]:
        if self._unready:
            return {"unready": self._unready, "told": "[]", "done": True}
        if len(self._batch) > 1:
            return {"told": json.dumps([self._try(*each) for each in self._batch]), "done": True}
        ((number, settings),) = self._batch
        start = time.perf_counter()
        try:
            if self._going is None:
                self._going = self._evaluate(number, settings)
            results = next(self._going, None)
        except Exception as error:
            spent = self._spent + time.perf_counter() - start
            return {"told": json.dumps([[number, {}, spent, _reason(error), False]]), "done": True}
        self._spent += time.perf_counter() - start
        done = results is None
        if results is not None:
            self._last, self._taken = results, self._taken + 1
        left_early = not done and self._taken < self._steps
        told = [number, self._last, self._spent, "", left_early]
        return {**self._last, "told": json.dumps([told]), "done": done}

    def _try(self, number: int, settings: dict[str, Any]) -> list[Any]:
        start = time.perf_counter()
        try:
            *_, results = self._evaluate(number, settings)
        except Exception as error:
            return [number, {}, time.perf_counter() - start, _reason(error), False]
        return [number, results, time.perf_counter() - start, "", False]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial of ours that was lost is tried again from its beginning."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""


def _reason(error: Exception) -> str:
    """Of a trial that failed. One of ours says all; of another the way to it is in the log of the process."""
    if isinstance(error, RetinaFocusError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"
