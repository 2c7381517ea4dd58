"""Bitmaps in strips; the other formats are tested with the levels that are made of them."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from retinafocus.errors import PhotoError
from retinafocus.photos import decode, read_header
from retinafocus.strips import open_rows

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)


def bitmap(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def test_a_bitmap_is_read_from_its_first_row_whichever_way_it_is_stored() -> None:
    upward = bitmap(Image.fromarray(PIXELS))
    downward = bytearray(bitmap(Image.fromarray(PIXELS[::-1].copy())))
    struct.pack_into("<i", downward, 22, -13)
    for data in (upward, bytes(downward)):
        rows = open_rows(data, read_header(data))
        assert rows.size == (13, 10)
        np.testing.assert_array_equal(rows.read(0, 5, 0, 10), PIXELS[:5])
        np.testing.assert_array_equal(rows.read(7, 13, 2, 9), PIXELS[7:, 2:9])


def test_a_bitmap_with_a_palette_keeps_its_colours() -> None:
    data = bitmap(Image.fromarray(PIXELS).quantize(7))
    np.testing.assert_array_equal(open_rows(data, read_header(data)).read(3, 6, 0, 10), decode(data)[3:6])


def test_bitmaps_that_depend_on_all_of_their_bytes_are_refused() -> None:
    compressed = bytearray(bitmap(Image.fromarray(PIXELS).quantize(7)))
    struct.pack_into("<I", compressed, 30, 1)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0) + masks
    transparent = b"BM" + struct.pack("<IHHI", 14 + 56 + 8, 0, 0, 14 + 56) + header + bytes(8)
    for data, reason in ((bytes(compressed), "a compressed BMP"), (transparent, "a BMP with transparency")):
        with pytest.raises(PhotoError, match=reason) as caught:
            open_rows(data, read_header(data))
        assert caught.value.status == "unsupported_format"


def test_a_cut_bitmap_is_called_truncated_before_it_is_read() -> None:
    data = bitmap(Image.fromarray(PIXELS))[:-1]
    with pytest.raises(PhotoError) as caught:
        open_rows(data, read_header(data))
    assert caught.value.status == "truncated"
