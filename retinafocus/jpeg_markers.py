"""What a JPEG's markers say, before and without its pixels: its size, its kind, where its segments are."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from retinafocus.errors import PhotoError

# A JPEG marker that has a segment, or ends the picture: not padding, not an escaped 0xFF, not a restart.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_SCAN, _END, _APP1, _APP15 = 0xDA, 0xD9, 0xE1, 0xEF
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Baseline, extended, progressive; 0xC9 and 0xCA are the same with arithmetic coding. The rest are lossless kinds.
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_PROGRESSIVE_FRAMES = {0xC2, 0xCA}


@dataclass(frozen=True, slots=True)
class JpegStart:
    """What lies before a JPEG's first scan."""

    height: int
    """Pixels, as stored."""
    width: int
    """Pixels, as stored."""
    exif_block: bytes | None
    several_scans: bool
    scan_at: int
    """Where the first scan begins; what lies before it, such as a thumbnail, has markers of its own."""
    frame_at: int
    """Where the content of the frame header begins."""
    app1_at: tuple[int, ...]
    """Where the kind of each segment APP1 (EXIF, XMP) stands."""


def read_jpeg_start(data: bytes) -> JpegStart:
    """Walk the markers up to the first scan.

    Raises:
        PhotoError: `corrupt`, or `unsupported_format` for a kind that cannot be decoded.
        IndexError, struct.error: the data ends before the first scan.

    Source: ITU-T T.81, annex B.
    """
    frame: tuple[int, bytes] | None = None
    frame_at = 0
    exif_block: bytes | None = None
    app1_at: list[int] = []
    at = 2
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            raise IndexError("no further marker")
        marker = found.group(1)[0]
        (length,) = struct.unpack_from(">H", data, found.end()) if marker != _END else (0,)
        if length < 2:
            raise PhotoError("corrupt", "the JPEG data holds no picture; copy the file again")
        segment = data[found.end() + 2 : found.end() + length]
        at = found.end() + length
        if at > len(data):
            raise IndexError("segment beyond the end")
        if marker in _FRAMES and frame is None:
            frame, frame_at = (marker, segment), found.end() + 2
        elif marker == _APP1:
            app1_at.append(found.end() - 1)
            if exif_block is None and segment.startswith(b"Exif\0"):
                exif_block = segment[6:]  # the sixth byte is padding, which some writers do not set to zero
        elif marker == _SCAN:
            if frame is None:
                raise PhotoError("corrupt", "the JPEG data has no frame before its first scan; copy the file again")
            size, several_scans = _jpeg_size(*frame, scan=segment)
            return JpegStart(*size, exif_block, several_scans, at, frame_at, tuple(app1_at))


def _jpeg_size(marker: int, frame: bytes, *, scan: bytes) -> tuple[tuple[int, int], bool]:
    """(height, width) of a JPEG of a kind that can be decoded, and whether it has several scans."""
    precision, height, width, components = struct.unpack_from(">BHHB", frame)
    if marker not in _DECODABLE_FRAMES or precision != 8:
        raise _unsupported("a lossless or 12-bit JPEG is not read here; convert it to an 8-bit JPEG")
    if components not in (1, 3, 4):
        raise _unsupported(f"a JPEG of {components} components is not read here; convert it to RGB")
    return (height, width), marker in _PROGRESSIVE_FRAMES or scan[0] < components


def jpeg_frame(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The frame of a JPEG whose header could be read.

    Returns:
        Where the two bytes of its height, then the two of its width are; each component's (across, down) sampling.

    Raises:
        PhotoError: corrupt, a sampling is not 1..4.

    Source: ITU-T T.81, section B.2.2.
    """
    at = read_jpeg_start(data).frame_at
    samplings = data[at + 7 : at + 6 + 3 * data[at + 5] : 3]
    if any(not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4) for sampling in samplings):
        raise PhotoError("corrupt", "the JPEG header states a sampling there is not; copy the file again")
    return at + 1, [(sampling >> 4, sampling & 15) for sampling in samplings]


def count_jpeg_scans(data: bytes) -> int:
    """The scans of a JPEG whose header could be read; its pixels contain no marker that looks like one."""
    return data.count(bytes([0xFF, _SCAN]), read_jpeg_start(data).scan_at) + 1


def jpeg_without_exif(data: bytes) -> bytearray:
    """A copy of a JPEG whose header could be read; its EXIF and XMP are there, marked as something nobody reads."""
    copy = bytearray(data)
    for at in read_jpeg_start(data).app1_at:
        copy[at] = _APP15
    return copy


def has_jpeg_end(data: bytes) -> bool:
    """Whether a JPEG whose header could be read has an end mark after its first scan."""
    return data.find(b"\xff\xd9", read_jpeg_start(data).scan_at) >= 0


def _unsupported(reason: str) -> PhotoError:
    return PhotoError("unsupported_format", reason)
