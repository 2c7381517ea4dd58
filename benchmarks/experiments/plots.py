"""Plots of the experiments: points and lines of tables, no pixel of a photo."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.experiments.tables import Row, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = (4.6, 3.6)
"""Inches, width and height."""

COLOURS = 64
"""Of the palette of a PNG."""

MARKS = "osD^vPX*<>ph"


def write_panels(path: Path, panels: Sequence[Sequence[Callable[[Axes], None]]]) -> None:
    """Draw rows of panels, all rows as long as the first, and write them as PNG."""
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    height, width = len(panels), len(panels[0])
    figure = Figure(figsize=(PANEL[0] * width, PANEL[1] * height), dpi=80, layout="constrained")
    axes = figure.subplots(height, width, squeeze=False)
    for line, drawn in zip(axes, panels, strict=True):
        for one, draw in zip(line, drawn, strict=True):
            draw(one)
            one.spines[["top", "right"]].set_visible(False)
            one.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    # A palette is a third of the size, and plots have few colours.
    Image.open(picture).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def draw_lines(
    axes: Axes,
    lines: Mapping[str, Rows],
    x: str,
    y: str,
    *,
    titles: tuple[str, str, str],
    scale: float = 1.0,
    apart: Collection[str] = (),
) -> None:
    """A line for each name through its rows in the order of x; one row is a single black mark.

    Args:
        axes: to draw on.
        lines: the rows by name.
        x, y: columns; y is a share and shown in percent.
        titles: of the panel, the x and the y axis.
        scale: of the x values.
        apart: names whose rows are marks without a line.
    """
    for number, (name, rows) in enumerate(lines.items()):
        points = sorted((row[x] * scale, 100 * row[y]) for row in rows)
        mark = MARKS[number % len(MARKS)]
        if len(points) == 1:
            axes.plot(*points[0], mark, color="black", markersize=7, label=name)
        else:
            axes.plot(
                *zip(*points, strict=True),
                marker=mark,
                markersize=4,
                linewidth=1.2,
                label=name,
                linestyle="none" if name in apart else "-",
            )
    axes.set(title=titles[0], xlabel=titles[1], ylabel=titles[2])
    axes.legend(fontsize=7)


def by(rows: Sequence[Row], column: str) -> dict[str, Rows]:
    """The rows by what they have in a column, in the order of the first of each."""
    return {value: [row for row in rows if row[column] == value] for value in dict.fromkeys(r[column] for r in rows)}
