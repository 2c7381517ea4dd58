"""Damage for `benchmarks.fuzz`: blind (bits, bytes, cuts), or of segments, header fields and metadata."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from benchmarks.fuzz_photos import BOMBS, DIRECTORY_AT, PNG_SIGNATURE, SEEDS, bomb, png_chunk, seed_photo

Span = tuple[int, int]
"""First and last byte, exclusive, of a part of a file."""
Field = tuple[int, str]
"""Where a header field begins, and its kind as `struct` has it."""
Mutation = Callable[[str, bytes, random.Random], bytes]

# What a counter, a size or an offset must survive.
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65534, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

# One case in so many is a bomb as it is, without any damage.
BOMB_SHARE = 0.04

_BOXES_OF_BOXES = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"iinf": 14}


def make_case(seed: int, number: int) -> tuple[str, str, bytes]:
    """One case: (format, what was done to which photo, the file). The same for the same two numbers."""
    dice = random.Random(f"{seed} {number}")  # text, because a tuple would be hashed differently in each process
    kind = dice.choice(sorted(SEEDS))
    if kind in BOMBS and dice.random() < BOMB_SHARE:
        name = dice.choice(sorted(BOMBS[kind]))
        return kind, f"bomb {name}", bomb(kind, name)
    name = dice.choice(sorted(SEEDS[kind]))
    data, done = seed_photo(kind, name), []
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3))):
        mutation = dice.choice(MUTATIONS)
        data = mutation(kind, data, dice)
        done.append(mutation.__name__)
    if kind == "png" and dice.random() < 0.7:  # else nearly all would end at the first checksum
        data = with_right_checksums(data)
    return kind, f"{name}: {', '.join(done)}", data


def flip_bits(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Turn over some bits, half the time near the beginning."""
    broken = bytearray(data)
    for _ in range(dice.choice((1, 1, 4, 16, 64)) if broken else 0):
        broken[_somewhere(broken, dice)] ^= 1 << dice.randrange(8)
    return bytes(broken)


def set_bytes(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Overwrite some bytes, or a stretch of them, with noise, zeros or ones."""
    broken = bytearray(data)
    for _ in range(dice.choice((1, 2, 8)) if broken else 0):
        at, length = _somewhere(broken, dice), dice.choice((1, 1, 1, 4, 64))
        fill = dice.choice((dice.randbytes(length), bytes(length), b"\xff" * length))
        broken[at : at + length] = fill[: len(broken) - at]
    return bytes(broken)


def cut(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Leave out the end, perhaps with zeros in its place, as a copy that broke off."""
    at = _somewhere(data, dice) if data else 0
    return data[:at] + (bytes(len(data) - at) if dice.random() < 0.3 else b"")


def remove_part(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Leave out a segment."""
    start, end = _part(kind, data, dice)
    return data[:start] + data[end:]


def repeat_part(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Say a segment again, up to hundreds of times."""
    start, end = _part(kind, data, dice)
    times = dice.choice((1, 2, 10, 300)) if end - start < 2000 else 1
    return data[:end] + data[start:end] * times + data[end:]


def swap_parts(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Let two segments change places."""
    (a, b), (c, d) = sorted((_part(kind, data, dice), _part(kind, data, dice)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def take_part_of_another(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Put in, or in the place of one, a segment of another photo, of the same format as a rule."""
    other = kind if dice.random() < 0.8 else dice.choice(sorted(SEEDS))
    donor = seed_photo(other, dice.choice(sorted(SEEDS[other])))
    (start, end), (first, last) = _part(kind, data, dice), _part(other, donor, dice)
    return data[: dice.choice((start, end))] + donor[first:last] + data[end:]


def join_two(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Begin as this photo and end as another."""
    donor = seed_photo(kind, dice.choice(sorted(SEEDS[kind])))
    return data[: _somewhere(data, dice) if data else 0] + donor[_somewhere(donor, dice) :]


def set_field(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Set a header field, or several, to an extreme or to nearly what it was."""
    found = list(fields(kind, data))
    broken = bytearray(data)
    for at, form in dice.choices(found, k=dice.choice((1, 1, 2, 4))) if found else ():
        (value,) = struct.unpack_from(form, data, at)
        value = dice.choice((*EXTREMES, value + 1, value - 1, value * 2, value // 2))
        struct.pack_into(form, broken, at, value % (1 << 8 * struct.calcsize(form)))
    return bytes(broken)


def add_metadata(kind: str, data: bytes, dice: random.Random) -> bytes:
    """Put in an EXIF block or colour profile made to cost time or memory."""
    exif, profile = _exif_bomb(dice), _profile_bomb()
    if kind == "jpeg" and dice.random() < 0.5:
        block = exif[:65000]
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]
    if kind == "jpeg":
        parts = dice.choice((2, 255))
        segment = b"ICC_PROFILE\0" + bytes([dice.randrange(256), dice.randrange(256)]) + bytes(dice.choice((0, 60000)))
        return data[:2] + (b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment) * parts + data[2:]
    if kind == "png":
        chunk = dice.choice(((b"eXIf", exif), (b"iCCP", b"a\0\0" + profile), (b"zTXt", b"a\0\0" + profile)))
        return data[:33] + png_chunk(*chunk) + data[33:]
    if kind == "webp":
        name, content = dice.choice(((b"EXIF", exif), (b"ICCP", profile)))
        grown = data + name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        return grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:]
    if kind == "tiff" and data[:4] == b"II*\0":  # its directory, behind the picture
        return data[:4] + struct.pack("<I", len(data) + DIRECTORY_AT) + data[8:] + exif
    return data + exif


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    cut,
    remove_part,
    repeat_part,
    swap_parts,
    take_part_of_another,
    join_two,
    set_field,
    set_field,
    set_field,
    add_metadata,
)


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks, as far as they can be followed, have the checksums of what they hold."""
    mended = bytearray(data)
    for start, end in _chunks(data, len(PNG_SIGNATURE), ">I", extra=12):
        if end - start >= 12:
            struct.pack_into(">I", mended, end - 4, zlib.crc32(data[start + 4 : end - 4]))
    return bytes(mended)


def segments(kind: str, data: bytes) -> list[Span]:
    """The parts that a format consists of, as far as they can be followed; stretches of 32 bytes where it has none."""
    if kind == "jpeg":
        found = list(_jpeg_segments(data))
    elif kind == "png":
        found = list(_chunks(data, len(PNG_SIGNATURE), ">I", extra=12))
    elif kind == "webp":
        found = list(_chunks(data, 12, "<I", extra=8, size_at=4))
    elif kind == "heif":
        found = list(_boxes(data, 0, len(data)))
    elif kind == "tiff":
        found = [(at, at + step) for at, step in _entries(data)]
    else:
        found = []
    return found or [(at, min(at + 32, len(data))) for at in range(0, max(1, len(data)), 32)]


def fields(kind: str, data: bytes) -> Iterator[Field]:
    """Numbers in the headers: sizes, counts, offsets, kinds."""
    parts = segments(kind, data)
    if kind == "jpeg":
        # The length, then what matters of a frame, a scan, a table: the first bytes of each.
        found = [(start + 2, ">H") for start, _ in parts]
        found += [(start + at, ">H") for start, _ in parts if data[start + 1 : start + 2] in _FRAMES for at in (5, 7)]
        found += [(start + at, ">B") for start, end in parts for at in range(4, min(24, end - start))]
    elif kind == "png":
        found = [(start, ">I") for start, _ in parts] + [(16, ">I"), (20, ">I")] * 3
        found += [(at, ">B") for at in range(24, 29)]
    elif kind == "webp":
        found = [(4, "<I")] + [(start + at, form) for start, _ in parts for at, form in _WEBP_FIELDS]
    elif kind == "tiff":
        order = ">" if data[:2] == b"MM" else "<"
        found = [(4, order + "I"), (8, order + "H")]
        for at, step in _entries(data):
            value = (at + 4, order + "I"), (at + 8, order + "I") if step == 12 else (at + 12, order + "Q")
            found += [(at, order + "H"), (at + 2, order + "H"), *value, value[-1]]
    elif kind == "heif":
        found = [(start, ">I") for start, _ in parts]
        found += [(at, ">H") for start, end in parts if end - start < 400 for at in range(start + 8, end, 2)]
    elif kind == "bmp":
        found = [(at, "<I") for at in (2, 10, 14, 18, 22, 30, 34, 46, 50)] + [(26, "<H"), (28, "<H")]
    else:
        found = [(at, "<H") for at in range(6, min(len(data), 60))]
    return ((at, form) for at, form in found if 0 <= at <= len(data) - struct.calcsize(form))


_FRAMES = tuple(bytes([marker]) for marker in (0xC0, 0xC1, 0xC2))
# Of a chunk: its length; the canvas of VP8X, the size of VP8, that of VP8L.
_WEBP_FIELDS = ((4, "<I"), (8, "<B"), (12, "<H"), (15, "<H"), (14, "<H"), (16, "<H"), (9, "<I"))


def _part(kind: str, data: bytes, dice: random.Random) -> Span:
    return dice.choice(segments(kind, data))


def _somewhere(data: bytes | bytearray, dice: random.Random) -> int:
    """A place in a file, half the time among its first 400 bytes."""
    return dice.randrange(len(data) if dice.random() < 0.5 else min(len(data), 400))


def _jpeg_segments(data: bytes) -> Iterator[Span]:
    """Markers with their segments; a scan with its pixels; what follows the first thing not understood is left out."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] and data[end + 1] & 0xF8 != 0xD0):
                end += 1
        yield at, min(end, len(data))
        at = end


def _chunks(data: bytes, at: int, form: str, *, extra: int, size_at: int = 0) -> Iterator[Span]:
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(form, data, at + size_at)
        end = at + extra + length + (length % 2 if extra == 8 else 0)
        if end > len(data):
            return
        yield at, end
        at = end


def _boxes(data: bytes, at: int, end: int) -> Iterator[Span]:
    while at + 8 <= end:
        (length,) = struct.unpack_from(">I", data, at)
        if length < 8 or at + length > end:
            return
        yield at, at + length
        inside = _BOXES_OF_BOXES.get(data[at + 4 : at + 8])
        if inside is not None:
            yield from _boxes(data, at + inside, at + length)
        at += length


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Each entry of a TIFF's first directory: where it begins, and its bytes."""
    order = ">" if data[:2] == b"MM" else "<"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    except (struct.error, OverflowError):
        return
    first, step = (offset + 8, 20) if big else (offset + 2, 12)
    for at in range(first, first + min(count, 100) * step, step):
        if at + step <= len(data):
            yield at, step


def _exif_bomb(dice: random.Random) -> bytes:
    """A directory of as many entries as it can have, each of as many values as fit, or pointing to itself."""
    count = dice.choice((1, 30, 5000, 65535))
    length = dice.choice((1, 2**16, 2**28, 2**32 - 1))
    tag = dice.choice((256, 258, 273, 279, 306, 34665, 36867, 65000))
    entry = struct.pack("<HHII", tag, dice.choice((2, 3, 4, 16)), length, dice.choice((0, DIRECTORY_AT, 2**31)))
    return b"II*\0" + struct.pack("<IH", DIRECTORY_AT, count) + entry * count + bytes(4)


@cache
def _profile_bomb() -> bytes:
    """64 MiB of zeros in 64 KiB."""
    return zlib.compress(bytes(2**26), 9)
