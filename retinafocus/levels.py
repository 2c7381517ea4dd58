"""At which scales a photo is looked at, what that costs, and what will not be found.

The network finds faces within a band of sizes, given in pixels of what it is shown. A photo is therefore shown at
several scales, each a *level*, so that every face size falls into the band at one level or more. `Level` is also the
only way between two frames: pixels of the level and pixels of the upright original photo.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError

# Enlarging adds no detail: past 2x the network is shown blur, at four times the price of each doubling.
MAX_SCALE = 2.0

# Each level has a quarter of the next finer one's scale, so all coarser levels together add 1/15 to its pixels.
ZOOM = 4

# A detection is kept from a coarse level down to this share of the band's lower end: the measured size of a face
# differs a little from level to level, and without the overlap a face of exactly that size could fall between.
OVERLAP = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A photo at one scale, and the way from its pixels to the photo's."""

    index: int
    """0 is the coarsest level of the plan."""

    scale: float
    """Nominal: level pixels per photo pixel; in the cascade a power of two (2, 1, 1/2, 1/4, ...). Coordinates use
    `ratio`."""

    size: tuple[int, int]
    """(height, width) of the level: the photo's times the scale, in the cascade rounded up."""

    photo_size: tuple[int, int]
    """(height, width) of the upright original photo."""

    covered: tuple[float, float, float, float]
    """What the level shows: xyxy in photo pixels. The photo itself, or a little more where a decoder that works in
    whole blocks filled up the last ones."""

    face_range: tuple[float, float]
    """Sizes sqrt(w*h) in photo pixels, low exclusive, high inclusive, of the detections kept from this level."""

    mirrored: bool = False
    """Whether the network is shown it as in a mirror. What it finds is turned back at once: all coordinates of a level
    are those of the picture as it is."""

    @property
    def ratio(self) -> tuple[float, float]:
        """(y, x) photo pixels per level pixel, true for each axis: 6001 px shown as 3001 px are 6001/3001, not 2."""
        left, top, right, bottom = self.covered
        return (bottom - top) / self.size[0], (right - left) / self.size[1]

    @property
    def pixels(self) -> int:
        """Height times width of the level."""
        return self.size[0] * self.size[1]

    def to_photo(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry coordinates from pixels of this level to pixels of the upright original photo.

        Args:
            points: (..., 2 k) float32; x,y alternating along the last axis, level pixels: (N, 4) xyxy boxes as well
                as (N, 5, 2) landmarks. N may be 0.

        Returns:
            The same shape, float32, photo pixels. A new array.
        """
        ratio_y, ratio_x = self.ratio
        pairs = points.shape[-1] // 2
        with np.errstate(over="ignore"):  # an endless box stays endless, and is cut at the photo's border later
            scaled = points * np.tile(np.array([ratio_x, ratio_y], np.float32), pairs)
        return scaled + np.tile(np.array(self.covered[:2], np.float32), pairs)

    def from_photo(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry coordinates from pixels of the upright original photo to pixels of this level; see `to_photo`."""
        ratio_y, ratio_x = self.ratio
        pairs = points.shape[-1] // 2
        moved = points - np.tile(np.array(self.covered[:2], np.float32), pairs)
        return moved * np.tile(np.array([1 / ratio_x, 1 / ratio_y], np.float32), pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelPlan:
    """The levels of one photo, coarsest first."""

    levels: tuple[Level, ...]
    photo_size: tuple[int, int]
    """(height, width) of the upright original photo."""

    min_face: float
    """The smallest wanted face, sqrt(w*h) in photo pixels."""

    not_found: str
    """Which faces will not be found reliably, in words; empty if there are none."""

    whole: int
    """So many of the levels, coarsest first, are looked at whole; the finer ones only where the focus map of the level
    before points. At least 1."""

    @property
    def finest(self) -> Level:
        """The level with the most pixels."""
        return self.levels[-1]

    @property
    def focus_level(self) -> Level:
        """The finest level that is looked at whole: the first whose focus map counts."""
        return self.levels[self.whole - 1]

    @property
    def pixels(self) -> int:
        """What looking at every level whole costs, in pixels through the network."""
        return sum(level.pixels for level in self.levels)

    def covering(self, areas: Mapping[float, tuple[float, float, float, float]]) -> LevelPlan:
        """The same plan for levels made from pixels that show, at each scale, that area: xyxy in photo pixels."""
        levels = tuple(dataclasses.replace(level, covered=areas[level.scale]) for level in self.levels)
        return dataclasses.replace(self, levels=levels)


def plan_levels(
    photo_size: tuple[int, int],
    *,
    min_face: float,
    face_range: tuple[float, float],
    focus_from: float | None = None,
    zoom: int = ZOOM,
    overlap: float = OVERLAP,
) -> LevelPlan:
    """Choose the levels at which every face from `min_face` to the photo's whole short side is found.

    The finest scale is the smallest power of two at which `min_face` reaches the band's lower end, at most `MAX_SCALE`.
    Each further level is `zoom` times coarser, until a face as wide as the photo's short side is within the band.
    Powers of two, because the JPEG decoder delivers those for less than the whole picture.

    Args:
        photo_size: (height, width) of the upright original photo, each at least 1.
        min_face: the smallest wanted face, sqrt(w*h) in photo pixels.
        face_range: (low, high) sqrt(w*h) in network-input pixels of the faces the network finds reliably.
        focus_from: smallest face that the focus map marks, sqrt(w*h) in network-input pixels: the coarsest level at
            which `min_face` is as large as that, and all coarser ones, are looked at whole. None: every level is.
        zoom: ratio of the scales of neighbouring levels, a power of two of at least 2.
        overlap: see `OVERLAP`.

    Raises:
        SettingsError: an argument is out of range, or the band is too narrow for the zoom.
    """
    _check_arguments(photo_size, min_face, face_range, zoom)
    low, high = face_range
    scales = [_finest_scale(low / min_face)]
    while min(photo_size) * scales[-1] > high:
        scales.append(scales[-1] / zoom)
    scales.reverse()
    levels = tuple(
        Level(
            index=index,
            scale=scale,
            size=(math.ceil(photo_size[0] * scale), math.ceil(photo_size[1] * scale)),
            photo_size=photo_size,
            covered=(0.0, 0.0, float(photo_size[1]), float(photo_size[0])),
            face_range=(
                0.0 if index == len(scales) - 1 else overlap * low / scale,
                math.inf if index == 0 else high / scale,
            ),
        )
        for index, scale in enumerate(scales)
    )
    return LevelPlan(
        levels=levels,
        photo_size=photo_size,
        min_face=min_face,
        not_found=_not_found(min_face, low / scales[-1]),
        whole=_whole_levels(scales, min_face, focus_from),
    )


def _check_arguments(photo_size: tuple[int, int], min_face: float, face_range: tuple[float, float], zoom: int) -> None:
    if min(photo_size) < 1:
        raise SettingsError(f"photo_size is {photo_size}; height and width must be at least 1 px")
    if not 0 < min_face < math.inf:
        raise SettingsError(f"min_face is {min_face} px; choose a size above 0")
    if zoom < 2 or zoom & (zoom - 1):
        raise SettingsError(f"zoom is {zoom}; choose a power of two of at least 2")
    low, high = face_range
    if not (low > 0 and zoom * low <= high < math.inf):
        raise SettingsError(
            f"face_range is {face_range} px; choose a low above 0 and a high of at least {zoom} x low (the zoom), "
            "or faces fall between two levels"
        )


def _finest_scale(needed: float) -> float:
    """The smallest power of two that is at least `needed`, at most MAX_SCALE."""
    mantissa, exponent = math.frexp(needed)  # needed = mantissa * 2**exponent with 0.5 <= mantissa < 1
    return min(MAX_SCALE, math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent))


def _whole_levels(scales: list[float], min_face: float, focus_from: float | None) -> int:
    """How many levels, coarsest first, are looked at whole; all of them where no focus map marks the smallest faces."""
    if focus_from is None:
        return len(scales)
    return next((index + 1 for index, scale in enumerate(scales) if min_face * scale >= focus_from), len(scales))


def _not_found(min_face: float, reliable: float) -> str:
    """What stays unfound, in words.

    Args:
        min_face: the smallest wanted face, in photo pixels.
        reliable: the smallest face in photo pixels that reaches the band at the finest level.
    """
    if reliable > min_face:
        return (
            f"faces under {reliable:g} px are found unreliably although min_face is {min_face:g} px: they would need "
            f"more than the {MAX_SCALE:g}x enlargement, which adds no detail"
        )
    if min_face <= 1:
        return ""
    return f"faces under {min_face:g} px (min_face) are not looked for; those that are found anyway are kept"
