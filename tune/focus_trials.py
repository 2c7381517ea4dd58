"""One trial of `retinafocus tune focus`: what a setting of the cascade finds in labelled photos, and what it costs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.detect_config import DetectSettings
from pipelines.settings import settings_of
from retinafocus.cascade import CascadeConfig, PhotoResult, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.engines import Engine
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.evaluation.average_precision import ApResult, PhotoTruth, average_precision
from retinafocus.models import Preset
from retinafocus.photos import read_bytes
from retinafocus.postprocessing import PostConfig, find_candidates
from tune.chip_answers import ChipAnswers
from tune.estimate import estimate
from tune.level_cache import SCORE_FLOOR, LevelCache, read_cache, zoom_of
from tune.space import Choice, Settings, Space, nested
from tune.sweep import Results

SPACE = """\
"cascade.chips.0.threshold" = { from = 0.01, to = 0.5, log = true }
"cascade.chips.0.dilation" = [1, 3, 5, 7]
"cascade.chips.0.min_chip" = [32.0, 48.0, 64.0, 96.0, 128.0]
"cascade.chips.1.threshold" = { from = 0.02, to = 0.7, log = true }
"cascade.chips.1.dilation" = [1, 3, 5, 7]
"cascade.chips.1.min_chip" = [32.0, 48.0, 64.0, 96.0, 128.0]
"cascade.zoom" = [2, 4]
"cascade.whole_above" = { from = 0.3, to = 1.0 }
"cascade.crowded" = { from = 0.1, to = 1.0 }
"cascade.border" = { from = 1.0, to = 8.0 }
"cascade.overlap" = { from = 0.5, to = 1.0 }
"cascade.left_to_finer" = { from = 1.0, to = 3.0 }
"post.nms_iou" = { from = 0.25, to = 0.6 }
"post.soft_sigma" = [0.0, 0.3, 0.55]
"""
"""What is searched if no file says so."""

UNSEARCHABLE = ("cascade.finer_looks", "min_face", "max_pixels", "device", "engine", "precision")
"""They decide what is cached, or which faces are wanted: one value for a search."""

SIDES = (64, 128, 256, 512, 1024)
"""Of the squares whose looks are timed, in network-input pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookCosts:
    """Core-seconds of looks by one engine on one machine: so much for each, and so much for each pixel."""

    per_look: float
    per_pixel: float

    def of(self, results: Sequence[PhotoResult]) -> float:
        """For photos together; without decoding and stacking."""
        looks = sum(len(result.trace.looks) for result in results)
        return self.per_look * looks + self.per_pixel * sum(result.pixels_processed for result in results)


@dataclass(frozen=True, kw_only=True, slots=True)
class FocusTrials:
    """What every process needs to try settings; called, it gets ready."""

    cache: Path
    photos: Sequence[LabelledPhoto]
    weights: Path
    detector: DetectorConfig
    costs: LookCosts
    look_at_chips: bool
    """Whether chips are looked at, or answered from whole levels."""

    def __call__(self) -> Callable[[int, Settings], Iterator[Results]]:
        """See `sweep.Prepare`."""
        cache = read_cache(self.cache, self.photos)
        detector = Detector.from_pretrained(self.weights, self.detector)
        answers = ChipAnswers(detector.engine, self.detector.min_face) if self.look_at_chips else None

        def evaluate(number: int, settings: Settings) -> Iterator[Results]:
            found = self.found(cache, settings, detector.preset, answers)
            yield self.results(found)

        return evaluate

    def found(
        self, cache: LevelCache, settings: Settings, preset: Preset, answers: ChipAnswers | None
    ) -> list[PhotoResult]:
        """What a setting finds, by the cache."""
        cascade, post = cascade_of(settings)
        return [
            estimate(photo, min_face=self.detector.min_face, cascade=cascade, post=post, preset=preset, answers=answers)
            for photo in cache.photos
        ]

    def really_found(self, settings: Settings, engine: Engine) -> list[PhotoResult]:
        """What the cascade finds with a setting, photos, network and all.

        Raises:
            RunError: a photo cannot be looked at, or has not the size that its labels are for.
        """
        cascade, post = cascade_of(settings)
        found = []
        for photo in self.photos:
            try:
                data = read_bytes(photo.path)
                ready = prepare(data, min_face=self.detector.min_face, preset=engine.preset, config=cascade)
                found.append(look(ready, engine, cascade, post))
            except PhotoError as error:
                raise RunError(f"{photo.path}: {error}; mend it or take it from the labels") from error
            if ready.plan.photo_size != photo.size:
                raise RunError(f"{photo.path} is {ready.plan.photo_size} px, its labels say {photo.size}; mend them")
        return found

    def results(self, found: Sequence[PhotoResult]) -> Results:
        """The numbers of a trial; costs are means over the photos."""
        return {
            "ap": self.precision(found).ap,
            "mpx": sum(result.pixels_processed for result in found) / 1e6 / len(found),
            "core_seconds": self.costs.of(found) / len(found),
            "looks": sum(len(result.trace.looks) for result in found) / len(found),
        }

    def precision(self, found: Sequence[PhotoResult], bootstrap: int = 0) -> ApResult:
        """Average precision at IoU 0.5 of faces from the smallest wanted on."""
        truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in self.photos]
        faces = [result.faces for result in found]
        wanted = (self.detector.min_face, math.inf)
        return average_precision(truths, faces, size_range=wanted, bootstrap=bootstrap)


def detect_settings(settings: Settings) -> DetectSettings:
    """Settings of a search as those of a detection.

    Raises:
        SettingsError: one is unknown, of another type or out of range.
    """
    return settings_of(DetectSettings, nested(settings), "search space")


def cascade_of(settings: Settings) -> tuple[CascadeConfig, PostConfig]:
    """How photos are looked at with settings of a search, unsure faces included."""
    detect = detect_settings(settings)
    score = detect.score_threshold if "score_threshold" in settings else SCORE_FLOOR
    return detect.cascade, dataclasses.replace(detect.post, score_floor=max(detect.post.score_floor, score))


def check_space(space: Space) -> None:
    """Refuse what cannot be searched, before anything is computed.

    Raises:
        SettingsError: a setting is unknown, or its range leads out of what it may be.
    """
    names = [*space.searched, *space.fixed]
    if wrong := [name for name in names if name in UNSEARCHABLE]:
        raise SettingsError(f"search space: {', '.join(wrong)} cannot be searched; set it on the command line")
    if any(value < SCORE_FLOOR for value in _values(space, "post.score_floor") + _values(space, "score_threshold")):
        raise SettingsError(f"search space: scores below {SCORE_FLOOR} are not kept; begin there")
    for place in (0.0, 1.0):
        detect_settings(space.at([place] * len(space.searched)))
    for name, kind in space.searched.items():
        if isinstance(kind, Choice):
            for value in kind.values:
                detect_settings({**space.at([0.0] * len(space.searched)), name: value})


def routes_of(space: Space) -> list[CascadeConfig]:
    """The ways through the levels that settings of the space may take."""
    modes = _values(space, "cascade.mode") or ["auto"]
    zooms = _values(space, "cascade.zoom") or [None]
    return [CascadeConfig(mode=mode, zoom=zoom) for mode, zoom in itertools.product(modes, zooms)]


def defaults_of(space: Space, preset: Preset) -> Settings:
    """What the settings of a space are where nothing is set, by the weights' preset."""
    cascade = CascadeConfig()
    found: Settings = {}
    for name in [*space.searched, *space.fixed]:
        parts = name.split(".")
        if parts[:2] == ["cascade", "chips"]:
            found[name] = getattr(cascade.chips_of(int(parts[2]), preset), parts[3])
        elif name == "cascade.zoom":
            found[name] = zoom_of(cascade, preset)
        elif name != "score_threshold":
            found[name] = _attribute(DetectSettings(), parts)
    return found


def measure_costs(engine: Engine, post: PostConfig, repeats: int = 5) -> LookCosts:
    """Time looks at squares of noise, by the processor's clock; the least of the repeats."""
    random = np.random.default_rng(0)
    seconds = []
    for side in SIDES:
        pixels = random.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        tries = []
        for _ in range(repeats + 1):  # the first one warms up
            start = time.process_time()
            find_candidates(engine.run(pixels), (side, side), engine.preset, post)
            tries.append(time.process_time() - start)
        seconds.append(min(tries[1:]))
    sides = np.array(SIDES, float)
    # Each size counts the same, not each second.
    weights = 1 / np.array(seconds)
    known = np.stack([np.ones(len(sides)), sides**2], axis=1) * weights[:, None]
    (per_look, per_pixel), *_ = np.linalg.lstsq(known, np.ones(len(sides)), rcond=None)
    return LookCosts(per_look=max(float(per_look), 0.0), per_pixel=max(float(per_pixel), 0.0))


def _values(space: Space, name: str) -> list[Any]:
    kind = space.searched.get(name)
    if kind is None:
        return [space.fixed[name]] if name in space.fixed else []
    return list(kind.values) if isinstance(kind, Choice) else [kind.low, kind.high]


def _attribute(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        value = getattr(value, part)
    return value
