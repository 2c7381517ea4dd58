"""What came of a search over focus labels: which branch, whether it is better, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from retinafocus.training.focus_heads import Head
from tune.label_trials import AS_TRAINED, REPEAT, TRIAL, finalist_file, head_of
from tune.sweep import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRESENT = 0
"""Number of the trial of the present choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Which branch is best, and how sure that is."""

    trial: int
    chosen: Head
    gain: float
    """Mean AP over budgets on the photos that had no part in ranking, chosen less present: means over the repeats."""
    sure: bool
    """Whether each repeat of the chosen one is ahead of each of the present one there."""
    words: str


def verdict(finals: Sequence[Trial], present: Head) -> Verdict:
    """Choose by the photos that ranked the trials, and judge the choice by the others.

    Args:
        finals: repeats of the present choice, of the best trials, and perhaps the branch that the weights came with.
        present: the present choice.
    """
    again = by_trial([trial for trial in finals if trial.settings[TRIAL] != AS_TRAINED])
    best = max(again, key=lambda number: (_mean(again[number], "ranked_mean_ap"), -number))
    chosen = head_of(again[best][0].settings, present)
    ours, theirs = ([trial.results["mean_ap"] for trial in again[number]] for number in (best, PRESENT))
    gain, sure = fmean(ours) - fmean(theirs), min(ours) > max(theirs)
    name = f"{chosen.name} (trial {best})"
    if best == PRESENT:
        words = f"The present choice, {chosen.name}: no other ranked higher when trained again."
    elif sure:
        words = (
            f"{name}: {100 * gain:+.2f} points of mean AP on the other photos, ahead in each of {len(ours)} repeats."
        )
    elif max(ours) < min(theirs):
        words = (
            f"{name}: {100 * gain:+.2f} points of mean AP on the other photos, behind the present choice in each of "
            f"{len(ours)} repeats; keep {present.name}."
        )
    else:
        words = (
            f"{name}: {100 * gain:+.2f} points of mean AP on the other photos, no further from the present choice than "
            "its repeats are from each other."
        )
    return Verdict(trial=best, chosen=chosen, gain=gain, sure=sure, words=words)


def by_trial(finals: Sequence[Trial]) -> dict[int, list[Trial]]:
    """The repeats of each trial, by its number."""
    found: dict[int, list[Trial]] = {}
    for trial in finals:
        found.setdefault(trial.settings[TRIAL], []).append(trial)
    return found


def summary(tried: Sequence[Trial], finals: Sequence[Trial], found: Verdict, present: Head) -> list[str]:
    """Lines for a person."""
    left = sum(not trial.error and trial.results["trained"] < 1 for trial in tried)
    failed = sum(bool(trial.error) for trial in tried)
    return [
        f"trials   {len(tried)}, {left} left early, {failed} failed",
        f"checked  with the cascade itself; every level whole: AP {_interval(finals[0].results, 'whole_')}",
        "         branch               mean AP ranked   mean AP checked [repeats]   work for that AP less 2 points",
        *(_row(number, repeats, present) for number, repeats in by_trial(finals).items()),
        f"chosen   {found.words}",
    ]


def points_of(finals: Sequence[Trial], folder: Path, present: Head) -> list[dict[str, Any]]:
    """A row for each point of each finalist's curve on the photos that had no part in ranking."""
    rows = []
    for trial in finals:
        number = trial.settings[TRIAL]
        known = {"trial": number, "repeat": trial.settings[REPEAT], "branch": _name(number, trial, present)}
        points = pq.read_table(finalist_file(folder, trial.settings, "parquet")).to_pylist()
        rows += [known | point for point in points]
    return rows


def write_plot(tried: Sequence[Trial], points: Sequence[Mapping[str, Any]], present: Head, path: Path) -> None:
    """All trials by what they mark and read; the curves of the finalists."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_trials(left, tried, present)
    _draw_curves(right, points)
    figure.savefig(path, dpi=120)


def _draw_trials(axes: Axes, tried: Sequence[Trial], present: Head) -> None:
    sound = [trial for trial in tried if not trial.error]
    for feature in sorted({head_of(trial.settings, present).feature for trial in sound}):
        own = [trial for trial in sound if head_of(trial.settings, present).feature == feature]
        sizes = [12 + 48 * trial.results["trained"] for trial in own]
        sides = [head_of(trial.settings, present).labels.small for trial in own]
        axes.scatter(sides, [100 * trial.results["mean_ap"] for trial in own], s=sizes, alpha=0.7, label=feature)
    for trial in sound:
        if trial.number == PRESENT:
            ends = present.labels.small, 100 * trial.results["mean_ap"]
            axes.annotate("present", ends, xytext=(6, 6), textcoords="offset points")
    _logarithmic(axes)
    axes.set_xlabel("b, network-input px; large dots had the whole training")
    axes.set_ylabel("mean AP over all budgets, %, photos that rank")
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_curves(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(str(point["branch"]) for point in points))
    for colour, name in enumerate(names):
        own = [point for point in points if point["branch"] == name]
        for repeat in sorted({point["repeat"] for point in own}):
            line = sorted((point["cost"], 100 * point["ap"]) for point in own if point["repeat"] == repeat)
            label = name if repeat == own[0]["repeat"] else None
            axes.plot(*zip(*line, strict=True), marker="o", ms=3, color=f"C{colour}", label=label, alpha=0.8)
    _logarithmic(axes)
    axes.set_xlabel("work, as a share of looking everywhere")
    axes.set_ylabel("AP of the cascade, %, the other photos")
    axes.legend()
    axes.grid(alpha=0.3)


def _logarithmic(axes: Axes) -> None:
    """With numbers as people write them, far enough from each other to be read."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")


def _row(number: int, repeats: Sequence[Trial], present: Head) -> str:
    checked = [100 * trial.results["mean_ap"] for trial in repeats]
    told = f"{fmean(checked):.2f} [{min(checked):.2f}, {max(checked):.2f}]"
    return (
        f"         {_name(number, repeats[0], present):<20} {100 * _mean(repeats, 'ranked_mean_ap'):>14.2f}   "
        f"{told:>25}   {100 * _mean(repeats, 'cost'):>28.0f} %"
    )


def _name(number: int, trial: Trial, present: Head) -> str:
    if number == AS_TRAINED:
        return "weights' own"
    name = head_of(trial.settings, present).name
    return f"{name}, present" if number == PRESENT else name


def _mean(trials: Sequence[Trial], name: str) -> float:
    return fmean(trial.results[name] for trial in trials)


def _interval(results: Mapping[str, float], start: str) -> str:
    ap, low, high = (100 * results[start + name] for name in ("ap", "ap_low", "ap_high"))
    return f"{ap:.2f} [{low:.1f}, {high:.1f}], {results[start + 'mpx']:.3f} Mpx a photo"
