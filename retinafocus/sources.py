"""Where the pixels of a photo's levels come from, and when they are decoded.

A JPEG decoder delivers a half, a quarter or an eighth for less than the whole picture, but not for that share of it:
most of its work is reading the stream (benchmarks/README.md has the times). So a photo whose coarse levels are decoded
reduced costs a second decode if it needs a finer look, and it depends on the file which way is cheaper.
"""

from __future__ import annotations

import math
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

# Making all coarser levels from the decoded whole picture, each from the next finer one, likewise.
SHRINKING_COST = 0.12

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
    fine, coarse = reduction_for(plan.finest.scale), reduction_for(plan.focus_level.scale)
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
        self._held = self._decode(decoding.coarse)
        self._held.halved(plan.levels[0].scale)  # here, where a job has threads that read ahead

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        reduction = self._by_decoder(self._reduction(scale))
        decoded = math.ceil(self._header.height / reduction), math.ceil(self._header.width / reduction)
        return _filled_up(shown_area(self._header, reduction), decoded, scale * reduction)

    def load(self, level: Level) -> None:
        """See `PixelSource.load`."""
        reduction = self._reduction(level.scale)
        if reduction != self._held.reduction:  # the coarse pixels are not needed any more
            self._held = self._decode(reduction)

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        self.load(level)
        return self._held.rectangles(level, boxes)

    def _decode(self, reduction: int) -> _Halvings:
        by_decoder = self._by_decoder(reduction)
        pixels = decode(self._data, self._header, reduction=by_decoder, max_pixels=self._max_pixels)
        return _Halvings(_Halvings(pixels, by_decoder).halved(1 / reduction), reduction)

    def _by_decoder(self, reduction: int) -> int:
        """As much of a reduction as the decoder makes; the rest is halved here, like pixels that were given."""
        return reduction if self._header.format == "jpeg" else 1

    def _reduction(self, scale: float) -> int:
        return self._decoding.coarse if scale <= self._focus_scale else self._decoding.fine


class GivenPixels:
    """A photo that was given as pixels."""

    def __init__(self, pixels: NDArray[np.uint8]):
        """Hold (H, W, 3) uint8 RGB pixels, upright, in any memory order."""
        self._size = pixels.shape[0], pixels.shape[1]
        self._held = _Halvings(np.ascontiguousarray(pixels))

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        height, width = self._size
        return _filled_up((0.0, 0.0, float(width), float(height)), self._size, scale)

    def load(self, level: Level) -> None:
        """See `PixelSource.load`; everything is there."""

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        return self._held.rectangles(level, boxes)


class ResizedPhoto:
    """A photo held in memory whose levels are of any size: each is made from the pixels that are there."""

    def __init__(self, pixels: NDArray[np.uint8], area: Area | None = None):
        """Hold (H, W, 3) uint8 RGB pixels, upright, in any memory order; `area` is what they show, if not just
        themselves."""
        self._pixels = np.ascontiguousarray(pixels)
        self._area = (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])) if area is None else area
        self._made = self._pixels

    @classmethod
    def decoded(cls, data: bytes, header: PhotoHeader, plan: LevelPlan, max_pixels: int) -> ResizedPhoto:
        """Decode as much of a photo as its finest level has.

        Raises:
            PhotoError: as `photos.decode`.
        """
        reduction = reduction_for(plan.finest.scale) if header.format == "jpeg" else 1
        return cls(decode(data, header, reduction=reduction, max_pixels=max_pixels), shown_area(header, reduction))

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return self._area

    def load(self, level: Level) -> None:
        """See `PixelSource.load`. A level is kept until another size is asked for: its mirrored one comes next."""
        if self._made.shape[:2] != level.size:
            self._made = level_pixels(self._pixels, level.size)

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        self.load(level)
        for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
            yield number, np.ascontiguousarray(self._made[top:bottom, left:right])


class _Halvings:
    """A photo's pixels at the scale they came in and, as far as they are needed, halved again and again.

    Each level from the next finer one takes a sixth of the time of each from the whole picture, and every level pixel
    shows exactly 2, 4, 8, ... photo pixels along each axis.
    """

    def __init__(self, pixels: NDArray[np.uint8], reduction: int = 1):
        """Hold (H, W, 3) uint8 RGB pixels, upright, one for each `reduction` photo pixels along each axis."""
        self.reduction = reduction
        self._made = [pixels]

    def halved(self, scale: float) -> NDArray[np.uint8]:
        """(h, w, 3) the photo at that scale, or as it came; what is coarser is let go: it was looked at before."""
        halvings = max(0, -round(math.log2(scale * self.reduction)))
        while len(self._made) <= halvings:
            self._made.append(halve(self._made[-1]))
        del self._made[halvings + 1 :]
        return self._made[halvings]

    def rectangles(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`; the level's scale is that of the pixels, or coarser, or twice as fine."""
        times = level.scale * self.reduction
        for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
            if times > 1:
                yield number, _enlarged(self._made[0], round(times), (left, top, right, bottom))
            else:
                yield number, np.ascontiguousarray(self.halved(level.scale)[top:bottom, left:right])


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


def halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture at half its size, each pixel the mean of four; an odd last row or column stands for two.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (ceil(H / 2), ceil(W / 2), 3) uint8 RGB.
    """
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:  # repeated: where a level pixel shows not exactly 2 x 2, OpenCV takes ten times as long
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _filled_up(area: Area, size: tuple[int, int], scale: float) -> Area:
    """What pixels show after halvings, whose last row or column may stand for two.

    Args:
        area: what they showed before.
        size: (height, width) before.
        scale: of the halvings together; 1 or more changes nothing.
    """
    left, top, right, bottom = area
    made_y, made_x = (math.ceil(side * scale) for side in size)
    across, down = (right - left) * made_x / (size[1] * scale), (bottom - top) * made_y / (size[0] * scale)
    return left, top, left + across, top + down


def reduction_for(scale: float) -> int:
    """The largest reduction by which a decoded photo still has every pixel of a level of that scale."""
    return max(reduction for reduction in REDUCTIONS if reduction == 1 or reduction * scale <= 1)


def _enlarged(base: NDArray[np.uint8], times: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """One rectangle of the photo enlarged so many times, without making the rest of it."""
    starts = [max(0, side // times - CUBIC_REACH) for side in box[:2]]
    ends = [min(limit, -(-side // times) + CUBIC_REACH) for side, limit in zip(box[2:], base.shape[1::-1], strict=True)]
    part = base[starts[1] : ends[1], starts[0] : ends[0]]
    large = level_pixels(part, (part.shape[0] * times, part.shape[1] * times))
    left, top = box[0] - starts[0] * times, box[1] - starts[1] * times
    return np.ascontiguousarray(large[top : top + box[3] - box[1], left : left + box[2] - box[0]])
