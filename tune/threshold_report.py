"""What thresholds are worth: chosen ones beside the default ones, on the photos they were chosen on and on others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.evaluation.average_precision import SIZE_BUCKETS, range_name
from retinafocus.evaluation.curves import photo_draws
from retinafocus.evaluation.operating_points import (
    Goal,
    OperatingPoint,
    ScoreCurve,
    Share,
    f1_gain,
    measure,
    threshold_interval,
)
from tune.space import Settings
from tune.sweep import Trial
from tune.threshold_trials import NMS_IOU, RawSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOOTSTRAP = 1000

RATES = ("precision", "recall", "f1")
NAMES = ("precision", "recall", "F1")

COLOURS = {"precision": "#3b6ea5", "recall": "#c2571a", "f1": "#2e7d32"}


@dataclass(frozen=True, slots=True)
class Row:
    """One of the settings on one set of photos, for faces of one range of sizes."""

    photos: str
    settings: str
    size_range: tuple[float, float]
    nms_iou: float
    point: OperatingPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Settings beside each other."""

    goal: Goal
    settings: Mapping[str, Settings]
    """default and chosen."""
    rows: Sequence[Row]
    """All sizes first."""
    curves: Mapping[str, ScoreCurve]
    """With the chosen IoU of duplicates, by the name of the set of photos: chosen on, reported on."""
    num_photos: Mapping[str, int]
    best: tuple[float, float]
    """Between which scores the best threshold lies in 95 % of resamples of the photos it was chosen on."""
    gain: Share
    """Of F1, by the chosen settings on the photos reported on."""

    def row(self, photos: str, settings: str) -> Row:
        """Of all sizes."""
        return next(row for row in self.rows if (row.photos, row.settings) == (photos, settings))

    def point(self, photos: str, settings: str) -> str:
        """The same in words."""
        found = self.row(photos, settings).point
        return ", ".join(f"{name} {words}" for name, words in zip(NAMES, _words(found), strict=True))


def compare(
    chosen_on: RawSet, reported_on: RawSet, default: Settings, chosen: Settings, goal: Goal, *, seed: int
) -> Comparison:
    """Measure default and chosen settings on both sets of photos.

    Args:
        chosen_on: the photos that the settings were chosen on.
        reported_on: others.
        default: `post.nms_iou` and `score_threshold`.
        chosen: the same.
        goal: of the choice.
        seed: of the resamples.
    """
    settings = {"default": default, "chosen": chosen}
    sets = {"chosen on": chosen_on, "reported on": reported_on}
    draws = {name: photo_draws(len(each.photos), BOOTSTRAP, seed) for name, each in sets.items()}
    curves = {
        (photos, name): each.curve(values[NMS_IOU])
        for photos, each in sets.items()
        for name, values in settings.items()
    }
    before, after = ((curves["reported on", name], values["score_threshold"]) for name, values in settings.items())
    return Comparison(
        goal=goal,
        settings=settings,
        rows=[row for name, each in sets.items() for row in _rows(name, each, settings, draws[name])],
        curves={name: curves[name, "chosen"] for name in sets},
        num_photos={name: len(each.photos) for name, each in sets.items()},
        best=threshold_interval(curves["chosen on", "chosen"], goal, draws["chosen on"]),
        gain=f1_gain(before, after, draws["reported on"]),
    )


def write_report(output: Path, tried: Sequence[Trial], comparison: Comparison) -> str:
    """Write report.parquet, report.md and thresholds.png.

    Returns:
        A summary for a person.
    """
    pq.write_table(pa.Table.from_pylist([_record(row) for row in comparison.rows]), output / "report.parquet")
    (output / "report.md").write_text(_tables(comparison), encoding="utf-8")
    write_plot(comparison, output / "thresholds.png")
    default, chosen = comparison.settings["default"], comparison.settings["chosen"]
    failed = sum(bool(trial.error) for trial in tried)
    low, high = comparison.best
    best = "" if math.isnan(low) else f"; best in 95 % of resamples: scores from {low:.3f} to {high:.3f} on"
    lines = [
        f"photos   {_photos_words(comparison)}",
        f"trials   {len(tried) - failed:,}, {failed} failed; for the best {comparison.goal}",
        f"default  {_setting_words(default)}",
        f"chosen   {_setting_words(chosen)}{best}",
        *_summary(comparison),
        f"gain     F1 {_signed(comparison.gain)} points by the chosen settings, on the photos reported on",
        f"files    {output}/settings.toml (for `retinafocus detect --config`), report.md, report.parquet, "
        "thresholds.png, trials.parquet",
    ]
    return "\n".join(lines)


def write_plot(comparison: Comparison, path: Path) -> None:
    """Precision, recall and F1 over the threshold, for both sets of photos, with both settings marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (photos, curve) in zip(figure.subplots(1, 2, sharey=True), comparison.curves.items(), strict=True):
        _draw(axes, photos, curve, comparison)
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, photos: str, curve: ScoreCurve, comparison: Comparison) -> None:
    rates = curve.rates()
    # From one score down to the next lower one the same faces are shown.
    for name, words in zip(RATES, NAMES, strict=True):
        axes.step(curve.scores, getattr(rates, name), where="post", color=COLOURS[name], label=words)
    for settings, marker in (("default", "o"), ("chosen", "D")):
        row = comparison.row(photos, settings)
        at = row.point.score_threshold
        axes.axvline(at, color="0.6", linestyle=":" if settings == "default" else "-", zorder=0)
        for name in RATES:
            axes.scatter(at, getattr(row.point, name).value, marker=marker, color=COLOURS[name], s=45, zorder=3)
        axes.scatter(
            [], [], marker=marker, color="0.4", label=f"{settings}: {_setting_words(comparison.settings[settings])}"
        )
    axes.set_title(f"{comparison.num_photos[photos]:,} photos {photos}")
    axes.set_xlabel("faces from this score on")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")


def _rows(photos: str, part: RawSet, settings: Mapping[str, Settings], draws: NDArray[np.int32]) -> Iterator[Row]:
    """Of all sizes that are wanted, then of each bucket."""
    matches = {name: part.matches(values[NMS_IOU]) for name, values in settings.items()}
    everything = (part.min_face, math.inf)
    buckets = [(max(low, part.min_face), high) for low, high in SIZE_BUCKETS if high > part.min_face]
    for size_range in dict.fromkeys((everything, *buckets)):  # the last bucket may be everything
        for name, values in settings.items():
            curve = ScoreCurve.of(matches[name], size_range)
            yield Row(photos, name, size_range, values[NMS_IOU], measure(curve, values["score_threshold"], draws))


def _record(row: Row) -> dict[str, Any]:
    point, (low, high) = row.point, row.size_range
    record: dict[str, Any] = {"photos": row.photos, "settings": row.settings, "size_low": low, "size_high": high}
    record |= {"nms_iou": row.nms_iou, "score_threshold": point.score_threshold}
    record |= {"faces": point.num_faces, "found": point.found, "false": point.false}
    for name in RATES:
        share: Share = getattr(point, name)
        record |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    return record


def _tables(comparison: Comparison) -> str:
    """Markdown: a table for each set of photos."""
    lines = [f"Thresholds for the best {comparison.goal}; rates in percent with their 95 % intervals over photos.", ""]
    lines += [f"* {name}: {_setting_words(values)}" for name, values in comparison.settings.items()]
    for photos, count in comparison.num_photos.items():
        lines += ["", f"{count:,} photos {photos}:", ""]
        lines += ["| face size | settings | faces | found | false | precision | recall | F1 |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
        for row in comparison.rows:
            if row.photos == photos:
                point = row.point
                counts = (f"{point.num_faces:,}", f"{point.found:,}", f"{point.false:,}")
                lines.append(f"| {' | '.join([range_name(row.size_range), row.settings, *counts, *_words(point)])} |")
    return "\n".join(lines) + "\n"


def _summary(comparison: Comparison) -> Iterator[str]:
    """A line for each set of photos and each of the settings."""
    yield f"         {'':<20} {'precision [95 %]':>20} {'recall [95 %]':>20} {'F1 [95 %]':>20}"
    for photos in comparison.num_photos:
        for name in comparison.settings:
            words = _words(comparison.row(photos, name).point)
            yield f"         {photos + ': ' + name:<20} " + " ".join(f"{each:>20}" for each in words)


def _photos_words(comparison: Comparison) -> str:
    words = []
    for photos, count in comparison.num_photos.items():
        row = comparison.row(photos, "chosen")
        words.append(f"{photos} {count:,} with {row.point.num_faces:,} faces {range_name(row.size_range)}")
    return ", ".join(words)


def _setting_words(settings: Settings) -> str:
    # The digits of float32: a threshold just below 1 is not 1.
    return f"scores from {settings['score_threshold']:.9g} on, NMS IoU {settings[NMS_IOU]:g}"


def _words(point: OperatingPoint) -> list[str]:
    return [_percent(getattr(point, name)) for name in RATES]


def _percent(share: Share) -> str:
    if math.isnan(share.value):
        return "-"
    interval = "" if math.isnan(share.low) else f" [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{100 * share.value:.1f}{interval}"


def _signed(share: Share) -> str:
    if math.isnan(share.value):
        return "-"
    interval = "" if math.isnan(share.low) else f" [{100 * share.low:+.1f}, {100 * share.high:+.1f}]"
    return f"{100 * share.value:+.1f}{interval}"
