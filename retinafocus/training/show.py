"""A sample as a picture: the crop with everything it teaches drawn on it. Look at some before a long training."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retinafocus.training.samples import Sample
from retinafocus.training.targets import IGNORED, POSITIVE

FACE, OUT_OF_RANGE, IGNORE, ANCHOR = (255, 255, 255), (255, 140, 0), (255, 0, 0), (0, 255, 0)
"""RGB of the outlines of faces, faces that are for another scale, ignore regions and positive anchors."""

FOCUS_TINTS = {POSITIVE: (255, 220, 0), IGNORED: (60, 60, 255)}
"""RGB that tints the focus cells with these labels."""

LANDMARK_COLOURS = ((255, 0, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0))
"""RGB of left eye, right eye, nose, left and right mouth corner."""


def draw_sample(sample: Sample, anchors: Tensor, *, enlargement: int = 2) -> NDArray[np.uint8]:
    """Draw faces, landmarks, ignore regions, positive anchors and focus cells on a crop.

    Args:
        sample: its crop is (side, side, 3) uint8 RGB.
        anchors: (A, 4) float32; cxcywh network-input pixels.
        enlargement: picture pixels per network-input pixel.

    Returns:
        (side * enlargement, side * enlargement, 3) uint8 RGB.
    """
    crop = sample.crop
    picture = crop.pixels.copy()
    if sample.focus is not None:
        _tint(picture, sample.focus.numpy())
    picture = np.repeat(np.repeat(picture, enlargement, axis=0), enlargement, axis=1)
    positive = anchors[sample.anchors.positives].numpy()
    matched = np.concatenate([positive[:, :2] - positive[:, 2:] / 2, positive[:, :2] + positive[:, 2:] / 2], axis=1)
    outlined = (
        (matched, ANCHOR),
        (crop.ignore, IGNORE),
        (crop.boxes[~crop.in_range], OUT_OF_RANGE),
        (crop.boxes[crop.in_range], FACE),
    )
    for boxes, colour in outlined:
        for left, top, right, bottom in np.rint(boxes * enlargement).astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 1)
    for points in crop.landmarks * enlargement:
        for (x, y), colour in zip(points, LANDMARK_COLOURS, strict=True):
            if np.isfinite(x + y):
                cv2.circle(picture, (round(float(x)), round(float(y))), enlargement, colour, -1)
    return picture


def _tint(picture: NDArray[np.uint8], labels: NDArray[np.int8]) -> None:
    """Mix the colours of the focus labels (h, w) into the picture, in place."""
    height, width = picture.shape[:2]
    stride = -(-height // labels.shape[0])
    cells = labels.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]
    for label, colour in FOCUS_TINTS.items():
        mixed = picture[cells == label] * 0.6 + np.array(colour) * 0.4
        picture[cells == label] = np.rint(mixed).astype(np.uint8)
