"""The parts `level` and `sizes`: which map the focus branch should read, and which faces it should mark.

Every branch is trained for the same steps on the same crops beside the frozen detector (`heads`). Then it is judged on
whole focus maps (`maps`), at equal shares of the cells and at the thresholds of the weights; and in the cascade, at the
thresholds that mark as many cells as the weights' own branch does at its own on the same pictures, and half as many.
(The thresholds of the weights themselves would compare how sure branches are, not how right.)
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.experiments import looking
from benchmarks.experiments.heads import (
    LEVEL_HEADS,
    SIZE_HEADS,
    SIZE_LABELS,
    fit,
    unique,
    write_networks,
)
from benchmarks.experiments.looking import Variant, chips, focus
from benchmarks.experiments.maps import LevelMaps, focus_maps, recall_row
from benchmarks.experiments.plots import by, draw_lines, write_panels
from benchmarks.experiments.study import Part, Study, Tables
from benchmarks.experiments.tables import Row, Rows, markdown, megapixels, percent, with_interval
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import SettingsError
from retinafocus.evaluation.focus_maps import dilation_of, share_above, threshold_for
from retinafocus.models.heads import FocusBranch
from retinafocus.training.augment import CropConfig
from retinafocus.training.focus_heads import Head, HeadTraining
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.pixels import PhotoPixels
from retinafocus.training.samples import CropSamples, SampleConfig
from retinafocus.weights import load_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHIPPED = "shipped"
"""Name of the branch that comes with the detector: trained with it, and far longer."""

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Of all cells of a level: where branches are compared."""

SHOWN_SHARES = (0.05, 0.1, 0.2)

SIDE = 320
LEARNING_RATE = 2e-3
GRID = 0.5
"""Share of crops made of four smaller ones, as in the last stages of the weights that ship."""

AS_SHIPPED, EQUAL, HALF = "thresholds of the weights", "as many cells", "half as many"


def trained(study: Study) -> dict[str, Path]:
    """Weights files of the detector with each branch, by head: trained, or read where the training is done."""
    if study.train is None:
        raise SettingsError("the parts level and sizes train focus branches; name photos to train on with --train")
    heads = unique([*LEVEL_HEADS, *SIZE_HEADS])
    folder = study.output / f"heads-{study.steps}-{study.batch}-{study.seed}-{study.weights_key}"
    paths = {head.name: folder / f"{head.name}.safetensors" for head in heads}
    if all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    config = LoopConfig(
        steps=study.steps, learning_rate=LEARNING_RATE, warmup_steps=study.steps // 20, weight_decay=1e-4
    )
    training = HeadTraining(study.detector, heads, config, LossConfig(), study.seed)
    start = time.process_time()

    def report(steps: int, losses: Mapping[str, float]) -> None:
        with (folder / "losses.jsonl").open("a") as log:
            log.write(json.dumps({"steps": steps, "core_seconds": time.process_time() - start, **losses}) + "\n")
        study.tell(f"step {steps}, {time.process_time() - start:.0f} core-s: focus loss {min(losses.values()):.3f} to "
                   f"{max(losses.values()):.3f}")  # fmt: skip

    fit(training, samples_of(study, read_parquet_folder(study.train)), study.batch, folder / "checkpoint.pt", report)
    return write_networks(training, folder, licence="an experiment's; not for use")


def samples_of(study: Study, photos: Sequence[LabelledPhoto]) -> CropSamples:
    """The crops that all branches learn from."""
    config = SampleConfig(crop=CropConfig(side=SIDE, grid=GRID), seed=study.seed)
    pixels = PhotoPixels(photos, cache_bytes=2**31)
    return CropSamples(photos, pixels, preset=study.detector.preset, config=config)


def head_rows(study: Study, heads: Sequence[Head], part: str) -> dict[str, Rows]:
    """Rows of the two tables of a part."""
    paths = trained(study)
    named = {head.name: head for head in heads}
    shipped = study.detector.focus
    assert shipped is not None
    branches: dict[str, tuple[int, FocusBranch]] = {SHIPPED: (study.focus.stride, shipped)}
    for name, head in named.items():
        network = load_model(paths[name])
        assert network.focus is not None
        branches[name] = (head.stride, network.focus)
    recalls: Rows = []
    cascades: Rows = []
    for title, photos in study.sets.items():
        maps = focus_maps(study.detector, branches, photos, study.settings.min_face)
        recalls += [{"set": title, **row} for row in _recall_rows(study, maps)]
        for name, (stride, _) in branches.items():
            for setting, thresholds in _settings(study, maps, name).items():
                cascade = focus(chips=chips(thresholds, dilation=dilation_of(stride)))
                weights = str(paths[name]) if name in paths else study.settings.weights
                variant = Variant(name=name, group=setting, cascade=cascade, weights=weights)
                row = looking.scored(looking.answers(variant, study.settings, photos), photos, study.settings.min_face)
                first, second = thresholds
                cascades.append({"set": title, "head": name, "setting": setting, "t1": first, "t2": second, **row})
                study.tell(f"{part}, {title}: {name}, {setting}: AP {100 * row['ap']:.1f}, {megapixels(row)} Mpx")
    return {f"{part}-recall": recalls, f"{part}-cascade": cascades}


def _recall_rows(study: Study, maps: Mapping[tuple[str, float], LevelMaps]) -> Rows:
    scales = sorted({scale for _, scale in maps})
    rows = []
    for (name, scale), level in maps.items():
        for share in SHARES:
            rows.append(
                {"head": name, "at": "share", "share": share} | recall_row(level, threshold_for(level.maps, share))
            )
        threshold = study.thresholds[min(scales.index(scale), 1)]
        rows.append({"head": name, "at": AS_SHIPPED, "share": math.nan} | recall_row(level, threshold))
    return rows


def _settings(study: Study, maps: Mapping[tuple[str, float], LevelMaps], name: str) -> dict[str, tuple[float, float]]:
    """Thresholds of the first and the second map to try a branch at, by what they stand for."""
    scales = sorted({scale for _, scale in maps})[:2]
    shares = [
        share_above(maps[SHIPPED, scale].maps, threshold)
        for scale, threshold in zip(scales, study.thresholds, strict=False)
    ]
    found = {}
    for setting, factor in ((EQUAL, 1.0), (HALF, 0.5)):
        chosen = [
            threshold_for(maps[name, scale].maps, factor * share) for scale, share in zip(scales, shares, strict=True)
        ]
        found[setting] = (chosen[0], chosen[-1])
    return {AS_SHIPPED: study.thresholds, HALF: found[HALF]} if name == SHIPPED else found


def _recall_text(rows: Rows) -> str:
    parts = []
    for title, chosen in by(rows, "set").items():
        scales = list(dict.fromkeys(row["scale"] for row in chosen))
        columns = {"branch": lambda row: str(row["head"])}
        for scale in scales:
            for share in SHOWN_SHARES:
                columns[f"{scale:g}: {100 * share:g} % of cells"] = functools.partial(_at_share, chosen, scale, share)
            columns[f"{scale:g}: at the weights' threshold (cells)"] = functools.partial(_at_threshold, chosen, scale)
        faces = {row["scale"]: row["faces"] for row in chosen}
        told = ", ".join(f"{faces[scale]:,} at {scale:g} of the size" for scale in scales)
        heads = [{"head": head} for head in by(chosen, "head")]
        parts.append(f"{title}, faces that need a finer look: {told}\n\n{markdown(heads, columns)}")
    return "\n".join(parts)


def _at_share(rows: Rows, scale: float, share: float, head: Row) -> str:
    (row,) = (r for r in rows if (r["head"], r["scale"], r["share"]) == (head["head"], scale, share))
    return f"{percent(row['pixel_recall'])} / {percent(row['chip_recall'])}"


def _at_threshold(rows: Rows, scale: float, head: Row) -> str:
    (row,) = (r for r in rows if (r["head"], r["scale"], r["at"]) == (head["head"], scale, AS_SHIPPED))
    return f"{percent(row['pixel_recall'])} / {percent(row['chip_recall'])} ({percent(row['share_of_cells'])})"


def _cascade_text(rows: Rows) -> str:
    columns = {
        "pictures": lambda row: str(row["set"]),
        "branch": lambda row: str(row["head"]),
        "setting": lambda row: str(row["setting"]),
        "thresholds": lambda row: f"{row['t1']:.3g}, {row['t2']:.3g}",
        "AP [95 %]": with_interval,
        "recall at 0.5": lambda row: percent(row["recall"]),
        "network Mpx": megapixels,
        "of the finest level": lambda row: f"{percent(row['of_the_finest'], 0)} %",
    }
    return markdown(rows, columns, texts=3)


def _text(part: str, tables: Tables) -> str:
    origin = {f"P3-{a:g}-{b:g}-{c:g}": told for (a, b, c), told in SIZE_LABELS.items()}
    heads = by(tables[f"{part}-recall"], "head")
    known = "".join(f"* {head}: {origin[head]}\n" for head in heads if head in origin) if part == "sizes" else ""
    return (
        "Names are the map that is read and a-b-c in network-input pixels; `shipped` was trained with its detector, "
        f"and far longer.\n\n{known}\n"
        "FocusPixel / FocusChip recall, %, of faces that need a finer look, at equal shares of the cells\n\n"
        f"{_recall_text(tables[f'{part}-recall'])}\nThrough the cascade\n\n{_cascade_text(tables[f'{part}-cascade'])}"
    )


def _plot(part: str, tables: Tables, path: Path) -> None:
    panels = []
    for title, rows in by(tables[f"{part}-recall"], "set").items():
        line = []
        for scale, of_scale in by([row for row in rows if row["at"] == "share"], "scale").items():
            titles = (f"{title}, at {scale:g} of the size", "share of cells, %", "FocusPixel recall, %")
            line.append(functools.partial(_draw, by(of_scale, "head"), "share_of_cells", "pixel_recall", titles, 100.0))
        cascade = [row for row in tables[f"{part}-cascade"] if row["set"] == title]
        titles = (f"{title}, through the cascade", "pixels through the network per picture, Mpx", "AP, %")
        line.append(functools.partial(_draw, by(cascade, "head"), "network_pixels", "ap", titles, 1e-6))
        panels.append(line)
    write_panels(path, panels)


def _draw(lines: Mapping[str, Rows], x: str, y: str, titles: tuple[str, str, str], scale: float, axes: Axes) -> None:
    draw_lines(axes, lines, x, y, titles=titles, scale=scale)


def part_of(name: str, heads: Sequence[Head]) -> Part:
    """The part of that name, which compares those branches."""
    return Part(
        tables=(f"{name}-recall", f"{name}-cascade"),
        record=Study.training_record,
        rows=functools.partial(head_rows, heads=heads, part=name),
        text=functools.partial(_text, name),
        plot=functools.partial(_plot, name),
    )


LEVEL, SIZES = part_of("level", LEVEL_HEADS), part_of("sizes", SIZE_HEADS)
