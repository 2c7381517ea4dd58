"""Broken photos against the readers: no crash, no hang, no exception of another kind, no memory beyond the prediction.

    python -m benchmarks.fuzz [--cases 10000] [--seed 0] [--seconds S] [--workers 1] [--case N [--save FILE]]

A case is a small photo made in code, damaged at random (`fuzz_mutations`), or a bomb that claims to be huge. It goes
through the header, the decoder at full size and at an eighth, `Detector.prepare` and, where the format can be read so,
strips (`fuzz_reader`), in a child process that is replaced when a case kills it or takes too long. Prints one line for
each case that went wrong, which `--case` repeats alone (`--save` writes its file), and a Markdown table;
benchmarks/README.md holds a recorded one. Exit code 1 if anything went wrong.

For Linux: memory is measured in /proc. Processor time of a case is measured too; the clock ends what hangs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz_child import STATUSES, Child, Look, Outcome
from benchmarks.fuzz_mutations import make_case


def make_reader() -> Look:
    """What a child does with a case. Here, so that this process need not load what only children use."""
    from benchmarks.fuzz_reader import Reader

    return Reader()


@dataclass
class Tally:
    """What became of the cases of one format."""

    results: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    largest: tuple[float, int] = (0.0, 0)

    def add(self, number: int, outcome: Outcome) -> None:
        self.results[outcome.result] += 1
        self.slowest = max(self.slowest, (outcome.seconds, number))
        self.largest = max(self.largest, (outcome.mebibytes, number))

    @property
    def bad(self) -> int:
        return sum(count for result, count in self.results.items() if result not in ("ok", *STATUSES))


def run(
    seed: int, numbers: Sequence[int], make_look: Callable[[], Look], *, workers: int, time_limit: float, seconds: float
) -> dict[str, Tally]:
    """Look at cases; print those that went wrong as they come.

    Args:
        seed: of all cases.
        numbers: of the cases.
        make_look: called once in each child: what to do with a case.
        workers: children at a time.
        time_limit: seconds by the clock for each case.
        seconds: begin no further case after these.

    Returns:
        By format, what became of its cases.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    end = time.monotonic() + seconds

    def look_at(mine: Sequence[int]) -> Iterator[tuple[int, str, str, Outcome]]:
        child = Child(make_look, time_limit)
        for number in mine:
            if time.monotonic() > end:
                break
            kind, what, data = make_case(seed, number)
            yield number, kind, what, child.look(data)
        child.end()

    def work(mine: Sequence[int]) -> list[tuple[int, str, Outcome]]:
        done = []
        for number, kind, what, outcome in look_at(mine):
            if outcome.result not in ("ok", *STATUSES):
                print(f"--seed {seed} --case {number}: {outcome.result}: {kind} {what}: {outcome.detail}", flush=True)
            done.append((number, kind, outcome))
        return done

    if workers == 1:
        shares = [work(numbers)]
    else:
        with ThreadPoolExecutor(workers) as threads:
            shares = list(threads.map(work, [numbers[start::workers] for start in range(workers)]))
    for number, kind, outcome in (one for share in shares for one in share):
        tallies[kind].add(number, outcome)
    return dict(sorted(tallies.items()))


def table(tallies: dict[str, Tally]) -> str:
    """Cases by format and outcome, as Markdown."""
    columns = [name for name in ("ok", *STATUSES) if any(tally.results[name] for tally in tallies.values())]
    lines = [
        f"| format | cases | {' | '.join(columns)} | went wrong | slowest, CPU s (case) | most memory, MiB (case) |"
    ]
    lines.append("|---" + "|---:" * (len(columns) + 4) + "|")
    for kind, tally in tallies.items():
        counts = " | ".join(str(tally.results[name]) for name in columns)
        slowest, largest = (
            f"{tally.slowest[0]:.2f} ({tally.slowest[1]})",
            f"{tally.largest[0]:.0f} ({tally.largest[1]})",
        )
        lines.append(f"| {kind} | {tally.results.total()} | {counts} | {tally.bad} | {slowest} | {largest} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, make_look: Callable[[], Look] = make_reader) -> int:
    """The command. `make_look` is for tests of this program itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further case after these")
    parser.add_argument("--workers", type=int, default=1, help="cases looked at side by side")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds by the clock for each case")
    parser.add_argument("--case", type=int, help="only this one, alone in a new process")
    parser.add_argument("--save", type=Path, help="with --case: write its file here")
    options = parser.parse_args(arguments)
    numbers = range(options.cases) if options.case is None else [options.case]
    if options.case is not None and options.save is not None:
        options.save.write_bytes(make_case(options.seed, options.case)[2])
    start = time.monotonic()
    tallies = run(
        options.seed,
        numbers,
        make_look,
        workers=options.workers,
        time_limit=options.time_limit,
        seconds=options.seconds,
    )
    print(table(tallies))
    cases, bad = sum(tally.results.total() for tally in tallies.values()), sum(tally.bad for tally in tallies.values())
    print(f"\n{cases} cases, seed {options.seed}, {time.monotonic() - start:.0f} s: {bad} went wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
