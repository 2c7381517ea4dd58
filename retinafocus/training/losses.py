"""The losses: classification with hard-negative mining, boxes, landmarks, focus map.

Normalised as the published training does: classification and boxes by the number of positive anchors of the batch,
landmarks by the number of positive anchors that have any (biubug6/Pytorch_Retinaface, multibox_loss.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from retinafocus.errors import SettingsError
from retinafocus.models.retinafocus import Outputs
from retinafocus.training.samples import Batch
from retinafocus.training.targets import IGNORED, NEGATIVE, POSITIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the terms and how negatives are chosen."""

    class_weight: float = 1.0
    """Weight of face against background."""

    box_weight: float = 2.0
    """Weight of the box offsets."""

    landmark_weight: float = 1.0
    """Weight of the landmark offsets."""

    focus_weight: float = 1.0
    """Weight of the focus map."""

    negative_ratio: float = 7.0
    """Hardest negative anchors of each crop that count, per positive one; 7 as in Pytorch_Retinaface, 3 as in the
    paper."""

    least_negatives: int = 32
    """At least this many count in each crop, so that crops without faces teach too."""

    smooth_beta: float = 1.0
    """Where smooth-L1 of box and landmark offsets turns from square to straight, in encoded offsets."""

    focal_gamma: float = 2.0
    """How strongly well-answered focus cells are played down."""

    focal_alpha: float = 0.25
    """Weight of positive focus cells; negative ones have 1 - alpha."""

    def __post_init__(self) -> None:
        for name in ("class_weight", "box_weight", "landmark_weight", "focus_weight", "negative_ratio", "focal_gamma"):
            if getattr(self, name) < 0:
                raise SettingsError(f"loss.{name} is {getattr(self, name)}; choose 0 or more")
        if self.least_negatives < 0:
            raise SettingsError(f"loss.least_negatives is {self.least_negatives}; choose 0 or more")
        if self.smooth_beta <= 0 or not 0 <= self.focal_alpha <= 1:
            raise SettingsError("loss.smooth_beta must be more than 0 and loss.focal_alpha in 0..1")


class Losses(NamedTuple):
    """Scalars, before their weights, and their weighted sum."""

    total: Tensor
    classes: Tensor
    boxes: Tensor
    landmarks: Tensor
    focus: Tensor


def detection_losses(outputs: Outputs, batch: Batch, config: LossConfig) -> Losses:
    """All losses of one batch.

    Args:
        outputs: of the network for `batch.pixels`.
        batch: the targets.
        config: the weights.

    Returns:
        float32 scalars; a term without anything to learn from is 0 with a gradient of 0.
    """
    num_positives = max(1, len(batch.positives))
    classes = mined_class_loss(outputs.class_logits.float(), batch.labels, config).sum() / num_positives
    boxes = outputs.box_deltas.float().flatten(0, 1)[batch.positives]
    box_loss = functional.smooth_l1_loss(boxes, batch.box_deltas, reduction="sum", beta=config.smooth_beta)
    landmark_loss = masked_landmark_loss(outputs.landmark_deltas.float().flatten(0, 1)[batch.positives], batch, config)
    if outputs.focus_logits is None or batch.focus is None:
        focus = outputs.class_logits.new_zeros((), dtype=torch.float32)
    else:
        focus = focus_loss(outputs.focus_logits.float()[:, 0], batch.focus, config)
    box_loss = box_loss / num_positives
    total = config.class_weight * classes + config.box_weight * box_loss
    total = total + config.landmark_weight * landmark_loss + config.focus_weight * focus
    return Losses(total, classes, box_loss, landmark_loss, focus)


def mined_class_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Softmax cross-entropy of all positives and the hardest negatives of each crop.

    Args:
        logits: (B, A, 2) float32.
        labels: (B, A) int8.
        config: how many negatives count: `negative_ratio` for each positive of the crop, and `least_negatives`.

    Returns:
        (B, A) float32; 0 for anchors that do not count.
    """
    # With two classes, cross-entropy is softplus of the signed difference of the logits.
    face_over_rest = logits[..., 1] - logits[..., 0]
    positive, negative = labels == POSITIVE, labels == NEGATIVE
    losses = functional.softplus(torch.where(positive, -face_over_rest, face_over_rest))
    wanted = (positive.sum(dim=1) * config.negative_ratio).round().to(torch.int64).clamp_(min=config.least_negatives)
    wanted = torch.minimum(wanted, negative.sum(dim=1))
    hardest = losses.detach().masked_fill(~negative, -1.0).topk(int(wanted.max()), dim=1).indices
    counts = torch.arange(hardest.shape[1], device=logits.device) < wanted[:, None]
    mined = torch.zeros_like(negative).scatter_(1, hardest, counts)
    return losses * (positive | mined)


def masked_landmark_loss(predictions: Tensor, batch: Batch, config: LossConfig) -> Tensor:
    """Smooth-L1 of the landmarks that are there, (P, 10) predictions, over the positives that have at least one."""
    losses = functional.smooth_l1_loss(predictions, batch.landmark_deltas, reduction="none", beta=config.smooth_beta)
    return (losses * batch.landmark_mask).sum() / batch.landmark_mask.any(dim=1).sum().clamp(min=1)


def focus_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Focal loss of the focus map over the cells that are not ignored, divided by the number of positive cells.

    Args:
        logits: (B, h, w) float32.
        labels: (B, h, w) int8.
        config: gamma and alpha.

    Returns:
        A float32 scalar.

    Source: Focal Loss, arXiv 1708.02002, equation 5 and section 4.1 (the divisor).
    """
    positive = labels == POSITIVE
    signed = torch.where(positive, logits, -logits)
    weights = torch.where(positive, config.focal_alpha, 1 - config.focal_alpha) * (labels != IGNORED)
    losses = weights * torch.sigmoid(-signed) ** config.focal_gamma * functional.softplus(-signed)
    return losses.sum() / positive.sum().clamp(min=1)
