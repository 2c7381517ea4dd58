"""What the network should answer for one crop: a label and offsets for each anchor, a label for each focus cell.

Everything here speaks of one crop in network-input pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert

from retinafocus.boxes import encode_boxes, encode_landmarks
from retinafocus.errors import SettingsError

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
"""Labels of anchors and of focus cells."""

UNMATCHED, BETWEEN = -1, -2
"""What `match_anchors` says of an anchor without face: it is background, or neither face nor background."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """Which anchors are faces, which are background, and which say nothing. Overlap is intersection over union."""

    positive: float = 0.35
    """An anchor that overlaps a face at least this much is positive."""

    negative: float = 0.35
    """An anchor that overlaps every face less than this is negative; from here to `positive` it is ignored."""

    forced: float = 0.2
    """The best anchors of each face are positive below `positive` too, if they overlap it at least this much."""

    forced_anchors: int = 1
    """How many of its best anchors each face gets in this way."""

    spare_unmatched: bool = False
    """Ignore, instead of calling it background, the best anchor of each face that no anchor suits."""

    ignore_inside: float = 0.5
    """An anchor with at least this share of its area inside an ignore region is ignored."""

    def __post_init__(self) -> None:
        if not 0 < self.forced <= self.negative <= self.positive <= 1:
            raise SettingsError(
                f"match wants 0 < forced <= negative <= positive <= 1, got forced {self.forced}, "
                f"negative {self.negative}, positive {self.positive}"
            )
        if self.forced_anchors < 0:
            raise SettingsError(f"match.forced_anchors is {self.forced_anchors}; choose 0 or more")


MATCH_PRESETS = {
    # Pytorch_Retinaface, utils/box_utils.py match: no band of ignored anchors.
    "biubug6": MatchConfig(),
    # arXiv 1905.00641, section 4.2: 0.5 and 0.3, ignored between; the forced anchor is our addition, because a face
    # between two anchor sizes would have none.
    "paper": MatchConfig(positive=0.5, negative=0.3),
    # Faces of about one stride overlap no anchor by 0.35 (finetune_anchors study: 0.14 to 0.39), so they get their
    # best few, and those smaller than every anchor are not taught to be background.
    "retinafocus": MatchConfig(negative=0.3, forced_anchors=3, spare_unmatched=True),
}


class AnchorTargets(NamedTuple):
    """Targets of one crop with A anchors, P of them positive; P may be 0."""

    labels: Tensor
    """(A,) int8: POSITIVE, NEGATIVE or IGNORED."""

    positives: Tensor
    """(P,) int64: the positive anchors, ascending."""

    faces: Tensor
    """(P,) int64: the face each of them answers for."""

    box_deltas: Tensor
    """(P, 4) float32: offsets from the anchors to their faces, encoded."""

    landmark_deltas: Tensor
    """(P, 10) float32: offsets from the anchors to the landmarks, encoded; 0 where the point is missing."""

    landmark_mask: Tensor
    """(P, 10) bool: False where the point is missing."""


def anchor_targets(
    anchors: Tensor,
    boxes: Tensor,
    landmarks: Tensor,
    ignore: Tensor,
    *,
    variances: tuple[float, float],
    config: MatchConfig,
) -> AnchorTargets:
    """Label the anchors of one crop and encode what the positive ones should answer.

    Args:
        anchors: (A, 4) float32; cxcywh network-input pixels.
        boxes: (N, 4) float32; xyxy network-input pixels of the faces.
        landmarks: (N, 5, 2) float32; network-input pixels, NaN where a point is missing.
        ignore: (M, 4) float32; xyxy network-input pixels of regions that teach nothing.
        variances: scales of the encoded offsets, as the preset has them.
        config: the thresholds.

    Returns:
        The targets; without faces, all anchors are negative or ignored.

    Source: RetinaFace, arXiv 1905.00641, section 4.2; presets and coding as in the published PyTorch training.
    """
    corners = box_convert(anchors, "cxcywh", "xyxy")
    matched = match_anchors(overlapping_pairs(corners, boxes), len(anchors), config)
    labels = np.full(len(anchors), NEGATIVE, dtype=np.int8)
    labels[_near_ignored(corners, ignore, config) | (matched == BETWEEN)] = IGNORED
    labels[matched >= 0] = POSITIVE
    positives = torch.from_numpy(np.flatnonzero(matched >= 0))
    faces = torch.from_numpy(matched[matched >= 0])
    points = encode_landmarks(landmarks[faces], anchors[positives], variances)
    return AnchorTargets(
        labels=torch.from_numpy(labels),
        positives=positives,
        faces=faces,
        box_deltas=encode_boxes(boxes[faces], anchors[positives], variances),
        landmark_deltas=torch.nan_to_num(points, nan=0.0),
        landmark_mask=~torch.isnan(points),
    )


class Pairs(NamedTuple):
    """Every pair of an anchor and a box that share area, ordered by box, then anchor; P pairs."""

    anchors: NDArray[np.int64]
    """(P,) number of the anchor."""

    boxes: NDArray[np.int64]
    """(P,) number of the box."""

    shared: NDArray[np.float32]
    """(P,) area both cover."""

    overlaps: NDArray[np.float32]
    """(P,) intersection over union."""


BAND = 320
"""Anchors compared at a time, and boxes from which on that pays. In raster order they make a narrow band that few of a
crowd's boxes touch: a crop with 1,000 regions takes 5 ms instead of 60."""


def overlapping_pairs(anchors: Tensor, boxes: Tensor) -> Pairs:
    """Find the pairs that overlap, without an (A, N) matrix where there are many boxes.

    Args:
        anchors: (A, 4) float32; xyxy.
        boxes: (N, 4) float32; xyxy in the same frame.
    """
    corners, others = anchors.numpy(), boxes.numpy()
    step = BAND if len(others) > 64 else max(1, len(corners))
    has_area = (others[:, 2:] > others[:, :2]).all(axis=1)
    rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for first in range(0, len(corners), step):
        left, top, right, bottom = corners[first : first + step, :, None].transpose(1, 0, 2)
        near = np.flatnonzero(has_area & (others[:, 3] > top.min()) & (others[:, 1] < bottom.max()))
        x1, y1, x2, y2 = others[near].T
        row, column = np.nonzero((left < x2) & (right > x1) & (top < y2) & (bottom > y1))
        rows.append(row + first)
        columns.append(near[column])
    row, column = np.concatenate(rows), np.concatenate(columns)
    order = np.lexsort((row, column))
    row, column = row[order], column[order]
    pair, other = corners[row], others[column]
    shared = (np.minimum(pair[:, 2:], other[:, 2:]) - np.maximum(pair[:, :2], other[:, :2])).prod(axis=1)
    areas = (pair[:, 2:] - pair[:, :2]).prod(axis=1) + (other[:, 2:] - other[:, :2]).prod(axis=1)
    return Pairs(anchors=row, boxes=column, shared=shared, overlaps=shared / (areas - shared))


def match_anchors(pairs: Pairs, num_anchors: int, config: MatchConfig) -> NDArray[np.int64]:
    """Find the face each anchor answers for.

    Args:
        pairs: of anchors and faces.
        num_anchors: how many there are.
        config: the thresholds.

    Returns:
        (A,) int64; the number of the face, or UNMATCHED, or BETWEEN. An anchor that two faces want goes to the one it
        overlaps more, the earlier one when equal.
    """
    matched = np.full(num_anchors, UNMATCHED, dtype=np.int64)
    # Numbers are assigned in order and the last one stays: so the best comes last, the earlier face after the later.
    rising = np.lexsort((-pairs.boxes, pairs.overlaps))
    best = np.zeros(num_anchors, dtype=np.float32)
    best[pairs.anchors[rising]] = pairs.overlaps[rising]
    matched[best >= config.negative] = BETWEEN
    suits = rising[pairs.overlaps[rising] >= config.positive]
    matched[pairs.anchors[suits]] = pairs.boxes[suits]

    ranks = _ranks(pairs)
    # The published code forces a face's best anchor even away from a face that the anchor suits better, so that each
    # face has one; further anchors are taken only where no other face has them already.
    may = (ranks == 0) | (best[pairs.anchors] < config.positive)
    forced = (ranks < config.forced_anchors) & (pairs.overlaps >= config.forced) & may
    claims = rising[forced[rising]]
    matched[pairs.anchors[claims]] = pairs.boxes[claims]
    if config.spare_unmatched:
        has_anchor = np.isin(pairs.boxes, matched[matched >= 0])
        spared = pairs.anchors[(ranks == 0) & ~has_anchor]
        matched[spared[matched[spared] == UNMATCHED]] = BETWEEN
    return matched


def _ranks(pairs: Pairs) -> NDArray[np.int64]:
    """(P,) place of each pair among those of its box, 0 for the largest overlap, the earlier anchor when equal."""
    order = np.lexsort((pairs.anchors, -pairs.overlaps, pairs.boxes))
    firsts = np.searchsorted(pairs.boxes, pairs.boxes)  # pairs are ordered by box, so this is where a box's begin
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - firsts
    return ranks


def _near_ignored(anchors: Tensor, ignore: Tensor, config: MatchConfig) -> NDArray[np.bool_]:
    """(A,) bool: the anchor lies mostly inside an ignore region, or would answer for it if it were a face."""
    pairs = overlapping_pairs(anchors, ignore)
    near: NDArray[np.bool_] = match_anchors(pairs, len(anchors), config) != UNMATCHED
    sides = anchors.numpy()[pairs.anchors]
    areas = (sides[:, 2:] - sides[:, :2]).prod(axis=1)
    near[pairs.anchors[pairs.shared >= config.ignore_inside * areas]] = True
    return near


@dataclass(frozen=True, kw_only=True, slots=True)
class FocusLabelConfig:
    """Which cells of the focus map hold faces that a finer look would find. Sizes are sqrt(width * height)."""

    smallest: float = 5.0
    """`a` of the paper, network-input pixels: faces up to this size are not to be found even on a finer level."""

    small: float = 64.0
    """`b` of the paper, network-input pixels: faces below this size are worth a finer look."""

    large: float = 90.0
    """`c` of the paper, network-input pixels: faces from this size on need none; below, from `small` on, who knows."""

    def __post_init__(self) -> None:
        if not 0 <= self.smallest < self.small <= self.large:
            raise SettingsError(
                f"focus labels want 0 <= smallest < small <= large, got {self.smallest}, {self.small}, {self.large}"
            )


def focus_labels(
    boxes: Tensor,
    sides: Tensor,
    ignore: Tensor,
    *,
    size: tuple[int, int],
    stride: int,
    config: FocusLabelConfig,
) -> Tensor:
    """Paint the label of each cell of the focus map.

    A cell belongs to a box if they share any area. Positives win over ignored cells, large faces paint nothing.

    Args:
        boxes: (N, 4) float32; xyxy network-input pixels of the faces, cut or not.
        sides: (N,) float32; sqrt(width * height) of the whole faces in network-input pixels: a large face cut by the
            crop's border is still a large face.
        ignore: (M, 4) float32; xyxy network-input pixels of the ignore regions. They paint IGNORED whatever their size,
            because a region may hold one doubtful face or a crowd.
        size: (height, width) of the network input.
        stride: network-input pixels per cell.
        config: the sizes.

    Returns:
        (ceil(height / stride), ceil(width / stride)) int8; POSITIVE, NEGATIVE or IGNORED.

    Source: AutoFocus, arXiv 1812.01600, with the precedence of the text, not of the released code.
    """
    labels = torch.full((-(-size[0] // stride), -(-size[1] // stride)), NEGATIVE, dtype=torch.int8)
    focus = (sides > config.smallest) & (sides < config.small)
    unsure = ~focus & (sides < config.large)
    for group, label in ((torch.cat([boxes[unsure], ignore]), IGNORED), (boxes[focus], POSITIVE)):
        first = (group[:, :2] / stride).floor().clamp_(min=0).to(torch.int64)
        last = (group[:, 2:] / stride).ceil().clamp_(min=0).to(torch.int64)
        for (left, top), (right, bottom) in zip(first.tolist(), last.tolist(), strict=True):
            labels[top:bottom, left:right] = label
    return labels
