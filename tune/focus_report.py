"""Settings of the cascade beside the default ones on photos that had no part in the choice, with the cascade itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retinafocus.cascade import PhotoResult
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.engines import Engine
from retinafocus.evaluation.average_precision import PhotoTruth
from retinafocus.evaluation.curves import areas_under_curve, interval, photo_draws
from retinafocus.evaluation.matched_set import count_set, match_set
from tune.focus_trials import FocusTrials
from tune.space import Settings

RESAMPLES = 1000


def compared(
    trials: FocusTrials, engine: Engine, folder: str, photos: Sequence[LabelledPhoto], chosen: Mapping[str, Settings]
) -> list[dict[str, Any]]:
    """What settings find and cost on other photos; the first ones are what the others are compared with.

    Args:
        trials: of the search; only its photos are others.
        engine: runs the network.
        folder: what the photos are called.
        photos: labelled.
        chosen: settings by what they are called.

    Returns:
        A row for each: AP (0..1), the difference to the first one's, both with the interval of 1,000 draws of the
        photos that are the same for all, and the mean cost of a photo.
    """
    here = dataclasses.replace(trials, photos=photos)
    wanted = (trials.detector.min_face, math.inf)
    rows: list[dict[str, Any]] = []
    areas = []
    for words, settings in chosen.items():
        found = here.really_found(settings, engine)
        areas.append(_areas(photos, found, wanted))
        gap = areas[-1] - areas[0]
        results = here.results(found)
        row: dict[str, Any] = {"folder": folder, "settings": words, "photos": len(photos)}
        row |= {"ap": results["ap"], "difference": float(gap[0])}
        row |= dict(zip(("ap_low", "ap_high"), interval(areas[-1][1:]), strict=True))
        row |= dict(zip(("difference_low", "difference_high"), interval(gap[1:]), strict=True))
        rows.append({**row, **{name: results[name] for name in ("mpx", "looks", "core_seconds")}})
    return rows


def compared_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of one folder, for a person."""
    first = rows[0]
    lines = [f"report   {Path(first['folder'])}: {first['photos']:,} photos that had no part in the choice"]
    for row in rows:
        words = f"{100 * row['ap']:.2f} [{100 * row['ap_low']:.1f}, {100 * row['ap_high']:.1f}] %"
        line = f"         {row['settings']}: AP {words}, {row['mpx']:.4f} Mpx a photo"
        if row is not first:
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            line += f"; AP {100 * row['difference']:+.2f} [{low:+.1f}, {high:+.1f}] points"
            line += f", {100 * (row['mpx'] / first['mpx'] - 1):+.0f} % Mpx"
        lines.append(line)
    return lines


def _areas(photos: Sequence[LabelledPhoto], found: Sequence[PhotoResult], wanted: tuple[float, float]) -> Any:
    """(1 + resamples,) AP of the photos, and of each draw of them."""
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    matches = match_set(truths, [result.faces for result in found], (0.5,))
    (curve,), faces_per_photo = count_set(matches, wanted)
    return areas_under_curve(*curve, faces_per_photo, photo_draws(len(photos), RESAMPLES, 0))
