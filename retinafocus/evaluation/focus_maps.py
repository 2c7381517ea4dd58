"""Focus maps of several branches made comparable: thresholds by the share of cells they mark, room in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROOM = 8
"""Network-input pixels that chips leave around focus cells, whatever the stride: one cell of the map that ships."""

Map = NDArray[np.float32]
"""(H, W) probabilities of cells."""


def threshold_for(maps: Sequence[Map], share: float, *, lowest: float = float(np.finfo(np.float32).tiny)) -> float:
    """The probability from which on that share of all cells is focus, at least `lowest`: the smallest one above 0."""
    cells = np.concatenate([one.ravel() for one in maps])
    place = min(len(cells) - 1, max(0, len(cells) - max(1, round(share * len(cells)))))
    return max(float(np.partition(cells, place)[place]), lowest)


def share_above(maps: Sequence[Map], threshold: float) -> float:
    """The share of all cells that are focus from that probability on."""
    return sum(int((one >= threshold).sum()) for one in maps) / sum(one.size for one in maps)


def dilation_of(stride: int) -> int:
    """The square, in cells, that leaves at least `ROOM` pixels around each focus cell."""
    return 2 * math.ceil(ROOM / stride) + 1
