"""From a path, a URI or bytes to upright RGB pixels, at full size or reduced: the only decoder.

    data = read_bytes("s3://archive/day2/IMG_0412.jpg")
    header = read_header(data)                          # size, orientation, time: no pixels
    pixels = decode(data, header, reduction=8)          # (ceil(height / 8), ceil(width / 8), 3) uint8

A photo is decoded whole or not at all. JPEG goes through libjpeg-turbo with every warning an error; the other
formats through Pillow, whose leniency is closed here: PNG checksums and the extents of WebP and TIFF are checked
before it sees the data. Truncation is always detected. Flipped bits are not, where a format has no checksum and the
stream stays decodable: all in the pixels of BMP, uncompressed TIFF and HEIC, most in JPEG and WebP
(benchmarks/README.md has the shares). Warnings that no binding passes on stay unseen: libheif's, libtiff's, and
libjpeg's about JPEG inside TIFF and about the rare subsamplings that simplejpeg refuses and Pillow decodes instead.

Many threads may decode at once: nothing here touches state of the process (Pillow's limits, Python's `warnings`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from retinafocus import exif
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.headers import FORMATS, TRUNCATED, PhotoHeader, png_chunks, png_pixels, read_header
from retinafocus.jpeg_markers import count_jpeg_scans, has_jpeg_end
from retinafocus.reading import read_bytes, read_photo

__all__ = ["FORMATS", "MAX_PIXELS", "REDUCTIONS", "PhotoHeader", "decode", "read_bytes", "read_header", "read_photo"]

MAX_PIXELS = 2**27
"""Default limit on a photo's pixels: enough for 15360 x 8640. Decoded it takes 0.4 GB; the network
is shown `cascade.network_pixels` of them at a time."""

REDUCTIONS = (1, 2, 4, 8)
"""What the JPEG decoder reduces by while it decodes."""

# Each scan of a progressive JPEG is a pass over the whole picture and may take twenty bytes. Encoders write about ten,
# the standard's finest steps some two hundred; thousands are made to keep a decoder busy for hours.
MOST_SCANS = 500

Pixels = NDArray[np.uint8]


def decode(
    data: bytes, header: PhotoHeader | None = None, *, reduction: int = 1, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode a photo to upright RGB.

    JPEG is reduced by its decoder, in whole squares of `reduction` stored pixels, so that its pixels lie less than one
    reduced pixel from the exact fraction; other formats by area over exact fractions. Colour profiles are not applied.
    Transparency is laid over white, 16-bit samples keep their high byte, CMYK JPEG counts as inverted (as Adobe
    writes it, and as browsers and Pillow show all of it). Of several pictures in one file, the first.

    Args:
        data: the whole file.
        header: what `read_header` gave for the same data, to save reading it again.
        reduction: 1, 2, 4 or 8.
        max_pixels: refuse a photo of more pixels than this, whatever the reduction.

    Returns:
        (ceil(height / reduction), ceil(width / reduction), 3) uint8 RGB, C-contiguous and writable; the upright photo.

    Raises:
        PhotoError: `truncated`, `corrupt`, `unsupported_format`, `too_large` or `out_of_memory`.
        SettingsError: the reduction is none of the four.
    """
    if reduction not in REDUCTIONS:
        raise SettingsError(f"reduction is {reduction}; choose 1, 2, 4 or 8")
    header = read_header(data) if header is None else header
    if header.height * header.width > max_pixels:
        size = f"{header.width} x {header.height} px"
        raise PhotoError("too_large", f"{size} are more than the limit of {max_pixels} px; raise max_pixels")
    try:
        pixels = _decode_jpeg(data, header, reduction) if header.format == "jpeg" else _decode_other(data, header)
        return turn(_shrink(pixels, header, reduction), header.orientation)
    except (PhotoError, SettingsError):
        raise
    except Exception as error:  # decoders fed hostile bytes raise whatever they like; the job must go on
        raise decoder_error(error, header.format) from error


def _decode_jpeg(data: bytes, header: PhotoHeader, reduction: int) -> Pixels:
    """The stored picture, already reduced. CMYK becomes RGB in simplejpeg, which takes it as inverted."""
    height, width = _reduced(header, reduction)
    if header.progressive and (scans := count_jpeg_scans(data)) > MOST_SCANS:
        raise PhotoError("corrupt", f"the JPEG has {scans} scans, more than {MOST_SCANS} are not decoded; save it anew")
    try:
        # The decoder takes the scale, in eighths, whose size is this one: 1/reduction, but for photos under six pixels.
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=True)
    except ValueError as error:
        if not has_jpeg_end(data):  # the decoder may have met the end of the file as damage of another kind
            raise truncated("jpeg") from error
        if "subsampling" not in str(error):
            raise
        image = _StoredJpeg(BytesIO(data))
        image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
        return to_rgb(image, header)
    return pixels


def _decode_other(data: bytes, header: PhotoHeader) -> Pixels:
    """The stored picture at full size, by Pillow or, for HEIC, libheif."""
    if header.format == "heif":
        import pillow_heif

        return to_rgb(pillow_heif.open_heif(data).to_pillow(), header)
    if header.format == "png":
        # Pillow refuses whole pictures over their metadata (a colour profile above 1 MB) and warns about animations, of
        # which the first picture is wanted here.
        _check_png(data)
        data = png_pixels(data)
    elif header.format == "webp" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise truncated(header.format)
    elif header.format == "tiff":
        return _decode_tiff(data, header)
    return to_rgb(_PILLOW_CLASSES[header.format](BytesIO(data)), header)


def check_extents(data: bytes, header: PhotoHeader) -> None:
    """Look for what is missing or wrong without decoding: the JPEG end mark, PNG checksums, TIFF strips and tiles.

    `decode` does so by itself; this is for other ways to the pixels.

    Raises:
        PhotoError: `truncated` or `corrupt`.
    """
    if header.format == "jpeg" and not has_jpeg_end(data):
        raise truncated("jpeg")
    if header.format == "png":
        _check_png(data)
    if header.format == "tiff":
        _check_tiff(data, exif.read_first_directory(data))


def _check_png(data: bytes) -> None:
    """Check every chunk's checksum."""
    chunks = png_chunks(data)
    if not chunks or chunks[-1][0] != b"IEND":
        raise truncated("png")
    view = memoryview(data)
    for _, start, length in chunks:
        checksum = int.from_bytes(data[start + length : start + length + 4], "big")
        if zlib.crc32(view[start - 4 : start + length]) != checksum:
            raise PhotoError("corrupt", "a PNG checksum is wrong; copy the file again")


def _check_tiff(data: bytes, directory: exif.Directory) -> None:
    # The decoders measure uncompressed strips; some writers overstate the last one's count.
    if directory.number(exif.COMPRESSION, 1) != 1 and any(at + size > len(data) for at, size in directory.extents):
        raise truncated("tiff")


def _decode_tiff(data: bytes, header: PhotoHeader) -> Pixels:
    directory = exif.read_first_directory(data)
    _check_tiff(data, directory)
    numbers, compression = directory.numbers, directory.number(exif.COMPRESSION, 1)
    try:
        image = _StoredTiff(BytesIO(data))
    except (SyntaxError, KeyError) as error:
        reason = f"a kind of TIFF the decoder cannot read (compression {compression}); convert it to JPEG"
        raise PhotoError("unsupported_format", reason) from error
    pixels = to_rgb(image, header, bits=numbers.get(exif.BITS_PER_SAMPLE, (1,))[0])
    if image.mode.startswith("I;16") and numbers.get(exif.PHOTOMETRIC, (1,))[0] == 0:
        return 255 - pixels  # Pillow turns white-is-zero over for 8 bits and fewer only
    return pixels


class _StoredTiff(TiffImageFile):
    """Pillow's TIFF reader, without a limit of its own and without turning: both are decided here."""

    def load_prepare(self) -> None:
        self.im = Image.new(self.mode, (self.tag_v2[exif.IMAGE_WIDTH], self.tag_v2[exif.IMAGE_LENGTH])).im
        ImageFile.ImageFile.load_prepare(self)

    def load_end(self) -> None:
        self._size = self.tag_v2[exif.IMAGE_WIDTH], self.tag_v2[exif.IMAGE_LENGTH]


class _StoredJpeg(JpegImageFile):
    """Pillow's JPEG reader, without its look into the EXIF for the resolution, which may warn."""

    def _read_dpi_from_exif(self) -> None:
        pass


_PILLOW_CLASSES: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
}


def to_rgb(image: Image.Image, header: PhotoHeader, *, bits: int = 16) -> Pixels:
    """The pixels of a Pillow image as (height, width, 3) uint8; loads it.

    Args:
        bits: of a sample, where Pillow's mode only says "at most 16".
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SettingsError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so cut photos would pass as whole; set it off")
    image.load()
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        grey: Pixels = (samples >> (bits - 8)).astype(np.uint8)
        if "transparency" in image.info:
            grey[samples == image.info["transparency"]] = 255
        return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        # Bitmaps often leave the fourth byte zero: every viewer shows those as opaque.
        if header.format != "bmp" or alpha.getextrema() != (0, 0):
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=alpha)
            image = white
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reduced(header: PhotoHeader, reduction: int) -> tuple[int, int]:
    height, width = header.stored_size
    return -(-height // reduction), -(-width // reduction)


def _shrink(pixels: Pixels, header: PhotoHeader, reduction: int) -> Pixels:
    """Bring full-size pixels to the reduced size; pixels of that size already pass."""
    height, width = _reduced(header, reduction)
    if pixels.shape == (height, width, 3):
        return pixels
    if pixels.shape != (*header.stored_size, 3):
        raise PhotoError("corrupt", "the decoded picture is not of the size its header says; copy the file again")
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels to upright ones. Source: Exif 2.32, tag 274, where row 0 and column 0 of the stored picture lie."""
    if orientation >= 5:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # cv2: 1 left-right, 0 up-down, -1 both
    if flip is not None:
        pixels = np.asarray(cv2.flip(pixels, flip), np.uint8)
    return np.ascontiguousarray(pixels)


def truncated(name: str) -> PhotoError:
    """The row for a photo of that format whose file ends too early."""
    return PhotoError("truncated", TRUNCATED.format(name=name.upper()))


def decoder_error(error: Exception, name: str) -> PhotoError:
    """The row for whatever a decoder raised."""
    text = str(error)
    lower = text.lower()
    if isinstance(error, MemoryError) or any(part in lower for part in _MEMORY_TEXTS):
        return PhotoError("out_of_memory", "the decoded picture did not fit into memory; lower max_pixels")
    if isinstance(error, Image.DecompressionBombError):
        return PhotoError("too_large", "more pixels than Pillow admits for WebP; raise PIL.Image.MAX_IMAGE_PIXELS")
    if any(part in lower for part in _TRUNCATION_TEXTS):
        return truncated(name)
    # Addresses and binary text would make two runs, or two terminals, disagree.
    plain = text.isascii() and text.isprintable() and len(text) < 160 and " at 0x" not in text
    said = f"the {name.upper()} decoder reports: {text.rstrip('. ') if plain and text else type(error).__name__}"
    if any(part in lower for part in _REFUSAL_TEXTS):
        return PhotoError("unsupported_format", f"{said}; convert it to JPEG")
    return PhotoError("corrupt", f"{said}; copy the file again")


_MEMORY_TEXTS = ("insufficient memory", "out of memory", "memory allocation failure")
# libjpeg's for data that ends before the end mark; Pillow's of several readers.
_TRUNCATION_TEXTS = ("premature end of jpeg file", "truncated", "not enough image data", "end of file")
_REFUSAL_TEXTS = ("unsupported", "not supported", "not implemented")
