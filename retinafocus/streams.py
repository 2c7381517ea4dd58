"""A photo too large to be decoded whole: its levels are made strip by strip, in one pass over the file for each.

    stream = open_stream(data, header, memory=4 * 2**30)
    for number, pixels in stream.read(level, boxes):
        ...

What is held at a time is a few rows and the rectangles that have begun but not ended, never the picture. Only what no
decoder can make in strips is refused, by what its header says and before any pixel is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import PhotoError
from retinafocus.footprint import decoded_bytes, held_bytes, streamed_bytes
from retinafocus.headers import PhotoHeader
from retinafocus.levels import Level
from retinafocus.photos import REDUCTIONS, check_extents, decode, decoder_error, turn
from retinafocus.sources import CUBIC_REACH, Area, level_pixels, reduction_for, shown_area
from retinafocus.strips import Rows, open_rows

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

# Rows decoded at once. Fewer make more calls; libvips holds some thirty times as many bytes for each more.
STRIP_ROWS = 32

# A row costs some ten microseconds however short it is, and ten million empty ones fit into a PNG of 20 KB.
MOST_ROWS = 2**20

GIB = 2**30

_MEND = "raise max_pixels, or convert the photo to baseline JPEG or to TIFF with tiles of 256 px"


def can_stream(header: PhotoHeader, data: bytes) -> str:
    """Why a photo cannot be decoded in strips.

    Args:
        header: what `read_header` gave for the data.
        data: the whole file. Only its header is read.

    Returns:
        The reason, in words; empty if it can be.

    Raises:
        PhotoError: truncated or corrupt, as far as the header tells.
    """
    try:
        open_rows(data, header)
    except PhotoError as error:
        if error.status != "unsupported_format":
            raise
        return error.reason
    return ""


def open_stream(data: bytes, header: PhotoHeader, *, memory: int, open_pixels: int = 0) -> StreamedPhoto:
    """Begin to read a photo in strips, if that takes no more than `memory`.

    Args:
        data: the whole file.
        header: what `read_header` gave for it.
        memory: bytes, beyond the file's own.
        open_pixels: level pixels of the rectangles that will be begun and not ended at a time.

    Raises:
        PhotoError: `too_large`, decided from the header; truncated or corrupt.
    """
    check_extents(data, header)
    size, limit = f"{header.width} x {header.height} px", f"more than the limit of {memory / GIB:.1f} GiB"
    reason = can_stream(header, data)
    if reason:
        needed = decoded_bytes(header, data)
        raise PhotoError("too_large", f"{size} take {needed / GIB:.1f} GiB decoded whole, {limit}: {reason}; {_MEND}")
    if header.stored_size[0] > MOST_ROWS:
        raise PhotoError(
            "too_large",
            f"{size}: more than the {MOST_ROWS} rows that are read in strips; raise max_pixels or cut it up",
        )
    needed = streamed_bytes(header, data, open_pixels=open_pixels)
    if needed > memory:
        held, what = held_bytes(header, data)
        because = f": {what} takes {held / GIB:.1f} GiB" if held > needed / 2 else ""
        raise PhotoError("too_large", f"{size} take {needed / GIB:.1f} GiB in strips, {limit}{because}; {_MEND}")
    return StreamedPhoto(data, header)


class StreamedPhoto:
    """A source of pixels (`sources.PixelSource`) that decodes the file anew for each reading of a level."""

    def __init__(self, data: bytes, header: PhotoHeader) -> None:
        """Check the file. A JPEG is decoded, to an eighth of its sides; of other formats no pixel is.

        Args:
            data: the whole file.
            header: what `read_header` gave for it.

        Raises:
            PhotoError: truncated, corrupt or out_of_memory.
        """
        check_extents(data, header)
        self._data, self._header = data, header
        # libvips passes on fewer of libjpeg's warnings than `decode`, which therefore sees the whole file first. What
        # it makes, 1/64 of the pixels, serves all coarse levels.
        pixels = header.height * header.width
        jpeg = header.format == "jpeg"
        self._coarsest = decode(data, header, reduction=REDUCTIONS[-1], max_pixels=pixels) if jpeg else None

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return shown_area(self._header, self._reduction(scale))

    def load(self, level: Level) -> None:
        """See `PixelSource.load`; nothing is held."""

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, Pixels]]:
        """See `PixelSource.read`. One pass over the file, down to the last row that a rectangle needs: damage below
        that is not seen, which is why the first reading of a photo must be of a whole level."""
        try:
            if self._coarsest is not None and self._reduction(level.scale) == REDUCTIONS[-1]:
                whole = level_pixels(self._coarsest, level.size)
                for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
                    yield number, np.ascontiguousarray(whole[top:bottom, left:right])
            else:
                yield from self._stream(level, boxes)
        except PhotoError:
            raise
        except Exception as error:  # decoders fed hostile bytes raise whatever they like; the job must go on
            raise decoder_error(error, self._header.format) from error

    def _stream(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, Pixels]]:
        orientation = self._header.orientation
        rows = open_rows(self._data, self._header, self._reduction(level.scale))
        resized = _Resized(rows, level.size[::-1] if orientation >= 5 else level.size)
        stored = _as_stored(boxes, level.size, orientation).tolist()
        for band in resized.bands(stored):
            for number, pixels in _cut(resized, stored, band):
                yield number, turn(pixels, orientation)

    def _reduction(self, scale: float) -> int:
        """The largest reduction in the decoder that leaves every pixel of a level of that scale."""
        return reduction_for(scale) if self._header.format == "jpeg" else 1


def _as_stored(boxes: NDArray[np.int32], size: tuple[int, int], orientation: int) -> NDArray[np.int32]:
    """Rectangles of an upright level to those of the level as stored; the inverse of `photos.turn`.

    Args:
        boxes: (N, 4) xyxy, pixels of the upright level.
        size: (height, width) of the upright level.
        orientation: EXIF 1..8.

    Returns:
        (N, 4) xyxy, pixels of the level before the turn.
    """
    left, top, right, bottom = np.asarray(boxes, np.int32).reshape(-1, 4).T
    if orientation in (2, 3, 6, 7):
        left, right = size[1] - right, size[1] - left
    if orientation in (3, 4, 7, 8):
        top, bottom = size[0] - bottom, size[0] - top
    sides = (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)
    return np.stack(sides, axis=1)


@dataclass(slots=True)
class _Resized:
    """Rows of a level, as stored, made from decoded rows; top to bottom.

    Level pixel i shows the decoded pixels from i * h / H to (i + 1) * h / H, for h decoded and H level pixels: the
    geometry of cv2.resize, which makes the levels of photos held in memory.
    """

    rows: Rows
    size: tuple[int, int]
    """(height, width) of the level."""
    _last: Pixels = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    """Rows decoded last: the next strip may begin with them."""
    _end: int = 0
    """The decoded row after them."""

    def bands(self, boxes: list[list[int]]) -> Iterator[list[int]]:
        """Groups of rectangles, by number, that share no decoded row with another group; from the top down."""
        band: list[int] = []
        end = 0
        for number in sorted(range(len(boxes)), key=lambda number: boxes[number][1]):
            first, last = self._needed(0, boxes[number][1], boxes[number][3])
            if band and first >= end:
                yield band
                band = []
            band.append(number)
            end = max(end, last)
        if band:
            yield band

    def strips(self, box: Box) -> Iterator[tuple[int, Pixels]]:
        """A rectangle of the level, some rows at a time: (first row, (n, w, 3) uint8)."""
        left, top, right, bottom = box
        step = max(1, STRIP_ROWS * self.size[0] // self.rows.size[0])
        for start in range(top, bottom, step):
            yield start, self._strip((left, start, right, min(start + step, bottom)))

    def _strip(self, box: Box) -> Pixels:
        left, top, right, bottom = box
        across, down = self._needed(1, left, right), self._needed(0, top, bottom)
        if self.rows.size == self.size:
            return self._decoded(*down, *across)
        if self._enlarges:
            times = self.size[0] // self.rows.size[0]
            part = self._decoded(*down, *across)
            size = part.shape[1] * times, part.shape[0] * times
            large = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), np.uint8)
            x, y = left - across[0] * times, top - down[0] * times
            return large[y : y + bottom - top, x : x + right - left]
        # Columns that no rectangle needs stay zero and are cut off again, so that tiles there need not be decoded.
        sums = np.zeros((bottom - top, self.rows.size[1], 3), np.float32)
        for start in range(*down, STRIP_ROWS):
            part = self._decoded(start, min(start + STRIP_ROWS, down[1]), *across)
            self._add_rows(part, start, sums[:, across[0] : across[1]], top)
        means = cv2.resize(sums, (self.size[1], bottom - top), interpolation=cv2.INTER_AREA)
        return np.rint(means[:, left:right]).astype(np.uint8)

    def _add_rows(self, part: Pixels, start: int, sums: NDArray[np.float32], top: int) -> None:
        """Add decoded rows from `start` on to the means that the level's rows from `top` on are to become."""
        decoded, made = self.rows.size[0], self.size[0]
        for row in range(start, start + len(part)):
            # One row, or parts of two, of the level.
            for number in range(max(top, row * made // decoded), min(top + len(sums), -(-(row + 1) * made // decoded))):
                shared = min((row + 1) * made, (number + 1) * decoded) - max(row * made, number * decoded)
                sums[number - top] += np.float32(shared / decoded) * part[row - start]

    @property
    def _enlarges(self) -> bool:
        return self.size[0] > self.rows.size[0] or self.size[1] > self.rows.size[1]

    def _needed(self, axis: int, start: int, end: int) -> tuple[int, int]:
        """The decoded rows (axis 0) or columns (axis 1) that the level's from `start` to `end` are made from."""
        decoded, made = self.rows.size[axis], self.size[axis]
        reach = CUBIC_REACH if self._enlarges else 0
        return max(0, start * decoded // made - reach), min(decoded, -(-end * decoded // made) + reach)

    def _decoded(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Decoded rows, which may begin with some of those asked for last, of the same columns."""
        kept = self._last[top - self._end :][: bottom - top] if top < self._end else self._last[:0]
        if bottom <= self._end:
            return kept
        fresh = self.rows.read(max(top, self._end), bottom, left, right)
        self._last = np.concatenate([kept, fresh]) if len(kept) else fresh
        self._end = bottom
        return self._last


def _cut(resized: _Resized, boxes: list[list[int]], band: list[int]) -> Iterator[tuple[int, Pixels]]:
    """The pixels, as stored, of the rectangles of one band, each as soon as its last row is there.

    Args:
        resized: the level.
        boxes: (left, top, right, bottom) in pixels of the level as stored.
        band: numbers of those wanted, by their tops.
    """
    lefts, tops, rights, bottoms = zip(*(boxes[number] for number in band), strict=True)
    left = min(lefts)
    waiting = band[::-1]
    begun: dict[int, Pixels] = {}
    for start, strip in resized.strips((left, min(tops), max(rights), max(bottoms))):
        end = start + len(strip)
        while waiting and boxes[waiting[-1]][1] < end:
            number = waiting.pop()
            x1, y1, x2, y2 = boxes[number]
            begun[number] = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
        for number in list(begun):
            x1, y1, x2, y2 = boxes[number]
            first, last = max(start, y1), min(end, y2)
            begun[number][first - y1 : last - y1] = strip[first - start : last - start, x1 - left : x2 - left]
            if y2 <= end:
                yield number, begun.pop(number)
