"""Pictures of how labelled faces spread: their sizes, their shapes, and how many there are in a photo."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.checks import face_shapes
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.average_precision import SIZE_BUCKETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_COLOUR, MARK_COLOUR = "#3b6ea5", "#c2571a"


def require_matplotlib() -> None:
    """Refuse plots before any work is done.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError("plots: they need matplotlib: pip install 'retinafocus[plots]'")


def write_plots(photos: Sequence[LabelledPhoto], folder: Path) -> list[Path]:
    """Write sizes.png, ratios.png and density.png.

    Args:
        photos: any number, also without faces.
        folder: made if it is not there.

    Returns:
        The files.

    Raises:
        RunError: the folder cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    sizes, ratios = face_shapes(photos)
    counts = np.array([len(photo.boxes) for photo in photos], np.float32)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw, values in (
            ("sizes", _sizes, sizes),
            ("ratios", _ratios, ratios),
            ("density", _density, counts),
        ):
            figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes, values)
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1])
    except OSError as error:
        raise RunError(f"{folder}: the plots cannot be written ({error.strerror}); choose another folder") from error
    return paths


def _sizes(axes: Axes, sizes: NDArray[np.float32]) -> None:
    top = max(9, int(np.ceil(np.log2(sizes.max(initial=1)))))
    axes.hist(sizes, bins=list(2.0 ** np.arange(0, top + 0.25, 0.25)), color=BAR_COLOUR)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    for low, _ in SIZE_BUCKETS[1:]:
        _mark(axes, low, f"{low:g} px")
    axes.set(title=f"Sizes of {len(sizes):,} faces", xlabel="sqrt(width * height), px of the photo", ylabel="faces")


def _ratios(axes: Axes, ratios: NDArray[np.float32]) -> None:
    shown = np.clip(ratios, 0.25, 4)  # what lies beyond is shown in the last bars
    axes.hist(shown, bins=list(2.0 ** np.linspace(-2, 2, 65)), color=BAR_COLOUR)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if len(ratios):
        _mark(axes, float(np.median(ratios)), f"median {np.median(ratios):.2f}")
    axes.set(title=f"Shapes of {len(ratios):,} faces", xlabel="height / width", ylabel="faces")


def _density(axes: Axes, counts: NDArray[np.float32]) -> None:
    edges = [0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513]
    edges = [edge for edge in edges if edge <= counts.max(initial=0)] or [0]
    ends = [*(edge - 1 for edge in edges[1:]), None]
    heights = [int(((counts >= low) & (counts <= (np.inf if end is None else end))).sum())
               for low, end in zip(edges, ends, strict=True)]  # fmt: skip
    labels = [f"{low}" if low == end else f"{low}+" if end is None else f"{low}-{end}"
              for low, end in zip(edges, ends, strict=True)]  # fmt: skip
    bars = axes.bar(labels, heights, color=BAR_COLOUR, width=0.9)
    axes.bar_label(bars, fmt="{:,.0f}", padding=2)
    axes.set(title=f"Faces in each of {len(counts):,} photos", xlabel="faces in the photo", ylabel="photos")


def _mark(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, color=MARK_COLOUR, linewidth=1)
    axes.text(x, 1.0, f" {text}", color=MARK_COLOUR, transform=axes.get_xaxis_transform(), va="top")
