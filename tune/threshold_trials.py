"""One trial of `retinafocus tune thresholds`: an IoU of duplicates, and the score threshold that is best with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.average_precision import PhotoTruth
from retinafocus.evaluation.matched_set import Matches, match_set
from retinafocus.evaluation.operating_points import Goal, ScoreCurve, best_place
from tune.level_cache import SCORE_FLOOR
from tune.raw_detections import RawDetections, read_raw
from tune.space import Choice, Settings, Space
from tune.sweep import Results

NMS_IOU = "post.nms_iou"

SPACE = f'"{NMS_IOU}" = {{ from = 0.2, to = 0.7 }}\n'
"""What is searched if no file says so."""

IOU_THRESHOLD = 0.5
"""A face is found by a box that overlaps it so much."""


@dataclass(frozen=True, slots=True)
class RawSet:
    """Labelled photos with what was found in them before duplicates are removed."""

    photos: Sequence[LabelledPhoto]
    raw: Sequence[RawDetections]
    min_face: float
    keep_top_k: int | None

    def matches(self, nms_iou: float) -> Matches:
        """What a detection with that IoU of duplicates finds, beside the labels."""
        truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in self.photos]
        found = [each.without_duplicates(nms_iou, self.keep_top_k) for each in self.raw]
        return match_set(truths, found, (IOU_THRESHOLD,))

    def curve(self, nms_iou: float) -> ScoreCurve:
        """Of faces from the smallest wanted on."""
        return ScoreCurve.of(self.matches(nms_iou), (self.min_face, math.inf))


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdTrials:
    """What every process needs to try settings; called, it gets ready."""

    folder: Path
    """Of the raw detections."""
    photos: Sequence[LabelledPhoto]
    """All that are in the folder."""
    chosen: Sequence[int]
    """Which of them count."""
    min_face: float
    keep_top_k: int | None
    goal: Goal

    def __call__(self) -> Callable[[int, Settings], Iterator[Results]]:
        """See `sweep.Prepare`."""
        part = self.part(self.chosen)

        def evaluate(number: int, settings: Settings) -> Iterator[Results]:
            yield results_of(part.curve(settings[NMS_IOU]), self.goal)

        return evaluate

    def part(self, chosen: Sequence[int]) -> RawSet:
        """Some of the photos."""
        raw = read_raw(self.folder, self.photos)
        return RawSet([self.photos[n] for n in chosen], [raw[n] for n in chosen], self.min_face, self.keep_top_k)


def results_of(curve: ScoreCurve, goal: Goal) -> Results:
    """The numbers of a trial: those of the best score threshold.

    Raises:
        RunError: nothing was found that counts.
    """
    if not len(curve.scores):
        raise RunError(f"nothing was found with a score of {SCORE_FLOOR} or more, so there is no threshold to choose")
    place, rates = best_place(curve, goal), curve.rates()
    return {
        "goal": float(goal.values(rates)[place]),
        "score_threshold": curve.threshold_at(place, SCORE_FLOOR),
        "precision": float(rates.precision[place]),
        "recall": float(rates.recall[place]),
        "f1": float(rates.f1[place]),
        "ap": curve.average_precision,
    }


def check_space(space: Space) -> None:
    """Refuse what cannot be searched, before anything is computed.

    Raises:
        SettingsError: it has other settings than the IoU of duplicates, or one that is none.
    """
    names = [*space.searched, *space.fixed]
    if "score_threshold" in names:
        raise SettingsError("search space: the best score_threshold is found exactly in each trial; leave it out")
    if wrong := [name for name in names if name != NMS_IOU]:
        raise SettingsError(
            f"search space: {', '.join(wrong)} cannot be searched here, only {NMS_IOU}; set it by --config, or search "
            "it with `retinafocus tune focus`"
        )
    kind = space.searched[NMS_IOU]
    values = kind.values if isinstance(kind, Choice) else (kind.low, kind.high)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise SettingsError(f"search space: {NMS_IOU} is {value!r}; choose 0..1")
