"""Rows of a photo, decoded top to bottom without holding the picture: for photos too large to be decoded whole.

JPEG, PNG and TIFF go through libvips, which hands out rows as its decoders make them; of tifffile and Pillow, the first
reads compressed tiles only with a package larger than libvips and the second decodes whole pictures only. Bitmaps are
cut into small bitmaps. The pixels are those of `photos.decode`, with the orientation still to come.

libvips' settings belong to the process: its cache of operations is off and it starts no threads. So do the texts of its
errors, which is why one lock is held around every call: photos may be read in many threads, a strip at a time.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from retinafocus import exif
from retinafocus.errors import PhotoError
from retinafocus.headers import PhotoHeader, png_pixels
from retinafocus.jpeg_markers import jpeg_frame, jpeg_without_exif
from retinafocus.photos import decoder_error, to_rgb, truncated

Pixels = NDArray[np.uint8]

_LIBVIPS = threading.Lock()

# libvips' names of the kinds of pixels that are understood here; others are CIELAB, floating point and the like.
_DEPTHS = {"uchar": np.uint8, "ushort": np.uint16}
_COLOURS = {"b-w": "L", "grey16": "L", "srgb": "RGB", "rgb16": "RGB", "cmyk": "CMYK"}


class Rows(Protocol):
    """The rows of a photo as stored, before the EXIF turn."""

    size: tuple[int, int]
    """(height, width), reduced by the decoder where it was asked to."""

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Decode part of some rows, each call below the rows of the one before.

        Returns:
            (bottom - top, right - left, 3) uint8 RGB, C-contiguous.

        Raises:
            PhotoError: truncated, corrupt or out_of_memory.
        """
        ...


def open_rows(data: bytes, header: PhotoHeader, reduction: int = 1) -> Rows:
    """Begin to read a photo's rows; no pixel is decoded yet.

    Args:
        data: the whole file; what `photos.check_extents` finds must have been looked for.
        header: what `read_header` gave for it.
        reduction: 1, 2, 4 or 8, by the JPEG decoder; 1 for other formats.

    Raises:
        PhotoError: `unsupported_format` for what cannot be decoded in rows; else as `Rows.read`.
    """
    if header.format in ("webp", "heif"):
        raise _not_in_strips(f"{header.format.upper()} is decoded whole or not at all")
    try:
        return BitmapRows(data, header) if header.format == "bmp" else LibvipsRows(data, header, reduction)
    except PhotoError:
        raise
    except struct.error as error:
        raise truncated(header.format) from error
    except Exception as error:  # decoders fed hostile bytes raise whatever they like
        raise decoder_error(error, header.format) from error


class LibvipsRows:
    """Rows of a JPEG, PNG or TIFF."""

    def __init__(self, data: bytes, header: PhotoHeader, reduction: int) -> None:
        self._data, self._header = data, header
        tiff = exif.read_first_directory(data) if header.format == "tiff" else None
        if tiff and exif.TILE_WIDTH in tiff.numbers and tiff.number(exif.PLANAR_CONFIGURATION, 1) == 2:
            raise _not_in_strips("a TIFF whose colours lie in separate tiles cannot be decoded in strips")
        # libvips reads from this memory as long as the image lives, but does not keep it alive.
        self._source = _libvips().Source.new_from_memory(self._for_libvips(reduction))
        with self._calling():
            self._image = image = _open(self._source, header.format, reduction)
            self._region = _libvips().Region.new(image)
        self.size = image.height, image.width
        if self.size != tuple(-(-side // reduction) for side in header.stored_size):
            raise PhotoError("corrupt", "the decoded picture is not of the size its header says; copy the file again")
        if image.format not in _DEPTHS or image.interpretation not in _COLOURS:
            raise _not_in_strips(
                f"{header.format.upper()} pixels of kind {image.interpretation} are not read in strips"
            )
        self._mode = _COLOURS[image.interpretation]
        opaque = tiff is not None and tiff.number(exif.EXTRA_SAMPLES, 2) == 0  # its last sample is something else
        if image.bands > len(self._mode) and self._mode != "CMYK" and not opaque:
            self._mode += "A"

    def _for_libvips(self, reduction: int) -> bytes | bytearray:
        """The file without metadata: libvips' reader of EXIF takes minutes for a block made of thousands of entries."""
        if self._header.format == "jpeg":
            return _whole_blocks(self._data, self._header, reduction)
        return png_pixels(self._data) if self._header.format == "png" else self._data

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """See `Rows.read`."""
        with self._calling():
            content = self._region.fetch(left, top, right - left, bottom - top)
        samples = np.frombuffer(content, _DEPTHS[self._image.format])
        samples = samples.reshape(bottom - top, right - left, self._image.bands)
        high = samples if samples.dtype == np.uint8 else (samples >> 8).astype(np.uint8)
        return _rgb(high, self._mode, self._header)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Call libvips, alone."""
        vips = _libvips()
        with _LIBVIPS:
            vips.Error("")  # takes over what earlier calls left behind
            try:
                yield
            except vips.Error as error:
                raise self._failure(error.detail) from error

    def _failure(self, said: str) -> PhotoError:
        """The row for what libvips said: a line for each of its layers, the decoder's first; maybe none."""
        name = self._header.format
        if name == "tiff":
            extents = exif.read_first_directory(self._data).extents
            if any(start + length > len(self._data) for start, length in extents):
                return truncated(name)
        first = said.partition("\n")[0].partition(": ")[2]
        return decoder_error(ValueError(first or "damaged data"), name)


@cache
def _libvips() -> Any:
    """The library, loaded when the first photo needs it."""
    import pyvips

    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    return pyvips


def _open(source: Any, name: str, reduction: int) -> Any:
    """An image of libvips, decoded when its rows are asked for; every warning is an error."""
    options: dict[str, Any] = {"access": "sequential", "fail_on": "warning"}
    # Without it whole pictures are refused over the size of one strip or chunk; sizes are judged by `streams`.
    options["unlimited"] = True
    if name == "jpeg":
        options["shrink"] = reduction
    return _libvips().Operation.call(f"{name}load_source", source, **options)


def _whole_blocks(data: bytes, header: PhotoHeader, reduction: int) -> bytearray:
    """A JPEG without EXIF, of a size that is a multiple of the reduction: libvips leaves out a last block that is cut.

    The blocks are in the file, up to 8 x 8 pixels: only the size that the header states is raised.
    """
    height, width = header.stored_size
    at, _ = jpeg_frame(data)
    raised = jpeg_without_exif(data)
    struct.pack_into(">HH", raised, at, height + -height % reduction, width + -width % reduction)
    return raised


def _rgb(samples: Pixels, mode: str, header: PhotoHeader) -> Pixels:
    """Samples (h, w, bands) in one of Pillow's modes to (h, w, 3) RGB, as `photos.decode` does."""
    bands = len(mode)
    if mode == "RGB":
        return np.ascontiguousarray(samples[..., :3])
    if mode == "L":
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(samples[..., 0]), cv2.COLOR_GRAY2RGB), np.uint8)
    if mode == "CMYK" and header.format == "jpeg":
        ink, light = samples[..., :3].astype(np.uint16), 255 - samples[..., 3:4].astype(np.uint16)
        return (light - (ink * light >> 8)).astype(np.uint8)  # to the bit what simplejpeg makes of it
    height, width = samples.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(samples[..., :bands]).tobytes())
    return to_rgb(image, header)


class BitmapRows:
    """Rows of a BMP without compression: each strip becomes a bitmap of its own, with the same header."""

    def __init__(self, data: bytes, header: PhotoHeader) -> None:
        """Source: Windows bitmap headers BITMAPFILEHEADER, BITMAPCOREHEADER and BITMAPINFOHEADER."""
        self._data, self._header = data, header
        self.size = height, width = header.stored_size
        self._start, header_bytes = struct.unpack_from("<II", data, 10)
        self._height_format, self._height_at = ("<H", 20) if header_bytes == 12 else ("<i", 22)
        (stated,) = struct.unpack_from(self._height_format, data, self._height_at)
        self._sign = -1 if stated < 0 else 1
        (bits,) = struct.unpack_from("<H", data, 24 if header_bytes == 12 else 28)
        compression = 0 if header_bytes == 12 else struct.unpack_from("<I", data, 30)[0]
        self._row_bytes = (width * bits + 31) // 32 * 4
        # 0 none, 3 and 6 none but with masks that say which bits are which colour
        if compression not in (0, 3, 6):
            raise _not_in_strips("a compressed BMP cannot be decoded in strips")
        if self._start + height * self._row_bytes > len(data):
            raise truncated("bmp")
        # Whether fourth bytes are transparency depends on all of them.
        if BmpImageFile(BytesIO(self._strip(0, 1))).mode == "RGBA":
            raise _not_in_strips("a BMP with transparency cannot be decoded in strips")

    def read(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        """See `Rows.read`."""
        strip = to_rgb(BmpImageFile(BytesIO(self._strip(top, bottom))), self._header)
        return np.ascontiguousarray(strip[:, left:right])

    def _strip(self, top: int, bottom: int) -> bytes:
        first = top if self._sign < 0 else self.size[0] - bottom  # most bitmaps store their last row first
        start = self._start + first * self._row_bytes
        header = bytearray(self._data[: self._start])
        struct.pack_into(self._height_format, header, self._height_at, self._sign * (bottom - top))
        return bytes(header) + self._data[start : start + (bottom - top) * self._row_bytes]


def _not_in_strips(reason: str) -> PhotoError:
    return PhotoError("unsupported_format", reason)
