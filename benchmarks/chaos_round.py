"""One round of a chaos run: an archive's history, each step done in peace and then among kills."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa

from benchmarks.chaos_archive import FORGOTTEN, Archive, BucketPhotos, FolderPhotos, Photos
from benchmarks.chaos_checks import Verdict, compare
from benchmarks.chaos_faults import WRITERS, environment, failed_writes
from benchmarks.chaos_kills import AT_WORK, CAREFUL, COMMAND, RAY_WORKER, Aim, Kill, Observer, run_and_kill
from benchmarks.faults import FaultyProxy
from benchmarks.moto_server import make_bucket
from benchmarks.process_tree import ProcessTree
from pipelines.commands.command import EXIT_USAGE
from pipelines.ledger import commit_shard, committed_tables, read_record
from retinafocus.runs import FORGOTTEN_FILE, LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, current_records, open_run
from retinafocus.storage import Storage, StorageConfig, open_storage

# Steps of a history in their order, with the least and the most kills of each.
KILLS = {
    "index": (0, 1),
    "detect": (7, 11),
    "retry": (2, 3),
    "update": (0, 1),
    "detect again": (2, 3),
    "forget": (1, 2),
}

# How often each phase is aimed at.
AIMS = {"start-up": 2, "work": 3, "commit": 3, "end": 2}

# Longest waits in a phase before the kill, in seconds: on a disk, and in a store, which answers slowly. With Ray, its
# start counts as work.
WAITS = {"start-up": 6.0, "work": 2.5, "commit": 0.005, "end": 0.05}
WAITS_S3 = {"start-up": 8.0, "work": 5.0, "commit": 0.05, "end": 0.6}
RAY_WORK_WAIT = 20.0
START_OF_SMALL_COMMANDS = 2.0

# Which processes are killed. Every process at work runs under the command, with Ray as its driver.
AIMS_OF_RUNNER = {
    "local": {COMMAND: 7, AT_WORK: 9, CAREFUL: 1},
    "ray": {COMMAND: 3, AT_WORK: 3, RAY_WORKER: 8},
}

WORKERS = ("1", "2", "3")

# The engine that starts fastest.
ENGINE = ("--device", "cpu", "--engine", "torch")

# How often each is given where both may be: Ray takes long to start.
RUNNERS = {"local": 4, "ray": 1}

DETECTS = ("detect", "retry", "detect again")

# What each other step writes first.
FIRST_FILES = {"forget": FORGOTTEN_FILE, "index": MANIFEST_FILE, "update": MANIFEST_FILE}

# Commands in a row that end with an error though nobody killed them, before a step is given up: a disk that refuses
# writes ends some.
MAX_ERRORS = 4

FAILING_WRITES = 0.02
"""Share of the writes to a disk that are refused, for every other command."""

MAX_DOUBLED = 2
"""Doubled attempts while a step goes on; one more comes after it."""

# Ray's processes notice that their driver is gone, and go, within that time.
ORPHAN_SECONDS = 60.0

# Of the log, shown where a command failed.
LAST_WORDS = 2000


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """A chaos run."""

    kills: int = 50
    seed: int = 0
    stores: tuple[str, ...] = ("local", "s3")
    runners: tuple[str, ...] = ("local", "ray")
    writer: str = "ours"
    photos: int = 32
    """Plain ones in each archive."""
    steps: tuple[str, ...] = tuple(KILLS)
    deadly: bool = True
    """Every fourth archive has a photo that kills its decoder."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where photos and runs are."""

    store: str
    folder: Path
    """For logs; and for photos and runs where the store is a disk."""
    endpoint: str | None = None
    """Of the S3 server itself."""
    proxy: FaultyProxy | None = None
    """In front of it."""

    def of_round(self, number: int) -> Place:
        """A place of its own for one round."""
        folder = self.folder / f"round-{number}"
        folder.mkdir()
        if self.endpoint is not None:
            make_bucket(self.endpoint, folder.name)
        return Place(store=self.store, folder=folder, endpoint=self.endpoint, proxy=self.proxy)

    @property
    def config(self) -> StorageConfig:
        """How this process reaches the store."""
        return StorageConfig(endpoint=self.endpoint, region="us-east-1" if self.endpoint else None)

    def location(self, name: str) -> str:
        return f"s3://{self.folder.name}/{name}" if self.endpoint else str(self.folder / name)

    def photos(self) -> Photos:
        if self.endpoint is None:
            return FolderPhotos(self.folder / "photos")
        return BucketPhotos(open_storage(self.location("photos"), self.config))

    def injected(self) -> Counter[str]:
        """Faults of the store until now."""
        failed = sum(failed_writes(folder) for folder in self.folder.glob("round-*"))
        return Counter({"refused writes": failed} if failed else {}) + (
            self.proxy.injected if self.proxy else Counter()
        )


@dataclass
class Step:
    """What was done in one step, and what came of it."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)

    def words(self) -> str:
        kills = ", ".join(f"{kill.target} ({kill.phase})" for kill in self.kills) or "nothing"
        wrong = (
            f"{len(self.verdict.problems)} problems"
            if self.verdict.problems
            else "as undisturbed, validate finds nothing"
        )
        return f"{self.counts['commands']} commands, killed: {kills}; {wrong}"


class Round:
    """An archive's history.

    Args:
        chaos: what is drawn from.
        place: of this round alone.
        draws: of all rounds.
        number: of this round.
        wanted: kills at most.
    """

    def __init__(self, chaos: Chaos, place: Place, draws: random.Random, *, number: int, wanted: int) -> None:
        self._chaos, self._place, self._draws, self._wanted = chaos, place, draws, wanted
        deadly = chaos.deadly and number % 4 == 1
        self._archive = Archive(place.photos(), seed=chaos.seed * 1000 + number, plain=chaos.photos, deadly=deadly)
        self._storage = open_storage(place.location("out"), place.config)
        self._peaceful = open_storage(place.location("undisturbed"), place.config)
        self._trees: list[ProcessTree] = []

    def steps(self) -> Iterator[Step]:
        """Go through the history; each step when it is done. One that cannot be ended, or whose run is not the
        undisturbed one, ends the round."""
        before = {"retry": self._archive.before_retry, "update": self._archive.before_update}
        if "index" in self._chaos.steps:
            before["detect"] = self._archive.after_listing
        try:
            for name in self._chaos.steps:
                before.get(name, lambda: None)()
                step = Step(name)
                try:
                    self._do(step)
                except (RuntimeError, TimeoutError) as error:
                    step.verdict.problems.append(str(error))
                yield step
                if step.verdict.problems:
                    break
        finally:
            for tree in self._trees:
                tree.end()

    def _do(self, step: Step) -> None:
        shards = self._in_peace(step.name)
        self._among_kills(step, shards)
        if any(kill.target == CAREFUL for kill in step.kills):
            # Nobody can tell such a kill from the system's own when memory runs out: the photo has got that status.
            self._give(self._command("detect", self._storage.location, "local", "--retry", "out_of_memory"))
        left = [
            process for tree in self._trees for process in psutil.wait_procs(tree.living(), timeout=ORPHAN_SECONDS)[1]
        ]
        if left:
            raise RuntimeError(f"{len(left)} processes outlived their command: {[process.name() for process in left]}")
        step.counts["done"] += 1
        if step.name == "detect":
            self._commit_doubled(step, self._draws.choice(list(self._records())))
        if step.name not in ("index", "update"):
            undisturbed = open_run(self._peaceful.location, self._place.config)
            step.verdict = compare(undisturbed, self._storage.location, self._place.config)

    def _in_peace(self, name: str) -> int:
        """Do the step undisturbed; how many shards it committed."""
        before = self._records(self._peaceful)
        self._give(self._command(name, self._peaceful.location, "local"))
        after = self._records(self._peaceful)
        return sum(generation != before.get(shard) for shard, generation in after.items())

    def _give(self, words: list[str]) -> None:
        """A command that nobody disturbs."""
        if code := self._start(words, disturbed=False).command.wait():
            raise RuntimeError(f"{' '.join(words)}: exit code {code} though nobody disturbed it: {self._last_words()}")

    def _among_kills(self, step: Step, shards: int) -> None:
        """Give the command until it ends well."""
        kills = min(self._draws.randint(*KILLS[step.name]), self._wanted)
        # Those at the end last: what a command has done up to there cannot be disturbed once more.
        phases = sorted((self._drawn(AIMS) for _ in range(kills)), key=lambda phase: phase == "end")
        observer = Observer(self._storage, FIRST_FILES.get(step.name, RUN_FILE), shards)
        look_seconds = 0.001 if self._place.endpoint is None else 0.01
        errors = 0
        while errors < MAX_ERRORS:
            runner = self._drawn({name: RUNNERS[name] for name in self._chaos.runners})
            aims = self._aims(step.name, runner, phases)
            careful = ["--careful"] if any(aim.target == CAREFUL for aim in aims) else []
            words = self._command(step.name, self._storage.location, runner, *careful)
            observer.begins_anew()
            tree = self._start(words, disturbed=True)
            done = run_and_kill(
                tree, observer, iter(aims), draws=self._draws, look_seconds=look_seconds, meanwhile=self._doubling(step)
            )
            step.kills += done
            phases, self._wanted = phases[len(done) :], self._wanted - len(done)
            step.counts.update({"commands": 1, "killed": len(done), "on Ray": int(runner == "ray")})
            code = tree.command.returncode
            if code == 0 or (step.name == "index" and self._storage.exists(MANIFEST_FILE)):
                return  # a second first listing is refused
            if code == EXIT_USAGE:
                break
            step.counts["given again"] += 1
            errors = 0 if done else errors + 1
        raise RuntimeError(f"{' '.join(words)}: exit code {code}: {self._last_words()}")

    def _aims(self, name: str, runner: str, phases: Sequence[str]) -> list[Aim]:
        """What to kill of one command: one thing after the other, as long as it leaves the command alive."""
        waits = WAITS if self._place.endpoint is None else WAITS_S3
        aims: list[Aim] = []
        for phase in phases:
            target = COMMAND
            if name in DETECTS:
                target = self._drawn(AIMS_OF_RUNNER[runner])
            if target in (CAREFUL, RAY_WORKER) and phase == "start-up":
                phase = "work"  # there is none before
            wait = waits[phase]
            if phase == "start-up" and name not in DETECTS:
                wait = START_OF_SMALL_COMMANDS
            elif phase == "work" and runner == "ray":
                wait = RAY_WORK_WAIT
            aims.append(Aim(target, phase, self._draws.uniform(0, wait)))
            if target == COMMAND:
                break
        return aims

    def _drawn(self, weights: Mapping[str, int]) -> str:
        return self._draws.choices(list(weights), list(weights.values()))[0]

    def _command(self, name: str, out: str, runner: str, *more: str) -> list[str]:
        photos = self._archive.photos.location
        command = [sys.executable, "-m", "pipelines.cli"]
        if name == "index":
            return [*command, "index", photos, "-o", out]
        if name == "update":
            return [*command, "index", "--update", "-o", out]
        if name == "forget":
            return [*command, "forget", out, *FORGOTTEN]
        inputs = [] if "index" in self._chaos.steps else [photos]
        workers = self._draws.choice(WORKERS)
        retry = ["--retry", "failed"] if name == "retry" else []
        command += ["detect", *inputs, "-o", out, *ENGINE, "--runner", runner, "--workers", workers]
        return [*command, *retry, *more]

    def _start(self, words: list[str], *, disturbed: bool) -> ProcessTree:
        folder, place = self._place.folder, self._place
        failing = self._draws.choice((0.0, FAILING_WRITES)) if disturbed and place.endpoint is None else 0.0
        changed = environment(folder, self._chaos.writer if disturbed else "ours", failing)
        if place.endpoint is not None and place.proxy is not None:
            changed["AWS_ENDPOINT_URL"] = place.proxy.endpoint if disturbed else place.endpoint
        changed["RAY_worker_niceness"] = "0"  # on a busy machine Ray's usual 15 would be most of the time
        changed["RAY_TMPDIR"] = str(folder.parent.parent)  # the names of its sockets must not be long
        with open(folder / "log", "ab") as log:
            log.write(f"\n$ {' '.join(words[2:])}\n".encode())
            log.flush()
            tree = ProcessTree(words, environment={**os.environ, **changed}, output=log.fileno())
        self._trees.append(tree)
        return tree

    def _last_words(self) -> str:
        return (self._place.folder / "log").read_text(errors="replace")[-LAST_WORDS:]

    def _records(self, storage: Storage | None = None) -> dict[int, int]:
        return current_records((storage or self._storage).names(LEDGER_FOLDER))

    def _doubling(self, step: Step) -> Callable[[str], None]:
        """Commits a shard now and then that the command may be at, or may have done."""

        def commit(phase: str) -> None:
            enough = step.counts["doubled attempts"] >= MAX_DOUBLED
            if step.name == "detect" and phase in ("work", "commit") and not enough and self._draws.random() < 0.01:
                self._commit_doubled(step, self._draws.choice(list(self._records(self._peaceful))))

        return commit

    def _commit_doubled(self, step: Step, shard: int) -> None:
        """A second attempt at a shard, by this process, with what an attempt finds that nobody disturbs."""
        attempt = f"doubled{step.counts['doubled attempts']}"
        record = read_record(self._peaceful, shard, 0)
        tables = committed_tables(self._peaceful, record)
        names = pa.array([attempt] * record["photos"], pa.string())
        timing = tables["timing"]
        column = timing.schema.get_field_index("attempt")
        tables["timing"] = timing.set_column(column, timing.schema.field(column), names)
        made = commit_shard(
            WRITERS[self._chaos.writer](self._storage), shard, attempt, tables, {"worker": "a doubled attempt"},
            generation=self._records().get(shard, 0), manifest_version=record["manifest_version"],
        )  # fmt: skip
        step.counts.update({"doubled attempts": 1, "of those first": int(made["attempt"] == attempt)})
