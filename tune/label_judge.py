"""What a focus branch is worth: how much of the faces the cascade finds with it, for how much work.

The detector is the same for all branches, so what it says about whole levels is cached (`tune.level_cache`), and so are
the maps that a branch reads (`tune.kept_maps`). Judging a branch is then running it over kept maps and letting the
cascade walk through the cache, led by it, at several thresholds (`tune.estimate`). `really_found` does the same with
photos and network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from retinafocus.cascade import CascadeConfig, PhotoResult, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.evaluation.average_precision import ApResult, PhotoTruth, average_precision
from retinafocus.evaluation.focus_maps import Map, dilation_of, threshold_for
from retinafocus.focus.chips import ChipConfig
from retinafocus.models import FocusConfig, Preset, RetinaFocus
from retinafocus.models.heads import FocusBranch
from retinafocus.photos import read_bytes
from retinafocus.postprocessing import PostConfig
from retinafocus.training.focus_heads import features, focus_reading, network_with
from retinafocus.weights import load_model
from tune.accuracy_curve import Point, least_cost, mean_accuracy
from tune.estimate import estimate
from tune.kept_maps import READ_BY, PhotoMaps, chosen_from
from tune.level_cache import SCORE_FLOOR, CachedLevel, CachedPhoto, read_cache, route_of
from tune.sweep import Results

SHARES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4)
"""Of all cells of the first map: where branches are measured."""

FINER = (0.06, 0.25)
"""The shares of the cells of the next finer map that go with each, as parts of it."""

NEAR = 0.02
"""AP that may be lost against looking everywhere where the least cost is told."""

LED, EVERYWHERE = CascadeConfig(mode="focus"), CascadeConfig(mode="exhaustive")
ROUTES = (LED, EVERYWHERE)
POST = PostConfig(score_floor=SCORE_FLOOR)

NOWHERE = -30.0
"""Logit of cells that no threshold marks."""

Thresholds = tuple[float, float]
"""Of the first map that chips are chosen on, and of all finer ones."""

Curve = list[tuple[Thresholds, Point]]
"""What a branch costs and finds at several thresholds."""

Said = Mapping[float, Sequence[Map]]
"""The focus logits of a photo's rectangles, by the scale of their level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeFiles:
    """Where what is needed to judge branches lies."""

    cache: Path
    """Of whole levels."""
    photos: Sequence[LabelledPhoto]
    maps: PhotoMaps
    min_face: float


class LabelJudge:
    """Judges branches on photos whose levels are cached.

    Args:
        files: written before.
        detector: that the branches belong to, in evaluation mode.

    Raises:
        RunError: the cache is not finished.
        SettingsError: no photo is large enough for chips.
    """

    def __init__(self, files: JudgeFiles, detector: RetinaFocus) -> None:
        self._files, self._detector = files, detector
        self._photos = read_cache(files.cache, files.photos).photos
        self._route = route_of(LED, detector.preset)
        self._scales = [self._scales_of(photo) for photo in self._photos]
        if not any(self._scales):
            raise SettingsError(
                f"no photo is large enough for chips at min_face {files.min_face:g} px; give larger ones"
            )
        self._detector_work = work_of_detector(detector)
        ap, whole = self._measured(self._found(self._photos, EVERYWHERE, detector.preset))
        self.whole_mpx = whole
        self.everywhere = Point(1.0, ap)
        ap, mpx = self._measured(self._found([self._blind(photo) for photo in self._photos], LED, detector.preset))
        self.coarse = Point(mpx / whole, ap)

    def judged(self, curve: Curve) -> Results:
        """The numbers of a branch; the thresholds are those of the cheapest point near the AP of looking everywhere."""
        results = judged_between([point for _, point in curve], self.coarse, self.everywhere)
        near = [each for each in curve if each[1].ap >= self.everywhere.ap - NEAR]
        if near:
            (first, finer), _ = min(near, key=lambda each: each[1].cost)
            results |= {"threshold_0": first, "threshold_1": finer}
        return results

    def curve(self, branch: FocusBranch, thresholds: Sequence[Thresholds] | None = None) -> Curve:
        """What the cascade costs and finds at several thresholds.

        Args:
            branch: in evaluation mode.
            thresholds: None: those that mark each of `SHARES`.
        """
        preset = preset_of(self._detector, branch)
        said = [self._said(number, branch) for number in range(len(self._photos))]
        led = [self._led_by(photo, each) for photo, each in zip(self._photos, said, strict=True)]
        curve = []
        for each in self._thresholds(said) if thresholds is None else thresholds:
            ap, mpx = self._measured(self._found(led, led_at(each, preset), preset))
            curve.append((each, Point(self.work_with(branch) * mpx / self.whole_mpx, ap)))
        return curve

    def work_with(self, branch: FocusBranch) -> float:
        """How many times the work of the detector alone a pixel takes with a branch."""
        return 1 + work_of_branch(self._detector, branch) / self._detector_work

    def _scales_of(self, photo: CachedPhoto) -> list[float]:
        """Of the levels that chips are chosen on, coarsest first."""
        plan = LED.plan(photo.size, self._files.min_face, self._detector.preset)
        return [level.scale for level in chosen_from(plan)]

    @torch.inference_mode()
    def _said(self, number: int, branch: FocusBranch) -> dict[float, list[Map]]:
        """What a branch says about a photo."""
        said: dict[float, list[Map]] = {}
        for scale in self._scales[number]:
            looks = self._photos[number].routes[self._route][scale].looks
            maps = [self._files.maps.read(number, scale, look, READ_BY[branch.feature]) for look in range(len(looks))]
            said[scale] = [branch(*each)[0, 0].numpy() for each in maps]
        return said

    def _thresholds(self, said: Sequence[Said]) -> list[Thresholds]:
        """Those that mark each of `SHARES`."""
        first = [each for one, scales in zip(said, self._scales, strict=True) for s in scales[:1] for each in one[s]]
        finer = [each for one, scales in zip(said, self._scales, strict=True) for s in scales[1:] for each in one[s]]
        found = []
        for share in SHARES:
            coarse = _probability(threshold_for(first, share, lowest=-math.inf))
            if not finer:
                found.append((coarse, coarse))
            else:
                logits = [threshold_for(finer, share * part, lowest=-math.inf) for part in FINER]
                found += [(coarse, _probability(logit)) for logit in logits]
        return found

    def _led_by(self, photo: CachedPhoto, said: Said) -> CachedPhoto:
        """The cache of a photo with what another branch says of it."""
        levels = {}
        for scale, level in photo.routes[self._route].items():
            logits: Sequence[Map | None] = said.get(scale, [None] * len(level.looks))
            looks = zip(level.looks, logits, strict=True)
            levels[scale] = CachedLevel(level.covered, tuple(dataclasses.replace(a, focus_logits=b) for a, b in looks))
        return dataclasses.replace(photo, routes={**photo.routes, self._route: levels})

    def _blind(self, photo: CachedPhoto) -> CachedPhoto:
        """The cache of a photo whose focus maps point nowhere."""
        levels = photo.routes[self._route]
        looks = {scale: levels[scale].looks for scale in levels}
        return self._led_by(
            photo,
            {
                scale: [np.full_like(look.focus_logits, NOWHERE) for look in each if look.focus_logits is not None]
                for scale, each in looks.items()
                if all(look.focus_logits is not None for look in each)
            },
        )

    def _found(self, photos: Sequence[CachedPhoto], cascade: CascadeConfig, preset: Preset) -> list[PhotoResult]:
        min_face = self._files.min_face
        return [estimate(photo, min_face=min_face, cascade=cascade, post=POST, preset=preset) for photo in photos]

    def _measured(self, found: Sequence[PhotoResult]) -> tuple[float, float]:
        """AP and Mpx a photo."""
        return precision(found, self._files.photos, self._files.min_face).ap, mpx_of(found)


def judged_between(points: Sequence[Point], coarse: Point, everywhere: Point) -> Results:
    """The mean AP over all budgets, and the least share of the work of looking everywhere at an AP near its own."""
    return {
        "mean_ap": mean_accuracy(points, coarse, everywhere),
        "cost": least_cost(points, coarse, everywhere, everywhere.ap - NEAR),
    }


def led_at(thresholds: Thresholds, preset: Preset) -> CascadeConfig:
    """The cascade by default, led by the focus map, at these thresholds, with equal room whatever the map's stride."""
    assert preset.focus is not None
    dilation = dilation_of(preset.focus.stride)
    chips = tuple(ChipConfig(threshold=min(max(each, 1e-6), 1.0), dilation=dilation) for each in thresholds)
    return dataclasses.replace(LED, chips=chips)


def load_with_branch(weights: Path) -> tuple[RetinaFocus, bool]:
    """The network of a weights file, and whether it came with a focus branch; if not, it has a random one."""
    detector = load_model(weights)
    if detector.focus is not None:
        return detector, True
    return RetinaFocus.from_detector(detector, dataclasses.replace(detector.preset, focus=FocusConfig())).eval(), False


def preset_of(detector: RetinaFocus, branch: FocusBranch) -> Preset:
    """That of a detector with another branch. Which levels are looked at whole stays as it is, whatever the branch was
    taught, as it does in a training."""
    return dataclasses.replace(detector.preset, focus=focus_reading(detector, branch.feature))


def network_of(detector: RetinaFocus, branch: FocusBranch) -> RetinaFocus:
    """A detector with another branch."""
    return network_with(detector, focus_reading(detector, branch.feature), branch)


def really_found(
    network: RetinaFocus, cascade: CascadeConfig, photos: Sequence[LabelledPhoto], min_face: float
) -> list[PhotoResult]:
    """What the cascade finds in photos, network and all."""
    config = DetectorConfig(device="cpu", engine="torch", threads=torch.get_num_threads())
    engine = Detector(network, config).engine
    found = []
    for photo in photos:
        ready = prepare(read_bytes(photo.path), min_face=min_face, preset=network.preset, config=cascade)
        found.append(look(ready, engine, cascade, POST))
    return found


def precision(
    found: Sequence[PhotoResult], photos: Sequence[LabelledPhoto], min_face: float, bootstrap: int = 0
) -> ApResult:
    """Average precision at IoU 0.5 of faces from the smallest wanted on."""
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    faces = [result.faces for result in found]
    return average_precision(truths, faces, size_range=(min_face, math.inf), bootstrap=bootstrap)


def mpx_of(found: Sequence[PhotoResult]) -> float:
    """Mpx through the network a photo."""
    return sum(result.pixels_processed for result in found) / 1e6 / len(found)


def work_of_detector(detector: RetinaFocus) -> float:
    """Operations of a detector without its focus branch, for a fixed picture."""
    bare = RetinaFocus.from_detector(detector, dataclasses.replace(detector.preset, focus=None)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bare(_picture())
    return float(counter.get_total_flops())


def work_of_branch(detector: RetinaFocus, branch: FocusBranch) -> float:
    """Operations of a focus branch, for the same picture."""
    maps = features(detector, _picture())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        branch(*maps)
    return float(counter.get_total_flops())


def _picture() -> torch.Tensor:
    return torch.zeros(1, 3, 128, 128, dtype=torch.uint8)


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
