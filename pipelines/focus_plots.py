"""Pictures of a Focus Pixel study: what is found at each size, with which scores, and what is found wrongly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.label_plots import BAR_COLOUR, MARK_COLOUR
from retinafocus.evaluation.focus_limits import Recommendation
from retinafocus.evaluation.focus_study import (
    MIN_FACES,
    RULE_SCORE,
    SCORES,
    SIZE_EDGES,
    SizeBin,
    false_positives_by_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From the lowest score to the highest, pale to dark.
SCORE_COLOURS = ("#b9cde3", "#7fa6cc", BAR_COLOUR, "#16324f")

# Where the axis of sizes ends; the first bin starts at 0 and the last one has no end, which no logarithm shows.
SHOWN = (1.0, 400.0)


def write_plots(
    faces: pa.Table,
    false_positives: pa.Table,
    bins: Sequence[SizeBin],
    answer: Recommendation,
    network_pixels: int,
    folder: Path,
) -> list[Path]:
    """Write recall.png, scores.png and false_positives.png.

    Args:
        faces: rows of the study; any number.
        false_positives: the same.
        bins: of the faces.
        answer: its a, b and c are marked.
        network_pixels: how many the network was shown in all.
        folder: must be there.

    Returns:
        The files.

    Raises:
        OSError: the folder cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    figures = []
    for height in (6.0, 7.0, 4.5):
        figures.append(Figure(figsize=(10, height), dpi=100, layout="constrained"))
    _recall(figures[0], bins, answer)
    _scores(figures[1], faces)
    _false_positives(figures[2].add_subplot(), false_positives_by_size(false_positives), network_pixels)
    paths = [folder / f"{name}.png" for name in ("recall", "scores", "false_positives")]
    for figure, path in zip(figures, paths, strict=True):
        figure.savefig(path)
    return paths


def _recall(figure: Figure, bins: Sequence[SizeBin], answer: Recommendation) -> None:
    """Recall by size for each score, and below it what one zoom adds."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    told = [one for one in bins if one.faces]
    middles = [_middle(one.low, one.high) for one in told]
    for number, (floor, colour) in enumerate(zip(SCORES, SCORE_COLOURS, strict=True)):
        recalls = [one.recalls[number] for one in told]
        above.plot(middles, recalls, color=colour, marker="o", markersize=4, label=f"score from {floor:g}")
    interval = ([one.recall_low for one in told], [one.recall_high for one in told])
    above.fill_between(middles, *interval, color=SCORE_COLOURS[SCORES.index(RULE_SCORE)], alpha=0.2, linewidth=0)
    above.set(title=_title(answer), ylabel="share of faces found", ylim=(0, 1.12), yticks=np.arange(0, 1.1, 0.2))
    above.legend(loc="lower right", frameon=False)
    paired = [one for one in bins if one.pairs >= MIN_FACES]
    gains = [100 * one.gain for one in paired]
    below.plot([_middle(one.low, one.high) for one in paired], gains, color=BAR_COLOUR, marker="o", markersize=4)
    below.axhline(0, color="grey", linewidth=0.8)
    if not paired:
        below.set_yticks([])
        below.text(0.5, 0.6, f"no size has {MIN_FACES} faces that were also looked at one zoom larger",
                   ha="center", transform=below.transAxes)  # fmt: skip
    below.set(ylabel=f"points gained by\na zoom of {answer.zoom:g}", xlabel="sqrt(width * height), network px")
    for axes in (above, below):
        _size_axis(axes)
        # c stands lower than b: the two may be the same.
        for letter, limit, top in (("a", answer.smallest, 1), ("b", answer.small, 1), ("c", answer.large, 0.94)):
            if limit.pixels:
                axes.axvline(limit.pixels, color=MARK_COLOUR, linewidth=1)
                if axes is above:
                    axes.text(limit.pixels, top, f" {letter} {limit.pixels:g}", color=MARK_COLOUR, va="top",
                              transform=axes.get_xaxis_transform())  # fmt: skip


def _title(answer: Recommendation) -> str:
    best = "unknown" if answer.plateau is None else f"{100 * answer.plateau:.1f} %"
    return f"What one look finds; band: 95 % interval at {RULE_SCORE:g}; plateau {best}"


def _size_axis(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xscale("log", base=2)
    axes.set_xlim(*SHOWN)
    edges = [1, 2, *(edge for edge in SIZE_EDGES if 0 < edge < SHOWN[1])]
    axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _middle(low: float, high: float) -> float:
    return math.sqrt(max(low, SHOWN[0]) * min(high, SHOWN[1]))


def _scores(figure: Figure, faces: pa.Table) -> None:
    """One histogram for each bin: how sure the detector is of the faces of that size."""
    size = np.asarray(faces.column("q_net").to_numpy())
    score = np.asarray(faces.column("score").to_numpy())
    count = len(SIZE_EDGES) - 1
    grid: NDArray[np.object_] = figure.subplots(3, -(-count // 3), sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.spines[["top", "right"]].set_visible(False)
        if number >= count:
            axes.axis("off")
            continue
        low, high = SIZE_EDGES[number : number + 2]
        inside = score[(size >= low) & (size < high)]
        missed, found = inside[inside == 0], inside[inside > 0]
        weight = 100 / max(1, len(inside))
        bins = list(np.linspace(0, 1, 11))
        axes.hist(found, bins=bins, weights=np.full(len(found), weight), color=BAR_COLOUR)
        axes.bar(-0.06, weight * len(missed), width=0.09, color=MARK_COLOUR)
        axes.set_title(f"{low:g}-{high:g} px" if math.isfinite(high) else f"from {low:g} px", fontsize=10)
        axes.text(0.5, 0.93, f"n {len(inside):,}", transform=axes.transAxes, ha="center", va="top", fontsize=8)
        axes.set(ylim=(0, 100), xticks=[0, 0.5, 1])
    figure.supxlabel("score of the detection that found the face; orange: not found")
    figure.supylabel("% of the faces of this size")


def _false_positives(axes: Axes, counts: NDArray[np.int64], network_pixels: int) -> None:
    """False detections for each million pixels looked at, by their size."""
    _size_axis(axes)
    places = np.array([_middle(low, high) for low, high in itertools.pairwise(SIZE_EDGES)])
    for number, (floor, colour) in enumerate(zip(SCORES, SCORE_COLOURS, strict=True)):
        rate = counts[:, number] / max(network_pixels / 1e6, 1e-9)
        there = rate > 0  # the axis has no zero
        axes.plot(places[there], rate[there], color=colour, marker="o", markersize=4, label=f"score from {floor:g}")
    if counts.any():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"{counts[:, 0].sum():,} detections that are no labelled face, in each range of sizes")
    axes.set(xlabel="sqrt(width * height) of the detection, network px", ylabel="for each million network px")
