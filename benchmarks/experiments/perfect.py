"""The part `oracle`: how far a perfect focus map would go, and what the learned one points at for how much area."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.experiments import looking
from benchmarks.experiments.chipping import THRESHOLDS
from benchmarks.experiments.heads import OURS, SIZE_LABELS
from benchmarks.experiments.looking import Variant, chips, focus
from benchmarks.experiments.maps import LevelMaps, chosen_levels, focus_maps, needing_a_finer_look, recall_row
from benchmarks.experiments.oracle import label_map, look_with_labels
from benchmarks.experiments.plots import by, draw_lines, write_panels
from benchmarks.experiments.study import Part, Study, Tables
from benchmarks.experiments.tables import Rows, markdown, megapixels, percent, with_interval
from benchmarks.ways import EVALUATION_SCORE, Answer
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.training.targets import FocusLabelConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP = (0.005, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Thresholds of the curves of recall against area."""

EXHAUSTIVE, LEARNED, ORACLE = "exhaustive", "learned", "oracle"


def rows(study: Study) -> dict[str, Rows]:
    """Rows of the cascade with learned and perfect maps, and of both recalls against area."""
    cascades: Rows = []
    recalls: Rows = []
    for title, photos in study.sets.items():
        everywhere = Variant(
            name=EXHAUSTIVE,
            group=EXHAUSTIVE,
            weights=study.settings.weights,
            cascade=CascadeConfig(mode="exhaustive"),
        )
        learned = [
            Variant(name=f"t {a:g}, {b:g}", group=LEARNED, weights=study.settings.weights, cascade=_at((a, b)))
            for a, b in THRESHOLDS[::2]
        ]
        found = [
            (each.group, each.name, looking.answers(each, study.settings, photos)) for each in (everywhere, *learned)
        ]
        found += [(ORACLE, _sizes(labels), oracle_answers(study, photos, labels)) for labels in oracle_labels()]
        for group, name, answers in found:
            scored = looking.scored(answers, photos, study.settings.min_face)
            cascades.append({"set": title, "group": group, "variant": name, **scored})
        study.tell(f"oracle, {title}: {len(found)} rows")
        recalls += recall_curves(study, title, photos)
    return {"oracle-cascade": cascades, "oracle-recall": recalls}


def oracle_labels() -> list[FocusLabelConfig]:
    """What perfect maps mark."""
    return [FocusLabelConfig(smallest=a, small=b, large=c) for a, b, c in SIZE_LABELS]


def oracle_answers(study: Study, photos: Sequence[LabelledPhoto], labels: FocusLabelConfig) -> list[Answer]:
    """What the cascade by default finds in each photo, unsure faces included, when the labels say where to look."""
    config = DetectorConfig(
        min_face=study.settings.min_face,
        engine=study.settings.engine,
        precision=study.settings.precision,
        device="cpu",
        threads=1,
    )
    detector = Detector(study.detector, config)
    post = dataclasses.replace(config.post, score_floor=EVALUATION_SCORE)
    results = [look_with_labels(detector, photo, focus(), labels, post) for photo in photos]
    return [
        Answer(
            faces=result.faces,
            pixels=result.pixels_processed,
            finest_pixels=result.plan.finest.pixels,
            chips=result.chips,
            chip_share=result.focus_share if result.chips else 0.0,
        )
        for result in results
    ]


def recall_curves(study: Study, title: str, photos: Sequence[LabelledPhoto]) -> Rows:
    """FocusPixel and FocusChip recall of the learned map at each of `SWEEP`, and of the labels."""
    branch = study.detector.focus
    assert branch is not None
    learned = focus_maps(study.detector, {LEARNED: (study.focus.stride, branch)}, photos, study.settings.min_face)
    perfect = _label_maps(study, photos)
    return [
        *({"set": title, "map": LEARNED} | recall_row(level, each) for level in learned.values() for each in SWEEP),
        *({"set": title, "map": ORACLE} | recall_row(level, 0.5) for level in perfect.values()),
    ]


def _label_maps(study: Study, photos: Sequence[LabelledPhoto]) -> dict[float, LevelMaps]:
    """By scale: 1 where the labels that the weights learned from are positive, else 0."""
    found: dict[float, LevelMaps] = {}
    stride, low = study.focus.stride, study.detector.preset.face_range[0]
    for photo in photos:
        for level, _ in chosen_levels(photo, study.detector, study.settings.min_face):
            whole = (0, 0, level.size[1], level.size[0])
            into = found.setdefault(level.scale, LevelMaps(level.scale, stride, [], []))
            into.maps.append(label_map(photo, level, whole, OURS, stride).astype(np.float32))
            into.faces.append(needing_a_finer_look(photo, level, study.settings.min_face, low))
    return found


def _at(thresholds: tuple[float, float]) -> CascadeConfig:
    return focus(chips=chips(thresholds))


def _sizes(labels: FocusLabelConfig) -> str:
    return f"{labels.smallest:g}/{labels.small:g}/{labels.large:g}"


def text(tables: Tables) -> str:
    """Two tables."""
    cascade = {
        "pictures": lambda row: str(row["set"]),
        "map": lambda row: str(row["group"]),
        "setting": lambda row: str(row["variant"]),
        "AP [95 %]": with_interval,
        "recall at 0.5": lambda row: percent(row["recall"]),
        "false per picture at 0.5": lambda row: f"{row['false_per_photo']:.2f}",
        "network Mpx": megapixels,
        "of the finest level": lambda row: f"{percent(row['of_the_finest'], 0)} %",
        "finest level in chips": lambda row: f"{percent(row['share_in_chips'])} %",
    }
    recall = {
        "pictures": lambda row: str(row["set"]),
        "scale": lambda row: f"{row['scale']:g}",
        "map": lambda row: str(row["map"]),
        "threshold": lambda row: "-" if row["map"] == ORACLE else f"{row['threshold']:g}",
        "faces": lambda row: f"{row['faces']:,}",
        "cells, %": lambda row: percent(row["share_of_cells"], 2),
        "FocusPixel recall, %": lambda row: percent(row["pixel_recall"]),
        "area in chips, %": lambda row: percent(row["share_in_chips"]),
        "FocusChip recall, %": lambda row: percent(row["chip_recall"]),
    }
    return (
        "Through the cascade; an oracle's setting is the a/b/c of its labels\n\n"
        f"{markdown(tables['oracle-cascade'], cascade, texts=3)}\n"
        "Faces that need a finer look, and what the maps point at\n\n"
        f"{markdown(tables['oracle-recall'], recall, texts=3)}"
    )


def plot(tables: Tables, path: Path) -> None:
    """A row for each set: AP against pixels, then both recalls against their price at each scale."""
    panels = []
    for title, chosen in by(tables["oracle-cascade"], "set").items():
        titles = (f"{title}, through the cascade", "pixels through the network per picture, Mpx", "AP, %")
        line = [functools.partial(_draw, by(chosen, "group"), "network_pixels", "ap", titles, 1e-6)]
        curves = [row for row in tables["oracle-recall"] if row["set"] == title]
        for scale, of_scale in by(curves, "scale").items():
            lines = {}
            for name, own in by(of_scale, "map").items():
                lines[f"{name}, pixels"] = [_point(row, "share_of_cells", "pixel_recall") for row in own]
                lines[f"{name}, chips"] = [_point(row, "share_in_chips", "chip_recall") for row in own]
            titles = (f"{title}, at {scale:g} of the size", "cells, or area in chips, %", "faces pointed at, %")
            line.append(functools.partial(_draw, lines, "price", "recall", titles, 100.0))
        panels.append(line)
    write_panels(path, panels)


def _point(row: Mapping[str, float], price: str, recall: str) -> dict[str, float]:
    return {"price": row[price], "recall": row[recall]}


def _draw(lines: Mapping[str, Rows], x: str, y: str, titles: tuple[str, str, str], scale: float, axes: Axes) -> None:
    draw_lines(axes, lines, x, y, titles=titles, scale=scale, apart=(ORACLE,))


PERFECT = Part(tables=("oracle-cascade", "oracle-recall"), record=Study.record, rows=rows, text=text, plot=plot)
