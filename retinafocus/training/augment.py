"""Square crops of labelled photos with zoom in and zoom out, so that faces of every size appear.

A crop is a canvas into which windows of photos are pasted. Where a photo zoomed out does not fill it, the rest shows
other photos, as a large photo seen from afar would, or a plain colour. Frames: *photo* is the upright photo, *crop* is
the canvas, which is the network input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.faces import MIRRORED_LANDMARKS

MEAN_COLOUR = (123, 117, 104)
"""RGB of what is outside a photo in half of the crops: the mean that networks subtract, so that it is zero to them."""

STRIP_ENLARGEMENT = 1.5
"""Most crop pixels per photo pixel where a photo fills the rest of a crop; a random window of more shows blur alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How crops are cut. Sizes of faces are sqrt(width * height)."""

    side: int = 320
    """Edge of the square crop, in network-input pixels."""

    aimed: float = 0.6
    """Share of the crops, among photos with faces, that bring one random face of the photo to a random size."""

    face_sides: tuple[float, float] = (4.0, 400.0)
    """Sizes the aimed-at face is brought to, log-uniform, in network-input pixels."""

    short_sides: tuple[float, float] = (0.3, 4.0)
    """Edge of the other crops as a multiple of the photo's short side, log-uniform; above 1 is zooming out."""

    enlargement: float = 3.0
    """Most network-input pixels per photo pixel: more would only teach blur."""

    mosaic: float = 0.85
    """Chance that the rest of a crop its photo does not fill shows other photos instead of a plain colour."""

    grid: float = 0.0
    """Share of the crops that are made of four crops of half the side: as crowded with detail as a 4K photo shown at a
    quarter of its size, where the focus map must tell faces of five pixels from texture."""

    thinnest_strip: int = 32
    """Strips of the rest thinner than this keep the plain colour, in network-input pixels."""

    flip: float = 0.5
    """Chance that the crop is mirrored."""

    smallest_face: float = 4.0
    """Faces smaller than this in the crop become ignore regions, in network-input pixels."""

    def __post_init__(self) -> None:
        if self.side < 1:
            raise SettingsError(f"crop.side is {self.side} px; choose at least 1")
        for name, (low, high) in (("face_sides", self.face_sides), ("short_sides", self.short_sides)):
            if not 0 < low <= high:
                raise SettingsError(f"crop.{name} is ({low}, {high}); choose 0 < low <= high")
        for name, share in (("aimed", self.aimed), ("mosaic", self.mosaic), ("grid", self.grid), ("flip", self.flip)):
            if not 0 <= share <= 1:
                raise SettingsError(f"crop.{name} is {share}; choose 0..1")
        if self.grid and self.side % 2:
            raise SettingsError(f"crop.side is {self.side} px; choose an even one for crop.grid, or a grid of 0")
        if self.enlargement <= 0:
            raise SettingsError(f"crop.enlargement is {self.enlargement}; choose more than 0")


class LabelledCrop(NamedTuple):
    """One crop and its faces; N faces, M ignore regions, either may be 0. All in pixels of the crop."""

    pixels: NDArray[np.uint8]
    """(side, side, 3) RGB."""

    boxes: NDArray[np.float32]
    """(N, 4); xyxy, cut at the border of the window that shows the face."""

    sides: NDArray[np.float32]
    """(N,); sqrt(width * height) of the whole faces, not of the part that is seen."""

    landmarks: NDArray[np.float32]
    """(N, 5, 2); NaN where missing or not seen."""

    ignore: NDArray[np.float32]
    """(M, 4); xyxy."""

    in_range: NDArray[np.bool_]
    """(N,); False for faces that another scale is for: the detection heads ignore them, the focus map does not."""


class Window(NamedTuple):
    """A rectangle of a photo and the rectangle of the crop that shows it; both (left, top, right, bottom)."""

    photo: tuple[float, float, float, float]
    crop: tuple[int, int, int, int]


Pick = Callable[[], tuple[LabelledPhoto, NDArray[np.uint8]]]
"""Gives a photo and its pixels (H, W, 3) RGB; they may be a reduced decode of it."""


def random_crop(
    photo: LabelledPhoto, pixels: NDArray[np.uint8], pick: Pick, rng: np.random.Generator, config: CropConfig
) -> LabelledCrop:
    """Cut one crop around or out of a photo.

    Args:
        photo: the labels.
        pixels: (H, W, 3) uint8 RGB of the whole photo; may be a reduced decode.
        pick: called for each further photo of a mosaic.
        rng: decides everything that is random.
        config: how crops are cut.

    Returns:
        The crop. Faces whose centre is not seen, and those too small, are ignore regions.
    """
    if config.grid and rng.random() < config.grid:
        return _grid_of_crops(photo, pixels, pick, rng, config)
    side = config.side
    colour = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.array(MEAN_COLOUR)
    canvas = np.tile(colour.astype(np.uint8), (side, side, 1))
    scale, aim = _choose_scale(photo, rng, config)
    window, strips = _first_window(photo.size, scale, aim, rng, side)
    parts = [paste(canvas, photo, pixels, window, rng)]
    if rng.random() < config.mosaic:
        for strip in strips:
            if min(strip[2] - strip[0], strip[3] - strip[1]) >= config.thinnest_strip:
                other, other_pixels = pick()
                parts.append(paste(canvas, other, other_pixels, _fill_strip(other, strip, rng), rng))
    crop = LabelledCrop(
        pixels=canvas,
        boxes=np.concatenate([part.boxes for part in parts]),
        sides=np.concatenate([part.sides for part in parts]),
        landmarks=np.concatenate([part.landmarks for part in parts]),
        ignore=np.concatenate([part.ignore for part in parts]),
        in_range=np.concatenate([part.in_range for part in parts]),
    )
    crop = ignore_small_faces(crop, config.smallest_face)
    return mirrored(crop) if rng.random() < config.flip else crop


def _grid_of_crops(
    photo: LabelledPhoto, pixels: NDArray[np.uint8], pick: Pick, rng: np.random.Generator, config: CropConfig
) -> LabelledCrop:
    """Four crops of half the side, the first of this photo."""
    half = config.side // 2
    quarter = replace(config, side=half, grid=0.0)
    crops = [random_crop(photo, pixels, pick, rng, quarter)]
    crops += [random_crop(*pick(), pick, rng, quarter) for _ in range(3)]
    corners = np.array([(0, 0), (half, 0), (0, half), (half, half)], np.float32)
    rows = [np.concatenate([crops[first].pixels, crops[first + 1].pixels], axis=1) for first in (0, 2)]
    return LabelledCrop(
        pixels=np.concatenate(rows),
        boxes=_on_grid([crop.boxes for crop in crops], corners),
        sides=np.concatenate([crop.sides for crop in crops]),
        landmarks=np.concatenate([crop.landmarks + at for crop, at in zip(crops, corners, strict=True)]),
        ignore=_on_grid([crop.ignore for crop in crops], corners),
        in_range=np.concatenate([crop.in_range for crop in crops]),
    )


def _on_grid(parts: list[NDArray[np.float32]], corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) boxes of the four crops in pixels of the whole."""
    return np.concatenate([boxes + np.tile(corner, 2) for boxes, corner in zip(parts, corners, strict=True)])


def _choose_scale(
    photo: LabelledPhoto, rng: np.random.Generator, config: CropConfig
) -> tuple[float, tuple[float, float] | None]:
    """Crop pixels per photo pixel, and the point of the photo (x, y) that must be seen, if any."""
    if len(photo.boxes) and rng.random() < config.aimed:
        left, top, right, bottom = (float(value) for value in photo.boxes[rng.integers(len(photo.boxes))])
        face_side = ((right - left) * (bottom - top)) ** 0.5
        low, high = config.face_sides
        high = max(low, min(high, face_side * config.enlargement))
        return _log_uniform(rng, low, high) / face_side, ((left + right) / 2, (top + bottom) / 2)
    factor = _log_uniform(rng, *config.short_sides)
    return min(config.side / (min(photo.size) * factor), config.enlargement), None


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _first_window(
    size: tuple[int, int], scale: float, aim: tuple[float, float] | None, rng: np.random.Generator, side: int
) -> tuple[Window, list[tuple[int, int, int, int]]]:
    """The window of the crop's own photo, and the strips of the crop beside and below (or above) it."""
    ranges, places = [], []
    for axis, length in ((0, size[1]), (1, size[0])):
        shown = min(side, max(1, round(length * scale)))
        ranges.append(_random_range(length, shown / scale, None if aim is None else aim[axis], rng))
        place = 0 if rng.random() < 0.5 else side - shown
        places.append((place, place + shown))
    (left, right), (top, bottom) = places
    strips = []
    if right - left < side:
        strips.append((right, 0, side, side) if left == 0 else (0, 0, left, side))
    if bottom - top < side:
        strips.append((left, bottom, right, side) if top == 0 else (left, 0, right, top))
    photo = (ranges[0][0], ranges[1][0], ranges[0][1], ranges[1][1])
    return Window(photo=photo, crop=(left, top, right, bottom)), strips


def _random_range(length: int, extent: float, aim: float | None, rng: np.random.Generator) -> tuple[float, float]:
    """A range of this extent, or as much as there is, inside 0..length; `aim`, if given, is well inside it."""
    extent = min(extent, float(length))
    lowest, highest = 0.0, length - extent
    if aim is not None:
        # Windows are rounded to whole pixels of the photo: without the margin a point at the edge may get lost.
        margin = min(extent / 2, max(1.0, 0.05 * extent))
        lowest, highest = min(max(lowest, aim - extent + margin), highest), max(min(highest, aim - margin), lowest)
    start = float(rng.uniform(min(lowest, highest), highest))
    return start, start + extent


def _fill_strip(photo: LabelledPhoto, strip: tuple[int, int, int, int], rng: np.random.Generator) -> Window:
    """A window of a photo, around one of its faces if it has any, that covers the strip as far as it can."""
    height, width = strip[3] - strip[1], strip[2] - strip[0]
    cover = max(height / photo.size[0], width / photo.size[1])
    scale = min(cover * float(rng.uniform(1.0, 2.0)), STRIP_ENLARGEMENT)
    shown_width, shown_height = (
        min(width, int(photo.size[1] * scale) or 1),
        min(height, int(photo.size[0] * scale) or 1),
    )
    aim: tuple[float | None, float | None] = (None, None)
    if len(photo.boxes):
        left, top, right, bottom = photo.boxes[rng.integers(len(photo.boxes))].tolist()
        aim = ((left + right) / 2, (top + bottom) / 2)
    x1, x2 = _random_range(photo.size[1], shown_width / scale, aim[0], rng)
    y1, y2 = _random_range(photo.size[0], shown_height / scale, aim[1], rng)
    return Window(photo=(x1, y1, x2, y2), crop=(strip[0], strip[1], strip[0] + shown_width, strip[1] + shown_height))


def paste(
    canvas: NDArray[np.uint8],
    photo: LabelledPhoto,
    pixels: NDArray[np.uint8],
    window: Window,
    rng: np.random.Generator,
    in_range: NDArray[np.bool_] | None = None,
) -> LabelledCrop:
    """Show a window of a photo in the crop and carry its labels over.

    Args:
        canvas: (side, side, 3) uint8; written in place.
        photo: the labels.
        pixels: (H, W, 3) uint8 RGB of the whole photo, at whatever reduction.
        window: what to show where. The photo's rectangle is widened to whole pixels of `pixels`.
        rng: chooses the interpolation.
        in_range: (N,) of the photo's faces, see `LabelledCrop`; None is all.

    Returns:
        The canvas with the faces and ignore regions of this window alone. A face whose centre is not seen is an ignore
        region, as far as it is seen.
    """
    left, top, right, bottom = window.crop
    rows, columns = pixels.shape[0] / photo.size[0], pixels.shape[1] / photo.size[1]
    x1, x2 = _whole(window.photo[0] * columns, window.photo[2] * columns, pixels.shape[1])
    y1, y2 = _whole(window.photo[1] * rows, window.photo[3] * rows, pixels.shape[0])
    shrinks = (x2 - x1) > (right - left)
    methods = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR) if shrinks else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    method = methods[int(rng.integers(len(methods)))]
    canvas[top:bottom, left:right] = cv2.resize(
        pixels[y1:y2, x1:x2], (right - left, bottom - top), interpolation=method
    )
    zoom = np.array([(right - left) / (x2 - x1), (bottom - top) / (y2 - y1)])
    ratio = (zoom * (columns, rows)).astype(np.float32)
    shift = ((left, top) - zoom * (x1, y1)).astype(np.float32)
    if in_range is None:
        in_range = np.ones(len(photo.boxes), dtype=np.bool_)
    return _labels_seen(canvas, photo, in_range, ratio, shift, window.crop)


def _labels_seen(
    canvas: NDArray[np.uint8],
    photo: LabelledPhoto,
    in_range: NDArray[np.bool_],
    ratio: NDArray[np.float32],
    shift: NDArray[np.float32],
    seen: tuple[int, int, int, int],
) -> LabelledCrop:
    """The labels of a photo in a rectangle of the crop; its x and y times `ratio` plus `shift` are the crop's."""
    low, high = np.array(seen[:2], dtype=np.float32), np.array(seen[2:], dtype=np.float32)
    whole = (photo.boxes.reshape(-1, 2, 2) * ratio + shift).reshape(-1, 4)
    centres = (whole[:, :2] + whole[:, 2:]) / 2
    faces = ((centres >= low) & (centres < high)).all(axis=1)
    landmarks = photo.landmarks[faces] * ratio + shift
    landmarks[~((landmarks >= low) & (landmarks <= high)).all(axis=2)] = np.nan
    regions = (photo.ignore.reshape(-1, 2, 2) * ratio + shift).reshape(-1, 4)
    ignore = _cut(np.concatenate([whole[~faces], regions]), low, high)
    return LabelledCrop(
        pixels=canvas,
        boxes=_cut(whole[faces], low, high),
        sides=np.sqrt((whole[faces, 2:] - whole[faces, :2]).prod(axis=1)),
        landmarks=landmarks,
        ignore=ignore[(ignore[:, 2:] > ignore[:, :2]).all(axis=1)],
        in_range=in_range[faces],
    )


def _whole(low: float, high: float, length: int) -> tuple[int, int]:
    """The range in whole pixels, at least one, inside 0..length."""
    first = min(int(low), length - 1)
    return first, min(max(round(high), first + 1), length)


def _cut(boxes: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) boxes cut at a rectangle; those outside it end up without area."""
    return np.clip(boxes.reshape(-1, 2, 2), low, high).reshape(-1, 4)


def ignore_small_faces(crop: LabelledCrop, smallest: float) -> LabelledCrop:
    """Turn the faces whose `sides` are below `smallest` crop pixels into ignore regions."""
    kept = crop.sides >= smallest
    return crop._replace(
        boxes=crop.boxes[kept],
        sides=crop.sides[kept],
        landmarks=crop.landmarks[kept],
        ignore=np.concatenate([crop.ignore, crop.boxes[~kept]]),
        in_range=crop.in_range[kept],
    )


def mirrored(crop: LabelledCrop) -> LabelledCrop:
    """The crop as in a mirror; left and right landmarks swap, because their names are as seen."""
    width = crop.pixels.shape[1]
    landmarks = crop.landmarks[:, MIRRORED_LANDMARKS]
    return LabelledCrop(
        pixels=np.ascontiguousarray(crop.pixels[:, ::-1]),
        boxes=_mirrored_boxes(crop.boxes, width),
        sides=crop.sides,
        landmarks=np.stack([width - landmarks[..., 0], landmarks[..., 1]], axis=2),
        ignore=_mirrored_boxes(crop.ignore, width),
        in_range=crop.in_range,
    )


def _mirrored_boxes(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
