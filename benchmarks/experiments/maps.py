"""Focus maps of whole levels, and how many faces they point at for how much of the picture.

Only faces that need a finer look count: those that are wanted (`min_face`), and at this level smaller than the network
finds reliably. *FocusPixel recall* is the share of them with at least one focus cell; *FocusChip recall* the share
that lie whole in a chip. The price of the first is the share of cells that are focus, of the second that of the level
inside chips. Source: AutoFocus, arXiv 1812.01600, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.cascade import CascadeConfig, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.evaluation.focus_maps import Map, dilation_of, share_above
from retinafocus.evaluation.matching import box_areas
from retinafocus.focus.chips import ChipConfig, chips_around
from retinafocus.levels import Level
from retinafocus.models import RetinaFocus
from retinafocus.models.heads import FocusBranch
from retinafocus.training.focus_heads import features


@dataclass(frozen=True)
class LevelMaps:
    """The maps of one branch at one scale, with what they should have pointed at; a list entry for each photo."""

    scale: float
    stride: int
    maps: list[Map]
    """(h, w) probabilities each."""
    faces: list[NDArray[np.float32]]
    """(N, 4) xyxy network-input pixels of the faces that need a finer look."""


def focus_maps(
    detector: RetinaFocus,
    branches: Mapping[str, tuple[int, FocusBranch]],
    photos: Sequence[LabelledPhoto],
    min_face: float,
) -> dict[tuple[str, float], LevelMaps]:
    """Look at every level that chips are chosen on, whole, with all branches.

    Args:
        detector: whose maps the branches read; in evaluation mode.
        branches: stride and branch by name, in evaluation mode.
        photos: labelled.
        min_face: the smallest wanted face, sqrt(w*h) in photo pixels.

    Returns:
        By name and scale.

    Raises:
        SettingsError: the photos are so small, or the faces, that no level is chosen from.
    """
    found: dict[tuple[str, float], LevelMaps] = {}
    for photo in photos:
        for level, pixels in chosen_levels(photo, detector, min_face):
            faces = needing_a_finer_look(photo, level, min_face, detector.preset.face_range[0])
            with torch.inference_mode():
                maps = features(detector, torch.from_numpy(pixels)[None].permute(0, 3, 1, 2))
                for name, (stride, branch) in branches.items():
                    key = (name, level.scale)
                    into = found.setdefault(key, LevelMaps(level.scale, stride, [], []))
                    into.maps.append(branch(*maps)[0, 0].sigmoid().numpy())
                    into.faces.append(faces)
    if not found:
        raise SettingsError(f"no photo is large enough for chips at min_face {min_face:g} px; give larger ones")
    return found


def chosen_levels(
    photo: LabelledPhoto, detector: RetinaFocus, min_face: float
) -> Iterator[tuple[Level, NDArray[np.uint8]]]:
    """The levels of a photo whose focus maps decide about chips, and their (h, w, 3) uint8 pixels as in a job."""
    config = CascadeConfig(mode="focus")
    prepared = prepare(photo.path.read_bytes(), min_face=min_face, preset=detector.preset, config=config)
    for level in prepared.plan.levels[prepared.plan.whole - 1 : -1]:
        height, width = level.size
        ((_, pixels),) = prepared.source.read(level, np.array([[0, 0, width, height]], np.int32))
        yield level, pixels


def needing_a_finer_look(photo: LabelledPhoto, level: Level, min_face: float, found_from: float) -> NDArray[np.float32]:
    """(N, 4) xyxy level pixels of the wanted faces that are smaller than `found_from` level pixels."""
    sides = np.sqrt(box_areas(photo.boxes.astype(np.float64)))
    chosen = (sides >= min_face) & (sides * level.scale < found_from)
    return level.from_photo(photo.boxes[chosen])


def recall_row(level: LevelMaps, threshold: float, min_chip: float = ChipConfig().min_chip) -> dict[str, Any]:
    """What one threshold points at; recalls are nan without faces."""
    pointed, whole, faces, looked_at = 0, 0, 0, 0
    for one, boxes in zip(level.maps, level.faces, strict=True):
        chips = chips_around(
            one,
            threshold=threshold,
            dilation=dilation_of(level.stride),
            min_side=math.ceil(min_chip / level.stride),
        )
        looked_at += int(_painted(chips, one.shape).sum())
        pointed += int((best_probabilities(one, boxes, level.stride) >= threshold).sum())
        whole += int(inside_one(boxes / level.stride, chips).sum())
        faces += len(boxes)
    return {
        "scale": level.scale,
        "threshold": threshold,
        "faces": faces,
        "share_of_cells": share_above(level.maps, threshold),
        "pixel_recall": pointed / faces if faces else math.nan,
        "share_in_chips": looked_at / sum(one.size for one in level.maps),
        "chip_recall": whole / faces if faces else math.nan,
    }


def best_probabilities(one: Map, boxes: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """(N,) the highest probability among the cells each box (N, 4), xyxy network-input pixels, shares area with."""
    first = np.maximum(np.floor(boxes[:, :2] / stride).astype(int), 0)
    last = np.ceil(boxes[:, 2:] / stride).astype(int)
    cells = [one[top:bottom, left:right] for (left, top), (right, bottom) in zip(first, last, strict=True)]
    return np.array([part.max() if part.size else 0.0 for part in cells], np.float32)


def inside_one(boxes: NDArray[np.floating[Any]], chips: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(N,) whether a box (N, 4) lies whole in one of the chips (M, 4); both xyxy in cells."""
    low, high = boxes[:, None, :2] >= chips[:, :2], boxes[:, None, 2:] <= chips[:, 2:]
    inside: NDArray[np.bool_] = np.any(np.all(low & high, axis=2), axis=1)
    return inside


def _painted(chips: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) which cells of a map are in any chip."""
    seen = np.zeros(shape, bool)
    for left, top, right, bottom in chips:
        seen[top:bottom, left:right] = True
    return seen
