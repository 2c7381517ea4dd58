"""What focus labels ask for: the share of faces and of focus cells they call worth a finer look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.training.targets import IGNORED, POSITIVE, FocusLabelConfig, focus_labels


@dataclass(frozen=True, kw_only=True, slots=True)
class FocusShares:
    """Shares 0..1 of all faces and of all focus cells of some photos at one scale; nan where there are none."""

    scale: float
    faces: int
    cells: int
    worth_a_look: float
    """Faces of a < size < b."""
    too_small: float
    """Faces of size <= a."""
    unsure: float
    """Faces of b <= size < c."""
    focus_cells: float
    ignored_cells: float
    """Cells of too small and unsure faces and of ignore regions, where no face makes them focus."""


def focus_shares(
    photos: Sequence[LabelledPhoto], labels: FocusLabelConfig, *, scale: float, stride: int = 8
) -> FocusShares:
    """Paint the focus labels of photos at a scale, as a perfect focus branch would, and count.

    Args:
        photos: no picture is opened; may be empty.
        labels: the sizes.
        scale: network-input pixels per photo pixel.
        stride: network-input pixels per focus cell.
    """
    sizes, cells, focus, ignored = [np.zeros(0, np.float32)], 0, 0, 0
    for photo in photos:
        widths, heights = photo.boxes[:, 2] - photo.boxes[:, 0], photo.boxes[:, 3] - photo.boxes[:, 1]
        sides = np.sqrt(widths * heights) * np.float32(scale)
        sizes.append(sides)
        painted = focus_labels(
            torch.from_numpy(photo.boxes * np.float32(scale)),
            torch.from_numpy(sides),
            torch.from_numpy(photo.ignore * np.float32(scale)),
            size=(math.ceil(photo.size[0] * scale), math.ceil(photo.size[1] * scale)),
            stride=stride,
            config=labels,
        )
        cells += painted.numel()
        focus += int((painted == POSITIVE).sum())
        ignored += int((painted == IGNORED).sum())
    size = np.concatenate(sizes)
    return FocusShares(
        scale=scale,
        faces=len(size),
        cells=cells,
        worth_a_look=_share(int(((size > labels.smallest) & (size < labels.small)).sum()), len(size)),
        too_small=_share(int((size <= labels.smallest).sum()), len(size)),
        unsure=_share(int(((size >= labels.small) & (size < labels.large)).sum()), len(size)),
        focus_cells=_share(focus, cells),
        ignored_cells=_share(ignored, cells),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
