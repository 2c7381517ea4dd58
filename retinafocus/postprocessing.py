"""From what the network says about one picture to the boxes that may be faces, in network-input pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinafocus.anchors import anchor_boxes
from retinafocus.boxes import decode_boxes, decode_landmarks
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.faces import MIRRORED_LANDMARKS
from retinafocus.models import Outputs, Preset

# The picture that the published limit of 5000 candidates was meant for; larger ones get more in proportion.
TOP_K_PIXELS = 640 * 640


@dataclass(frozen=True, kw_only=True, slots=True)
class PostConfig:
    """How candidates become faces. The published defaults, except for the limits, which grow with the photo."""

    score_floor: float = 0.02
    """Candidates below this probability are never touched. 0.02 for evaluation; the detector raises it to its score
    threshold, which changes nothing above that threshold: a box is only ever removed, or made less sure, by a
    better one. Voting
    (`WholeLooks.voting`) is another matter: there the worse boxes have a part in the better one."""

    top_k: int | None = 5000
    """Candidates kept before the removal of duplicates, best first: this many for a level of up to 640 x 640 pixels
    and in proportion to the pixels above that (101,250 at 3840 x 2160, of 340,000 anchors). The published 5000 for
    any size loses faces in a 4K crowd, where each face has several candidates. None: all."""

    nms_iou: float = 0.4
    """Of two boxes that overlap more than this (intersection over union), the one with the lower score is dropped."""

    soft_sigma: float = 0.0
    """Above 0, soft-NMS takes the place of that: a box that overlaps a better one keeps exp(-IoU^2 / soft_sigma) of its
    score, and goes only when that falls below the floor. AutoFocus has 0.55. 0: boxes are dropped by `nms_iou`."""

    keep_top_k: int | None = 20_000
    """Faces kept per photo, best first. The published 750 is fewer than one WIDER FACE picture has. None: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_floor < 1:
            raise SettingsError(f"post.score_floor is {self.score_floor}; choose a probability of 0 or more, below 1")
        if not 0 <= self.nms_iou <= 1:
            raise SettingsError(f"post.nms_iou is {self.nms_iou}; choose 0..1")
        if not 0 <= self.soft_sigma < math.inf:
            raise SettingsError(f"post.soft_sigma is {self.soft_sigma}; choose a number above 0, or 0 for hard NMS")
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

    def mirrored(self, width: int) -> Candidates:
        """The same in the mirrored picture, `width` px wide; left and right of the landmarks are as seen."""
        boxes, landmarks = self.boxes[:, [2, 1, 0, 3]], self.landmarks[:, MIRRORED_LANDMARKS]
        boxes[:, ::2] = width - boxes[:, ::2]
        landmarks[..., 0] = width - landmarks[..., 0]
        return Candidates(boxes, self.scores, landmarks)


def find_candidates(outputs: Outputs, size: tuple[int, int], preset: Preset, config: PostConfig) -> Candidates:
    """Read the outputs for one picture; see `find_all_candidates`."""
    (found,) = find_all_candidates([outputs], [size], preset, config)
    return found


def find_all_candidates(
    outputs: Sequence[Outputs], sizes: Sequence[tuple[int, int]], preset: Preset, config: PostConfig
) -> list[Candidates]:
    """Read the outputs for many pictures at once: for small ones the calls cost more than the arithmetic.

    Only anchors above the floor are decoded or leave the device. What is found in a picture does not depend on the
    others.

    Args:
        outputs: for each picture, a batch of one, on any device; at least one.
        sizes: (height, width) of each network input in pixels.
        preset: of the network: its anchors and variances.
        config: floor and limit.

    Raises:
        PhotoError: model_error, the outputs contain numbers that are not finite.
    """
    # softmax over two classes is the sigmoid of their difference, so the floor is a floor on the difference.
    logits = torch.cat([each.class_logits[0] for each in outputs]).float()
    margins = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    check_finite(margins)
    above = np.flatnonzero(margins >= _logit(config.score_floor))
    above = above[sigmoid(margins[above]) >= config.score_floor]
    starts = np.cumsum([0, *(each.class_logits.shape[1] for each in outputs)])
    chosen = np.split(above, np.searchsorted(above, starts[1:-1]))
    for number, (height, width) in enumerate(sizes):
        limit = config.candidate_limit(height * width)
        if limit is not None and len(chosen[number]) > limit:
            best_first = np.argsort(-margins[chosen[number]], kind="stable")
            chosen[number] = chosen[number][best_first[:limit]]
    scores = sigmoid(margins[np.concatenate(chosen)])
    boxes, landmarks = _decoded(outputs, sizes, [torch.from_numpy(n) for n in map(np.subtract, chosen, starts)], preset)
    ends = np.cumsum([len(each) for each in chosen])[:-1]
    return [
        Candidates(*each) for each in zip(*(np.split(part, ends) for part in (boxes, scores, landmarks)), strict=True)
    ]


def _decoded(
    outputs: Sequence[Outputs], sizes: Sequence[tuple[int, int]], chosen: Sequence[Tensor], preset: Preset
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 4) boxes and (N, 5, 2) landmarks of the chosen anchors, picture after picture."""
    some = [(each, size, places) for each, size, places in zip(outputs, sizes, chosen, strict=True) if len(places)]
    if not some:
        return np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32)
    anchors = torch.cat([anchor_boxes(preset.anchors, size)[places] for _, size, places in some])
    box_deltas = torch.cat([each.box_deltas[0, places.to(each.box_deltas.device)] for each, _, places in some])
    points = torch.cat([each.landmark_deltas[0, places.to(each.landmark_deltas.device)] for each, _, places in some])
    boxes = decode_boxes(box_deltas.cpu(), anchors, preset.variances).numpy()
    landmarks = decode_landmarks(points.cpu(), anchors, preset.variances).numpy()
    check_finite(boxes)
    check_finite(landmarks)
    return boxes, landmarks


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of logits, of any shape; float32.

    Not torch's, whose last digit depends on where in an array a number stands.
    """
    with np.errstate(over="ignore"):
        probabilities: NDArray[np.float32] = np.float32(1) / (1 + np.exp(-logits))
    return probabilities


def check_finite(values: NDArray[np.float32]) -> None:
    """Raise PhotoError unless every number of an output is one: the others would pass for "nothing there"."""
    if not np.isfinite(values).all():
        raise PhotoError(
            "model_error", "the network's output is not finite; check the weights, or use precision float32"
        )


def _logit(probability: float) -> float:
    """The difference of logits just below which the face probability is under `probability`."""
    # The slack lets float32's rounding of a sigmoid decide at the floor itself, not that of a logarithm. Near 1 it is
    # float32's steps that count: all differences from 16.7 on have a sigmoid of 1.
    lower = probability - 2.0**-22
    return -math.inf if lower <= 0 else math.log(lower / (1 - lower)) - 1e-4
