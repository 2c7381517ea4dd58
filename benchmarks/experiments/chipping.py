"""The part `chips`: threshold t, dilation d, smallest chip k and the levels, one at a time around the default."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.experiments import looking
from benchmarks.experiments.looking import Variant, chips, focus
from benchmarks.experiments.plots import by, draw_lines, write_panels
from benchmarks.experiments.study import Part, Study, Tables
from benchmarks.experiments.tables import Row, Rows, markdown, megapixels, percent, with_interval
from retinafocus.cascade import CascadeConfig
from retinafocus.focus.chips import ChipConfig
from retinafocus.weights import find_weights, load_model, save_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = ((0.02, 0.06), (0.035, 0.1), (0.07, 0.2), (0.1, 0.3), (0.15, 0.4), (0.25, 0.5), (0.4, 0.7))
"""On the map of the coarsest level that has one, and on that of the next finer."""

DILATIONS = (1, 3, 5)
MIN_CHIPS = (32.0, 64.0, 96.0, 256.0)

FROM_HALF = 6.0
"""Smallest face, network-input pixels, with which the map of half the size is the first one for faces from 20 px."""

DEFAULT, EXHAUSTIVE = "default", "exhaustive"


def rows(study: Study) -> dict[str, Rows]:
    """A row for each variant and set of pictures."""
    variants = chip_variants(study)
    made: Rows = []
    for number, (title, photos) in enumerate(study.sets.items()):
        seconds = looking.costs(variants, study.settings, photos[: study.timed], study.repeats)
        for variant in variants:
            found = looking.answers(variant, study.settings, photos)
            row: Row = {"set": title, "group": variant.group, "variant": variant.name}
            row |= looking.scored(found, photos, study.settings.min_face)
            # Memory hardly depends on the pictures, and a process for each variant takes long.
            peak, on_gpu = looking.peak_memory(variant, study.settings, photos) if number == 0 else (None, None)
            row |= {"core_seconds": seconds[variant.name], "timed": min(study.timed, len(photos))}
            made.append(row | {"peak_bytes": peak, "peak_gpu_bytes": on_gpu})
            study.tell(f"chips, {title}: {variant.name}: AP {percent(row['ap'])}, {megapixels(row)} Mpx")
    return {"chips": made}


def chip_variants(study: Study) -> list[Variant]:
    """The default first, the exhaustive run last."""
    first, second = study.thresholds
    half, weights = str(_from_half(study)), study.settings.weights
    default = ChipConfig()

    def variant(name: str, group: str, weights: str | None = weights, **changes: Any) -> Variant:
        return Variant(name=name, group=group, weights=weights, cascade=focus(**changes))

    return [
        variant(DEFAULT, DEFAULT),
        *(variant(f"t {a:g}, {b:g}", "t", chips=chips((a, b))) for a, b in THRESHOLDS if (a, b) != (first, second)),
        *(variant(f"d {side}", "d", chips=chips(dilation=side)) for side in DILATIONS if side != default.dilation),
        *(variant(f"k {side:g}", "k", chips=chips(min_chip=side)) for side in MIN_CHIPS if side != default.min_chip),
        variant("one map, at 1/4 (zoom 4)", "levels", zoom=4),
        # The threshold of a map belongs to its scale: the one of half the size is the second.
        variant("one map, at 1/2", "levels", half, chips=chips((second, second))),
        variant("never whole by guard", "guards", whole_above=1.0, crowded=1.0),
        Variant(name=EXHAUSTIVE, group=EXHAUSTIVE, weights=weights, cascade=CascadeConfig(mode="exhaustive")),
    ]


def _from_half(study: Study) -> Path:
    """The weights with another smallest face in their preset, so that the cascade looks whole up to half the size."""
    path = study.output / f"from-half-{study.weights_key}.safetensors"
    if not path.exists():
        study.output.mkdir(parents=True, exist_ok=True)
        model = load_model(find_weights(study.settings.weights))
        model.preset = dataclasses.replace(model.preset, focus=dataclasses.replace(study.focus, smallest=FROM_HALF))
        save_model(model, path, licence="an experiment's; not for use", source="the weights under test")
    return path


def text(tables: Tables) -> str:
    """A table for each set, with costs beside those of looking everywhere."""
    parts = []
    for title, chosen in by(tables["chips"], "set").items():
        (everywhere,) = (row for row in chosen if row["variant"] == EXHAUSTIVE)
        columns: dict[str, Callable[[Row], str]] = {
            "variant": lambda row: str(row["variant"]),
            "AP [95 %]": with_interval,
            "recall at 0.5": lambda row: percent(row["recall"]),
            "false per picture at 0.5": lambda row: f"{row['false_per_photo']:.2f}",
            "chips": lambda row: f"{row['chips']:.0f}",
            "network Mpx": megapixels,
            "core-s": lambda row: f"{row['core_seconds']:.3f}",
            "pixels of exhaustive": functools.partial(_ratio, everywhere, "network_pixels"),
            "core-s of exhaustive": functools.partial(_ratio, everywhere, "core_seconds"),
        }
        if chosen[0]["peak_bytes"] is not None:
            columns["peak MiB"] = lambda row: f"{row['peak_bytes'] / 2**20:,.0f}"
        if chosen[0]["peak_gpu_bytes"] is not None:
            columns["peak GPU MiB"] = lambda row: f"{row['peak_gpu_bytes'] / 2**20:,.0f}"
        timed = f"core-seconds of the first {chosen[0]['timed']}"
        faces = f"{chosen[0]['faces']:,} faces on {chosen[0]['photos']} pictures, {timed}"
        parts.append(f"{title}, {faces}\n\n{markdown(chosen, columns)}")
    return "\n".join(parts)


def _ratio(of: Row, column: str, row: Row) -> str:
    return f"{row[column] / of[column]:.2f}"


def plot(tables: Tables, path: Path) -> None:
    """AP against pixels and against core-seconds, a line for what is varied, through the default."""
    panels = []
    for title, chosen in by(tables["chips"], "set").items():
        groups = by(chosen, "group")
        (default,) = groups[DEFAULT]
        lines = {
            name: [*own, default] if name in ("t", "d", "k") else own
            for name, own in groups.items()
            if name not in ("levels", "guards")
        }
        pixels = (title, "pixels through the network per picture, Mpx", "AP, %")
        seconds = (title, "core-seconds per picture", "AP, %")
        panels.append(
            [
                functools.partial(_draw, lines, "network_pixels", pixels, 1e-6),
                functools.partial(_draw, lines, "core_seconds", seconds, 1.0),
            ]
        )
    write_panels(path, panels)


def _draw(lines: Mapping[str, Rows], x: str, titles: tuple[str, str, str], scale: float, axes: Axes) -> None:
    draw_lines(axes, lines, x, "ap", titles=titles, scale=scale)


def _record(study: Study) -> dict[str, Any]:
    return study.record() | {"repeats": study.repeats, "timed": study.timed, "device": study.settings.device}


CHIPS = Part(tables=("chips",), record=_record, rows=rows, text=text, plot=plot)
