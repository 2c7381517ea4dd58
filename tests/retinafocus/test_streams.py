"""Huge photos: strip by strip the same pixels at the same places as decoded whole, or the same refusal."""

from __future__ import annotations

import io
import math
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from retinafocus.errors import PhotoError
from retinafocus.levels import Level
from retinafocus.photos import PhotoHeader, decode, read_header
from retinafocus.sources import level_pixels
from retinafocus.streams import StreamedPhoto, can_stream, open_stream

Pixels = NDArray[np.uint8]

SCALES = (2.0, 1.0, 0.5, 0.25, 0.125, 1 / 16, 1 / 64, 1 / 1024)


def make_pixels(height: int, width: int) -> Pixels:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def encode(picture: Image.Image | Pixels, kind: str, orientation: int = 1, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}), **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """Kinds of TIFF that Pillow does not write."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


PIXELS = make_pixels(301, 205)
GREY = PIXELS[..., 0]
ALPHA = np.dstack([PIXELS, GREY])
DEEP = PIXELS.astype(np.uint16) * 257

SAMPLES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(PIXELS, "JPEG", quality=90),
    "jpeg 444": lambda: encode(PIXELS, "JPEG", quality=90, subsampling=0),
    "progressive jpeg": lambda: encode(PIXELS, "JPEG", quality=90, progressive=True),
    "grey jpeg": lambda: encode(GREY, "JPEG", quality=90),
    "cmyk jpeg": lambda: encode(Image.fromarray(ALPHA, "CMYK"), "JPEG", quality=90),
    "png": lambda: encode(PIXELS, "PNG"),
    "grey png": lambda: encode(GREY, "PNG"),
    "16-bit png": lambda: encode(GREY.astype(np.uint16) * 257, "PNG"),
    "png with alpha": lambda: encode(ALPHA, "PNG"),
    "palette png": lambda: encode(Image.fromarray(PIXELS).quantize(16), "PNG"),
    "1-bit png": lambda: encode(Image.fromarray(PIXELS).convert("1"), "PNG"),
    "tiff": lambda: encode(PIXELS, "TIFF"),
    "lzw tiff": lambda: encode(PIXELS, "TIFF", compression="tiff_lzw"),
    "packbits tiff": lambda: encode(PIXELS, "TIFF", compression="packbits"),
    "jpeg tiff": lambda: encode(PIXELS, "TIFF", compression="jpeg"),
    "fax tiff": lambda: encode(Image.fromarray(PIXELS).convert("1"), "TIFF", compression="group4"),
    "cmyk tiff": lambda: encode(Image.fromarray(ALPHA, "CMYK"), "TIFF"),
    "palette tiff": lambda: encode(Image.fromarray(PIXELS).quantize(16), "TIFF"),
    "tiff in tiles": lambda: tiff(PIXELS, photometric="rgb", tile=(64, 32)),
    "16-bit tiff": lambda: tiff(DEEP, photometric="rgb", byteorder=">"),
    "tiff with alpha": lambda: tiff(ALPHA, photometric="rgb", extrasamples=["unassalpha"]),
    "tiff with premultiplied alpha": lambda: tiff(ALPHA, photometric="rgb", extrasamples=["assocalpha"]),
    "tiff with a fourth colour": lambda: tiff(ALPHA, photometric="rgb", extrasamples=["unspecified"]),
    "tiff by planes": lambda: tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", planarconfig="separate"),
    "bmp": lambda: encode(PIXELS, "BMP"),
    "palette bmp": lambda: encode(Image.fromarray(PIXELS).quantize(16), "BMP"),
    "1-bit bmp": lambda: encode(Image.fromarray(PIXELS).convert("1"), "BMP"),
}


@cache
def sample(name: str) -> bytes:
    return SAMPLES[name]()


def level_of(source: StreamedPhoto, header: PhotoHeader, scale: float) -> Level:
    size = (math.ceil(header.height * scale), math.ceil(header.width * scale))
    photo_size = (header.height, header.width)
    covered = source.covered(scale)
    return Level(index=0, scale=scale, size=size, photo_size=photo_size, covered=covered, face_range=(0.0, math.inf))


def tiles(size: tuple[int, int], side: int) -> NDArray[np.int32]:
    """The level in squares, bottom right first, so that their order is not that of the rows."""
    corners = [(x, y) for y in range(0, size[0], side) for x in range(0, size[1], side)][::-1]
    return np.array([(x, y, min(x + side, size[1]), min(y + side, size[0])) for x, y in corners], np.int32)


def streamed(data: bytes, scale: float, side: int = 50) -> Pixels:
    """A level, put together from its squares."""
    header = read_header(data)
    source = StreamedPhoto(data, header)
    level = level_of(source, header, scale)
    whole = np.full((*level.size, 3), 99, np.uint8)
    boxes = tiles(level.size, side)
    seen = []
    for number, pixels in source.read(level, boxes):
        left, top, right, bottom = boxes[number]
        assert pixels.shape == (bottom - top, right - left, 3)
        assert pixels.flags.c_contiguous
        whole[top:bottom, left:right] = pixels
        seen.append(number)
    assert sorted(seen) == list(range(len(boxes)))
    return whole


def in_memory(data: bytes, scale: float) -> Pixels:
    """The level made from the photo decoded once, by libjpeg's reduction and then area averaging."""
    header = read_header(data)
    reduction = max(1, min(8, round(1 / scale))) if header.format == "jpeg" else 1
    size = (math.ceil(header.height * scale), math.ceil(header.width * scale))
    return level_pixels(decode(data, header, reduction=reduction), size)


def difference(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


# --- the same pixels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_pixels_are_those_of_the_photo_decoded_whole(name: str) -> None:
    assert can_stream(read_header(sample(name)), sample(name)) == ""
    for scale in SCALES:
        # Bit for bit, but that means of stored pixels, and colours taken out of their alpha, may be rounded otherwise.
        exact = (name.endswith("jpeg") or scale >= 1) and "premultiplied" not in name
        assert difference(streamed(sample(name), scale), in_memory(sample(name), scale)) <= (not exact), scale


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_is_made_upright(kind: str, orientation: int) -> None:
    data = encode(PIXELS, kind, orientation)
    for scale in (2.0, 1.0, 0.5, 0.25, 1 / 16):
        assert difference(streamed(data, scale, 64), in_memory(data, scale)) <= (kind != "JPEG"), scale


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (7, 9), (33, 64), (65, 31)])
def test_sizes_that_no_block_divides_keep_their_last_rows(height: int, width: int) -> None:
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {})):
        data = encode(make_pixels(height, width), kind, **options)
        for scale in (2.0, 1.0, 0.5, 0.25, 0.125):
            assert difference(streamed(data, scale, 20), in_memory(data, scale)) <= (kind != "JPEG"), (kind, scale)


def test_interlaced_png_is_read() -> None:
    pyvips = pytest.importorskip("pyvips")
    data = pyvips.Image.new_from_array(PIXELS).pngsave_buffer(interlace=True)
    np.testing.assert_array_equal(streamed(data, 1.0), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_a_level_is_said_to_cover_is_where_its_pixels_lie(kind: str, orientation: int) -> None:
    # Dark, and bright beyond a line near the far corner of each axis; the sum of the dark says where the line is.
    height, width, line_y, line_x = 603, 401, 560, 368
    for axis, line in ((0, line_y), (1, line_x)):
        stored_axis = axis if orientation < 5 else 1 - axis
        size = (height, width) if orientation < 5 else (width, height)
        picture = np.full((*size, 3), 255, np.uint8)
        mirrored = (4, 3, 7, 8) if axis == 0 else (2, 3, 6, 7)
        dark = slice(size[stored_axis] - line, None) if orientation in mirrored else slice(0, line)
        picture[(dark, slice(None)) if stored_axis == 0 else (slice(None), dark)] = 0
        data = encode(picture, kind, orientation, **({"quality": 100} if kind == "JPEG" else {}))
        for scale in (2.0, 1.0, 0.5, 0.25, 0.125, 1 / 16, 1 / 64):
            header = read_header(data)
            level = level_of(StreamedPhoto(data, header), header, scale)
            shares = 1 - streamed(data, scale, 400)[..., 1].mean(axis=1 - axis) / 255
            start = level.covered[1 - axis]
            found = start + shares.sum() * level.ratio[axis]
            assert abs(found - line) < max(0.1, level.ratio[axis] / 255), (axis, scale)  # half a grey level, or less


def test_rectangles_may_overlap_and_there_may_be_none() -> None:
    data = sample("png")
    header = read_header(data)
    source = StreamedPhoto(data, header)
    level = level_of(source, header, 0.5)
    whole = in_memory(data, 0.5)
    rng = np.random.default_rng(1)
    starts = rng.integers(0, (level.size[1] - 1, level.size[0] - 1), (3000, 2))
    ends = np.minimum(starts + rng.integers(1, 90, (3000, 2)), level.size[::-1])
    boxes = np.hstack([starts, ends]).astype(np.int32)
    read = dict(source.read(level, boxes))
    assert len(read) == 3000
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert difference(read[number], whole[top:bottom, left:right]) <= 1
    assert list(source.read(level, np.empty((0, 4), np.int32))) == []


def test_rectangles_come_as_soon_as_their_rows_are_there() -> None:
    # The second half of the pixels is missing, which the strips show only when they come to it.
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS[:150])
    content = zlib.compress(rows)
    whole = encode(PIXELS, "PNG")
    start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    chunk = b"IDAT" + content
    data = whole[:start] + len(content).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + whole[end:]
    header = read_header(data)
    source = StreamedPhoto(data, header)
    level = level_of(source, header, 1.0)
    reading = source.read(level, np.array([[0, 200, 50, 301], [10, 0, 60, 40]], np.int32))
    number, pixels = next(reading)
    assert number == 1
    np.testing.assert_array_equal(pixels, PIXELS[:40, 10:60])
    with pytest.raises(PhotoError) as caught:
        next(reading)
    assert caught.value.status in ("corrupt", "truncated")


def test_photos_are_read_in_many_threads() -> None:
    names = ["jpeg", "png", "tiff", "progressive jpeg"] * 3
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda name: streamed(sample(name), 0.5), names))
    for name, pixels in zip(names, read, strict=True):
        np.testing.assert_array_equal(pixels, streamed(sample(name), 0.5))


# --- the same refusals -----------------------------------------------------------------------------------------------


def status_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except PhotoError as error:
        return error.status if error.reason.isascii() and error.reason.isprintable() else f"not a line: {error.reason}"
    return "ok"


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_photos_are_called_truncated(name: str) -> None:
    data = sample(name)
    for share in (0.3, 0.6, 0.9, 0.999):
        cut = data[: int(len(data) * share)]
        if status_of(lambda cut=cut: decode(cut)) == "ok":  # what is missing is no pixel, but a TIFF's padding, say
            continue
        assert status_of(lambda cut=cut: streamed(cut, 1.0)) == "truncated", share


@pytest.mark.parametrize("name", [name for name in SAMPLES if "bmp" not in name])
def test_no_damage_passes_that_decoding_whole_would_report(name: str) -> None:
    rng = random.Random(name)
    for _ in range(30):
        data = bytearray(sample(name))
        for _ in range(rng.choice([1, 3, 10])):
            data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)
        damaged = bytes(data)
        try:
            header = read_header(damaged)
        except PhotoError:
            continue
        if header.height * header.width < 10**6 and status_of(lambda: decode(damaged)) != "ok":  # noqa: B023
            assert status_of(lambda: streamed(damaged, 1.0)) != "ok"  # noqa: B023


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(lambda: encode(PIXELS, "WEBP"), "WEBP is decoded whole or not at all", id="webp"),
        pytest.param(
            lambda: tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", planarconfig="separate", tile=(64, 64)),
            "a TIFF whose colours lie in separate tiles cannot be decoded in strips",
            id="planes in tiles",
        ),
    ],
)
def test_what_cannot_be_streamed_is_refused_with_the_reason_and_the_mend(
    data: Callable[[], bytes], reason: str
) -> None:
    photo = data()
    header = read_header(photo)
    assert can_stream(header, photo) == reason
    with pytest.raises(PhotoError) as caught:
        open_stream(photo, header, memory=2**20)
    assert caught.value.status == "too_large"
    size, mend = "205 x 301 px take 0.0 GiB", "raise max_pixels, or convert the photo to baseline JPEG or to TIFF"
    assert str(caught.value).startswith(f"{size} decoded whole, more than the limit of 0.0 GiB: {reason}; {mend}")


def test_progressive_jpeg_is_refused_by_its_coefficients() -> None:
    # 20 x 30 thousand px of 4:2:0 are 1.5 samples each, of two bytes: 1.68 GiB; three pictures of 1/8 make it 1.76.
    data = bytearray(sample("progressive jpeg"))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = (20000).to_bytes(2, "big") + (30000).to_bytes(2, "big")
    header = read_header(bytes(data))
    with pytest.raises(PhotoError) as caught:
        open_stream(bytes(data), header, memory=2**30)
    assert caught.value.status == "too_large"
    assert "30000 x 20000 px take 1.9 GiB in strips, more than the limit of 1.0 GiB" in str(caught.value)
    assert "a progressive JPEG, whose coefficients must all be kept, takes 1.8 GiB" in str(caught.value)
    baseline = bytes(data).replace(b"\xff\xc2", b"\xff\xc0")  # the same size in one scan is admitted
    assert status_of(lambda: open_stream(baseline, read_header(baseline), memory=2**30)) != "too_large"


def test_libvips_is_loaded_by_the_first_huge_photo_only() -> None:
    code = "import sys, retinafocus.streams; sys.exit('pyvips' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_more_rows_than_anyone_needs_are_refused() -> None:
    # Ten million of one pixel, the most that libvips admits, fit into 20 KB and would take minutes for each level.
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 2**20 + 1, 1, 0, 0, 0, 0))
    data += png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    with pytest.raises(PhotoError, match="more than the 1048576 rows that are read in strips; raise max_pixels or cut"):
        open_stream(data, read_header(data), memory=2**30)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_exif_costs_nothing(kind: str) -> None:
    # A directory that says thousands of times where it is itself: libvips' reader of EXIF takes minutes for it.
    entry = struct.pack("<HHII", 34665, 3, 2**28, 8)
    exif = b"II*\0" + struct.pack("<IH", 8, 65535) + entry * 5400
    whole = sample(kind)
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
    data = whole[:2] + block + whole[2:] if kind == "jpeg" else whole[:33] + png_chunk(b"eXIf", exif) + whole[33:]
    start = time.process_time()
    np.testing.assert_array_equal(streamed(data, 1.0), streamed(whole, 1.0))
    assert time.process_time() - start < 3
