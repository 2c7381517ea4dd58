"""One photo's way: encoded bytes to pixels at every level, through the network, to faces.

The way has two halves, so that a job can read ahead: `prepare` needs no network and may run in threads, `look` is
the network and what follows. Every planned level is looked at whole.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.engines import Engine
from retinafocus.errors import PhotoError
from retinafocus.faces import Faces
from retinafocus.levels import Level, LevelPlan, plan_levels
from retinafocus.photos import MAX_PIXELS, PhotoHeader, decode, read_header
from retinafocus.postprocessing import PostConfig, find_candidates, merge_levels

# The coarsest a decoder delivers directly; whatever is coarser is shrunk from it.
MAX_REDUCTION = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPhoto:
    """A photo on its way to the network."""

    header: PhotoHeader | None
    """None for a photo that was given as pixels."""

    plan: LevelPlan

    pixels: tuple[NDArray[np.uint8], ...]
    """Each level's (H, W, 3) uint8 RGB, C-contiguous, upright; coarsest first, as in the plan."""

    ms_decode: float
    """Milliseconds from bytes to all of `pixels`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoResult:
    """What looking at one photo gave, and what it cost."""

    faces: Faces
    header: PhotoHeader | None
    """None for a photo that was given as pixels."""
    plan: LevelPlan
    pixels_processed: int
    """Pixels that went through the network, over all levels."""
    ms_decode: float
    ms_network: float
    ms_other: float
    """Milliseconds for candidates, their decoding and the merging of levels."""


def prepare(
    photo: bytes | NDArray[np.uint8], *, min_face: float, face_range: tuple[float, float], max_pixels: int = MAX_PIXELS
) -> PreparedPhoto:
    """Plan the levels of a photo and make their pixels.

    Args:
        photo: the encoded photo, or its (H, W, 3) uint8 RGB pixels, upright.
        min_face: the smallest wanted face, sqrt(w*h) in pixels of the upright original photo.
        face_range: sqrt(w*h) in network-input pixels of the faces the network finds reliably.
        max_pixels: most pixels of the photo and of any of its levels; decided before pixels are allocated.

    Raises:
        PhotoError: unsupported_format, truncated, corrupt, too_large or out_of_memory.
        SettingsError: `min_face` or `face_range` is out of range.
    """
    start = time.perf_counter()
    if isinstance(photo, bytes):
        header = read_header(photo)
        size = (header.height, header.width)
    else:
        header = None
        size = photo.shape[:2]
    plan = plan_levels(size, min_face=min_face, face_range=face_range)
    _admit(plan, max_pixels)
    base, shown = decode_base(photo, header, plan, max_pixels)
    plan = plan.covering(shown)
    pixels = tuple(level_pixels(base, level) for level in plan.levels)
    return PreparedPhoto(header=header, plan=plan, pixels=pixels, ms_decode=_milliseconds(start))


def look(prepared: PreparedPhoto, engine: Engine, config: PostConfig) -> PhotoResult:
    """Run every level of one photo through the network and unite what is found.

    The answer depends on the photo, the weights and the settings alone: each level goes through the network by
    itself.

    Args:
        prepared: from `prepare`, with the face range of the engine's preset.
        engine: runs the network.
        config: how candidates become faces.

    Raises:
        PhotoError: out_of_memory or model_error.
    """
    start = time.perf_counter()
    network = 0.0
    found = []
    for level, pixels in zip(prepared.plan.levels, prepared.pixels, strict=True):
        before = time.perf_counter()
        outputs = engine.run(pixels)
        network += _milliseconds(before)
        found.append((level, find_candidates(outputs, level.size, engine.preset, config)))
    faces = merge_levels(found, config)
    return PhotoResult(
        faces=faces,
        header=prepared.header,
        plan=prepared.plan,
        pixels_processed=prepared.plan.pixels,
        ms_decode=prepared.ms_decode,
        ms_network=network,
        ms_other=_milliseconds(start) - network,
    )


def decode_base(
    photo: bytes | NDArray[np.uint8], header: PhotoHeader | None, plan: LevelPlan, max_pixels: int
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """The pixels that all levels are made from: the smallest that the decoder delivers and that suffice.

    Args:
        photo: encoded, or (H, W, 3) uint8 RGB pixels, which are returned as they are.
        header: of an encoded photo.
        plan: its finest level decides.
        max_pixels: most pixels of the photo.

    Returns:
        (H, W, 3) uint8 RGB, upright, C-contiguous, the photo's size divided by a power of two, rounded up; and what
        they show, xyxy in pixels of the upright original photo.

    Raises:
        PhotoError: as `photos.decode`.
    """
    height, width = plan.photo_size
    whole = (0.0, 0.0, float(width), float(height))
    if header is None or not isinstance(photo, bytes):
        return np.ascontiguousarray(photo), whole
    reduction = max(1, min(MAX_REDUCTION, round(1 / plan.finest.scale)))
    pixels = decode(photo, header, reduction=reduction, max_pixels=max_pixels)
    return pixels, shown_area(header, reduction) if header.format == "jpeg" else whole


def shown_area(header: PhotoHeader, reduction: int) -> tuple[float, float, float, float]:
    """What the pixels of a reduced JPEG show.

    Its decoder makes one pixel of each whole block of stored pixels, and the last block of a row or column may reach
    beyond the photo: at 1/8, 6001 px become 751 px that show 6008. Taking those for 6001 would shift a face at the far
    border by 7 px.

    Args:
        header: of a JPEG; its orientation decides on which side the last blocks lie.
        reduction: stored pixels per decoded pixel, along each axis.

    Returns:
        xyxy in pixels of the upright original photo: the photo's area or up to `reduction` - 1 px more.
    """
    # The orientations whose last blocks come to lie on the left, and at the top. Source: Exif 2.32, tag 274.
    starts_right = header.orientation in (2, 3, 6, 7)
    starts_low = header.orientation in (3, 4, 7, 8)
    over_x, over_y = -header.width % reduction, -header.height % reduction
    left, top = (-over_x if starts_right else 0), (-over_y if starts_low else 0)
    return float(left), float(top), float(left + header.width + over_x), float(top + header.height + over_y)


def level_pixels(base: NDArray[np.uint8], level: Level) -> NDArray[np.uint8]:
    """One level's pixels, made from the decoded ones.

    Args:
        base: (H, W, 3) uint8 RGB, the photo at any scale.
        level: decides the size.

    Returns:
        (height, width, 3) uint8 RGB of exactly the level's size; `base` itself if it has that size.
    """
    height, width = level.size
    if base.shape[:2] == level.size:
        return base
    # Area averaging is the one method here that lets every pixel count when shrinking: others alias small faces away.
    # When enlarging, cubic found a little more than linear: at 2x, AP 81.3 against 80.5 on 284 photos.
    method = cv2.INTER_AREA if height < base.shape[0] or width < base.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(base, (width, height), interpolation=method), np.uint8)


def _admit(plan: LevelPlan, max_pixels: int) -> None:
    """Refuse a photo whose finest level would be too large; the decoder does so for the photo itself."""
    if plan.finest.pixels > max_pixels:
        height, width = plan.finest.size
        raise PhotoError(
            "too_large",
            f"faces of {plan.min_face:g} px need a level of {width} x {height} pixels, more than max_pixels "
            f"{max_pixels} admits; raise max_pixels or min_face",
        )


def _milliseconds(since: float) -> float:
    return 1000 * (time.perf_counter() - since)
