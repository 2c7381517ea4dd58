"""Tags of EXIF blocks and TIFF files: one small reader, because both are the same structure.

It is our own because Pillow's reports damage through `warnings`, whose filters belong to the whole process: a
decoding thread that turned them into errors would do so for every other thread. Here damage is a field.

Source: TIFF 6.0, section 2 (image file directory); BigTIFF as libtiff writes it; Exif 2.32, sections 4.5 and 4.6.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import datetime

# Tag numbers, named as in the specifications.
NEW_SUBFILE_TYPE = 254
IMAGE_WIDTH = 256
IMAGE_LENGTH = 257
BITS_PER_SAMPLE = 258
COMPRESSION = 259
PHOTOMETRIC = 262
FILL_ORDER = 266
STRIP_OFFSETS = 273
ORIENTATION = 274
SAMPLES_PER_PIXEL = 277
ROWS_PER_STRIP = 278
STRIP_BYTE_COUNTS = 279
X_RESOLUTION = 282
Y_RESOLUTION = 283
PLANAR_CONFIGURATION = 284
RESOLUTION_UNIT = 296
DATE_TIME = 306
TILE_WIDTH = 322
TILE_LENGTH = 323
TILE_OFFSETS = 324
TILE_BYTE_COUNTS = 325
EXTRA_SAMPLES = 338
SAMPLE_FORMAT = 339
EXIF_DIRECTORY = 34665
DATE_TIME_ORIGINAL = 36867
DNG_VERSION = 50706

# One value by specification. A file with more of them is damaged, and readers differ in which they take.
_SINGLE = frozenset(
    {NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES_PER_PIXEL}
    | {ROWS_PER_STRIP, X_RESOLUTION, Y_RESOLUTION, PLANAR_CONFIGURATION, RESOLUTION_UNIT, TILE_WIDTH, TILE_LENGTH}
)
# Only these are unpacked: other tags may hold megabytes of maker notes.
_READ = _SINGLE | {
    BITS_PER_SAMPLE,
    STRIP_OFFSETS,
    STRIP_BYTE_COUNTS,
    DATE_TIME,
    TILE_OFFSETS,
    TILE_BYTE_COUNTS,
    EXTRA_SAMPLES,
    SAMPLE_FORMAT,
    EXIF_DIRECTORY,
    DATE_TIME_ORIGINAL,
    DNG_VERSION,
}

# Bytes of one value, by the type number of an entry.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TEXT = 2
# Classic TIFF cannot count further; BigTIFF can, and a made-up count must not cost minutes.
_MOST_ENTRIES = 65535

# Cameras write colons; some software writes dashes, slashes or a T.
_TIME = re.compile(rb"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Directory:
    """The first directory of a TIFF file or EXIF block, or a directory it points to."""

    order: str
    """Byte order of the file, "<" or ">", as `struct` takes it."""

    big: bool
    """BigTIFF: counts and offsets of 8 bytes."""

    numbers: dict[int, tuple[int, ...]]
    """Whole-number tags by tag number; those this module names, as far as they lie inside the data."""

    texts: dict[int, bytes]
    """Text tags by tag number, with whatever padding the file has."""

    complete: bool
    """Every entry, every value and the pointer after the last entry lie inside the data."""

    consistent: bool
    """No single-valued tag has several values, and the values together fit into the data."""

    def number(self, tag: int, default: int) -> int:
        """The first value of a whole-number tag, or `default` where it is absent."""
        return self.numbers.get(tag, (default,))[0]

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of every strip and tile of a TIFF's picture."""
        kinds = ((STRIP_OFFSETS, STRIP_BYTE_COUNTS), (TILE_OFFSETS, TILE_BYTE_COUNTS))
        numbers = self.numbers
        return tuple(
            extent
            for offsets, counts in kinds
            for extent in zip(numbers.get(offsets, ()), numbers.get(counts, ()), strict=False)
        )


def read_directory(data: bytes, order: str, offset: int, *, big: bool = False) -> Directory:
    """Read one image file directory.

    Args:
        data: the TIFF structure from its first byte on; offsets count from there.
        order: "<" or ">", as `struct` takes it.
        offset: where the directory begins.
        big: True for BigTIFF, whose counts and offsets have 8 bytes.

    Raises:
        struct.error: the directory begins outside the data.
    """
    count_format, entry_format, pointer_format, room = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    (count,) = struct.unpack_from(order + count_format, data, offset)
    first = offset + struct.calcsize("=" + count_format)
    step = struct.calcsize("=" + entry_format) + room
    available = min(count, max(0, len(data) - first) // step, _MOST_ENTRIES)
    complete = first + count * step + room <= len(data)
    consistent = True
    numbers: dict[int, tuple[int, ...]] = {}
    texts: dict[int, bytes] = {}
    bytes_outside_entries = 0
    for at in range(first, first + available * step, step):
        tag, kind, length = struct.unpack_from(order + entry_format, data, at)
        size = _VALUE_BYTES.get(kind, 0) * length
        start = at + step - room
        if size > room:
            (start,) = struct.unpack_from(order + pointer_format, data, start)
            bytes_outside_entries += size
        if start + size > len(data):
            complete = False
        elif tag in _READ and size and tag not in numbers and tag not in texts:
            consistent = consistent and (length == 1 or tag not in _SINGLE)
            if kind == _TEXT:
                texts[tag] = data[start : start + size]
            elif kind in _WHOLE_NUMBERS:
                numbers[tag] = struct.unpack_from(f"{order}{length}{_WHOLE_NUMBERS[kind]}", data, start)
    return Directory(order, big, numbers, texts, complete, consistent and bytes_outside_entries <= len(data))


def read_first_directory(data: bytes) -> Directory:
    """Read the first directory of a TIFF file or EXIF block.

    Args:
        data: from the byte-order mark ("II" or "MM") on.

    Raises:
        struct.error, OverflowError: the data ends before the directory begins.
        ValueError: the data does not begin like TIFF.
    """
    orders = {b"II": "<", b"MM": ">"}
    if data[:2] not in orders:
        raise ValueError("neither II nor MM at the start")
    order = orders[data[:2]]
    (version,) = struct.unpack_from(order + "H", data, 2)
    if version not in (42, 43):
        raise ValueError(f"version {version} instead of 42 or 43")
    big = version == 43
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return read_directory(data, order, offset, big=big)


def read_exif(block: bytes | None) -> tuple[int, datetime | None]:
    """Orientation and time of an EXIF block; what cannot be read counts as absent.

    A photo is never lost over its EXIF: cameras and editors write a lot of broken EXIF into whole pictures.

    Args:
        block: the block, with or without the "Exif" mark that JPEG puts before it, or a TIFF file; None for none.

    Returns:
        (orientation 1..8, time the photo was taken as the camera's clock showed it or None).
    """
    if block is None:
        return 1, None
    block = block.removeprefix(b"Exif\0\0")
    try:
        directory = read_first_directory(block)
    except (struct.error, ValueError, OverflowError):
        return 1, None
    orientation = directory.number(ORIENTATION, 1)
    taken_at = None
    if EXIF_DIRECTORY in directory.numbers:
        try:
            offset = directory.number(EXIF_DIRECTORY, 0)
            details = read_directory(block, directory.order, offset, big=directory.big)
            taken_at = _parse_time(details.texts.get(DATE_TIME_ORIGINAL, b""))
        except (struct.error, OverflowError):
            pass
    return orientation if 1 <= orientation <= 8 else 1, taken_at or _parse_time(directory.texts.get(DATE_TIME, b""))


def _parse_time(text: bytes) -> datetime | None:
    """The time of an EXIF text such as b"2021:05:04 10:11:12\\0"; None for blank, zero or impossible times."""
    match = _TIME.match(text.strip())
    if match is None:
        return None
    try:
        return datetime(*(int(part) for part in match.groups()))  # type: ignore[arg-type]  # six numbers
    except ValueError:
        return None
