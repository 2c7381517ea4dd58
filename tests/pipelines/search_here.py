"""Searches without Ray: in the process of a test, or in a driver that holds still in mid-search to be killed.

A process of Ray's takes seconds to start, and that a search goes on under Ray is shown in test_search_on_ray.py. Here
it is the rest of each command: what it keeps, and how it goes on from there. A driver is
`python search_here.py RESULTS tune ...`; it holds still when trials have given so many results.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

import cv2
import torch

from tune.sweep import Prepare, Results, SweepJob, SweepPlan

HELD = "holds still"

P = ParamSpec("P")
R = TypeVar("R")


def search_here(job: SweepJob, plan: SweepPlan, prepare: Prepare, hold_after: int | None = None) -> None:
    """In place of `search_on_ray`: what it is given travels as to a process of Ray's, which works in another folder and
    tells of a batch when all of it is done.

    Args:
        job: what is searched.
        plan: what is left of it.
        prepare: makes the trials.
        hold_after: hold still in the middle of the trial that gives this result, counted over all trials.
    """
    prepare, home = pickle.loads(pickle.dumps(prepare)), Path.cwd()
    threads, given = (torch.get_num_threads(), cv2.getNumThreads()), itertools.count(1)
    try:
        os.chdir("/")
        evaluate = prepare()
        while batch := plan.next_batch():
            os.chdir("/")
            tried = [
                (number, list(_counted(evaluate(number, settings), given, hold_after))) for number, settings in batch
            ]
            os.chdir(home)
            for number, results in tried:
                plan.finish(number, results[-1], 0.0)
    finally:
        os.chdir(home)
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _counted(results: Iterable[Results], given: Iterator[int], hold_after: int | None) -> Iterator[Results]:
    for each in results:
        if next(given) == hold_after:
            hold()
        yield each


def without_ray(hold_after: int | None = None) -> dict[str, ModuleType]:
    """What `sys.modules` has to hold, so that searches run here and Ray is not even loaded."""
    module = ModuleType("tune.search_on_ray")
    vars(module)["search_on_ray"] = partial(search_here, hold_after=hold_after)
    return {module.__name__: module}


def hold() -> None:
    """Say so, and do nothing more until somebody kills this process, or is no longer there to do it."""
    print(HELD, flush=True)
    sys.stdin.read()
    os._exit(1)


def holding_at(call: int, function: Callable[P, R]) -> Callable[P, R]:
    """The function, which holds still where it is called for the so manieth time."""
    calls = iter(range(1, call))

    def called(*arguments: P.args, **named: P.kwargs) -> R:
        if next(calls, None) is None:
            hold()
        return function(*arguments, **named)

    return called


def kill_in_mid_search(results: int, words: Sequence[str]) -> None:
    """Run a command without Ray in a process of its own, and kill it when its trials have given so many results."""
    kill_when_held([__file__, str(results), *words])


def kill_when_held(command: Sequence[str]) -> None:
    """Run Python with these words, and kill it as soon as it holds still."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[1]), str(here), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert HELD in map(str.strip, process.stdout), "it came to its end"
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def main() -> int:
    """The driver."""
    from pipelines import cli

    sys.modules.update(without_ray(hold_after=int(sys.argv[1])))
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
