"""How much memory a photo takes: its pixels, from its header, decoded whole or in strips; and the network on them.

All are peaks beyond the file's own bytes, as measured with the decoders of `photos` and `strips` and with the engines;
the tests hold them against the peak of a process.
"""

from __future__ import annotations

from retinafocus import exif
from retinafocus.headers import PhotoHeader
from retinafocus.jpeg_markers import jpeg_frame

# Bytes for each pixel while `photos.decode` turns it into RGB; the kind of the format that takes most. Pillow keeps
# four for each pixel, its copy into an array takes six; libwebp's frames are in there twice.
_WHOLE = {"png": 13, "tiff": 14, "bmp": 13, "webp": 19, "heif": 11}

# What libvips and `streams` hold of a photo of any size, and the rows that come on top, in its decoder and on the way.
_STREAM_FIXED = 20 * 2**20
_STREAM_ROWS = 1500

# Compressions of TIFF that libvips undoes row by row, however tall the strip: none, fax, LZW, deflate, packbits.
_ROW_BY_ROW = (1, 2, 3, 4, 5, 8, 32773, 32946)

# A JPEG's reduced picture that is held for the coarse levels: one of so many pixels.
_COARSEST = 64

# Bytes of a CPU engine for each pixel that goes through a backbone at once, in float32 unless it says otherwise, as
# measured; docs/engines.md repeats them.
NETWORK_BYTES = {
    ("mobilenet025", "torch"): 63,
    ("mobilenet025", "openvino"): 61,
    ("mobilenet025", "openvino int8"): 31,
    ("mobilenet025", "onnx"): 49,
}

# Bytes that an engine keeps for sizes of pictures that come often, at most; the others keep nothing.
KEPT_BYTES = {"openvino": 2**27}


def decoded_bytes(header: PhotoHeader, data: bytes, *, file_bytes: int | None = None, reduction: int = 1) -> int:
    """Peak memory of decoding a photo at once, in bytes.

    Args:
        header: what `read_header` gave for the data.
        data: the file, or its beginning as far as the header goes; no more of it is read.
        file_bytes: size of the file; None where `data` is all of it.
        reduction: 1, 2, 4 or 8, by the JPEG decoder; other formats are decoded whole.
    """
    if header.format != "jpeg":
        pixels = header.height * header.width
        return pixels * _WHOLE[header.format] + (len(data) if file_bytes is None else file_bytes) * (
            header.format == "png"
        )
    pixels = -(-header.height // reduction) * -(-header.width // reduction)
    # A transposed copy, then a mirrored one, beside the decoded picture; CMYK beside RGB.
    copies = 1 + (header.orientation >= 5) + (header.orientation in (2, 3, 4, 6, 7, 8))
    return pixels * (3 * copies + 4 * (len(jpeg_frame(data)[1]) == 4)) + _coefficient_bytes(header, data)


def streamed_bytes(header: PhotoHeader, data: bytes, *, file_bytes: int | None = None, open_pixels: int = 0) -> int:
    """Peak memory of `streams.StreamedPhoto`, in bytes.

    Args:
        header: of a photo that can be decoded in strips.
        data: the file, or its beginning as far as the header goes; no more of it is read.
        file_bytes: size of the file; None where `data` is all of it.
        open_pixels: level pixels of the rectangles that are begun and not ended at a time.
    """
    held, _ = held_bytes(header, data, file_bytes=file_bytes)
    return _STREAM_FIXED + _STREAM_ROWS * _row_bytes(header, data) + 3 * open_pixels + held


def held_bytes(header: PhotoHeader, data: bytes, *, file_bytes: int | None = None) -> tuple[int, str]:
    """What must be held at once although the photo is decoded in strips: bytes, and what it is, in words."""
    height, width = header.stored_size
    size = len(data) if file_bytes is None else file_bytes
    if header.format == "jpeg":
        coarsest = 3 * (3 * height * width // _COARSEST)  # and two more of it: turned, and shrunk
        what = "a progressive JPEG, whose coefficients must all be kept," if header.progressive else "the file's copy"
        return _coefficient_bytes(header, data) + coarsest + size, what  # and a copy without metadata: see `strips`
    if header.format == "png":
        interlaced = data[28] == 1  # no row is whole until the last pass
        # The file's copy without metadata.
        return size + interlaced * height * _row_bytes(header, data), "an interlaced PNG" if interlaced else "its copy"
    if header.format == "tiff":
        return _tiff_unit(data, _row_bytes(header, data)), "a strip or row of tiles of this TIFF"
    return 0, "nothing"


def _coefficient_bytes(header: PhotoHeader, data: bytes) -> int:
    """libjpeg keeps two bytes for each sample of a JPEG in several scans."""
    if not header.progressive:
        return 0
    height, width = header.stored_size
    _, samplings = jpeg_frame(data)
    across, down = (max(sampling[axis] for sampling in samplings) for axis in (0, 1))
    return sum(2 * (height * y // down) * (width * x // across) for x, y in samplings)


def _row_bytes(header: PhotoHeader, data: bytes) -> int:
    """One row of samples as the decoder delivers them."""
    if header.format == "png":  # by colour type; palettes come expanded. Source: PNG, section 11.2.1
        depth, bands = 2 if data[24] == 16 else 1, {0: 1, 4: 2, 6: 4}.get(data[25], 3)
    elif header.format == "tiff":
        directory = exif.read_first_directory(data)
        depth = 2 if directory.number(exif.BITS_PER_SAMPLE, 1) > 8 else 1
        bands = max(3, directory.number(exif.SAMPLES_PER_PIXEL, 1))
    else:
        depth, bands = 1, len(jpeg_frame(data)[1]) if header.format == "jpeg" else 3
    return header.stored_size[1] * bands * depth


def _tiff_unit(data: bytes, row_bytes: int) -> int:
    """What libvips holds of a TIFF: two of its rows of tiles, or of its strips if those are decoded whole."""
    directory = exif.read_first_directory(data)
    compressed = max((length for _, length in directory.extents), default=0)
    if exif.TILE_LENGTH in directory.numbers:
        return 2 * row_bytes * directory.number(exif.TILE_LENGTH, 1) + compressed
    planar = directory.number(exif.PLANAR_CONFIGURATION, 1) == 2
    if not planar and directory.number(exif.COMPRESSION, 1) in _ROW_BY_ROW:
        return compressed if directory.number(exif.COMPRESSION, 1) > 1 else 0
    height = directory.number(exif.IMAGE_LENGTH, 1)
    return 2 * row_bytes * min(height, directory.number(exif.ROWS_PER_STRIP, height)) + compressed
