"""Decoding: whatever the format, an upright RGB picture that is whole, or an error that says why not."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from retinafocus.errors import PhotoError, SettingsError
from retinafocus.photos import FORMATS, MAX_PIXELS, REDUCTIONS, decode, read_bytes, read_header

Pixels = NDArray[np.uint8]


def make_pixels(height: int, width: int) -> Pixels:
    """A photo-like picture: soft blobs in all colours, the same for the same size."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def encode(picture: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_heic(picture: Pixels) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=80)
    return buffer.getvalue()


def orientation_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, bits: int, colour: int, row: bytes, *chunks: bytes) -> bytes:
    """A PNG of one row, for kinds that no encoder here writes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


def grey_tiff(strip: bytes, size: tuple[int, int], bits: int = 8, photometric: int = 1, compression: int = 1) -> bytes:
    """A TIFF of one grey strip behind its directory, for depths and an order that no encoder here writes."""
    short, long = 3, 4
    entries = [(256, long, size[1]), (257, long, size[0]), (258, short, bits), (259, short, compression)]
    entries += [(262, short, photometric), (273, long, 8 + 2 + 9 * 12 + 4), (277, short, 1)]
    entries += [(278, long, size[0]), (279, long, len(strip))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + strip


def flat_jpeg(height: int, width: int, sampling: list[tuple[int, int]]) -> bytes:
    """A mid-grey baseline JPEG of any (across, down) sampling: each block is "no change, end of block".

    Quantisation and Huffman tables come from Pillow; those Huffman tables are the standard's (ITU-T T.81, annex K),
    in which that is 00 1010 for luminance and 00 00 for chrominance.
    """
    tables, donor, at = b"", encode(Image.new("RGB", (8, 8)), "JPEG"), 2
    while donor[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(donor[at + 2 : at + 4], "big")
        tables += donor[at:end] if donor[at + 1] in (0xDB, 0xC4) else b""
        at = end
    across, down = max(h for h, _ in sampling), max(v for _, v in sampling)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    parts = [bytes([number + 1, h * 16 + v, min(number, 1)]) for number, (h, v) in enumerate(sampling)]
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"".join(parts)
    scan = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    bits = units * "".join(("0000" if number else "001010") * (h * v) for number, (h, v) in enumerate(sampling))
    bits += "1" * (-len(bits) % 8)
    return b"\xff\xd8" + tables + frame + scan + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\xff\xd9"


PIXELS = make_pixels(37, 53)
GREY = PIXELS[..., 0]
ALPHA = np.dstack([PIXELS, np.broadcast_to(np.linspace(0, 255, 53).astype(np.uint8), (37, 53))])

# One small photo of each kind, made when first asked for.
SAMPLES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(PIXELS, "JPEG", quality=90),
    "progressive jpeg": lambda: encode(PIXELS, "JPEG", quality=90, progressive=True),
    "grey jpeg": lambda: encode(GREY, "JPEG", quality=90),
    "cmyk jpeg": lambda: encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=90),
    "jpeg with restarts": lambda: encode(PIXELS, "JPEG", quality=90, restart_marker_blocks=2),
    "jpeg of rare sampling": lambda: flat_jpeg(50, 70, [(4, 2), (1, 1), (1, 1)]),
    "png": lambda: encode(PIXELS, "PNG"),
    "grey png": lambda: encode(GREY, "PNG"),
    "16-bit png": lambda: encode(GREY.astype(np.uint16) * 257, "PNG"),
    "png with alpha": lambda: encode(ALPHA, "PNG"),
    "palette png": lambda: encode(Image.fromarray(PIXELS).quantize(16), "PNG"),
    "1-bit png": lambda: encode(Image.fromarray(PIXELS).convert("1"), "PNG"),
    "webp": lambda: encode(PIXELS, "WEBP"),
    "lossless webp": lambda: encode(PIXELS, "WEBP", lossless=True),
    "webp with alpha": lambda: encode(ALPHA, "WEBP"),
    "animated webp": lambda: encode(PIXELS, "WEBP", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
    "tiff": lambda: encode(PIXELS, "TIFF"),
    "16-bit tiff": lambda: encode(GREY.astype(np.uint16) * 257, "TIFF"),
    "lzw tiff": lambda: encode(PIXELS, "TIFF", compression="tiff_lzw"),
    "deflate tiff": lambda: encode(PIXELS, "TIFF", compression="tiff_adobe_deflate"),
    "packbits tiff": lambda: encode(PIXELS, "TIFF", compression="packbits"),
    "jpeg tiff": lambda: encode(PIXELS, "TIFF", compression="jpeg"),
    "jpeg tiff, directory first": lambda: grey_tiff(encode(GREY, "JPEG"), (37, 53), compression=7),
    "deflate tiff, directory first": lambda: grey_tiff(zlib.compress(GREY.tobytes()), (37, 53), compression=8),
    "fax tiff": lambda: encode(Image.fromarray(PIXELS).convert("1"), "TIFF", compression="group4"),
    "big tiff": lambda: encode(PIXELS, "TIFF", big_tiff=True),
    "bmp": lambda: encode(PIXELS, "BMP"),
    "palette bmp": lambda: encode(Image.fromarray(PIXELS).quantize(16), "BMP"),
    "1-bit bmp": lambda: encode(Image.fromarray(PIXELS).convert("1"), "BMP"),
    "heic": lambda: encode_heic(PIXELS),
}


@cache
def sample(name: str) -> bytes:
    return SAMPLES[name]()


def as_pillow_shows(data: bytes) -> Pixels:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


# --- what is decoded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        # simplejpeg cuts off where Pillow rounds when it turns CMYK into RGB.
        pytest.param(name, 1 if name == "cmyk jpeg" else 0, id=name)
        for name in SAMPLES
        if name not in ("16-bit png", "png with alpha", "webp with alpha", "16-bit tiff", "heic")
    ],
)
def test_pixels_are_those_pillow_shows(name: str, tolerance: int) -> None:
    pixels, expected = decode(sample(name)), as_pillow_shows(sample(name))
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", SAMPLES)
def test_reduced_size_is_rounded_up_on_each_axis(name: str, reduction: int) -> None:
    header = read_header(sample(name))
    pixels = decode(sample(name), reduction=reduction)
    assert pixels.shape == (-(-header.height // reduction), -(-header.width // reduction), 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_reduced_size_is_exact_for_every_small_photo(kind: str) -> None:
    for height in range(1, 35):
        for width in (1, 2, 5, 7, 8, 9, 31):
            data = encode(np.full((height, width, 3), 100, np.uint8), kind)
            for reduction in REDUCTIONS:
                pixels = decode(data, reduction=reduction)
                assert pixels.shape == (-(-height // reduction), -(-width // reduction), 3)
                assert np.abs(pixels.astype(int) - 100).max() <= 1


def test_small_jpegs_are_decoded_at_full_scale() -> None:
    for side in range(1, 10):
        data = encode(make_pixels(side, side), "JPEG", quality=95)
        np.testing.assert_array_equal(decode(data), as_pillow_shows(data))


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_jpeg_is_reduced_by_the_decoder_itself(reduction: int) -> None:
    data = encode(make_pixels(64, 96), "JPEG", quality=90)
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (96 // reduction, 64 // reduction))
    np.testing.assert_array_equal(decode(data, reduction=reduction), np.asarray(image))


def test_other_formats_are_reduced_by_area() -> None:
    rows = np.array([[0, 10, 100, 100], [20, 30, 100, 100], [0, 0, 7, 9], [0, 0, 9, 7]], np.uint8)
    pixels = decode(encode(rows, "PNG"), reduction=2)
    np.testing.assert_array_equal(pixels[..., 0], [[15, 100], [0, 8]])


def test_odd_edges_are_reduced_by_exact_fractions() -> None:
    # Three columns become two of 1.5 columns each: (0 + 90 / 2) / 1.5 = 30 and (90 / 2 + 60) / 1.5 = 70.
    pixels = decode(encode(np.array([[0, 90, 60]], np.uint8), "PNG"), reduction=2)
    np.testing.assert_array_equal(pixels[0, :, 0], [30, 70])


def test_photos_wider_than_sixteen_bits_of_pixels_are_decoded() -> None:
    data = encode(np.full((2, 70000), 9, np.uint8), "PNG")
    assert decode(data, reduction=8).shape == (1, 8750, 3)


# The stored picture is 1 2 3 / 4 5 6; where its rows and columns go is Exif 2.32, tag 274.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("PNG", {}, id="png"),
        pytest.param("WEBP", {"lossless": True}, id="webp"),
        # Pillow turns TIFF by itself when it loads one: these two fail where a photo is turned twice.
        pytest.param("TIFF", {}, id="tiff"),
        pytest.param("TIFF", {"compression": "tiff_lzw"}, id="tiff through libtiff"),
    ],
)
def test_every_orientation_is_made_upright_once(kind: str, options: dict[str, Any], orientation: int) -> None:
    stored = np.repeat(np.array(UPRIGHT[1], np.uint8)[..., None] * 40, 3, axis=2)
    data = encode(stored, kind, exif=orientation_exif(orientation), **options)
    np.testing.assert_array_equal(decode(data)[..., 0], np.array(UPRIGHT[orientation]) * 40)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_jpeg_orientations_are_made_upright_at_every_reduction(orientation: int, reduction: int) -> None:
    blocks = np.array(UPRIGHT[1], np.uint8).repeat(16, axis=0).repeat(16, axis=1) * 40
    data = encode(blocks, "JPEG", quality=100, exif=orientation_exif(orientation))
    expected = np.array(UPRIGHT[orientation]).repeat(16 // reduction, axis=0).repeat(16 // reduction, axis=1) * 40
    assert np.abs(decode(data, reduction=reduction)[..., 0].astype(int) - expected).max() <= 1


def test_tiff_orientation_that_only_its_xmp_states_is_left_to_the_exif() -> None:
    # Pillow would turn such a TIFF while it loads; no browser turns a photo by its XMP.
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(PIXELS, "TIFF", tiffinfo={700: xmp})
    np.testing.assert_array_equal(decode(data), PIXELS)


def test_transparency_is_laid_over_white() -> None:
    stored = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]]], np.uint8)
    # 255 - 128 / 255 * (255 - 0) = 127; 255 - 128 / 255 * (255 - 100) = 177.2
    expected = [[[10, 20, 30], [255, 255, 255], [127, 177, 255]]]
    for data in (
        encode(stored, "PNG"),
        encode(stored, "TIFF"),
        encode(stored, "WEBP", lossless=True, exact=True),
    ):
        np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            png(3, 8, 3, b"\0\1\2", png_chunk(b"PLTE", bytes(range(9))), png_chunk(b"tRNS", b"\xff\x00")),
            [[0, 1, 2], [255, 255, 255], [6, 7, 8]],
            id="palette entry",
        ),
        pytest.param(png(2, 8, 0, b"\x07\x09", png_chunk(b"tRNS", b"\0\x07")), [[255] * 3, [9] * 3], id="grey value"),
        pytest.param(
            png(2, 8, 2, bytes(range(6)), png_chunk(b"tRNS", b"\0\0\0\1\0\2")), [[255] * 3, [3, 4, 5]], id="colour"
        ),
        pytest.param(
            png(2, 16, 0, b"\x12\x34\x80\x00", png_chunk(b"tRNS", b"\x12\x34")),
            [[255] * 3, [128] * 3],
            id="16-bit grey",
        ),
    ],
)
def test_transparent_values_are_laid_over_white(data: bytes, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(decode(data)[0], expected)


def test_bitmap_whose_fourth_bytes_are_all_zero_is_opaque() -> None:
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0) + masks
    start = b"BM" + struct.pack("<IHHI", 14 + 56 + 8, 0, 0, 14 + 56)
    opaque = decode(start + header + bytes([3, 2, 1, 0, 6, 5, 4, 0]))
    np.testing.assert_array_equal(opaque, [[[1, 2, 3], [4, 5, 6]]])
    seen_through = decode(start + header + bytes([3, 2, 1, 0, 6, 5, 4, 255]))
    np.testing.assert_array_equal(seen_through, [[[255, 255, 255], [4, 5, 6]]])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(3, 16, 0, b"\x00\xff\x12\x34\xff\xff"), [0, 0x12, 255], id="png"),
        pytest.param(png(2, 16, 4, b"\x12\x34\xff\xff\x12\x34\x00\x00"), [0x12, 255], id="png with alpha"),
        pytest.param(png(1, 16, 2, b"\x12\x34\x12\x34\x12\x34"), [0x12], id="colour png"),
        pytest.param(grey_tiff(b"\xff\x00\x34\x12\xff\xff", (1, 3), bits=16), [0, 0x12, 255], id="tiff"),
        pytest.param(
            grey_tiff(b"\xff\x00\x34\x12\xff\xff", (1, 3), 16, photometric=0),
            [255, 255 - 0x12, 0],
            id="tiff, white is zero",
        ),
        pytest.param(grey_tiff(b"\x12\x3f\xff", (1, 2), bits=12), [0x12, 255], id="12-bit tiff"),
        pytest.param(
            grey_tiff(b"\x12\x34", (1, 2), photometric=0), [255 - 0x12, 255 - 0x34], id="8-bit tiff, white is zero"
        ),
    ],
)
def test_deep_samples_keep_their_high_byte(data: bytes, expected: list[int]) -> None:
    np.testing.assert_array_equal(decode(data)[0, :, 0], expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBX"])
def test_tiff_colour_kinds_are_those_pillow_shows(mode: str) -> None:
    data = encode(Image.fromarray(PIXELS).convert(mode), "TIFF")
    np.testing.assert_array_equal(decode(data), as_pillow_shows(data))


def cmyk_jpegs() -> list[Any]:
    plain = np.asarray(Image.fromarray(PIXELS).convert("CMYK"))
    adobe = sample("cmyk jpeg")
    marker = adobe.index(b"\xff\xee")
    unmarked = adobe[:marker] + adobe[marker + 2 + int.from_bytes(adobe[marker + 2 : marker + 4], "big") :]
    ycck = simplejpeg.encode_jpeg(np.ascontiguousarray(255 - plain), 95, "CMYK", "444")
    return [
        pytest.param(adobe, id="cmyk"),
        pytest.param(ycck, id="ycck"),
        # Browsers and Pillow show a CMYK JPEG without Adobe's mark as inverted too.
        pytest.param(unmarked, id="cmyk without Adobe's mark"),
    ]


@pytest.mark.parametrize("data", cmyk_jpegs())
def test_cmyk_jpegs_count_as_inverted(data: bytes) -> None:
    pixels = decode(data).astype(int)
    assert np.abs(pixels - as_pillow_shows(data)).max() <= 1
    assert np.abs(pixels - PIXELS).mean() < 5  # and that is the picture that went in


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param([(1, 1), (1, 1), (1, 1)], id="444"),
        pytest.param([(2, 2), (1, 1), (1, 1)], id="420"),
        pytest.param([(2, 1), (1, 1), (1, 1)], id="422"),
        pytest.param([(1, 2), (1, 1), (1, 1)], id="440"),
        pytest.param([(4, 1), (1, 1), (1, 1)], id="411"),
        pytest.param([(4, 2), (1, 1), (1, 1)], id="410"),
        pytest.param([(3, 1), (1, 1), (1, 1)], id="a third"),
        pytest.param([(2, 2), (1, 2), (1, 1)], id="mixed"),
    ],
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_chroma_sampling_is_decoded(sampling: list[tuple[int, int]], reduction: int) -> None:
    pixels = decode(flat_jpeg(50, 70, sampling), reduction=reduction)
    assert pixels.shape == (-(-50 // reduction), -(-70 // reduction), 3)
    assert np.unique(pixels).tolist() == [128]


def test_broken_exif_does_not_lose_a_jpeg_of_rare_sampling() -> None:
    data, broken = sample("jpeg of rare sampling"), b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01\x02"
    segment = b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken
    np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), decode(data))


def test_first_picture_of_several_is_taken() -> None:
    def with_second(kind: str) -> bytes:
        return encode(PIXELS, kind, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])

    np.testing.assert_array_equal(decode(with_second("TIFF")), PIXELS)
    np.testing.assert_array_equal(decode(with_second("PNG")), PIXELS)
    first, multi_picture = decode(encode(PIXELS, "JPEG")), with_second("MPO")
    np.testing.assert_array_equal(decode(multi_picture), first)
    np.testing.assert_array_equal(decode(multi_picture[:-300]), first)  # a cut in the second does not matter


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "bmp"])
def test_bytes_after_the_picture_do_no_harm(name: str) -> None:
    np.testing.assert_array_equal(decode(sample(name) + b"appended by a camera" * 9), decode(sample(name)))


def test_heic_is_close_to_what_went_in() -> None:
    assert np.abs(decode(sample("heic")).astype(int) - PIXELS).mean() < 8


def test_colour_profile_larger_than_pillow_reads_does_no_harm() -> None:
    profile = png_chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(2**21)))
    data = sample("png")
    np.testing.assert_array_equal(decode(data[:33] + profile + data[33:]), PIXELS)


def test_header_read_before_is_used() -> None:
    data = sample("jpeg")
    np.testing.assert_array_equal(decode(data, read_header(data)), decode(data))
    with pytest.raises(PhotoError, match="not of the size its header says") as caught:
        decode(data, read_header(encode(make_pixels(8, 9), "JPEG")))
    assert caught.value.status == "corrupt"


def test_many_threads_decode_the_same() -> None:
    names = [name for name in SAMPLES if name != "heic"] * 4
    expected = {name: decode(sample(name)) for name in set(names)}
    with ThreadPoolExecutor(8) as pool:
        for name, pixels in zip(names, pool.map(lambda name: decode(sample(name)), names), strict=True):
            np.testing.assert_array_equal(pixels, expected[name])


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", SAMPLES)
def test_truncation_is_always_detected(name: str, reduction: int) -> None:
    data = sample(name)
    whole = decode(data, reduction=reduction)
    ends = range(0, len(data), 1 if reduction == 1 and len(data) < 2500 else 11)
    for end in ends:
        try:
            pixels = decode(data[:end], reduction=reduction)
        except PhotoError:
            continue
        # Only bytes that carry no pixel may be missing: padding of the last row or tile.
        np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "heic"])
def test_cut_photos_are_called_truncated(name: str) -> None:
    data = sample(name)
    for end in range(0, len(data) - 4, 1 if len(data) < 2500 else 11):
        with pytest.raises(PhotoError) as caught:
            decode(data[:end])
        assert caught.value.status == "truncated"


def test_cut_photo_with_a_whole_thumbnail_is_called_truncated() -> None:
    thumbnail = b"Exif\0\0" + encode(PIXELS[:8, :8], "JPEG")
    data = encode(PIXELS, "JPEG", progressive=True, exif=thumbnail)
    for end in range(data.index(b"\xff\xda", len(thumbnail) + 20), len(data)):
        with pytest.raises(PhotoError) as caught:
            decode(data[:end])
        assert caught.value.status == "truncated"


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "grey jpeg", "cmyk jpeg", "png"])
def test_zeros_instead_of_the_end_are_detected(name: str) -> None:
    data = sample(name)
    for end in range(len(data) // 2, len(data) - 1, 7):
        with pytest.raises(PhotoError):
            decode(data[:end] + bytes(len(data) - end))


def test_every_flipped_bit_of_a_png_is_detected() -> None:
    data = encode(make_pixels(5, 6), "PNG")
    whole = decode(data)
    end_mark = len(data) - 12
    for position in range(len(data) * 8):
        broken = bytearray(data)
        broken[position // 8] ^= 1 << position % 8
        try:
            pixels = decode(bytes(broken))
        except PhotoError:
            continue
        assert position // 8 >= end_mark
        np.testing.assert_array_equal(pixels, whole)


def damaged_jpegs() -> list[Any]:
    data = sample("jpeg")
    scan = data.index(b"\xff\xda") + 14
    restarts = sample("jpeg with restarts")
    return [
        # A few are read ahead and pass, which is as well: some cameras write them.
        pytest.param(
            data[:-2] + bytes(30) + data[-2:], "extraneous bytes before marker 0xd9", id="bytes before the end"
        ),
        pytest.param(data[: scan + 50] + data[-2:], "premature end of data segment", id="pixels missing"),
        pytest.param(data[:scan] + b"\xff\x00" * 40 + data[scan + 80 :], "bad Huffman code", id="pixels overwritten"),
        pytest.param(restarts.replace(b"\xff\xd1", b"\xff\xd5", 1), "Corrupt JPEG data", id="wrong restart"),
    ]


@pytest.mark.parametrize(("data", "reason"), damaged_jpegs())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_warning_of_the_jpeg_decoder_makes_a_photo_corrupt(data: bytes, reason: str, reduction: int) -> None:
    with pytest.raises(PhotoError) as caught:
        decode(data, reduction=reduction)
    assert caught.value.status == "corrupt"
    assert reason in caught.value.reason
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(("scans", "status"), [(490, "ok"), (510, "corrupt")])
def test_a_jpeg_of_hundreds_of_scans_is_refused(scans: int, status: str) -> None:
    # "Nothing in this picture" in one block of end of band, 100 times as short as what it makes the decoder do.
    data = flat_jpeg(8, 8, [(1, 1)] * 3).replace(b"\xff\xc0", b"\xff\xc2")
    start = data.index(b"\xff\xda")
    first = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\x01\x00\x02\x11\x03\x11\x00\x00\x00" + b"\x03"
    band = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00\x01\x3f\x00" + b"\xaf"
    bomb = data[:start] + first + band * scans + b"\xff\xd9"
    found = "ok"
    try:
        decode(bomb)
    except PhotoError as error:
        found = error.status if "scans, more than 500" in error.reason else error.reason
    assert found == status


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_bytes_give_pixels_or_a_photo_error(name: str) -> None:
    data, dice = sample(name), random.Random(0)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(dice.randrange(1, 6)):
            broken[dice.randrange(len(broken) if dice.random() < 0.5 else min(len(broken), 300))] = dice.randrange(256)
        if dice.random() < 0.2:
            at = dice.randrange(len(broken))
            del broken[at : at + dice.randrange(1, 40)]
        reason, cause = "", None
        try:
            decode(bytes(broken), max_pixels=2**20)
        except PhotoError as error:
            reason, cause = error.reason, error.__cause__
        assert reason.isprintable()
        # A Python warning would depend on the filters of the program around us; damage must be seen before that.
        assert not isinstance(cause, Warning)


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        pytest.param(b"", "truncated", "the file is empty; copy it again", id="empty"),
        pytest.param(b"<html>404 Not Found</html>", "unsupported_format", 'begins with "<html>404 Not Fo"', id="text"),
        pytest.param(
            sample("png").replace(b"IDAT", b"IDAT\0", 1)[:-1] + b"\0",
            "truncated",
            "the PNG data ends before the picture does; copy the file again",
            id="png whose chunks are out of step",
        ),
        pytest.param(
            sample("png")[:33] + png_chunk(b"tEXt", b"a\0b")[:-1] + b"\0" + sample("png")[33:],
            "corrupt",
            "a PNG checksum is wrong; copy the file again",
            id="png text with a wrong checksum",
        ),
        pytest.param(
            png(4, 8, 2, bytes(9)), "truncated", "the PNG data ends before the picture does", id="png of too few pixels"
        ),
        pytest.param(
            png(1, 8, 0, b"\0").replace(b"\0\0\0\1\0\0\0\1\x08\0", b"\0\0\0\1\0\0\0\1\x07\0"),
            "corrupt",
            "the PNG header is damaged",
            id="png header with a wrong checksum",
        ),
        pytest.param(
            encode(PIXELS, "BMP").replace(struct.pack("<HH", 1, 24), struct.pack("<HH", 1, 23), 1),
            "unsupported_format",
            "the BMP decoder reports: Unsupported BMP pixel depth (23); convert it to JPEG",
            id="bmp of 23 bits",
        ),
        pytest.param(
            grey_tiff(b"ab", (1, 2), compression=34712),
            "unsupported_format",
            "a kind of TIFF the decoder cannot read (compression 34712); convert it to JPEG",
            id="tiff of jpeg 2000",
        ),
        pytest.param(
            sample("lossless webp")[:60] + bytes(200) + sample("lossless webp")[260:],
            "corrupt",
            "the WEBP decoder reports: failed to read next frame; copy the file again",
            id="webp with a hole",
        ),
    ],
)
def test_refusals_say_what_to_do(data: bytes, status: str, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        decode(data)
    assert (caught.value.status, reason in caught.value.reason) == (status, True), caught.value.reason


@pytest.mark.parametrize("name", SAMPLES)
def test_photo_above_the_limit_is_refused_and_at_the_limit_is_not(name: str) -> None:
    header = read_header(sample(name))
    pixels = header.height * header.width
    decode(sample(name), max_pixels=pixels)
    for reduction in REDUCTIONS:
        with pytest.raises(PhotoError) as caught:
            decode(sample(name), reduction=reduction, max_pixels=pixels - 1)
        assert caught.value.status == "too_large"
        expected = f"{header.width} x {header.height} px are more than the limit of {pixels - 1} px; raise max_pixels"
        assert caught.value.reason == expected


def bombs() -> list[Any]:
    """Photos that say 30,000 x 30,000 (WebP: its largest, 16,383 x 16,383) and hold next to nothing."""
    side = struct.pack(">II", 30000, 30000)
    png_head = png_chunk(b"IHDR", side + bytes([8, 2, 0, 0, 0]))
    bmp = encode(PIXELS, "BMP")
    webp = encode(ALPHA, "WEBP", exif=orientation_exif(1))
    return [
        pytest.param(flat_jpeg(16, 16, [(1, 1)] * 3).replace(b"\0\x10\0\x10\3", b"\x75\x30\x75\x30\3"), id="jpeg"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + png_head + sample("png")[33:], id="png"),
        pytest.param(grey_tiff(b"ab", (30000, 30000)), id="tiff"),
        pytest.param(bmp[:18] + struct.pack("<ii", 30000, 30000) + bmp[26:], id="bmp"),
        pytest.param(webp[:24] + b"\xfe\x3f\0\xfe\x3f\0" + webp[30:], id="webp"),
    ]


@pytest.mark.parametrize("data", bombs())
def test_bomb_is_refused_from_its_header(data: bytes) -> None:
    header = read_header(data)
    assert header.height == header.width
    assert header.height >= 16383
    with pytest.raises(PhotoError) as caught:
        decode(data, max_pixels=2**26)
    assert caught.value.status == "too_large"


@pytest.mark.parametrize("name", [name for name in SAMPLES if "webp" not in name])
def test_pillows_own_limit_does_not_decide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(sample(name))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    np.testing.assert_array_equal(decode(sample(name)), whole)


def test_pillows_own_limit_on_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode(sample("webp"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    status, reason, pixels = "", "", whole
    try:
        pixels = decode(sample("webp"))  # older releases of Pillow have no limit here
    except PhotoError as error:
        status, reason = error.status, error.reason
    np.testing.assert_array_equal(pixels, whole)
    assert not status or (status == "too_large" and "PIL.Image.MAX_IMAGE_PIXELS" in reason)


def test_default_limit_refuses_thirty_thousand_squared() -> None:
    assert 15360 * 8640 < MAX_PIXELS < 30000**2


def test_photo_that_does_not_fit_into_memory_is_a_row_not_a_crash() -> None:
    program = """
import io, resource
from PIL import Image
from retinafocus.errors import PhotoError
from retinafocus.photos import decode
files = []
for kind in ("PNG", "JPEG", "TIFF"):
    buffer = io.BytesIO()
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.new("L", (8000, 8000)).save(buffer, kind, **options)
    files.append(buffer.getvalue())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * 10**7, used + 5 * 10**7))  # the pixels need 19 * 10**7
for data in files:
    try:
        decode(data)
    except PhotoError as error:
        print(error.status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["out_of_memory"] * 3


@pytest.mark.parametrize("reduction", [0, 3, 16, -1])
def test_other_reductions_are_a_setting_out_of_range(reduction: int) -> None:
    with pytest.raises(SettingsError, match=f"reduction is {reduction}; choose 1, 2, 4 or 8"):
        decode(sample("jpeg"), reduction=reduction)


def test_pillow_told_to_pass_cut_photos_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SettingsError, match="LOAD_TRUNCATED_IMAGES"):
        decode(sample("png"))


def test_recorded_text_is_the_same_in_two_processes() -> None:
    program = """
import sys
from retinafocus.errors import PhotoError
from retinafocus.photos import decode
try:
    decode(bytes.fromhex(sys.argv[1]))
except PhotoError as error:
    print(error)
"""
    data = (b"BM" + bytes(12) + struct.pack("<Iii", 40, 4, 4) + bytes(60)).hex()
    texts = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program, data], capture_output=True, text=True, check=True, env=environment
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert "0x" not in texts.pop()


@pytest.mark.shared
def test_no_whole_photograph_is_called_damaged(shared_data: Path) -> None:
    paths = sorted((shared_data / "faces" / "val").rglob("*.jpg"))[:40]
    for path in paths:
        data = read_bytes(path)
        np.testing.assert_array_equal(decode(data), as_pillow_shows(data))


def test_formats_lists_what_the_samples_hold() -> None:
    assert {read_header(sample(name)).format for name in SAMPLES if name != "heic"} == set(FORMATS) - {"heif"}
