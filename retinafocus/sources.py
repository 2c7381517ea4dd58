"""Where the pixels of a photo's levels come from, and when they are decoded.

A JPEG decoder delivers a half, a quarter or an eighth for less than the whole picture, but not for that share of it:
most of its work is reading the stream (benchmarks/README.md has the times). So a photo whose coarse levels are decoded
reduced costs a second decode if it needs a finer look, and it depends on the file which way is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.levels import Level, LevelPlan
from retinafocus.photos import REDUCTIONS, PhotoHeader, decode

Area = tuple[float, float, float, float]
"""xyxy in pixels of the upright original photo."""

# Decoding a baseline JPEG reduced by that much, as a share of decoding it whole: benchmarks/README.md, "Decoding".
REDUCED_COST = {1: 1.0, 2: 0.86, 4: 0.79, 8: 0.69}

# Making a reduced picture from the decoded whole one by area averaging, likewise.
SHRINKING_COST = 0.15

# Cubic interpolation reaches two pixels to each side; a rectangle enlarged by itself needs them for its rim.
CUBIC_REACH = 4


class PixelSource(Protocol):
    """Pixels of any rectangle of any level of one photo."""

    def covered(self, scale: float) -> Area:
        """What a level of that scale shows when it is made from this source: the photo's area, or up to one level
        pixel more."""
        ...

    def load(self, level: Level) -> None:
        """Decode now what `read` will need for a level, if it is to be held in memory.

        Raises:
            PhotoError: as `photos.decode`.
        """
        ...

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The pixels of rectangles of a level.

        Args:
            level: of this photo's plan.
            boxes: (N, 4) xyxy, level pixels, inside the level, right and bottom exclusive.

        Yields:
            Each rectangle's number and its (h, w, 3) uint8 RGB pixels, upright, C-contiguous; in any order.

        Raises:
            PhotoError: as `photos.decode`.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePlan:
    """How far a photo is decoded for the levels that are looked at whole, and for the others."""

    coarse: int
    """Stored pixels per decoded pixel, along each axis, for the levels that are looked at whole."""

    fine: int
    """The same for the finest level."""

    @property
    def once(self) -> bool:
        """Whether one decode serves all levels."""
        return self.coarse == self.fine


def plan_decoding(header: PhotoHeader, plan: LevelPlan, finer_looks: float) -> DecodePlan:
    """Choose the cheaper way to the pixels, from what the header says.

    Args:
        header: of the encoded photo.
        plan: its levels.
        finer_looks: share of photos expected to need more than the levels looked at whole, 0..1.
    """
    fine, coarse = _reduction(plan.finest), _reduction(plan.focus_level)
    # Of the other formats, and of a progressive JPEG, a reduced picture costs as much as the whole one.
    reducible = header.format == "jpeg" and not header.progressive
    twice = REDUCED_COST[coarse] + finer_looks * REDUCED_COST[fine]
    once = REDUCED_COST[fine] + (SHRINKING_COST if coarse != fine else 0)
    return DecodePlan(coarse=coarse if reducible and twice < once else fine, fine=fine)


class DecodedPhoto:
    """A photo held in memory: decoded for its whole levels now, for the finer ones when they are first asked for."""

    def __init__(self, data: bytes, header: PhotoHeader, plan: LevelPlan, decoding: DecodePlan, max_pixels: int):
        """Decode what the levels looked at whole need.

        Args:
            data: the whole file.
            header: what `read_header` gave for it.
            plan: the photo's levels.
            decoding: from `plan_decoding`.
            max_pixels: refuse a photo of more.

        Raises:
            PhotoError: as `photos.decode`.
        """
        self._data, self._header, self._max_pixels = data, header, max_pixels
        self._decoding = decoding
        self._focus_scale = plan.focus_level.scale
        self._bases = {decoding.coarse: self._decode(decoding.coarse)}
        self._levels: dict[int, NDArray[np.uint8]] = {}

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return shown_area(self._header, self._reduction(scale))

    def load(self, level: Level) -> None:
        """See `PixelSource.load`."""
        reduction = self._reduction(level.scale)
        if reduction not in self._bases:  # the coarse pixels are not needed any more
            self._bases = {
                reduction: decode(self._data, self._header, reduction=reduction, max_pixels=self._max_pixels)
            }

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        self.load(level)
        return _rectangles(self._bases[self._reduction(level.scale)], level, boxes, self._levels)

    def _decode(self, reduction: int) -> NDArray[np.uint8]:
        return decode(self._data, self._header, reduction=reduction, max_pixels=self._max_pixels)

    def _reduction(self, scale: float) -> int:
        return self._decoding.coarse if scale <= self._focus_scale else self._decoding.fine


class GivenPixels:
    """A photo that was given as pixels."""

    def __init__(self, pixels: NDArray[np.uint8]):
        """Hold (H, W, 3) uint8 RGB pixels, upright, in any memory order."""
        self._base = np.ascontiguousarray(pixels)
        self._levels: dict[int, NDArray[np.uint8]] = {}

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return 0.0, 0.0, float(self._base.shape[1]), float(self._base.shape[0])

    def load(self, level: Level) -> None:
        """See `PixelSource.load`; everything is there."""

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        return _rectangles(self._base, level, boxes, self._levels)


def shown_area(header: PhotoHeader, reduction: int) -> Area:
    """What the pixels of a decoded photo show.

    The JPEG decoder makes one pixel of each whole block of stored pixels, and the last block of a row or column may
    reach beyond the photo: at 1/8, 6001 px become 751 px that show 6008. Taking those for 6001 would shift a face at
    the far border by 7 px.

    Args:
        header: its orientation decides on which side the last blocks lie.
        reduction: stored pixels per decoded pixel, along each axis.

    Returns:
        The photo's area or, of a JPEG, up to `reduction` - 1 px more.
    """
    if header.format != "jpeg":
        return 0.0, 0.0, float(header.width), float(header.height)
    # The orientations whose last blocks come to lie on the left, and at the top. Source: Exif 2.32, tag 274.
    starts_right = header.orientation in (2, 3, 6, 7)
    starts_low = header.orientation in (3, 4, 7, 8)
    over_x, over_y = -header.width % reduction, -header.height % reduction
    left, top = (-over_x if starts_right else 0), (-over_y if starts_low else 0)
    return float(left), float(top), float(left + header.width + over_x), float(top + header.height + over_y)


def level_pixels(base: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture at another size.

    Args:
        base: (H, W, 3) uint8 RGB, the photo at any scale.
        size: (height, width).

    Returns:
        (height, width, 3) uint8 RGB; `base` itself if it has that size.
    """
    height, width = size
    if base.shape[:2] == size:
        return base
    # Area averaging is the one method here that lets every pixel count when shrinking: others alias small faces away.
    # When enlarging, cubic found a little more than linear: at 2x, AP 81.3 against 80.5 on 284 photos.
    method = cv2.INTER_AREA if height < base.shape[0] or width < base.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(base, (width, height), interpolation=method), np.uint8)


def _reduction(level: Level) -> int:
    """The largest reduction by which a decoded photo still has every pixel of the level."""
    return max(1, min(REDUCTIONS[-1], round(1 / level.scale)))


def _rectangles(
    base: NDArray[np.uint8], level: Level, boxes: NDArray[np.int32], made: dict[int, NDArray[np.uint8]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Rectangles of a level made from decoded pixels.

    Args:
        base: the photo at the level's scale or finer, or at half of it.
        level: decides the size.
        boxes: see `PixelSource.read`.
        made: levels shrunk earlier, by index; a shrunk level is made once, whole. An enlarged one never is.
    """
    enlarged = level.size[0] > base.shape[0] or level.size[1] > base.shape[1]
    whole = None
    if not enlarged:
        if level.index not in made:
            made[level.index] = level_pixels(base, level.size)
        whole = made[level.index]
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if whole is None:
            yield number, _enlarged(base, level.size, (left, top, right, bottom))
        else:
            yield number, np.ascontiguousarray(whole[top:bottom, left:right])


def _enlarged(base: NDArray[np.uint8], size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """One rectangle of the photo enlarged to `size`, without making the rest of it."""
    times = round(size[0] / base.shape[0])
    starts = [max(0, side // times - CUBIC_REACH) for side in box[:2]]
    ends = [min(limit, -(-side // times) + CUBIC_REACH) for side, limit in zip(box[2:], base.shape[1::-1], strict=True)]
    part = base[starts[1] : ends[1], starts[0] : ends[0]]
    large = level_pixels(part, (part.shape[0] * times, part.shape[1] * times))
    left, top = box[0] - starts[0] * times, box[1] - starts[1] * times
    return np.ascontiguousarray(large[top : top + box[3] - box[1], left : left + box[2] - box[0]])
