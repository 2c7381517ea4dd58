"""Box and landmark arithmetic on torch tensors: coding against anchors, clipping, sizes.

Boxes are xyxy with exclusive right and bottom, anchors centre x, centre y, width, height. Anchors and what is coded
against them are in one frame, network-input pixels unless a caller says otherwise. IoU is torchvision.ops.box_iou.

Source: the coding of SSD (arXiv 1512.02325, equation 2) with the two scales that the published RetinaFace weights
were trained with (utils/box_utils.py of biubug6/Pytorch_Retinaface); landmarks the same way, without logarithm.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode_boxes(boxes: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """What the network should say so that `decode_boxes` gives these boxes.

    Args:
        boxes: (..., N, 4) float32; xyxy pixels. A box without area codes to minus infinity, so leave it out.
        anchors: (N, 4) float32; centre x, centre y, width, height in the same pixels.
        variances: scales of the centre and of the side offsets, (0.1, 0.2) for all published weights.

    Returns:
        (..., N, 4) float32; dx, dy, dw, dh without unit. N may be 0.
    """
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    sides = boxes[..., 2:] - boxes[..., :2]
    offsets = (centres - anchors[..., :2]) / (variances[0] * anchors[..., 2:])
    growths = torch.log(sides / anchors[..., 2:]) / variances[1]
    return torch.cat((offsets, growths), dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Boxes from the network's box output; the inverse of `encode_boxes`.

    Args:
        deltas: (..., N, 4) any float type; dx, dy, dw, dh. Computed in the anchors' type, so half-precision outputs
            lose nothing more here.
        anchors: (N, 4) float32; centre x, centre y, width, height in pixels.
        variances: as for `encode_boxes`.

    Returns:
        (..., N, 4) float32; xyxy in the anchors' pixels, not clipped. N may be 0. A growth beyond float32 gives
        infinite sides, which `clip_boxes` makes finite, never NaN.
    """
    deltas = deltas.to(anchors.dtype)
    centres = anchors[..., :2] + deltas[..., :2] * variances[0] * anchors[..., 2:]
    halves = anchors[..., 2:] * torch.exp(deltas[..., 2:] * variances[1]) / 2
    return torch.cat((centres - halves, centres + halves), dim=-1)


def encode_landmarks(points: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """What the network should say so that `decode_landmarks` gives these points.

    Args:
        points: (..., N, 5, 2) float32; x, y pixels of left eye, right eye, nose, left and right mouth corner
            (left in the picture).
        anchors: (N, 4) float32; centre x, centre y, width, height in the same pixels.
        variances: as for `encode_boxes`; only the first counts.

    Returns:
        (..., N, 10) float32; dx, dy of each point, without unit. N may be 0.
    """
    centres, sides = anchors[..., None, :2], anchors[..., None, 2:]
    return ((points - centres) / (variances[0] * sides)).flatten(-2)


def decode_landmarks(deltas: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Landmarks from the network's landmark output; the inverse of `encode_landmarks`.

    Args:
        deltas: (..., N, 10) any float type; dx, dy of each point. Computed in the anchors' type.
        anchors: (N, 4) float32; centre x, centre y, width, height in pixels.
        variances: as for `encode_boxes`; only the first counts.

    Returns:
        (..., N, 5, 2) float32; x, y in the anchors' pixels, not clipped. N may be 0.
    """
    centres, sides = anchors[..., None, :2], anchors[..., None, 2:]
    offsets = deltas.to(anchors.dtype).reshape(*deltas.shape[:-1], 5, 2)
    return centres + offsets * variances[0] * sides


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut to a picture.

    Args:
        boxes: (..., 4) float32; xyxy pixels of the picture.
        size: (height, width) of the picture in pixels.

    Returns:
        (..., 4) float32; x in 0..width and y in 0..height. A new tensor; a box outside comes out without area.
    """
    height, width = size
    horizontal = boxes[..., 0::2].clamp(0, width)
    vertical = boxes[..., 1::2].clamp(0, height)
    return torch.stack((horizontal, vertical), dim=-1).flatten(-2)


def box_sides(boxes: Tensor) -> Tensor:
    """The side of the square with a box's area: what "face size" means everywhere in this library.

    Args:
        boxes: (..., 4) float32; xyxy pixels.

    Returns:
        (...) float32; sqrt(width * height) in the same pixels; 0 for a box without area.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return torch.sqrt(sides[..., 0] * sides[..., 1])
