"""Headers: format, upright size, orientation and time from encoded bytes, and what is not a photo."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinafocus.errors import PhotoError
from retinafocus.headers import FORMATS, read_header, sniff_format


def encode(size: tuple[int, int], kind: str, **options: Any) -> bytes:
    """A photo of (height, width) in a Pillow format."""
    height, width = size
    values = np.arange(height * width * 3, dtype=np.int64) * 7 % 251
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(height, width, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


def exif_block(orientation: int | None = None, time: str | None = None, original: str | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    if time is not None:
        exif[0x0132] = time
    if original is not None:
        exif[0x8769] = {0x9003: original}
    return exif.tobytes()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_frame(marker: int, height: int, width: int, components: int = 3, precision: int = 8) -> bytes:
    parts = b"".join(bytes([number, 0x11, 0]) for number in range(1, components + 1))
    return jpeg_segment(marker, struct.pack(">BHHB", precision, height, width, components) + parts)


def jpeg_scan(components: int) -> bytes:
    parts = b"".join(bytes([number, 0]) for number in range(1, components + 1))
    return jpeg_segment(0xDA, bytes([components]) + parts + b"\0\x3f\0")


def tiff(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value as it stands in the entry's last 4 bytes)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


SHORT, LONG = 3, 4
SMALL_TIFF = [(256, LONG, 1, 5), (257, LONG, 1, 4), (258, SHORT, 1, 8), (262, SHORT, 1, 1)]

BOMBS = {
    "jpeg": b"\xff\xd8" + jpeg_frame(0xC0, 30000, 30000) + jpeg_scan(3),
    "png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)),
    "tiff": tiff([(256, LONG, 1, 30000), (257, LONG, 1, 30000), (258, SHORT, 1, 8), (262, SHORT, 1, 1)]),
    "bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 30000, 30000, 1, 24, 0) + bytes(20),
}


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (300, 2)], ids=["one pixel", "odd", "narrow"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("JPEG", {}, id="jpeg"),
        pytest.param("JPEG", {"progressive": True}, id="progressive jpeg"),
        pytest.param("PNG", {}, id="png"),
        pytest.param("WEBP", {}, id="webp lossy"),
        pytest.param("WEBP", {"lossless": True}, id="webp lossless"),
        pytest.param("WEBP", {"exif": exif_block(1)}, id="webp extended"),
        pytest.param("TIFF", {}, id="tiff"),
        pytest.param("TIFF", {"compression": "tiff_lzw"}, id="tiff lzw"),
        pytest.param("TIFF", {"big_tiff": True}, id="big tiff"),
        pytest.param("BMP", {}, id="bmp"),
    ],
)
def test_format_and_size_are_read(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    header = read_header(encode(size, kind, **options))
    assert (header.format, header.height, header.width) == (kind.lower(), *size)
    assert (header.orientation, header.taken_at) == (1, None)
    assert header.progressive is ("progressive" in options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_sizes_are_those_of_the_upright_photo(kind: str, orientation: int) -> None:
    header = read_header(encode((20, 30), kind, exif=exif_block(orientation)))
    assert header.orientation == orientation
    assert (header.height, header.width) == ((30, 20) if orientation >= 5 else (20, 30))
    assert header.stored_size == (20, 30)


@pytest.mark.parametrize(
    ("time", "original", "expected"),
    [
        pytest.param("2021:05:04 10:11:12", "2020:01:02 03:04:05", datetime(2020, 1, 2, 3, 4, 5), id="original wins"),
        pytest.param("2021:05:04 10:11:12", None, datetime(2021, 5, 4, 10, 11, 12), id="no original"),
        pytest.param(
            "2021:05:04 10:11:12", "0000:00:00 00:00:00", datetime(2021, 5, 4, 10, 11, 12), id="zero original"
        ),
        pytest.param("    :  :     :  :  ", None, None, id="blank"),
        pytest.param("2021:02:30 10:11:12", None, None, id="no such day"),
        pytest.param("2021-05-04T10:11:12", None, datetime(2021, 5, 4, 10, 11, 12), id="dashes and T"),
        pytest.param("yesterday", None, None, id="words"),
        pytest.param(None, None, None, id="absent"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_time_is_the_originals_else_the_files(
    kind: str, time: str | None, original: str | None, expected: datetime | None
) -> None:
    assert read_header(encode((4, 5), kind, exif=exif_block(1, time, original))).taken_at == expected


WHOLE_EXIF = exif_block(6, "2021:05:04 10:11:12", "2020:01:02 03:04:05")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"Exif\0\0", id="empty"),
        pytest.param(b"Exif\0\0II*\0\xff\xff\xff\xff", id="directory far outside"),
        pytest.param(b"Exif\0\0" + b"\0" * 40, id="zeros"),
        pytest.param(b"Exif\0\0XX*\0\x08\0\0\0", id="no byte order"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 24, id="endless directory"),
        pytest.param(b"Exif\0\0" + tiff([(274, SHORT, 1, 9)]), id="orientation 9"),
        pytest.param(b"Exif\0\0" + tiff([(274, SHORT, 1, 0)]), id="orientation 0"),
        pytest.param(b"Exif\0\0" + tiff([(274, SHORT, 2**32 - 1, 8)]), id="four billion orientations"),
        pytest.param(b"Exif\0\0" + tiff([(274, 2, 4, 0x41414141)]), id="orientation in letters"),
        pytest.param(b"Exif\0\0" + tiff([(34665, LONG, 1, 2**32 - 1)]), id="details far outside"),
        pytest.param(b"Exif\0\0" + tiff([(34665, LONG, 1, 8)]), id="details point to themselves"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_lose_the_photo(kind: str, block: bytes) -> None:
    header = read_header(encode((4, 5), kind, exif=block))
    assert (header.height, header.width, header.orientation, header.taken_at) == (4, 5, 1, None)


def test_exif_cut_anywhere_never_raises_and_keeps_the_size() -> None:
    for end in range(6, len(WHOLE_EXIF)):
        header = read_header(encode((4, 5), "JPEG", exif=WHOLE_EXIF[:end]))
        assert header.stored_size == (4, 5)


def test_orientation_of_a_cut_exif_is_kept_where_it_is_whole() -> None:
    header = read_header(encode((4, 5), "JPEG", exif=WHOLE_EXIF[:-1]))
    assert header.orientation == 6


def test_exif_whose_padding_byte_is_set_is_read() -> None:
    data = encode((4, 5), "JPEG", exif=exif_block(6)).replace(b"Exif\0\0", b"Exif\0\xff")
    assert read_header(data).orientation == 6


def test_exif_after_the_pixels_of_a_png_is_read() -> None:
    data = encode((4, 5), "PNG")
    data = data[:-12] + png_chunk(b"eXIf", exif_block(6)[6:]) + data[-12:]
    assert read_header(data).orientation == 6


def test_thumbnail_inside_the_exif_is_not_taken_for_the_photo() -> None:
    thumbnail = encode((8, 16), "JPEG")
    data = encode((40, 50), "JPEG", exif=b"Exif\0\0" + tiff([(274, SHORT, 1, 6)]) + thumbnail)
    header = read_header(data)
    assert (header.height, header.width, header.orientation) == (50, 40, 6)


def test_first_of_two_exif_blocks_counts() -> None:
    blocks = [jpeg_segment(0xE1, exif_block(orientation)) for orientation in (6, 3)]
    data = b"\xff\xd8" + b"".join(blocks) + jpeg_frame(0xC0, 4, 5) + jpeg_scan(3)
    assert read_header(data).orientation == 6


@pytest.mark.parametrize(
    ("frame", "scan", "expected"),
    [
        pytest.param(jpeg_frame(0xC0, 4, 5), jpeg_scan(3), False, id="baseline, one scan"),
        pytest.param(jpeg_frame(0xC0, 4, 5), jpeg_scan(1), True, id="baseline, a scan for each component"),
        pytest.param(jpeg_frame(0xC2, 4, 5), jpeg_scan(3), True, id="progressive"),
        pytest.param(jpeg_frame(0xC0, 4, 5, components=1), jpeg_scan(1), False, id="grey"),
    ],
)
def test_several_scans_are_recognised(frame: bytes, scan: bytes, expected: bool) -> None:
    assert read_header(b"\xff\xd8" + frame + scan).progressive is expected


def test_marker_padding_and_bytes_between_segments_are_passed_over() -> None:
    data = b"\xff\xd8\xff\xff" + jpeg_segment(0xE0, b"x")[1:] + b"\0\0" + jpeg_frame(0xC0, 4, 5) + jpeg_scan(3)
    assert read_header(data).stored_size == (4, 5)


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_size_of_a_bomb_can_be_read(kind: str) -> None:
    header = read_header(BOMBS[kind])
    assert (header.format, header.height, header.width) == (kind, 30000, 30000)


def test_bitmap_with_its_top_row_first_has_a_positive_height() -> None:
    data = b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 5, -4, 1, 24, 0) + bytes(100)
    assert read_header(data).stored_size == (4, 5)


def test_bitmap_of_the_oldest_kind_is_read() -> None:
    data = b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 5, 4, 1, 24) + bytes(100)
    assert read_header(data).stored_size == (4, 5)


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        pytest.param(b"", "truncated", "the file is empty; copy it again", id="empty"),
        pytest.param(b"\xff\xd8", "truncated", "the file has 2 bytes, less than any picture; copy it again", id="two"),
        pytest.param(
            b"<!DOCTYPE html>\n<html>", "unsupported_format", 'not a picture: begins with "<!DOCTYPE html>"', id="html"
        ),
        pytest.param(
            b"BM is what this text begins with", "unsupported_format", 'begins with "BM is what this"', id="text BM"
        ),
        pytest.param(
            b"\x01\x02\xfe\xff" * 9, "unsupported_format", "begins with the bytes 01 02 fe ff 01 02 fe ff", id="binary"
        ),
        pytest.param(bytes(9999), "corrupt", "begins with zero bytes only", id="zeros"),
        pytest.param(b"GIF89a" + bytes(99), "unsupported_format", "a GIF is not read here", id="gif"),
        pytest.param(b"\0\0\0\x1cftypavif" + bytes(99), "unsupported_format", "an AVIF picture", id="avif"),
        pytest.param(b"\0\0\0\x1cftypmif1\0\0\0\0avif" + bytes(99), "unsupported_format", "an AVIF", id="avif in mif1"),
        pytest.param(b"\0\0\0\x1cftypisom" + bytes(99), "unsupported_format", "a video", id="mp4"),
        pytest.param(b"\0\0\0\x18ftypcrx " + bytes(99), "unsupported_format", "a camera raw file", id="cr3"),
        pytest.param(b"FUJIFILMCCD-RAW " + bytes(99), "unsupported_format", "a camera raw file", id="raf"),
        pytest.param(b"\xff\xd8\xff\xd9" + bytes(20), "corrupt", "holds no picture", id="jpeg without picture"),
        pytest.param(b"\xff\xd8" + jpeg_scan(3), "corrupt", "no frame before its first scan", id="jpeg without frame"),
        pytest.param(
            b"\xff\xd8" + jpeg_frame(0xC0, 0, 5) + jpeg_scan(3), "corrupt", "its header says 5 x 0 px", id="no height"
        ),
        pytest.param(
            b"\xff\xd8" + jpeg_frame(0xC1, 4, 5, precision=12) + jpeg_scan(3),
            "unsupported_format",
            "a lossless or 12-bit JPEG",
            id="jpeg of 12 bits",
        ),
        pytest.param(
            b"\xff\xd8" + jpeg_frame(0xC3, 4, 5) + jpeg_scan(3), "unsupported_format", "a lossless", id="lossless jpeg"
        ),
        pytest.param(
            b"\xff\xd8" + jpeg_frame(0xC0, 4, 5, components=2) + jpeg_scan(2),
            "unsupported_format",
            "a JPEG of 2 components",
            id="jpeg of 2 components",
        ),
        pytest.param(BOMBS["jpeg"][:15], "truncated", "the JPEG data ends before the picture does", id="jpeg cut"),
        pytest.param(BOMBS["png"][:20], "truncated", "the PNG data ends before the picture does", id="png cut"),
        pytest.param(
            BOMBS["png"].replace(b"\0\0\x75\x30", b"\0\0\x75\x31"),
            "corrupt",
            "the PNG header is damaged",
            id="png size",
        ),
        pytest.param(b"RIFF\x40\0\0\0WEBP", "truncated", "the WEBP data ends", id="webp cut"),
        pytest.param(
            b"RIFF\x40\0\0\0WEBPXXXX" + bytes(60), "corrupt", "not begin with a picture", id="webp of nothing"
        ),
        pytest.param(b"RIFF\x40\0\0\0WEBPVP8 " + bytes(60), "corrupt", "with a key frame", id="webp without key frame"),
        pytest.param(b"RIFF\x40\0\0\0WEBPVP8L" + bytes(60), "corrupt", "with its mark", id="webp without mark"),
        pytest.param(BOMBS["bmp"][:20], "truncated", "the BMP data ends", id="bmp cut"),
        pytest.param(BOMBS["tiff"][:-5], "truncated", "the TIFF data ends", id="tiff directory cut"),
        pytest.param(
            b"II*\0\xff\xff\xff\x7f" + bytes(9), "truncated", "the TIFF data ends", id="tiff directory absent"
        ),
        pytest.param(b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(9), "truncated", "the TIFF data ends", id="big tiff cut"),
        pytest.param(tiff([]), "corrupt", "its header says 0 x 0 px", id="tiff without size"),
        pytest.param(
            tiff([*SMALL_TIFF[1:], (256, SHORT, 2, 0x00050004)]),
            "corrupt",
            "contradicts itself",
            id="tiff of two widths",
        ),
        pytest.param(
            # Four texts of 60 bytes each in a file of 110.
            tiff([*SMALL_TIFF, *((tag, 2, 60, 8) for tag in (270, 271, 272, 305))]),
            "corrupt",
            "contradicts itself",
            id="tiff of overlapping values",
        ),
        pytest.param(tiff([*SMALL_TIFF, (254, LONG, 1, 1)]), "unsupported_format", "a camera raw file", id="nef"),
        pytest.param(tiff([*SMALL_TIFF, (50706, 1, 4, 0x00000401)]), "unsupported_format", "a camera raw", id="dng"),
        pytest.param(
            tiff([*SMALL_TIFF[:2], (258, SHORT, 1, 32)]),
            "unsupported_format",
            "more than 16 bits",
            id="tiff of 32 bits",
        ),
        pytest.param(
            tiff([*SMALL_TIFF, (339, SHORT, 1, 3)]), "unsupported_format", "floating-point", id="floating-point tiff"
        ),
    ],
)
def test_what_is_no_photo_says_what_it_is(data: bytes, status: str, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        read_header(data)
    assert caught.value.status == status
    assert reason in caught.value.reason
    assert caught.value.reason.isprintable()


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x99\0\0\0WEBP", b"RIFF\x99\0\0\0WEBPVP8X", b"II*\0"]
STARTS += [b"MM\0+\0\x08\0\0", b"BM", b"\0\0\0\x18ftypheic"]


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_header_or_a_photo_error(start: bytes, rest: bytes) -> None:
    header, reason = None, ""
    try:
        header = read_header(start + rest)
    except PhotoError as error:
        reason = error.reason
    assert reason.isprintable()
    assert header is None or (min(header.height, header.width) >= 1 and 1 <= header.orientation <= 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_header_cut_anywhere_raises_or_is_the_same(kind: str) -> None:
    data = encode((4, 5), kind, **({} if kind == "BMP" else {"exif": WHOLE_EXIF}))
    whole = read_header(data)
    for end in range(len(data)):
        try:
            header = read_header(data[:end])
        except PhotoError:
            continue
        assert (header.format, header.stored_size) == (whole.format, whole.stored_size)


def test_heic_is_read_and_already_upright() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    photo = pillow_heif.from_pillow(Image.new("RGB", (30, 20), (200, 100, 50)))
    photo.save(buffer, exif=exif_block(6, "2021:05:04 10:11:12"))
    header = read_header(buffer.getvalue())
    assert (header.format, header.height, header.width, header.orientation) == ("heif", 30, 20, 1)
    assert header.taken_at == datetime(2021, 5, 4, 10, 11, 12)
    assert "heif" in FORMATS


def test_heic_without_its_decoder_says_what_to_install() -> None:
    program = """
import sys
sys.modules["pillow_heif"] = None
from retinafocus.errors import PhotoError
from retinafocus.headers import FORMATS, read_header
assert "heif" not in FORMATS
try:
    read_header(b"\\0\\0\\0\\x18ftypheic" + bytes(99))
except PhotoError as error:
    print(error.status, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = "unsupported_format a HEIC picture needs its decoder: pip install 'retinafocus[heic]'"
    assert done.stdout.strip() == expected


def test_format_is_told_by_the_bytes() -> None:
    assert [sniff_format(encode((4, 5), kind)) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")] == [
        "jpeg",
        "png",
        "webp",
        "tiff",
        "bmp",
    ]
