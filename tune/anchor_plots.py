"""A picture of the faces the network sees, the anchors of each set, and how well they cover the faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.label_plots import BAR_COLOUR, MARK_COLOUR
from retinafocus.training.anchor_estimation import Floats, anchor_fits
from tune.anchor_sets import AnchorSet
from tune.anchor_words import POSITIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the sets to compare with, the estimated one stands out.
COLOURS = ("#7f7f7f", "#3b6ea5", "#6a51a3", "#2a7f62", "#b8860b", "#e29bb5", "#8c564b")

SHOWN = (2.0, 1024.0)
"""Sizes on the axis; what lies beyond is drawn at its ends."""

FEWEST = 20
"""Faces a half octave must have for its coverage to be drawn."""


def write_plot(sizes: Floats, sets: Sequence[AnchorSet], path: Path) -> None:
    """Write the picture.

    Args:
        sizes: (N,) sqrt(width * height) of the faces, network-input pixels.
        sets: the last one is the estimated one.
        path: of the PNG.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    figure = Figure(figsize=(11, 13), dpi=100, layout="constrained")
    faces, anchors, overlap, share = figure.subplots(4, 1, sharex=True, height_ratios=(2, 1.6, 2, 2))
    colours = [*(COLOURS[number % len(COLOURS)] for number in range(len(sets) - 1)), MARK_COLOUR]
    faces.hist(np.clip(sizes, *SHOWN), bins=list(2.0 ** np.arange(1, 10.25, 0.25)), color=BAR_COLOUR)
    faces.set(title=f"{len(sizes):,} faces as the network sees them", ylabel="faces")
    _draw_anchors(anchors, sets, colours)
    for each, colour in zip(sets, colours, strict=True):
        rows = [row for row in each.curve if row.form == "mean" and row.faces >= FEWEST]
        middles = [float(np.sqrt(row.low * row.high)) for row in rows]
        width = 2.5 if each is sets[-1] else 1.2
        for axes, values in (
            (overlap, [row.mean_overlap for row in rows]),
            (share, [100 * row.over_035 for row in rows]),
        ):
            axes.plot(middles, values, color=colour, linewidth=width, marker="o", markersize=3, label=each.name)
    overlap.set(title="Best IoU with an anchor, mean over places of the face", ylabel="mean IoU", ylim=(0, 1))
    share.set(title=f"Faces with an IoU above {POSITIVE:g}, over places of the face", ylabel="%", ylim=(0, 104))
    overlap.legend(loc="lower center", frameon=False, ncols=2)
    for axes in (faces, anchors, overlap, share):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    share.set_xscale("log", base=2)
    share.set(xlim=SHOWN, xlabel="sqrt(width * height), network-input px")
    share.xaxis.set_major_formatter("{x:g}")
    figure.savefig(path)


def _draw_anchors(axes: Axes, sets: Sequence[AnchorSet], colours: Sequence[str]) -> None:
    """A row of dots for each set, hollow where half a stride off is too far."""
    for row, (each, colour) in enumerate(zip(reversed(sets), reversed(colours), strict=True)):
        for fit in anchor_fits(each.anchors):
            filled = colour if fit.worst_overlap >= POSITIVE else "white"
            axes.plot(fit.size, row, marker="o", markersize=7, markeredgecolor=colour, markerfacecolor=filled)
    axes.set_yticks(range(len(sets)), [each.name for each in reversed(sets)])
    axes.set(
        title=f"Anchors; hollow: an IoU below {POSITIVE:g} with a face of the same size half a stride off",
        ylim=(-0.6, len(sets) - 0.4),
    )
