"""Photographs for `benchmarks.fuzz`, made in code: a small whole one of each kind, and bombs that claim to be huge."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Maker = Callable[[], bytes]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# A photo's directory that EXIF bombs are made of begins behind its header of eight bytes.
DIRECTORY_AT = 8


@cache
def picture() -> Pixels:
    """(72, 104, 3) soft blobs in all colours; no multiple of the blocks of 16 px that JPEG is made of."""
    noise = np.random.default_rng(0).integers(0, 256, (72, 104, 3), dtype=np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def encode(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    """A picture in one of the formats that Pillow writes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def _in_mode(mode: str, kind: str, **options: Any) -> bytes:
    return encode(Image.fromarray(picture()).convert(mode), kind, **options)


def _with_alpha() -> Image.Image:
    alpha = np.broadcast_to(np.linspace(0, 255, 104).astype(np.uint8), (72, 104))
    return Image.fromarray(np.dstack([picture(), alpha]))


def _deep() -> Image.Image:
    return Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0132] = "2021:05:04 10:11:12"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return exif.tobytes()


def _by_vips(method: str, **options: Any) -> bytes:
    import pyvips

    image = pyvips.Image.new_from_array(picture(), interpretation="srgb")
    content: bytes = getattr(image, method)(**options)
    return content


def _tiled(compression: str, **options: Any) -> bytes:
    return _by_vips("tiffsave_buffer", tile=True, tile_width=32, tile_height=32, compression=compression, **options)


def _heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture())).save(buffer, quality=60, exif=_exif())
    return buffer.getvalue()


def _runs_bmp(height: int, width: int, rows: bytes) -> bytes:
    """A BMP of 8 bits whose rows are run lengths. Source: Windows bitmaps, BI_RLE8."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    information = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(information) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + information + palette + rows


def _animated(kind: str) -> bytes:
    return encode(picture(), kind, save_all=True, append_images=[Image.fromarray(255 - picture())], duration=50)


# By format, then kind. GIF is no format of ours: its photos must be refused, however broken.
SEEDS: dict[str, dict[str, Maker]] = {
    "jpeg": {
        "baseline": lambda: encode(picture(), "JPEG", quality=85),
        "exif and profile": lambda: encode(picture(), "JPEG", exif=_exif(), icc_profile=bytes(range(256)) * 3),
        "progressive": lambda: encode(picture(), "JPEG", progressive=True),
        "restarts": lambda: encode(picture(), "JPEG", restart_marker_blocks=2),
        "cmyk": lambda: _in_mode("CMYK", "JPEG"),
        "progressive cmyk": lambda: _in_mode("CMYK", "JPEG", progressive=True),
        "grey": lambda: _in_mode("L", "JPEG"),
        "4:4:4": lambda: encode(picture(), "JPEG", subsampling=0, quality=95),
        "rare sampling": lambda: flat_jpeg(72, 104, (0x41, 0x11, 0x11)),
    },
    "png": {
        "rgb": lambda: encode(picture(), "PNG"),
        "exif and profile": lambda: encode(picture(), "PNG", exif=_exif(), icc_profile=bytes(900)),
        "alpha": lambda: encode(_with_alpha(), "PNG"),
        "palette": lambda: encode(Image.fromarray(picture()).quantize(16), "PNG", transparency=3),
        "16-bit": lambda: encode(_deep(), "PNG"),
        "1-bit": lambda: _in_mode("1", "PNG"),
        "interlaced": lambda: _by_vips("pngsave_buffer", interlace=True),
        "animated": lambda: _animated("PNG"),
    },
    "tiff": {
        "plain": lambda: encode(picture(), "TIFF", exif=_exif()),
        "lzw": lambda: encode(picture(), "TIFF", compression="tiff_lzw"),
        "deflate": lambda: encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
        "packbits": lambda: encode(picture(), "TIFF", compression="packbits"),
        "jpeg": lambda: encode(picture(), "TIFF", compression="jpeg"),
        "fax": lambda: _in_mode("1", "TIFF", compression="group4"),
        "cmyk": lambda: _in_mode("CMYK", "TIFF", compression="tiff_lzw"),
        "16-bit": lambda: encode(_deep(), "TIFF"),
        "alpha": lambda: encode(_with_alpha(), "TIFF", compression="tiff_lzw"),
        "big": lambda: encode(picture(), "TIFF", big_tiff=True),
        "tiled": lambda: _tiled("none"),
        "tiled jpeg": lambda: _tiled("jpeg"),
        "tiled deflate": lambda: _tiled("deflate", predictor="horizontal"),
        "tiled big lzw": lambda: _tiled("lzw", bigtiff=True),
    },
    "webp": {
        "lossy": lambda: encode(picture(), "WEBP", exif=_exif()),
        "lossless": lambda: encode(picture(), "WEBP", lossless=True),
        "alpha": lambda: encode(_with_alpha(), "WEBP", icc_profile=bytes(900)),
        "animated": lambda: _animated("WEBP"),
    },
    "bmp": {
        "rgb": lambda: encode(picture(), "BMP"),
        "palette": lambda: encode(Image.fromarray(picture()).quantize(16), "BMP"),
        "1-bit": lambda: _in_mode("1", "BMP"),
        "32-bit": lambda: encode(_with_alpha(), "BMP"),
        "runs": lambda: _runs_bmp(72, 104, (bytes([52, 90, 52, 200]) + b"\0\0") * 72 + b"\0\1"),
    },
    "gif": {
        "still": lambda: encode(picture(), "GIF"),
        "animated": lambda: _animated("GIF"),
    },
    "heif": {"still": _heic},
}
if importlib.util.find_spec("pillow_heif") is None:
    del SEEDS["heif"]


@cache
def seed_photo(kind: str, name: str) -> bytes:
    """One of `SEEDS`, encoded once."""
    return SEEDS[kind][name]()


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its right checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def flat_jpeg(height: int, width: int, samplings: tuple[int, ...]) -> bytes:
    """A grey JPEG of any size: each block is "no change, end of block", a few bits.

    Args:
        height: stated; the picture has as many blocks as that takes.
        width: likewise.
        samplings: of each component, across * 16 + down.
    """
    parts = b"".join(bytes([number + 1, sampling, 0]) for number, sampling in enumerate(samplings))
    across, down = max(value >> 4 for value in samplings), max(value & 15 for value in samplings)
    single = len(samplings) == 1
    units = -(-width // 8) * -(-height // 8) if single else -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * (1 if single else sum((value >> 4) * (value & 15) for value in samplings))
    scan = b"".join(bytes([number + 1, 0]) for number in range(len(samplings)))
    # Both tables of codes have one symbol of one bit: category 0, end of block.
    content = bytes(-(-2 * blocks // 8))
    return (
        b"\xff\xd8\xff\xdb\0\x43\0" + bytes([1]) * 64 + _codes(0x00, 0) + _codes(0x10, 0)
        + b"\xff\xc0" + struct.pack(">HBHHB", 8 + len(parts), 8, height, width, len(samplings)) + parts
        + b"\xff\xda" + struct.pack(">HB", 6 + len(scan), len(samplings)) + scan + b"\0\x3f\0" + content + b"\xff\xd9"
    )  # fmt: skip


def _codes(table: int, *symbols: int) -> bytes:
    """A table of codes for up to three symbols, of 1, 2, ... bits: 0, 10, 110. Source: ITU-T T.81, section B.2.4.2."""
    counts = bytes([1] * len(symbols) + [0] * (16 - len(symbols)))
    return b"\xff\xc4" + struct.pack(">HB", 19 + len(symbols), table) + counts + bytes(symbols)


def scan_bomb(height: int, width: int, scans: int) -> bytes:
    """A progressive JPEG that says "nothing new in this picture" over and over, in a few bytes each time.

    Each scan costs a pass over the whole picture: the billion laughs of JPEG.
    Source: ITU-T T.81, section G.1.2.2 (a run of ends of bands covers up to 32,767 blocks).
    """
    blocks = -(-width // 8) * -(-height // 8)
    runs, left = [], blocks
    while left:
        length = min(left, 0x7FFF)
        size = length.bit_length() - 1
        # Symbols in the order of their codes: 0 has one bit, and so on; a run's size, then as many bits of it.
        runs.append("1" * size + "0" + (format(length - (1 << size), f"0{size}b") if size else ""))
        left -= length
    bits = "".join(runs)
    content = _as_bytes(bits).replace(b"\xff", b"\xff\0")
    table = b"\xff\xc4" + struct.pack(">HB", 19 + 15, 0x10) + bytes([1] * 15 + [0]) + bytes(s << 4 for s in range(15))
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(-(-blocks // 8))
    again = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + content
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    tables = b"\xff\xdb\0\x43\0" + bytes([1]) * 64 + _codes(0x00, 0) + table
    return b"\xff\xd8" + tables + frame + first + again * scans + b"\xff\xd9"


def _as_bytes(bits: str) -> bytes:
    """Bits as text to bytes, filled up with ones."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""


def _png_bomb(height: int, width: int, bits: int, colour: int, rows: int, interlaced: bool = False) -> bytes:
    """A PNG that states a size and holds so many of its rows, all zero."""
    samples = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    content = zlib.compress(bytes((1 + -(-width * bits * samples // 8)) * rows), 6)
    chunks = [(b"IHDR", head), (b"IDAT", content), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(name, inside) for name, inside in chunks)


def _tiff_bomb(height: int, width: int, bits: int, compression: int, strip: bytes, rows: int | None = None) -> bytes:
    """A grey TIFF of strips that are all the same bytes; by default one strip of the whole height."""
    rows = height if rows is None else rows
    strips = -(-height // rows)
    after = DIRECTORY_AT + 2 + 9 * 12 + 4
    offsets, counts = (after, after + 4 * strips) if strips > 1 else (after, len(strip))
    strip_at = after + 8 * strips if strips > 1 else after
    entries = [(256, 1, width), (257, 1, height), (258, 1, bits), (259, 1, compression), (262, 1, 1)]
    entries += [(273, strips, offsets), (277, 1, 1), (278, 1, rows), (279, strips, counts)]
    directory = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
    lists = struct.pack(f"<{2 * strips}I", *[strip_at] * strips, *[len(strip)] * strips) if strips > 1 else b""
    return b"II*\0" + struct.pack("<IH", DIRECTORY_AT, len(entries)) + directory + bytes(4) + lists + strip


def _webp_canvas(side: int) -> bytes:
    """An extended WebP that states a canvas and holds a small picture."""
    data = encode(_with_alpha(), "WEBP", exif=_exif())
    return data[:24] + struct.pack("<I", side - 1)[:3] * 2 + data[30:]


BOMBS: dict[str, dict[str, Maker]] = {
    "jpeg": {
        "flat 2000": partial(flat_jpeg, 2000, 2000, (0x22, 0x11, 0x11)),
        "flat 12000": partial(flat_jpeg, 12000, 12000, (0x11,)),
        "flat 65500": partial(flat_jpeg, 16, 65500, (0x22, 0x11, 0x11)),
        "stated 65500": lambda: flat_jpeg(16, 16, (0x11,)).replace(b"\0\x10\0\x10\1", b"\xff\xdc\xff\xdc\1"),
        "20000 scans": partial(scan_bomb, 2000, 2000, 20000),
        "300 scans": partial(scan_bomb, 2000, 2000, 300),
    },
    "png": {
        "2000": partial(_png_bomb, 2000, 2000, 8, 2, 2000),
        "1-bit 12000": partial(_png_bomb, 12000, 12000, 1, 0, 12000),
        "16-bit rgba 1400": partial(_png_bomb, 1400, 1400, 16, 6, 1400),
        "interlaced 1-bit 4000": partial(_png_bomb, 4000, 4000, 1, 0, 4100, True),
        "stated 2^31": partial(_png_bomb, 2**31 - 1, 2**31 - 1, 8, 2, 0),
        "wide": partial(_png_bomb, 1, 2**24, 1, 0, 1),
        "tall": partial(_png_bomb, 2**21, 1, 8, 2, 2**21),
    },
    "tiff": {
        "deflate 12000": lambda: _tiff_bomb(12000, 12000, 1, 8, zlib.compress(bytes(1500 * 12000))),
        "deflate 2000 in lines": lambda: _tiff_bomb(2000, 2000, 8, 8, zlib.compress(bytes(2000)), rows=1),
        "packbits 4000": lambda: _tiff_bomb(4000, 4000, 8, 32773, b"\x81\xff" * (16_000_000 // 128)),
        "fax 12000": lambda: encode(Image.new("1", (12000, 12000), 1), "TIFF", compression="group4"),
        "stated 2^31": lambda: _tiff_bomb(2**31, 2**31, 8, 5, b"\x80\x01\x01\0"),
        "deflate 2000": lambda: _tiff_bomb(2000, 2000, 8, 8, zlib.compress(bytes(400_000_000 // 100))),
    },
    "webp": {
        "lossless 2000": lambda: encode(Image.new("RGB", (2000, 2000)), "WEBP", lossless=True, method=0),
        "canvas 2000": partial(_webp_canvas, 2000),
        "canvas 16384": partial(_webp_canvas, 16384),
        "canvas 2^24": partial(_webp_canvas, 2**24),
    },
    "bmp": {
        "runs 2000": partial(_runs_bmp, 2000, 2000, b"\0\1"),
        "runs 65535": partial(_runs_bmp, 65535, 65535, b"\0\1"),
        "jumps": partial(_runs_bmp, 2000, 2000, b"\0\2\xff\xff" * 4000 + b"\0\1"),
        "1-bit 8000": lambda: encode(Image.new("1", (8000, 8000), 1), "BMP"),
    },
}


@cache
def bomb(kind: str, name: str) -> bytes:
    """One of `BOMBS`, made once."""
    return BOMBS[kind][name]()
