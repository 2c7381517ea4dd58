"""Run the trials of a search with Ray Tune. The only module of `tune` that imports Ray.

A process (actor) is used again and again and takes several settings at a time: what it loads it loads once, and what
Ray needs for a trial counts once for all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

# Our own answer to Ctrl-C: what is finished is in the ledger already.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A trial that failed has no results; the scheduler passes it over, but Ray would end the whole search.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# The older output, which can be silent: the newer one prints a box and where to find what nobody looks at.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from pipelines import on_ray  # isort: skip  # sets Ray's variables before Ray is imported
import ray
from ray.tune import FailureConfig, RunConfig, Trainable, TuneConfig, Tuner, with_parameters, with_resources
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from retinafocus.errors import RetinaFocusError
from tune.sweep import Prepare, Results, SweepJob, SweepPlan

LOST = "the process that tried it died"


def search_on_ray(job: SweepJob, plan: SweepPlan, prepare: Prepare) -> None:
    """Try what the plan has left.

    Raises:
        SettingsError: no cluster answers at the address.
        RunError: Ray did not start.
    """
    workers = job.workers or os.cpu_count() or 1
    started = on_ray.connect(job.address, cpus=workers)
    if job.workers is None and job.address is not None:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    searcher = _Batches(plan)
    try:
        tuner = Tuner(
            with_resources(with_parameters(_Actor, prepare=prepare), {"CPU": 1}),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(job),
                num_samples=-(-plan.left // job.batch),
                max_concurrent_trials=workers,
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name=f"ray-{time.time_ns()}",
                storage_path=str((job.output / "ray").resolve()),
                verbose=0,
                failure_config=FailureConfig(max_failures=1),
            ),
        )
        tuner.fit()
    finally:
        if started:
            ray.shutdown()
        # Of no use to anybody: what a search goes on from is the ledger.
        shutil.rmtree(job.output / "ray", ignore_errors=True)


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

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        batch = self._plan.next_batch()
        if not batch:
            return Searcher.FINISHED  # type: ignore[return-value]  # a text that Ray knows
        self._given[trial_id] = ([number for number, _ in batch], time.monotonic())
        # As text: Ray would take the settings apart, and resolve some of them.
        return {"batch": json.dumps(batch)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        numbers, began = self._given.pop(trial_id, ([], 0.0))
        told = {} if error or not result else {number: each for number, *each in json.loads(result["told"])}
        for number in numbers:
            results, seconds, reason = told.get(number, ({}, time.monotonic() - began, LOST))
            self._plan.finish(number, results, seconds, reason)

    def __getstate__(self) -> dict[str, Any]:
        """Without the plan, which has files and locks: Ray keeps a copy of a search that it never gets to use."""
        return {name: value for name, value in vars(self).items() if name != "_plan"}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a search goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class _Actor(Trainable):
    """A process that tries settings; one of Ray's trials is a batch of ours."""

    def setup(self, config: dict[str, Any], prepare: Prepare | None = None) -> None:
        assert prepare is not None  # from with_parameters
        self._evaluate = prepare()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._batch = [(number, settings) for number, settings in json.loads(config["batch"])]
        self._going: Iterator[Results] | None = None
        self._spent = 0.0

    def step(self) -> dict[str, Any]:
        if len(self._batch) > 1:
            return {"told": json.dumps([self._try(*each) for each in self._batch]), "done": True}
        ((number, settings),) = self._batch
        start = time.perf_counter()
        if self._going is None:
            self._going = self._evaluate(number, settings)
            self._last: Results = {}
        try:
            results = next(self._going, None)
        except RetinaFocusError as error:
            return {"told": json.dumps([[number, {}, self._spent, str(error)]]), "done": True}
        self._spent += time.perf_counter() - start
        done = results is None
        self._last = self._last if results is None else results
        return {**self._last, "told": json.dumps([[number, self._last, self._spent, ""]]), "done": done}

    def _try(self, number: int, settings: dict[str, Any]) -> list[Any]:
        start = time.perf_counter()
        try:
            *_, results = self._evaluate(number, settings)
        except RetinaFocusError as error:
            return [number, {}, time.perf_counter() - start, str(error)]
        return [number, results, time.perf_counter() - start, ""]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial of ours that was lost is tried again from its beginning."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""
