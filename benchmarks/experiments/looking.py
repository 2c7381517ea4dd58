"""The cascade with some settings on the pictures of a set: what it finds, how much it looks at, and what that costs."""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cascade import mean_of, measured, process_peak, quality
from benchmarks.ways import EVALUATION_SCORE, Answer, Settings, library_way
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.average_precision import HasBoxesAndScores
from retinafocus.focus.chips import ChipConfig

BOOTSTRAP = 1000

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to set the cascade."""

    name: str
    group: str
    """What it varies."""

    cascade: CascadeConfig = dataclasses.field(default_factory=lambda: CascadeConfig(mode="focus"))
    weights: str | None = None
    """None: the ones that ship."""


def chips(
    thresholds: tuple[float | None, float | None] = (None, None), *, dilation: int = 3, min_chip: float = 64.0
) -> tuple[ChipConfig, ChipConfig]:
    """How both focus maps of a 4K picture become chips; None is the preset's threshold."""
    first, second = (ChipConfig(threshold=each, dilation=dilation, min_chip=min_chip) for each in thresholds)
    return first, second


def focus(**changes: Any) -> CascadeConfig:
    """The cascade by default, led by the focus map, but for the settings given."""
    return CascadeConfig(mode="focus", **changes)


def answers(variant: Variant, settings: Settings, photos: Sequence[LabelledPhoto]) -> list[Answer]:
    """What a variant finds in each photo, unsure faces included."""
    wanted = dataclasses.replace(settings, weights=variant.weights, score_threshold=EVALUATION_SCORE)
    way = library_way(wanted, variant.cascade)
    return [way(photo.path.read_bytes()) for photo in photos]


def scored(found: Sequence[Answer], photos: Sequence[LabelledPhoto], min_face: float) -> Row:
    """Average precision at IoU 0.5 of faces from `min_face` with its 95 % interval, and means over the photos."""
    faces: list[HasBoxesAndScores] = [one.faces for one in found]
    result = quality(photos, faces, (min_face, math.inf), bootstrap=BOOTSTRAP)
    pixels = sum(one.pixels for one in found) / len(found)
    return {
        "photos": len(photos),
        "faces": result.num_faces,
        "ap": result.ap,
        "ap_low": result.low,
        "ap_high": result.high,
        "recall": result.recall,
        "false_per_photo": result.false_positives_per_photo,
        "network_pixels": pixels,
        "of_the_finest": pixels / (sum(one.finest_pixels for one in found) / len(found)),
        "chips": sum(one.chips for one in found) / len(found),
        "share_in_chips": sum(one.chip_share for one in found) / len(found),
    }


def costs(
    variants: Sequence[Variant], settings: Settings, photos: Sequence[LabelledPhoto], repeats: int
) -> dict[str, float]:
    """Core-seconds per photo of each variant by name, the variants in turn on each photo; the least of the repeats.

    At the library's own score threshold: duplicates of thousands of boxes nobody wants would hide what looking costs.
    """
    ways = {
        variant.name: library_way(dataclasses.replace(settings, weights=variant.weights), variant.cascade)
        for variant in variants
    }
    rows = measured(ways, photos, argparse.Namespace(repeats=repeats))
    return {name: mean_of(rows, name, "core_seconds") for name in ways}


def peak_memory(variant: Variant, settings: Settings, photos: Sequence[LabelledPhoto]) -> tuple[int, int | None]:
    """Most bytes of a process that did nothing but look at the two heaviest photos this way.

    Returns:
        In memory, and on the GPU; None for the second where the network runs on a CPU.
    """
    heaviest = sorted((photo.path for photo in photos), key=lambda path: -path.stat().st_size)[:2]
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_peak_of_this_process, variant, settings, heaviest).result()


def _peak_of_this_process(variant: Variant, settings: Settings, paths: Sequence[Path]) -> tuple[int, int | None]:
    import torch

    way = library_way(dataclasses.replace(settings, weights=variant.weights), variant.cascade)
    for path in paths:
        way(path.read_bytes())
    return process_peak(), None if settings.device == "cpu" else torch.cuda.max_memory_allocated()
