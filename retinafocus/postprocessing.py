"""From what the network says about one picture to the boxes that may be faces, in network-input pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinafocus.anchors import anchor_boxes
from retinafocus.boxes import decode_boxes, decode_landmarks
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, Preset

# The picture that the published limit of 5000 candidates was meant for; larger ones get more in proportion.
TOP_K_PIXELS = 640 * 640


@dataclass(frozen=True, kw_only=True, slots=True)
class PostConfig:
    """How candidates become faces. The published defaults, except for the limits, which grow with the photo."""

    score_floor: float = 0.02
    """Candidates below this probability are never touched. 0.02 for evaluation; the detector raises it to its score
    threshold, which changes nothing above that threshold: a box is only ever removed by a better one."""

    top_k: int | None = 5000
    """Candidates kept before the removal of duplicates, best first: this many for a level of up to 640 x 640 pixels
    and in proportion to the pixels above that (101,250 at 3840 x 2160, of 340,000 anchors). The published 5000 for
    any size loses faces in a 4K crowd, where each face has several candidates. None: all."""

    nms_iou: float = 0.4
    """Of two boxes that overlap more than this (intersection over union), the one with the lower score is dropped."""

    keep_top_k: int | None = 20_000
    """Faces kept per photo, best first. The published 750 is fewer than one WIDER FACE picture has. None: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_floor < 1:
            raise SettingsError(f"post.score_floor is {self.score_floor}; choose a probability of 0 or more, below 1")
        if not 0 <= self.nms_iou <= 1:
            raise SettingsError(f"post.nms_iou is {self.nms_iou}; choose 0..1")
        for name in ("top_k", "keep_top_k"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise SettingsError(f"post.{name} is {limit}; choose at least 1, or None for no limit")

    def candidate_limit(self, pixels: int) -> int | None:
        """How many candidates a level of that many pixels may have."""
        return None if self.top_k is None else math.ceil(self.top_k * max(1.0, pixels / TOP_K_PIXELS))


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of one picture that may be faces, before duplicates are removed; N may be 0."""

    boxes: NDArray[np.float32]
    """(N, 4) float32; xyxy network-input pixels, not clipped."""

    scores: NDArray[np.float32]
    """(N,) float32; 0..1, in no particular order."""

    landmarks: NDArray[np.float32]
    """(N, 5, 2) float32; x,y network-input pixels."""

    def __len__(self) -> int:
        return int(self.scores.size)


def find_candidates(outputs: Outputs, size: tuple[int, int], preset: Preset, config: PostConfig) -> Candidates:
    """Read the outputs for one picture. Only anchors above the floor are decoded or leave the device.

    Args:
        outputs: for a batch of one, on any device.
        size: (height, width) of the network input in pixels.
        preset: of the network: its anchors and variances.
        config: floor and limit.

    Raises:
        PhotoError: model_error, the outputs contain numbers that are not finite.
    """
    # softmax over two classes is the sigmoid of their difference, so the floor is a floor on the difference.
    margins = outputs.class_logits[0, :, 1].float() - outputs.class_logits[0, :, 0].float()
    check_finite(margins)
    chosen = torch.nonzero(margins >= _logit(config.score_floor)).squeeze(1)
    limit = config.candidate_limit(size[0] * size[1])
    if limit is not None and len(chosen) > limit:
        best_first = torch.sort(margins[chosen], descending=True, stable=True).indices
        chosen = chosen[best_first[:limit]]
    scores = torch.sigmoid(margins[chosen].cpu())
    anchors = anchor_boxes(preset.anchors, size)[chosen.cpu()]
    boxes = decode_boxes(outputs.box_deltas[0, chosen].cpu().float(), anchors, preset.variances)
    landmarks = decode_landmarks(outputs.landmark_deltas[0, chosen].cpu().float(), anchors, preset.variances)
    check_finite(boxes)
    check_finite(landmarks)
    above = scores >= config.score_floor
    return Candidates(boxes[above].numpy(), scores[above].numpy(), landmarks[above].numpy())


def _logit(probability: float) -> float:
    """The difference of logits just below which the face probability is under `probability`."""
    # The slack lets float32's rounding of a sigmoid decide at the floor itself, not that of a logarithm.
    return -math.inf if probability == 0 else math.log(probability / (1 - probability)) - 1e-4


def check_finite(values: Tensor) -> None:
    """Raise PhotoError unless every number of an output is one: the others would pass for "nothing there"."""
    if not bool(torch.isfinite(values).all()):
        raise PhotoError(
            "model_error", "the network's output is not finite; check the weights, or use precision float32"
        )
