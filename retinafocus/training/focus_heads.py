"""Focus branches trained beside a frozen detector: several at once, or from maps of the backbone that were kept.

The detector is frozen and the branches know nothing of each other, so one pass of backbone and pyramid serves all of
them: each sees the same crops in the same order, with labels, loss and optimiser of its own. A branch ends with the
same weights whichever others are trained beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
from retinafocus.training.targets import FocusLabelConfig, focus_labels


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


class CropFaces(NamedTuple):
    """What the focus labels of a crop are painted from; network-input pixels."""

    size: tuple[int, int]
    """(height, width)."""
    boxes: NDArray[np.float32]
    """(N, 4) xyxy."""
    sides: NDArray[np.float32]
    """(N,) sqrt(width * height) of the whole faces."""
    ignore: NDArray[np.float32]
    """(M, 4) xyxy."""

    @classmethod
    def of(cls, crop: LabelledCrop) -> CropFaces:
        """Those of a crop."""
        return cls(crop.pixels.shape[:2], crop.boxes, crop.sides, crop.ignore)

    def painted(self, stride: int, labels: FocusLabelConfig) -> Tensor:
        """The label of each cell; see `focus_labels`."""
        boxes, sides, ignore = (torch.from_numpy(values) for values in (self.boxes, self.sides, self.ignore))
        return focus_labels(boxes, sides, ignore, size=self.size, stride=stride, config=labels)


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
        self.branches = {
            head.name: new_branch(detector, focus_reading(detector, head.feature), seed).train() for head in heads
        }
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
        return self.learn(*features(self.detector, pixels), [CropFaces.of(crop) for crop in crops])

    def learn(self, stages: Stages, levels: Levels, faces: Sequence[CropFaces]) -> dict[str, float]:
        """Learn from the maps of crops of one size, of which those that no branch reads may be empty; the losses before
        this step, by head."""
        rate = learning_rate_at(self.steps_done, self.config)
        painted: dict[tuple[int, FocusLabelConfig], Tensor] = {}
        losses = {}
        for name, head in self.heads.items():
            wanted = (head.stride, head.labels)
            if wanted not in painted:
                painted[wanted] = torch.stack([each.painted(*wanted) for each in faces])
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


def focus_reading(detector: RetinaFocus, feature: str) -> FocusConfig:
    """The configuration of a detector's focus branch, or of a usual one if it has none, but for the map it reads."""
    return replace(detector.preset.focus or FocusConfig(), feature=feature)


def new_branch(detector: RetinaFocus, config: FocusConfig, seed: int) -> FocusBranch:
    """A branch with random weights for a detector's maps; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        preset = detector.preset
        return FocusBranch(config, detector.backbone.stage_channels, preset.channels, preset.slope)


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


def network_with(detector: RetinaFocus, config: FocusConfig, branch: FocusBranch) -> RetinaFocus:
    """The detector with that branch in place of its own, in evaluation mode.

    Args:
        detector: its weights are copied.
        config: of the branch; it reads the map that the branch was made for.
        branch: its weights are copied.
    """
    network = RetinaFocus.from_detector(detector, replace(detector.preset, focus=config))
    assert network.focus is not None
    network.focus.load_state_dict(branch.state_dict())
    return network.eval()
