"""Kill jobs at random, from outside, and see whether a row is lost or doubled.

    python -m benchmarks.chaos [--kills 50] [--seed 0] [--store local|s3|both] [--runner local|ray|both]
    python -m benchmarks.chaos --kills 0 --store s3               one round over S3 with its faults, and nothing killed
    python -m benchmarks.chaos --kills 10 --writer record-first   a writer that is wrong, to see that it is caught

Each round makes an archive of some fifty small photos (some broken, one deadly, some with odd names) and takes it
through its history in steps: `index`, `detect`, `detect --retry failed`, `index --update` and `detect`, `forget`. Every
step is done twice: once in peace, and once with processes killed by SIGKILL (the command, the process at work, a Ray
worker, the careful child) at times drawn over start-up, work, commits and the end. A killed command is given again,
with workers and runner drawn anew. Meanwhile some writes to the disk fail, or requests to the S3 server (moto, through
`benchmarks.faults`), and doubled attempts commit shards that the run is at or has just done.

After each step the tables must be those of the undisturbed run, read through the ledger and by plain globs, and
`validate` must find nothing. Prints Markdown; exit code 1 if anything differs. benchmarks/README.md has a recorded run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos_faults import WRITERS
from benchmarks.chaos_kills import PHASES, TARGETS
from benchmarks.chaos_round import KILLS, Chaos, Place, Round
from benchmarks.faults import FAULTS, FaultyProxy, RandomFaults
from benchmarks.moto_server import s3_server

# Of the requests to the store while its faults are on; a stall would only cost time.
FAULT_SHARES = {kind: 0.01 for kind in FAULTS if kind != "stall"}


@dataclass
class Report:
    """What was done and what was found."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By target and phase."""
    places: Counter[str] = field(default_factory=Counter)
    """Kills by where the run was."""
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By step and what is counted of it."""
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)

    def words(self) -> str:
        """Two Markdown tables and what was found."""
        lines = [f"| killed | {' | '.join(PHASES)} | all |", "|---|" + "---:|" * (len(PHASES) + 1)]
        for target in TARGETS:
            row = [self.kills[target, phase] for phase in PHASES]
            lines.append(f"| {target} | {' | '.join(map(str, row))} | {sum(row)} |")
        row = [sum(self.kills[target, phase] for target in TARGETS) for phase in PHASES]
        lines += [f"| all | {' | '.join(map(str, row))} | {sum(row)} |", ""]
        counted = ("done", "commands", "on Ray", "killed", "given again", "doubled attempts", "of those first")
        lines += [f"| step | {' | '.join(counted)} |", "|---|" + "---:|" * len(counted)]
        for step in KILLS:
            if self.steps[step, "done"]:
                lines.append(f"| {step} | {' | '.join(str(self.steps[step, what]) for what in counted)} |")
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())) or "none"
        places = ", ".join(f"{store} {count}" for store, count in self.places.items())
        lines += ["", f"kills by store: {places or 'none'}", f"faults of the stores: {faults}"]
        lines += [f"rows lost: {self.lost}, rows doubled: {self.doubled}, other differences: {len(self.problems)}"]
        return "\n".join([*lines, *(f"- {problem}" for problem in self.problems)])


def run(chaos: Chaos, folder: Path) -> Report:
    """Rounds until there were enough kills.

    Args:
        chaos: what to do.
        folder: for photos, runs and logs; left as it is.
    """
    report, draws = Report(), random.Random(chaos.seed)
    with ExitStack() as stack:
        places = [_place(store, folder, chaos.seed, stack) for store in chaos.stores]
        number = 0
        while number == 0 or (report.kills.total() < chaos.kills and number <= chaos.kills):
            place = places[number % len(places)]
            left = chaos.kills - report.kills.total()
            one = Round(chaos, place.of_round(number), draws, number=number, wanted=left)
            for step in one.steps():
                report.kills.update((kill.target, kill.phase) for kill in step.kills)
                report.places[place.store] += len(step.kills)
                report.steps.update({(step.name, what): count for what, count in step.counts.items()})
                report.lost += step.verdict.lost
                report.doubled += step.verdict.doubled
                where = f"round {number} ({place.store}), {step.name}"
                report.problems += [f"{where}: {problem}" for problem in step.verdict.problems]
                print(f"{where}: {step.words()}", file=sys.stderr, flush=True)
            number += 1
        for place in places:
            report.faults.update(place.injected())
    return report


def _place(store: str, folder: Path, seed: int, stack: ExitStack) -> Place:
    """Where the rounds of a store have their photos and runs."""
    own = folder / store
    own.mkdir()
    if store == "local":
        return Place(store=store, folder=own)
    endpoint = stack.enter_context(s3_server())
    faults = RandomFaults(FAULT_SHARES, seed=seed)
    proxy = stack.enter_context(FaultyProxy(endpoint, faults))
    return Place(store=store, folder=own, endpoint=endpoint, proxy=proxy)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="at least so many; 0 is one round without (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=["local", "s3", "both"], default="both")
    parser.add_argument("--runner", choices=["local", "ray", "both"], default="both")
    parser.add_argument("--writer", choices=list(WRITERS), default="ours", help="how shards are committed")
    parser.add_argument("--photos", type=int, default=32, help="plain photos in each archive (default: 32)")
    options = parser.parse_args(arguments)
    chaos = Chaos(
        kills=options.kills,
        seed=options.seed,
        stores=("local", "s3") if options.store == "both" else (options.store,),
        runners=("local", "ray") if options.runner == "both" else (options.runner,),
        writer=options.writer,
        photos=options.photos,
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = run(chaos, folder)
    print(report.words())
    if report.problems:
        print(f"photos, runs and logs are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
