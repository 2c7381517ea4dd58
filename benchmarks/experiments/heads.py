"""The focus branches that the ablations compare, trained at once (`retinafocus.training.focus_heads`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from retinafocus.models import RetinaFocus
from retinafocus.models.presets import FOCUS_STRIDES, FocusConfig
from retinafocus.training.focus_heads import Head, HeadTraining, focus_reading, network_with
from retinafocus.training.samples import CropSamples
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import save_model

CHECKPOINT_SECONDS = 180.0

OURS = FocusLabelConfig(smallest=3.0, small=40.0, large=64.0)
"""What the weights that ship were taught to mark, by the rules of `evaluation.focus_limits`."""

LEVEL_HEADS = tuple(Head(feature, OURS) for feature in FOCUS_STRIDES)
"""Every map there is, one set of labels."""

SIZE_LABELS = {
    (3.0, 40.0, 64.0): "these weights, from the study",
    (5.0, 64.0, 90.0): "AutoFocus",
    (5.0, 25.0, 90.0): "manhdq/TextFocus, for faces",
    (3.0, 20.0, 40.0): "only what this scale cannot find",
    (3.0, 20.0, 20.0): "the same, none in doubt",
}
"""(a, b, c) and where they come from."""

SIZE_HEADS = tuple(Head("P3", FocusLabelConfig(smallest=a, small=b, large=c)) for a, b, c in SIZE_LABELS)


def fit(
    training: HeadTraining,
    samples: CropSamples,
    batch: int,
    checkpoint: Path,
    report: Callable[[int, Mapping[str, float]], None],
    report_every: int = 25,
) -> None:
    """Take the steps that are left; batch n holds the samples from n times its size on, also after a restart."""
    if checkpoint.exists():
        training.load(checkpoint)
    saved = time.monotonic()
    losses: list[dict[str, float]] = []
    while training.steps_done < training.config.steps:
        first = training.steps_done * batch
        losses.append(training.step([samples[number].crop for number in range(first, first + batch)]))
        if training.steps_done % report_every == 0:
            report(training.steps_done, {name: fmean(each[name] for each in losses) for name in training.heads})
            losses = []
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            training.save(checkpoint)
            saved = time.monotonic()
    training.save(checkpoint)


def write_networks(training: HeadTraining, folder: Path, *, licence: str) -> dict[str, Path]:
    """The detector with each branch as a weights file of its own, by head; those that are there are written again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, head in training.heads.items():
        network = network_with(training.detector, marking(training.detector, head), training.branches[name])
        paths[name] = folder / f"{name}.safetensors"
        save_model(network, paths[name], licence=licence, source=f"an ablation: {training.steps_done} steps")
    return paths


def marking(detector: RetinaFocus, head: Head) -> FocusConfig:
    """The focus configuration of a detector with that branch: the cascade looks whole where it marks nothing."""
    return replace(focus_reading(detector, head.feature), smallest=head.labels.smallest)


def unique(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Each head once, in the order of the first."""
    return tuple({head.name: head for head in heads}.values())
