"""The picture of a search of trainings: AP against steps, a line for each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.train_log import Row
from tune.sweep import Trial


def write_curves(
    trials: Sequence[Trial], best: Trial, rows: Mapping[int, Sequence[Row]], steps: int, path: Path
) -> None:
    """Draw what each trial reached, and where it was left.

    Args:
        trials: that are done; those without metrics have no line.
        best: of them; marked, as is trial 0 with the base settings.
        rows: metrics of each trial by its number.
        steps: of a whole training.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for trial in trials:
        points = [(row["step"], 100 * row["ap"]) for row in rows[trial.number] if row.get("ap") is not None]
        points = [point for point in points if point[0] <= trial.results.get("step", 0)]
        if not points:
            continue
        marked = {best.number: ("C0", 2.5, "best"), 0: ("C1", 2.0, "base settings")}
        colour, width, words = marked.get(trial.number, ("0.65", 1.0, ""))
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, lw=width, label=words or None, zorder=3 if words else 2)
        axes.plot(x[-1:], y[-1:], color=colour, marker="x" if trial.left_early else "o", ms=5, zorder=4)
    axes.set_xlim(0, 1.02 * steps)
    axes.set_xlabel("steps (x: left early)")
    axes.set_ylabel("AP on the evaluation photos, %")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
