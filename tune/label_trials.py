"""One trial of `retinafocus tune focus-labels`: a short training of a focus branch, judged again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.models.heads import FocusBranch
from retinafocus.models.presets import FOCUS_STRIDES
from retinafocus.training.focus_heads import Head, HeadTraining
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import save_model
from tune.accuracy_curve import Point
from tune.kept_maps import READ_BY, CropMaps
from tune.label_judge import (
    EVERYWHERE,
    JudgeFiles,
    LabelJudge,
    judged_between,
    led_at,
    load_with_branch,
    mpx_of,
    network_of,
    precision,
    preset_of,
    really_found,
)
from tune.space import Choice, Range, Settings, Space
from tune.sweep import Evaluate, Results

FEATURE, SMALLEST, SMALL, LARGE = "model.focus", "sample.focus.smallest", "sample.focus.small", "sample.focus.large"
LARGE_OVER_SMALL = "large_over_small"
"""In place of c, which may not be below b: how many times b it is."""

SPACE = f"""\
"{FEATURE}" = ["C2", "C3", "C4", "P2", "P3", "P4"]
"{SMALLEST}" = {{ from = 2.0, to = 6.0, log = true }}
"{SMALL}" = {{ from = 16.0, to = 80.0, log = true }}
"{LARGE_OVER_SMALL}" = {{ from = 1.0, to = 2.0 }}
"""
"""What is searched if no file says so."""

STAGES = 4
"""A training is judged so often; after each a search may leave it. The schedule of the learning rate is that of the
whole training from the start."""

LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
"""Of AdamW, as in the ablations (benchmarks/results/ablations)."""

TRIAL, REPEAT = "trial", "repeat"
"""What finalists have beside their settings: the number of the trial, and which time it is."""

AS_TRAINED = -1
"""In place of a trial's number: the branch that the weights came with."""

LICENCE = "of a short training, for comparison; not for use"

BOOTSTRAP = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTrials:
    """What every process needs to try labels; called, it gets ready."""

    weights: Path
    crops: CropMaps
    judge: JudgeFiles
    present: Head
    """What a setting that is not searched is."""
    steps: int
    loss: LossConfig

    def __call__(self) -> Evaluate:
        """See `sweep.Prepare`."""
        detector, judge = self.ready()

        def evaluate(number: int, settings: Settings) -> Iterator[Results]:
            for share, branch in self.trained(detector, head_of(settings, self.present), seed=0):
                yield {**judge.judged(judge.curve(branch)), "trained": share}

        return evaluate

    def ready(self) -> tuple[RetinaFocus, LabelJudge]:
        """The frozen detector and the judge."""
        # Trials share the machine by processes; two threads each would be slower and another sum.
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        detector, _ = load_with_branch(self.weights)
        return detector, LabelJudge(self.judge, detector)

    def trained(self, detector: RetinaFocus, head: Head, seed: int) -> Iterator[tuple[float, FocusBranch]]:
        """The branch after each stage of its training, in evaluation mode, and how much of the training it then had."""
        config = LoopConfig(
            steps=self.steps, learning_rate=LEARNING_RATE, warmup_steps=self.steps // 20, weight_decay=WEIGHT_DECAY
        )
        training = HeadTraining(detector, [head], config, self.loss, seed)
        branch = training.branches[head.name]
        batches = self.crops.batches(READ_BY[head.feature], seed)
        for stage in range(1, STAGES + 1):
            branch.train()
            while training.steps_done < stage * self.steps // STAGES:
                training.learn(*next(batches))
            yield training.steps_done / self.steps, branch.eval()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finals:
    """The best trials once more, from other random weights, and then the cascade itself on photos that had no part in
    ranking them; called, it gets ready."""

    trials: LabelTrials
    photos: Sequence[LabelledPhoto]
    folder: Path
    """Gets the trained networks, and of each the points that were looked at."""

    def __call__(self) -> Evaluate:
        """See `sweep.Prepare`."""
        detector, judge = self.trials.ready()
        whole = self._looked(detector, EVERYWHERE)
        coarse = self._looked(detector, led_at((1.0, 1.0), detector.preset))

        def evaluate(number: int, settings: Settings) -> Iterator[Results]:
            branch = self._branch(detector, settings)
            curve = judge.curve(branch)
            results = {f"ranked_{name}": value for name, value in judge.judged(curve).items()}
            rows = []
            # All of them: what was worth its cost by the estimate need not be so in the cascade.
            for thresholds, _ in curve:
                row = self._looked(network_of(detector, branch), led_at(thresholds, preset_of(detector, branch)))
                row["cost"] = judge.work_with(branch) * row["mpx"] / whole["mpx"]
                rows.append(row | {"threshold_0": thresholds[0], "threshold_1": thresholds[1]})
            pq.write_table(pa.Table.from_pylist(rows), finalist_file(self.folder, settings, "parquet"))
            ends = Point(coarse["mpx"] / whole["mpx"], coarse["ap"]), Point(1.0, whole["ap"])
            told = judged_between([Point(row["cost"], row["ap"]) for row in rows], *ends)
            yield told | results | {f"whole_{name}": value for name, value in whole.items()}

        return evaluate

    def _branch(self, detector: RetinaFocus, settings: Settings) -> FocusBranch:
        if settings[TRIAL] == AS_TRAINED:
            assert detector.focus is not None
            return detector.focus
        head = head_of(settings, self.trials.present)
        *_, (_, branch) = self.trials.trained(detector, head, seed=settings[REPEAT])
        path = finalist_file(self.folder, settings, "safetensors")
        source = f"retinafocus tune focus-labels: {head.name}, {self.trials.steps} steps"
        save_model(network_of(detector, branch), path, licence=LICENCE, source=source)
        return branch

    def _looked(self, network: RetinaFocus, cascade: CascadeConfig) -> Results:
        """AP with its interval, and Mpx a photo, of the cascade itself."""
        found = really_found(network, cascade, self.photos, self.trials.judge.min_face)
        result = precision(found, self.photos, self.trials.judge.min_face, BOOTSTRAP)
        return {"ap": result.ap, "ap_low": result.low, "ap_high": result.high, "mpx": mpx_of(found)}


def finalist_file(folder: Path, settings: Settings, kind: str) -> Path:
    """Where something of a finalist lies."""
    return folder / f"trial-{settings[TRIAL]}-{settings[REPEAT]}.{kind}"


def head_of(settings: Settings, present: Head) -> Head:
    """The branch that settings of a search describe.

    Raises:
        SettingsError: there is no such map, or the sizes make no sense.
    """
    feature, labels = settings.get(FEATURE, present.feature), present.labels
    if feature not in FOCUS_STRIDES:
        raise SettingsError(f"{FEATURE} is {feature!r}; choose among {', '.join(FOCUS_STRIDES)}")
    small = float(settings.get(SMALL, labels.small))
    # Where b alone is searched, c keeps its distance.
    factor = float(settings.get(LARGE_OVER_SMALL, labels.large / labels.small))
    # Rounded, c may not fall below b.
    large = float(settings.get(LARGE, max(small, float(f"{factor * small:.4g}"))))
    return Head(
        feature, FocusLabelConfig(smallest=float(settings.get(SMALLEST, labels.smallest)), small=small, large=large)
    )


def settings_of_head(head: Head, space: Space) -> Settings:
    """What the settings of a space are for a branch."""
    labels = head.labels
    known: dict[str, Any] = {FEATURE: head.feature, SMALLEST: labels.smallest, SMALL: labels.small, LARGE: labels.large}
    known[LARGE_OVER_SMALL] = labels.large / labels.small
    return {name: known[name] for name in [*space.searched, *space.fixed]}


def check_space(space: Space, present: Head) -> None:
    """Refuse what cannot be searched, before anything is computed.

    Raises:
        SettingsError: a setting is unknown, or its range leads out of what it may be.
    """
    known = (FEATURE, SMALLEST, SMALL, LARGE, LARGE_OVER_SMALL)
    names = [*space.searched, *space.fixed]
    if wrong := [name for name in names if name not in known]:
        raise SettingsError(f"search space: {', '.join(wrong)}: not searched here; choose among {', '.join(known)}")
    if LARGE in names and LARGE_OVER_SMALL in names:
        raise SettingsError(f"search space: {LARGE} and {LARGE_OVER_SMALL} are two ways to say c; give one of them")
    for choices in itertools.product(*(_ends(kind) for kind in space.searched.values())):
        try:
            head_of({**space.fixed, **dict(zip(space.searched, choices, strict=True))}, present)
        except (SettingsError, ValueError, TypeError) as error:
            hint = f"; {LARGE_OVER_SMALL} in place of {LARGE} keeps c from b on" if LARGE in names else ""
            raise SettingsError(f"search space: {error}{hint}") from error


def features_of(space: Space, present: Head) -> list[str]:
    """The maps that branches of a search may read, that of the present one included."""
    kind = space.searched.get(FEATURE)
    chosen = list(kind.values) if isinstance(kind, Choice) else [space.fixed.get(FEATURE, present.feature)]
    return sorted({*chosen, present.feature})


def _ends(kind: Range | Choice) -> Sequence[Any]:
    return kind.values if isinstance(kind, Choice) else (kind.low, kind.high)
