"""Focus branches that differ in the map they read or in what they are taught to mark, trained at once.

The detector is frozen and the branches know nothing of each other, so one pass of backbone and pyramid serves all of
them: each sees the same crops in the same order, with labels, loss and optimiser of its own. A branch ends with the
same weights whichever others are trained beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.models.backbone import Stages
from retinafocus.models.heads import FocusBranch
from retinafocus.models.presets import FOCUS_STRIDES, FocusConfig
from retinafocus.models.pyramid import Levels
from retinafocus.training.augment import LabelledCrop
from retinafocus.training.loop import LoopConfig, learning_rate_at
from retinafocus.training.losses import LossConfig, focus_loss
from retinafocus.training.samples import CropSamples
from retinafocus.training.targets import FocusLabelConfig, focus_labels
from retinafocus.weights import save_model

CHECKPOINT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Head:
    """A focus branch: what it reads and what it marks."""

    feature: str
    """One of `FOCUS_STRIDES`."""

    labels: FocusLabelConfig

    @property
    def name(self) -> str:
        """Such as P3-3-40-64; fit for a file."""
        return f"{self.feature}-{self.labels.smallest:g}-{self.labels.small:g}-{self.labels.large:g}"

    @property
    def stride(self) -> int:
        """Network-input pixels per cell."""
        return FOCUS_STRIDES[self.feature]


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


class HeadTraining:
    """The state of one training of many branches.

    Args:
        detector: left as it is; in evaluation mode.
        heads: names must differ.
        config: steps, learning rate and its schedule, weight decay, and the bound of each branch's gradient.
        loss: focal loss.
        seed: of the random weights; the same for each branch.
    """

    def __init__(
        self, detector: RetinaFocus, heads: Sequence[Head], config: LoopConfig, loss: LossConfig, seed: int = 0
    ) -> None:
        self.detector, self.config, self.loss = detector, config, loss
        self.heads = {head.name: head for head in heads}
        self.branches = {head.name: new_branch(detector, head, seed).train() for head in heads}
        # Adam and not the plain descent of `training.loop`: the maps differ in scale by more than ten, and one learning
        # rate that suits some of them would decide which wins.
        self.optimizers = {
            name: torch.optim.AdamW(branch.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
            for name, branch in self.branches.items()
        }
        self.steps_done = 0

    def step(self, crops: Sequence[LabelledCrop]) -> dict[str, float]:
        """Learn from crops of one size; the losses before this step, by head."""
        pixels = torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2)
        stages, levels = features(self.detector, pixels)
        rate = learning_rate_at(self.steps_done, self.config)
        painted: dict[tuple[int, FocusLabelConfig], Tensor] = {}
        losses = {}
        for name, head in self.heads.items():
            wanted = (head.stride, head.labels)
            if wanted not in painted:
                painted[wanted] = torch.stack([_labels(crop, *wanted) for crop in crops])
            loss = focus_loss(self.branches[name](stages, levels)[:, 0], painted[wanted], self.loss)
            self._descend(name, loss, rate)
            losses[name] = float(loss.detach())
        self.steps_done += 1
        return losses

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's annotations leave it out
        nn.utils.clip_grad_norm_(self.branches[name].parameters(), self.config.largest_gradient)
        optimizer.step()

    def save(self, path: Path) -> None:
        """Write a checkpoint; the file is whole or the previous one at any moment."""
        state = {
            "steps_done": self.steps_done,
            "branches": {name: branch.state_dict() for name, branch in self.branches.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        temporary = path.with_name(path.name + ".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            SettingsError: it is one of other branches.
        """
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if list(state["branches"]) != list(self.branches):
            raise SettingsError(f"{path}: a training of other branches; choose another output, or remove it")
        for name, branch in self.branches.items():
            branch.load_state_dict(state["branches"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.steps_done = int(state["steps_done"])


def new_branch(detector: RetinaFocus, head: Head, seed: int) -> FocusBranch:
    """A branch with random weights for a detector's maps; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        preset = detector.preset
        return FocusBranch(_config(detector, head), detector.backbone.stage_channels, preset.channels, preset.slope)


@torch.no_grad()
def features(detector: RetinaFocus, pixels: Tensor) -> tuple[Stages, Levels]:
    """The maps a focus branch may read.

    Args:
        detector: in evaluation mode.
        pixels: (N, 3, H, W) uint8 RGB.
    """
    ordered = pixels.flip(1) if detector.preset.bgr else pixels
    stages: Stages = detector.backbone(ordered.to(torch.float32) - detector.mean)
    levels: Levels = detector.pyramid(*stages[1:])
    return stages, levels


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
        network = network_with(training.detector, head, training.branches[name])
        paths[name] = folder / f"{name}.safetensors"
        save_model(network, paths[name], licence=licence, source=f"an ablation: {training.steps_done} steps")
    return paths


def network_with(detector: RetinaFocus, head: Head, branch: FocusBranch) -> RetinaFocus:
    """The detector with that branch in place of its own, in evaluation mode."""
    preset = replace(detector.preset, focus=_config(detector, head))
    network = RetinaFocus.from_detector(detector, preset)
    assert network.focus is not None
    network.focus.load_state_dict(branch.state_dict())
    return network.eval()


def _config(detector: RetinaFocus, head: Head) -> FocusConfig:
    known = detector.preset.focus or FocusConfig()
    return replace(known, feature=head.feature, smallest=head.labels.smallest)


def _labels(crop: LabelledCrop, stride: int, labels: FocusLabelConfig) -> Tensor:
    boxes, sides, ignore = (torch.from_numpy(values) for values in (crop.boxes, crop.sides, crop.ignore))
    size = (crop.pixels.shape[0], crop.pixels.shape[1])
    return focus_labels(boxes, sides, ignore, size=size, stride=stride, config=labels)


def unique(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Each head once, in the order of the first."""
    return tuple({head.name: head for head in heads}.values())
