"""Pictures for people: frames, scores and landmarks on a photo, contact sheets, and files written whole."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import RunError, SettingsError

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Edges = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive

FRAME_COLOUR: Colour = (60, 255, 60)
LABEL_COLOUR: Colour = (0, 0, 0)
SHEET_COLOUR: Colour = (32, 32, 32)

# Left and right differ, so that points in the wrong order are seen at a glance: left eye, right eye, nose, left and
# right corner of the mouth, as in the picture.
LANDMARK_COLOURS: tuple[Colour, ...] = ((255, 60, 60), (60, 140, 255), (255, 255, 0), (255, 0, 200), (0, 230, 255))

# Parts of the picture's short side: what can be told apart with the whole picture on a screen.
LINE_PART = 1 / 500
POINT_PART = 1 / 200
TEXT_PART = 1 / 90
LARGEST_TEXT_PART = 1 / 30

# Parts of the face's size sqrt(w * h): what does not bury the face.
LINE_PART_OF_FACE = 1 / 8
POINT_PART_OF_FACE = 1 / 24
TEXT_PART_OF_FACE = 1 / 5

# Fewer pixels than this and digits are blots.
SMALLEST_TEXT = 8

FONT = cv2.FONT_HERSHEY_SIMPLEX
SHEET_GAP = 4
JPEG_QUALITY = 92

# Kinds of file and the longest side, in pixels, that their encoders accept.
LONGEST_SIDES = {".png": 1_000_000, ".jpg": 65_500, ".jpeg": 65_500}


class HasFaces(Protocol):
    """`Faces`, or anything else with the same three arrays."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def landmarks(self) -> NDArray[np.float32]: ...


def draw_faces(pixels: Pixels, faces: HasFaces, *, landmarks: bool = True, scores: bool = True) -> Pixels:
    """Draw a frame around each face, its five landmarks, and its score.

    Frames lie outside the box, so that a face of a few pixels stays visible, and inside the picture. Lines and text
    grow with the picture and with the face. A score goes above its frame, below, or into its upper edge, whichever
    covers the fewest other faces; it is left out where each covers a score written before (faces come best first), or
    where it does not fit into the picture.

    Args:
        pixels: (H, W, 3) uint8 RGB, the upright photo. It is not changed.
        faces: boxes (N, 4) xyxy and landmarks (N, 5, 2) in pixels of `pixels`, scores (N,). N may be 0. A box or
            point with a coordinate that is not finite, and whatever lies outside the picture, is left out.
        landmarks: whether to draw the five points.
        scores: whether to write the scores.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        SettingsError: the pixels are not an RGB picture.
    """
    _check_rgb(pixels)
    drawn: Pixels = np.array(pixels, order="C")
    boxes = np.asarray(faces.boxes, dtype=np.float64)
    frames = [_draw_frame(drawn, box) for box in boxes]
    seen = [number for number, frame in enumerate(frames) if frame is not None]
    if landmarks:
        for number in seen:
            _draw_landmarks(drawn, faces.landmarks[number], _face_size(boxes[number]))
    if scores:
        sizes = [_face_size(boxes[number]) for number in seen]
        edges = [frame for frame in frames if frame is not None]
        _write_scores(drawn, edges, sizes, [float(faces.scores[number]) for number in seen])
    return drawn


def _check_rgb(pixels: Pixels) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise SettingsError(f"pixels are {pixels.shape} {pixels.dtype}; a picture here is (H, W, 3) uint8 RGB")


def _face_size(box: NDArray[np.float64]) -> float:
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def _short_side(pixels: Pixels) -> int:
    height, width, _ = pixels.shape
    return int(min(height, width))


def _draw_frame(pixels: Pixels, box: NDArray[np.float64]) -> Edges | None:
    """Draw the frame; its outer edges, or None where nothing of the box is in the picture."""
    height, width = pixels.shape[:2]
    inside = np.clip(box, 0, (width, height, width, height))
    if not np.isfinite(box).all() or inside[0] >= inside[2] or inside[1] >= inside[3]:
        return None
    line = max(1, round(min(_short_side(pixels) * LINE_PART, _face_size(box) * LINE_PART_OF_FACE)))
    limits = (width, height, width, height)
    outer = [*(np.floor(box[:2]) - line), *(np.ceil(box[2:]) + line)]
    left, top, right, bottom = (int(np.clip(edge, 0, limit)) for edge, limit in zip(outer, limits, strict=True))
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(top, bottom - line), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(left, right - line), right)),
    ):
        pixels[rows, columns] = FRAME_COLOUR
    return left, top, right, bottom


def _draw_landmarks(pixels: Pixels, points: NDArray[np.float32], face_size: float) -> None:
    height, width = pixels.shape[:2]
    radius = max(1, round(min(_short_side(pixels) * POINT_PART, face_size * POINT_PART_OF_FACE)))
    for (x, y), colour in zip(points, LANDMARK_COLOURS, strict=True):
        if 0 <= x < width and 0 <= y < height:
            cv2.circle(pixels, (int(x), int(y)), radius, colour, thickness=-1, lineType=cv2.LINE_AA)


def _write_scores(
    pixels: Pixels, frames: Sequence[Edges], face_sizes: Sequence[float], scores: Sequence[float]
) -> None:
    short_side = _short_side(pixels)
    smallest = max(SMALLEST_TEXT, short_side * TEXT_PART)
    largest = max(smallest, short_side * LARGEST_TEXT_PART)
    others = np.array(frames, dtype=np.int64).reshape(-1, 4)
    written = np.zeros((0, 4), dtype=np.int64)
    for frame, face_size, score in zip(frames, face_sizes, scores, strict=True):
        label = _label(f"{score:.2f}", min(max(face_size * TEXT_PART_OF_FACE, smallest), largest))
        places = _places(frame, label.shape[:2], pixels.shape[:2])
        free = [place for place in places if not _covered(place, written)]
        if free:
            left, top, right, bottom = place = min(free, key=lambda place: _covered(place, others))
            pixels[top:bottom, left:right] = label
            written = np.vstack([written, place])


def _label(text: str, height: float) -> Pixels:
    """(h, w, 3) the text, its digits `height` pixels tall, on a ground of the frame's colour."""
    (_, unit_height), _ = cv2.getTextSize(text, FONT, 1.0, 1)
    scale = height / unit_height
    thickness = max(1, round(height / 9))
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    margin = max(1, round(height / 5))
    label = np.empty((text_height + 2 * margin, text_width + 2 * margin, 3), dtype=np.uint8)
    label[:] = FRAME_COLOUR
    cv2.putText(label, text, (margin, margin + text_height), FONT, scale, LABEL_COLOUR, thickness, cv2.LINE_AA)
    return label


def _places(frame: Edges, label: tuple[int, int], picture: tuple[int, int]) -> list[Edges]:
    """Where a label (height, width) at a frame can lie inside the picture (height, width), best place first."""
    left, top, _, bottom = frame
    label_height, label_width = label
    height, width = picture
    x = min(left, width - label_width)
    return [
        (x, y, x + label_width, y + label_height)
        for y in (top - label_height, bottom, top)
        if x >= 0 and 0 <= y <= height - label_height
    ]


def _covered(place: Edges, others: NDArray[np.int64]) -> int:
    """How many of the others (N, 4) a place has pixels in common with."""
    left, top, right, bottom = place
    across = (left < others[:, 2]) & (others[:, 0] < right)
    return int((across & (top < others[:, 3]) & (others[:, 1] < bottom)).sum())


def contact_sheet(pictures: Sequence[Pixels], columns: int, cell: tuple[int, int]) -> Pixels:
    """Lay pictures out in rows, each scaled to fit its cell, whole and in its own proportions.

    Args:
        pictures: any number of (H, W, 3) uint8 RGB, of any sizes. None give one empty cell.
        columns: pictures in a row; fewer where there are fewer pictures.
        cell: (height, width) of a cell in pixels; cells are `SHEET_GAP` pixels apart.

    Returns:
        (rows * (height + SHEET_GAP) + SHEET_GAP, ...) uint8 RGB.

    Raises:
        SettingsError: columns or cell are below 1, or something is not an RGB picture.
    """
    if columns < 1 or min(cell) < 1:
        raise SettingsError(f"columns is {columns} and cell {cell}; choose 1 or more, and (height, width) in pixels")
    used = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // used))
    pitch = cell[0] + SHEET_GAP, cell[1] + SHEET_GAP
    sheet = np.empty((rows * pitch[0] + SHEET_GAP, used * pitch[1] + SHEET_GAP, 3), dtype=np.uint8)
    sheet[:] = SHEET_COLOUR
    for number, picture in enumerate(pictures):
        _check_rgb(picture)
        scaled = _fitted(picture, cell)
        height, width = scaled.shape[:2]
        top = number // used * pitch[0] + SHEET_GAP + (cell[0] - height) // 2
        left = number % used * pitch[1] + SHEET_GAP + (cell[1] - width) // 2
        sheet[top : top + height, left : left + width] = scaled
    return sheet


def _fitted(picture: Pixels, cell: tuple[int, int]) -> Pixels:
    height, width = picture.shape[:2]
    scale = min(cell[0] / height, cell[1] / width)
    size = max(1, min(cell[1], round(width * scale))), max(1, min(cell[0], round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=method), dtype=np.uint8)


def save_picture(path: str | os.PathLike[str], pixels: Pixels) -> None:
    """Write a picture as PNG or JPEG, by the suffix. Nobody ever sees half a file: it is renamed when complete.

    Args:
        path: ends in .png, .jpg or .jpeg, in any case. An existing file is replaced.
        pixels: (H, W, 3) uint8 RGB.

    Raises:
        SettingsError: another suffix, not an RGB picture, or too large for that kind of file.
        RunError: the file cannot be written there.
    """
    path = Path(path)
    _check_rgb(pixels)
    suffix = path.suffix.lower()
    if suffix not in LONGEST_SIDES:
        raise SettingsError(f"{path}: pictures are written as {', '.join(LONGEST_SIDES)}; choose one of these suffixes")
    if max(pixels.shape) > LONGEST_SIDES[suffix]:
        raise SettingsError(
            f"{path}: the picture is {pixels.shape[1]} x {pixels.shape[0]} px, and {suffix} ends at "
            f"{LONGEST_SIDES[suffix]:,} px a side; choose .png or a smaller picture"
        )
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded_whole, encoded = cv2.imencode(suffix, bgr, options)
    if not encoded_whole:
        raise RunError(f"{path}: the encoder for {suffix} failed; choose another suffix")
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(encoded.tobytes())
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(f"{path}: the picture cannot be written: {error.strerror}; choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
