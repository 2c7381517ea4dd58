"""A search over settings: START READING HERE. Ray Tune runs the trials, a ledger remembers them.

Every finished trial is a line of `trials.jsonl`, written at once. A search that was killed goes on from there: the same
command with --resume proposes what is left, and only trials that were running are lost. What is proposed does not rest
on Ray's own saved state, which may be seconds old.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import le
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import open_storage
from tune.proposals import OptunaProposals, Proposals, check_search, make_proposals, spread_of
from tune.space import Settings, Space

LEDGER_FILE = "trials.jsonl"
TABLE_FILE = "trials.parquet"
RECORD_FILE = "sweep.json"
RAY_FOLDER = "ray"
"""Where Ray keeps its own state while it is at work."""

Results = dict[str, float]

Evaluate = Callable[[int, Settings], Iterator[Results]]
"""Number and settings of a trial -> its results so far, again and again; the last ones count. A trial that is not
promising may be left after any of them."""

Prepare = Callable[[], Evaluate]
"""Called once in each process; what it returns serves all trials of that process. Processes are at work in folders of
their own, so paths must be absolute. A `RetinaFocusError` of it ends the search: what one process lacks, all do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One setting that was tried."""

    number: int
    settings: Settings
    results: Results
    """Empty if it failed."""
    seconds: float
    error: str = ""
    left_early: bool = False
    """It was not promising: its results are those it had until then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepJob:
    """What to search, and for how long."""

    output: Path
    """Folder of the ledger and the results; every machine of a cluster sees it."""

    space: Space
    objectives: Mapping[str, str]
    """max or min, by the name of a result; the first one decides which trials are not promising."""

    start: Sequence[Settings] = ()
    """Tried first."""

    record: Mapping[str, Any]
    """All else that results depend on, in JSON types: a search goes on only where it is the same."""

    trials: int = 300
    seconds: float | None = None
    """No trial begins later than this; None: no limit."""

    search: str = "auto"
    seed: int = 0
    workers: int | None = None
    """Processes; None: as many as the CPUs and GPUs of the machine, or of the cluster, have room for."""

    cpus: float = 1.0
    """Of a process, which Ray holds for it."""

    gpus: float = 0.0
    """Of a process: 1, or a part of one that several share."""

    cpus_beside: float = 0.0
    """Of what a trial starts on the cluster itself, such as the workers of a Ray Train job."""

    gpus_beside: float = 0.0

    batch: int = 1
    """Settings that a process takes at a time: more, where one takes less than the 0.2 s that Ray needs for a trial."""

    steps: int = 1
    """Results that a trial gives at most; with more than one, unpromising trials are left early (ASHA)."""

    address: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("trials", "batch", "steps"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"workers is {self.workers}; choose at least 1")
        if self.seconds is not None and self.seconds <= 0:
            raise SettingsError(f"time is {self.seconds:g} s; choose more than 0")
        for name in ("cpus", "gpus", "cpus_beside", "gpus_beside"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is {getattr(self, name)}; choose 0 or more")
        if self.cpus + self.cpus_beside == 0:
            raise SettingsError("cpus is 0; a trial needs a part of a CPU, or all would run at once")
        if self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; choose 0 or more")
        check_search(self.search)
        if self.steps > 1 and self.batch > 1:
            raise SettingsError("batch must be 1 where trials can be left early")


def run_sweep(job: SweepJob, prepare: Prepare, tell: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
    """Try settings until enough are tried or the time is over.

    Args:
        job: what to search.
        prepare: pickled and sent to the processes.
        tell: called with each trial, those of an earlier run first.

    Returns:
        All trials by number, those of earlier runs too; the same are in `trials.parquet`.

    Raises:
        SettingsError: the output holds another search, or one and `resume` was not asked for.
        RunError: trials failed, or the output cannot be written.
    """
    from tune.search_on_ray import search_on_ray

    earlier = _begin(job)
    proposals = make_proposals(
        job.search, job.space, seed=job.seed, objectives=job.objectives, start=job.start, spread=spread_of(job.trials)
    )
    plan = SweepPlan(job, proposals, earlier, tell)
    try:
        if plan.left:
            search_on_ray(job, plan, prepare)
    finally:
        # Of no use to anybody, also that of a driver that was killed: what a search goes on from is the ledger.
        shutil.rmtree(job.output / RAY_FOLDER, ignore_errors=True)
    trials = sorted(plan.trials.values(), key=lambda trial: trial.number)
    pq.write_table(trials_table(trials), job.output / TABLE_FILE)
    failed = [trial for trial in trials if trial.error]
    if failed and len(failed) == len(trials):
        raise RunError(f"{job.output}: all {len(failed)} trials failed; the first one with: {failed[0].error}")
    return trials


class SweepPlan:
    """Which trials are still to be tried, and what became of the others."""

    def __init__(
        self, job: SweepJob, proposals: Proposals, earlier: Sequence[Trial], tell: Callable[[Trial], None]
    ) -> None:
        self._job, self._proposals, self._tell = job, proposals, tell
        self._until = None if job.seconds is None else time.monotonic() + job.seconds
        self.trials: dict[int, Trial] = {}
        self._asked: dict[int, Settings] = {}
        for trial in earlier:
            if isinstance(proposals, OptunaProposals):
                proposals.remember(trial.number, trial.settings)
            self._take(trial)
        # Numbers of trials that were lost come first.
        self._numbers = iter([number for number in range(job.trials) if number not in self.trials])
        self.left = max(0, job.trials - len(self.trials))

    def next_batch(self) -> list[tuple[int, Settings]]:
        """Numbers and settings to be tried next; none: nothing is left, or no time."""
        batch: list[tuple[int, Settings]] = []
        if self._until is not None and time.monotonic() > self._until:
            return batch
        for number in self._numbers:
            settings = self._proposals.ask(number)
            self._asked[number] = settings
            batch.append((number, settings))
            if len(batch) == self._job.batch:
                break
        return batch

    def finish(self, number: int, results: Results, seconds: float, error: str = "", left_early: bool = False) -> None:
        """A trial is done: note it in the ledger, at once.

        Raises:
            RunError: the ledger cannot be written.
        """
        error = error or self._no_number(results)
        trial = Trial(
            number=number, settings=self._asked.pop(number), results={} if error else results,
            seconds=seconds, error=error, left_early=left_early,
        )  # fmt: skip
        path = self._job.output / LEDGER_FILE
        try:
            with path.open("a", encoding="utf-8") as ledger:
                ledger.write(json.dumps(_line(trial)) + "\n")
                ledger.flush()
                os.fsync(ledger.fileno())
        except OSError as cause:
            told = f"{path}: cannot be written ({cause.strerror or cause})"
            raise RunError(f"{told}; mend that, and --resume goes on with what is left") from cause
        self._take(trial)

    def _no_number(self, results: Results) -> str:
        """What of the objectives cannot be compared: a training may have gone astray."""
        wrong = [name for name in self._job.objectives if not math.isfinite(results.get(name, math.nan))]
        return f"{wrong[0]} is {results.get(wrong[0], 'missing')}" if wrong else ""

    def _take(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._proposals.tell(trial.number, None if trial.error else trial.results)
        self._tell(trial)


@contextmanager
def sole_use(output: Path) -> Iterator[None]:
    """Make a search's folder, and keep other commands out of it: two that go on with one search would both write its
    ledger.

    Raises:
        RunError: the folder cannot be made, or another command is at work in it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error})") from error
    with open_storage(output).locked():
        yield


def drop_torn_line(path: Path) -> None:
    """Cut a ledger after its last whole line: where a driver was killed, the next trial would be written behind a part
    of one."""
    if path.exists():
        with path.open("rb+") as ledger:
            ledger.truncate(ledger.read().rfind(b"\n") + 1)


def read_ledger(path: Path) -> list[Trial]:
    """The trials of a ledger; its last line may be torn where a driver was killed, and is left out then.

    Raises:
        RunError: another line is broken.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    trials = []
    for number, line in enumerate(lines[:-1]):
        try:
            trials.append(Trial(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: line {number + 1} is broken; delete the folder and begin anew") from error
    return trials


def trials_table(trials: Sequence[Trial]) -> pa.Table:
    """A row for each trial, a column for each setting and result; null where a trial has none."""
    names = dict.fromkeys(name for trial in trials for name in trial.settings)
    results = dict.fromkeys(name for trial in trials for name in trial.results)
    columns: dict[str, Any] = {"trial": [trial.number for trial in trials]}
    columns |= {name: _column([trial.settings.get(name) for trial in trials]) for name in names}
    columns |= {name: pa.array([trial.results.get(name) for trial in trials], pa.float64()) for name in results}
    columns |= {"seconds": [trial.seconds for trial in trials], "error": [trial.error or None for trial in trials]}
    columns |= {"left_early": [trial.left_early for trial in trials]}
    return pa.table(columns)


def front_of(trials: Sequence[Trial], objectives: Mapping[str, str]) -> list[Trial]:
    """The trials that no other beats or equals in all objectives at once, best in the first one first."""
    signs = {name: -1 if kind == "max" else 1 for name, kind in objectives.items()}

    def key(trial: Trial) -> tuple[float, ...]:
        return tuple(sign * trial.results[name] for name, sign in signs.items())

    best: list[Trial] = []
    keys: list[tuple[float, ...]] = []
    for trial in sorted((trial for trial in trials if not trial.error), key=lambda trial: (key(trial), trial.number)):
        own = key(trial)
        if not any(all(map(le, other, own)) for other in keys):
            best.append(trial)
            keys.append(own)
    return best


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # choices of several kinds
        return pa.array([None if value is None else json.dumps(value) for value in values])


def _line(trial: Trial) -> dict[str, Any]:
    return {each.name: getattr(trial, each.name) for each in fields(trial)}


def _begin(job: SweepJob) -> list[Trial]:
    """Make or check the output; the trials that are there."""
    record: dict[str, Any] = {"space": job.space.to_toml(), "start": list(job.start)}
    record |= {
        "objectives": dict(job.objectives),
        "seed": job.seed,
        "search": job.search,
        "steps": job.steps,
        **job.record,
    }
    path = job.output / RECORD_FILE
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            open_storage(job.output).put(RECORD_FILE, f"{json.dumps(record, indent=2)}\n".encode())
            return []
        before = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{job.output}: cannot be written ({error.strerror or error})") from error
    if not job.resume:
        raise SettingsError(f"{job.output}: there is a search in it already; add --resume, or choose another -o folder")
    now = json.loads(json.dumps(record))
    if different := sorted(name for name in before | now if before.get(name) != now.get(name)):
        told = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in different)
        raise SettingsError(f"{job.output}: the search in it is another ({told}); choose another -o folder")
    drop_torn_line(job.output / LEDGER_FILE)
    return read_ledger(job.output / LEDGER_FILE)
