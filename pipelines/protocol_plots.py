"""Pictures of an evaluation: precision over recall in the WIDER FACE protocol, and the curve of landmark errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.label_plots import BAR_COLOUR, MARK_COLOUR
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.landmark_error import FAILURE_LIMIT, LandmarkResult
from retinafocus.evaluation.wider_protocol import ProtocolResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart also by those who see few colours, and in print, through the line.
LOOKS = (
    (BAR_COLOUR, "-"), (MARK_COLOUR, "--"), ("#5a8f3c", "-."), ("#8a4f9e", ":"), ("#b8860b", "-"), ("#3f3f3f", "--"),
    ("#2b9a9a", "-."), ("#c23b7a", ":"),
)  # fmt: skip


def write_precision_recall(results: Mapping[str, Mapping[str, ProtocolResult]], path: Path) -> None:
    """Draw the curves of one detector in one field, of several in one field for each setting.

    Args:
        results: by the detector's name, what `evaluate_protocol` gave; 1 to 8 detectors, all with the same settings.
        path: the PNG; its folder must be there.

    Raises:
        SettingsError: more detectors than can be told apart, none, or different settings.
        RunError: the file cannot be written.
    """
    _check_count(len(results))
    settings = [tuple(by_setting) for by_setting in results.values()]
    if len(set(settings)) > 1 or not settings[0]:
        raise SettingsError(f"the results to draw have the settings {settings}; evaluate all with the same ones")
    if len(results) == 1:
        ((name, by_setting),) = results.items()
        fields = {name: {f"{setting}, {one.num_faces:,} faces": one for setting, one in by_setting.items()}}
    else:
        fields = {
            f"{setting}, {next(iter(results.values()))[setting].num_faces:,} faces": {
                name: by_setting[setting] for name, by_setting in results.items()
            }
            for setting in settings[0]
        }
    figure = _figure(len(fields))
    for number, (title, curves) in enumerate(fields.items(), start=1):
        axes = figure.add_subplot(1, len(fields), number)
        _precision_recall(axes, curves)
        axes.set_title(title)
    _save(figure, path)


def write_landmark_errors(results: Mapping[str, LandmarkResult], path: Path) -> None:
    """Draw which share of the faces has landmarks up to each error, one curve for each of 1 to 8 detectors.

    Args:
        results: by the detector's name; may be of no face.
        path: the PNG; its folder must be there.

    Raises:
        SettingsError: more detectors than can be told apart, or none.
        RunError: the file cannot be written.
    """
    _check_count(len(results))
    figure = _figure(1)
    axes = figure.add_subplot()
    for (name, result), (colour, line) in zip(results.items(), LOOKS, strict=False):
        label = f"{name}: NME {_percent(result.nme, 2)}, failures {_percent(result.failure_rate)}, "
        label += f"area {_percent(result.area)}, {result.num_matched:,} of {result.num_labelled:,} faces"
        axes.plot(100 * result.limits, 100 * result.shares, color=colour, linestyle=line, label=label)
    axes.axvline(100 * FAILURE_LIMIT, color="grey", linewidth=0.8)
    axes.set(
        title="Landmarks of the faces that were found",
        xlabel="mean distance of the points, % of sqrt(width * height) of the face",
        ylabel="% of the faces up to this error",
        xlim=(0, 200 * FAILURE_LIMIT),
        ylim=(0, 102),
    )
    _finish(axes)
    _save(figure, path)


def _check_count(count: int) -> None:
    if not 1 <= count <= len(LOOKS):
        raise SettingsError(f"there are {count} results to draw; choose 1 to {len(LOOKS)} of them")


def _precision_recall(axes: Axes, curves: Mapping[str, ProtocolResult]) -> None:
    """One curve for each result, by its name; points where nothing is counted yet are no part of it."""
    for (name, result), (colour, line) in zip(curves.items(), LOOKS, strict=False):
        there = result.recall > 0
        label = f"{name}: AP {_percent(result.ap)}"
        axes.plot(result.recall[there], result.precision[there], color=colour, linestyle=line, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    _finish(axes)


def _figure(fields: int) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: it keeps state and looks for a screen

    return Figure(figsize=(9, 6) if fields == 1 else (5 * fields, 5), dpi=100, layout="constrained")


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left" if axes.get_xlabel() == "recall" else "lower right", frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        raise RunError(f"{path}: the plot cannot be written ({error.strerror}); choose another folder") from error


def _percent(share: float, digits: int = 1) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:.{digits}f} %"
