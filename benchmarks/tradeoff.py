"""What the focus threshold and the smallest chip trade: average precision against pixels and against core-seconds.

    python -m benchmarks.tradeoff FACES --backgrounds FACES MORE -o OUT [--thresholds 0.1 ...] [--min-chips 48 ...]

On the pictures of `benchmarks.mosaics`, every threshold (half of it on the map of the coarsest level) with every
smallest chip, beside the exhaustive pyramid and the whole pass. Writes `tradeoff.png`, a column of plots for
each density, and `tradeoff.parquet`, a row for each point with its settings, and prints the same as a table. How times
and quality are measured: see `benchmarks.cascade`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cascade import add_settings, floor_of, machine, mean_of, measured, quality, settings_of
from benchmarks.mosaics import add_arguments, describe, made_sets
from benchmarks.ways import DECODERS, EVALUATION_SCORE, Settings, Way, library_way, make_way
from pipelines.label_plots import require_matplotlib
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.focus.chips import ChipConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCES = {"exhaustive": "s", "whole": "D"}
"""Ways to compare with, and their marks in the plots."""

COLUMNS = {
    "set": pa.string(),
    "way": pa.string(),
    "threshold": pa.float64(),
    "min_chip": pa.float64(),
    "min_face": pa.float64(),
    "engine": pa.string(),
    "photos": pa.int64(),
    "network_pixels": pa.float64(),
    "chip_share": pa.float64(),
    "core_seconds": pa.float64(),
    "of_a_decode": pa.float64(),
    "ap": pa.float64(),
    "recall": pa.float64(),
}
"""One row for each point; pixels, shares and times are means over the photos, AP and recall 0..1 for faces from
min_face px."""

Point = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_settings(parser)
    parser.add_argument("--min-face", type=float, default=20.0, help="default: 20")
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    parser.add_argument("--min-chips", nargs="+", type=float, default=[32.0, 64.0, 96.0, 128.0])
    options = parser.parse_args()
    require_matplotlib()
    sets = made_sets(options)
    print(f"{machine()}\n\n{describe(sets)}", flush=True)
    points = [point for name, photos in sets.items() for point in _points(name, photos, options)]
    table = pa.Table.from_pylist(points, schema=pa.schema(COLUMNS))
    pq.write_table(table, options.output / "tradeoff.parquet")
    _plot(points, options.output / "tradeoff.png")
    print(_table(points))


def _ways(settings: Settings, options: argparse.Namespace) -> dict[str, tuple[Way, float | None, float | None]]:
    """By name: the way, its threshold and its smallest chip."""
    ways: dict[str, tuple[Way, float | None, float | None]] = {
        name: (make_way(name, settings), None, None) for name in REFERENCES
    }
    for threshold, side in itertools.product(options.thresholds, options.min_chips):
        chips = (ChipConfig(threshold=threshold / 2, min_chip=side), ChipConfig(threshold=threshold, min_chip=side))
        cascade = CascadeConfig(mode="focus", chips=chips)
        ways[f"focus {threshold:g} {side:g}"] = (library_way(settings, cascade), threshold, side)
    return ways


def _points(name: str, photos: Sequence[LabelledPhoto], options: argparse.Namespace) -> list[Point]:
    settings = settings_of(options, options.min_face)
    ways = _ways(settings, options)
    timed = {decoder: make_way(decoder, settings) for decoder in DECODERS} | {key: way[0] for key, way in ways.items()}
    rows = measured(timed, photos, options)
    floor = mean_of(rows, floor_of(rows), "core_seconds")
    unsure = _ways(dataclasses.replace(settings, score_threshold=EVALUATION_SCORE), options)
    points = []
    for key, (way, threshold, side) in unsure.items():
        found = [way(photo.path.read_bytes()).faces for photo in photos]
        scored = quality(photos, found, (options.min_face, math.inf))
        points.append(
            {
                "set": name,
                "way": key.split()[0],
                "threshold": threshold,
                "min_chip": side,
                "min_face": options.min_face,
                "engine": options.engine,
                "photos": len(photos),
                "network_pixels": mean_of(rows, key, "pixels"),
                "chip_share": mean_of(rows, key, "chip_share"),
                "core_seconds": mean_of(rows, key, "core_seconds"),
                "of_a_decode": mean_of(rows, key, "core_seconds") / floor,
                "ap": scored.ap,
                "recall": scored.recall,
            }
        )
    return points


def _table(points: Sequence[Point]) -> str:
    lines = [
        "| set | way | threshold | smallest chip | network Mpx | in chips | core-s | of a decode | AP | recall |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        cells = [
            point["set"],
            point["way"],
            *("-" if point[name] is None else f"{point[name]:g}" for name in ("threshold", "min_chip")),
            f"{point['network_pixels'] / 1e6:.2f}",
            f"{100 * point['chip_share']:.0f} %",
            f"{point['core_seconds']:.3f}",
            f"{point['of_a_decode']:.1f}",
            f"{100 * point['ap']:.1f}",
            f"{100 * point['recall']:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plot(points: Sequence[Point], path: Path) -> None:
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    sets = list(dict.fromkeys(point["set"] for point in points))
    figure = Figure(figsize=(5 * len(sets), 8), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(sets), squeeze=False)
    for column, name in enumerate(sets):
        chosen = [point for point in points if point["set"] == name]
        _curves(axes[0, column], chosen, "network_pixels", 1e-6)
        _curves(axes[1, column], chosen, "core_seconds", 1.0)
        axes[0, column].set(title=name, xlabel="pixels through the network per photo, Mpx")
        axes[1, column].set(xlabel="core-seconds per photo")
    for row in axes:
        row[0].set_ylabel(f"AP at IoU 0.5, faces from {points[0]['min_face']:g} px, %")
    axes[0, 0].legend(fontsize=8, title="numbers: focus threshold", title_fontsize=8)
    figure.savefig(path)


def _curves(axes: Axes, points: Sequence[Point], column: str, scale: float) -> None:
    """A line for each smallest chip, its points the thresholds; the references as single marks."""
    sides = sorted({point["min_chip"] for point in points if point["min_chip"] is not None})
    for number, side in enumerate(sides):
        line = sorted((point for point in points if point["min_chip"] == side), key=lambda point: point["threshold"])
        values = [point[column] * scale for point in line], [100 * point["ap"] for point in line]
        axes.plot(*values, marker="o", markersize=4, label=f"smallest chip {side:g} px")
        if number == 0:
            for x, y, point in zip(*values, line, strict=True):
                axes.annotate(f"{point['threshold']:g}", (x, y), (3, -9), textcoords="offset points", fontsize=7)
    for name, mark in REFERENCES.items():
        (point,) = (point for point in points if point["way"] == name)
        axes.plot(point[column] * scale, 100 * point["ap"], mark, color="black", markersize=6, label=name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
