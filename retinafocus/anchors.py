"""Anchors: the squares the network's outputs are offsets from, for a network input of any size.

Source: RetinaFace, arXiv 1905.00641, section 4.2; order, centres and rounding as in the published PyTorch weights
(prior_box.py of biubug6/Pytorch_Retinaface), because those weights mean nothing with any other.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from retinafocus.errors import SettingsError

CACHED_PIXELS = 2**20
"""Anchors of larger network inputs are built anew each time: a 1 Mpx input needs 0.7 MB of them, and building takes a
percent of the network's time there, but a tenth for a small chip."""

CACHED_SHAPES = 128
"""Shapes remembered; with `CACHED_PIXELS` at most about 90 MB. The chips of a run have some fifty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorConfig:
    """The anchors of every pyramid level: the same boxes in each cell of a level's map."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Network-input pixels from one cell to the next, one per level, finest first."""

    sizes: tuple[tuple[float, ...], ...] = ((16, 32), (64, 128), (256, 512))
    """Square root of an anchor's area in network-input pixels; one tuple per level, equally many on each."""

    ratio: float = 1.0
    """Height over width. The area does not depend on it."""

    def __post_init__(self) -> None:
        if not self.strides or any(stride < 1 for stride in self.strides):
            raise SettingsError(f"anchors.strides is {self.strides}; choose one positive number of pixels per level")
        if len(self.sizes) != len(self.strides):
            raise SettingsError(
                f"anchors.sizes has {len(self.sizes)} levels and anchors.strides {len(self.strides)}; "
                "give one tuple of sizes per stride"
            )
        counts = {len(level) for level in self.sizes}
        if len(counts) != 1 or 0 in counts:
            raise SettingsError(f"anchors.sizes is {self.sizes}; give every level equally many sizes, at least one")
        if not all(math.isfinite(size) and size > 0 for level in self.sizes for size in level):
            raise SettingsError(f"anchors.sizes is {self.sizes}; every size must be a positive number of pixels")
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise SettingsError(f"anchors.ratio is {self.ratio}; choose a positive height/width")

    @property
    def per_cell(self) -> int:
        """Anchors in each cell of each level."""
        return len(self.sizes[0])


def map_sizes(config: AnchorConfig, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The (height, width) in cells of each level's map, finest first.

    Args:
        config: only its strides count.
        size: (height, width) of the network input in pixels.
    """
    height, width = size
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in config.strides)


def anchor_boxes(config: AnchorConfig, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """All anchors of a network input, in the order of the network's outputs.

    Args:
        config: strides, sizes and ratio.
        size: (height, width) of the network input in pixels, both at least 1.
        device: where the tensor lives.

    Returns:
        (A, 4) float32; centre x, centre y, width, height in network-input pixels; ordered by level, row, column,
        size. Shared with other callers: never write to it.

    Raises:
        SettingsError: a side of `size` is below 1.
    """
    height, width = size
    if height < 1 or width < 1:
        raise SettingsError(f"the network input is {height} x {width} pixels; both sides must be at least 1")
    if height * width > CACHED_PIXELS:
        return _build(config, (height, width), torch.device(device))
    return _cached(config, (height, width), torch.device(device))


def _build(config: AnchorConfig, size: tuple[int, int], device: torch.device) -> Tensor:
    """The uncached work of `anchor_boxes`."""
    # A tensor made under inference_mode would poison the cache: training could not save it for the backward pass.
    with torch.inference_mode(False):
        levels = []
        for (rows, columns), stride, sizes in zip(map_sizes(config, size), config.strides, config.sizes, strict=True):
            boxes = torch.empty((rows, columns, config.per_cell, 4), dtype=torch.float32, device=device)
            boxes[..., 0] = ((torch.arange(columns, device=device) + 0.5) * stride)[None, :, None]
            boxes[..., 1] = ((torch.arange(rows, device=device) + 0.5) * stride)[:, None, None]
            sides = torch.tensor(sizes, dtype=torch.float32, device=device)
            boxes[..., 2] = sides / math.sqrt(config.ratio)
            boxes[..., 3] = sides * math.sqrt(config.ratio)
            levels.append(boxes.reshape(-1, 4))
        return torch.cat(levels)


_cached = functools.lru_cache(maxsize=CACHED_SHAPES)(_build)
