"""What a person sees of a search: a table that lives while it goes on, and plots of what came out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune.sweep import Trial, front_of

LOG_SECONDS = 10.0
"""A log file gets a line this often."""

ROWS = 12
"""Trials of the front that are shown."""


class LiveTable:
    """The front so far, and how many trials are done: a table on a terminal, a line now and then in a log file.

    Args:
        total: trials there will be.
        objectives: max or min, by the name of a result.
        stream: where to; None for stderr.
    """

    def __init__(self, total: int, objectives: Mapping[str, str], stream: TextIO | None = None) -> None:
        self._total, self._objectives = total, objectives
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._live: Live | None = None
        self._trials: list[Trial] = []
        self._started = self._logged = monotonic()

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._trials:
            self._console.print(self._line(), soft_wrap=True)

    def tell(self, trial: Trial) -> None:
        """A trial is done."""
        self._trials.append(trial)
        if self._live is None and monotonic() - self._logged >= LOG_SECONDS:
            self._logged = monotonic()
            self._console.print(self._line(), soft_wrap=True)

    def _line(self) -> str:
        front, failed = front_of(self._trials, self._objectives), sum(bool(trial.error) for trial in self._trials)
        best = f", best {_results(front[0])}" if front else ""
        minutes = (monotonic() - self._started) / 60
        words = f"trials {len(self._trials):,} of {self._total:,} after {minutes:.1f} min, {failed:,} failed"
        if left := sum(trial.left_early for trial in self._trials):
            words += f", {left:,} left early"
        return f"{words}, {len(front)} on the front{best}"

    def _table(self) -> Table:
        front = front_of(self._trials, self._objectives)
        names = list(self._objectives)
        table = Table(title=self._line(), title_justify="left")
        for name in ("trial", *names):
            table.add_column(name, justify="right")
        shown = front[:: max(1, -(-len(front) // ROWS))]
        for trial in shown:
            table.add_row(str(trial.number), *(f"{trial.results[name]:.4g}" for name in names))
        return table


def _results(trial: Trial) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in trial.results.items())


def write_front_plot(
    trials: Sequence[Trial], front: Sequence[Trial], marked: Mapping[str, Trial], axes_of: Mapping[str, str], path: Path
) -> None:
    """Every trial as a dot, the front as a line.

    Args:
        trials: that were tried; failed ones are left out.
        front: of them.
        marked: by the words that stand beside them.
        axes_of: the words for two results, the one upwards first.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    (up, up_words), (right, right_words) = axes_of.items()
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    sound = [trial for trial in trials if not trial.error]
    axes.scatter([t.results[right] for t in sound], [t.results[up] for t in sound], s=10, color="0.7", label="trials")
    line = sorted(front, key=lambda trial: trial.results[right])
    axes.step(
        [t.results[right] for t in line], [t.results[up] for t in line], where="post", marker="o", ms=4, label="front"
    )
    for words, trial in marked.items():
        axes.scatter(trial.results[right], trial.results[up], s=70, marker="D", label=words, zorder=3)
    axes.set_xlabel(right_words)
    axes.set_ylabel(up_words)
    # The worst trials would squeeze the front into a corner.
    lowest = min(trial.results[up] for trial in [*front, *marked.values()])
    highest = max(trial.results[up] for trial in front)
    room = max(highest - lowest, 1e-3)
    axes.set_ylim(lowest - 0.3 * room, highest + 0.1 * room)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
