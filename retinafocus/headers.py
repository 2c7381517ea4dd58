"""From the encoded bytes of a photo to its header: format, upright size, orientation, time. No pixel is decoded.

The sizes are read here, not by the decoders, because the limit on pixels must hold before a decoder allocates
anything: Pillow's WebP reader, for one, allocates the whole canvas when it opens a file.
"""

from __future__ import annotations

import importlib.util
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime

from retinafocus import exif
from retinafocus.errors import PhotoError
from retinafocus.jpeg_markers import read_jpeg_start

_HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None

FORMATS: tuple[str, ...] = ("jpeg", "png", "webp", "tiff", "bmp", *(("heif",) if _HAS_HEIF else ()))
"""Names of the formats that can be decoded here."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})

_MAGICS = {
    "jpeg": (b"\xff\xd8\xff",),
    "png": (PNG_SIGNATURE,),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "bmp": (b"BM",),
}
_SMALLEST = 12  # bytes; what it takes to recognise every format
# What archives of photographs also contain, so that the row says what to do instead of "unknown".
_OTHERS = {
    b"GIF8": "a GIF",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"FUJIFILMCCD-RAW": "a camera raw file",
    b"IIRO": "a camera raw file",
    b"IIU\0": "a camera raw file",
    b"\x1aE\xdf\xa3": "a video",
    b"OggS": "a video",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

TRUNCATED = "the {name} data ends before the picture does; copy the file again"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoHeader:
    """What a photo says about itself before any pixel is decoded."""

    format: str
    """One of `FORMATS`."""

    height: int
    """Pixels of the upright photo, after the EXIF turn."""

    width: int
    """Pixels of the upright photo, after the EXIF turn."""

    orientation: int
    """EXIF orientation, 1..8, of the stored pixels; 1 where it is absent or unreadable, and for HEIC, whose decoder
    turns by itself."""

    taken_at: datetime | None
    """EXIF DateTimeOriginal, else DateTime, without a time zone, as the camera wrote it; None where there is none."""

    progressive: bool
    """A JPEG in several scans: decoding keeps all its coefficients, 3 to 6 bytes for each pixel of the photo, at every
    reduction."""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the pixels as stored, before the EXIF turn."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


@dataclass(frozen=True, slots=True)
class _Picture:
    """What each format's reader finds: the stored size, where the EXIF is, and whether there are several scans."""

    height: int
    width: int
    exif_block: bytes | None = None
    progressive: bool = False


def read_header(data: bytes) -> PhotoHeader:
    """Read a photo's header.

    Args:
        data: the whole file.

    Raises:
        PhotoError: `truncated`, `corrupt`, `unsupported_format` or `out_of_memory`. Never `too_large`: the size of
            such a photo is wanted too.
    """
    name = sniff_format(data)
    try:
        picture = _READERS[name](data)
    except (struct.error, IndexError, OverflowError) as error:
        raise PhotoError("truncated", TRUNCATED.format(name=name.upper())) from error
    except MemoryError as error:
        raise PhotoError("out_of_memory", "the photo's header did not fit into memory") from error
    if picture.height < 1 or picture.width < 1:
        raise PhotoError("corrupt", f"its header says {picture.width} x {picture.height} px; copy the file again")
    orientation, taken_at = exif.read_exif(picture.exif_block)
    if name == "heif":
        orientation = 1
    turned = orientation >= 5
    return PhotoHeader(
        format=name,
        height=picture.width if turned else picture.height,
        width=picture.height if turned else picture.width,
        orientation=orientation,
        taken_at=taken_at,
        progressive=picture.progressive,
    )


def sniff_format(data: bytes) -> str:
    """The format by the first bytes, never by a file's name.

    Returns:
        One of `FORMATS`.

    Raises:
        PhotoError: `truncated` for an empty or tiny file, else `unsupported_format` saying what the file is.
    """
    if not data:
        raise PhotoError("truncated", "the file is empty; copy it again")
    for name, magics in _MAGICS.items():
        if data.startswith(magics):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _sniff_iso_media(data)
    if len(data) < _SMALLEST:
        raise PhotoError("truncated", f"the file has {len(data)} bytes, less than any picture; copy it again")
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise _unsupported(f"{what} is not read here; convert it to JPEG")
    if not any(data[:512]):
        raise PhotoError("corrupt", "begins with zero bytes only, as a copy that broke off does; copy the file again")
    raise _unsupported(f"not a picture: begins with {_show(data[:16])}")


def _sniff_iso_media(data: bytes) -> str:
    (length,) = struct.unpack_from(">I", data)
    brands = {data[at : at + 4] for at in range(8, min(length, len(data), 256), 4)}
    if brands & {b"avif", b"avis"}:
        raise _unsupported("an AVIF picture is not read here; convert it to JPEG")
    if b"crx " in brands:
        raise _unsupported("a camera raw file is not read here; convert it to JPEG")
    if not brands & _HEIF_BRANDS:
        raise _unsupported("a video is not read here; convert its frames to JPEG")
    if not _HAS_HEIF:
        raise _unsupported("a HEIC picture needs its decoder: pip install 'retinafocus[heic]'")
    return "heif"


def _show(start: bytes) -> str:
    """The first bytes of a file for a message: as text where they are text, else in hexadecimal."""
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return '"' + " ".join(start.decode("ascii").split()) + '"'
    return "the bytes " + start[:8].hex(" ")


def _unsupported(reason: str) -> PhotoError:
    return PhotoError("unsupported_format", reason)


def _read_jpeg(data: bytes) -> _Picture:
    start = read_jpeg_start(data)
    return _Picture(start.height, start.width, start.exif_block, start.several_scans)


def _read_png(data: bytes) -> _Picture:
    """Source: PNG specification (third edition), sections 5.3 and 11.2.1."""
    length, kind, width, height = struct.unpack_from(">I4sII", data, len(PNG_SIGNATURE))
    (checksum,) = struct.unpack_from(">I", data, 29)
    if kind != b"IHDR" or length != 13 or checksum != zlib.crc32(data[12:29]):
        raise PhotoError("corrupt", "the PNG header is damaged; copy the file again")
    exif_block = None
    for kind, start, length in png_chunks(data):
        if kind == b"eXIf" and exif_block is None:
            exif_block = data[start : start + length]
    return _Picture(height, width, exif_block)


def png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """The chunks of a PNG: (type, offset of its data, length of its data), up to IEND or the first one cut off.

    The data and the checksum after it lie inside `data` for every chunk returned.
    """
    chunks = []
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            break
        chunks.append((kind, at + 8, length))
        if kind == b"IEND":
            break
        at += 12 + length
    return chunks


def png_pixels(data: bytes) -> bytes:
    """A PNG with only what makes pixels: metadata make decoders refuse whole pictures, warn, or compute for minutes."""
    chunks = png_chunks(data)
    if all(kind in _PNG_PIXELS for kind, _, _ in chunks):
        return data
    view = memoryview(data)
    kept = [view[start - 8 : start + length + 4] for kind, start, length in chunks if kind in _PNG_PIXELS]
    return PNG_SIGNATURE + b"".join(kept)


def _read_webp(data: bytes) -> _Picture:
    """Source: RFC 9649, sections 2.5 to 2.7; RFC 6386, section 9.1 (the frame header of VP8)."""
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        width, height = 1 + low_w + (high_w << 16), 1 + low_h + (high_h << 16)
    elif kind == b"VP8 ":
        mark, width, height = struct.unpack_from("<3sHH", data, 23)
        if mark != b"\x9d\x01\x2a":
            raise PhotoError("corrupt", "the WebP data does not begin with a key frame; copy the file again")
        width, height = width & 0x3FFF, height & 0x3FFF
    elif kind == b"VP8L":
        mark, bits = struct.unpack_from("<BI", data, 20)
        if mark != 0x2F:
            raise PhotoError("corrupt", "the WebP data does not begin with its mark; copy the file again")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif len(kind) < 4:
        raise IndexError("no first chunk")
    else:
        raise PhotoError("corrupt", "the WebP data does not begin with a picture; copy the file again")
    return _Picture(height, width, _webp_exif(data))


def _webp_exif(data: bytes) -> bytes | None:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return None


def _read_tiff(data: bytes) -> _Picture:
    """Source: TIFF 6.0, section 8. Camera raw files are TIFF too, with a thumbnail where the picture is expected."""
    try:
        directory = exif.read_first_directory(data)
    except ValueError as error:
        raise PhotoError("corrupt", "the TIFF header is damaged; copy the file again") from error
    if not directory.complete:
        raise IndexError("directory beyond the end")
    if not directory.consistent:
        raise PhotoError("corrupt", "the TIFF directory contradicts itself; copy the file again")
    if exif.DNG_VERSION in directory.numbers or directory.number(exif.NEW_SUBFILE_TYPE, 0) & 1 or data[8:10] == b"CR":
        raise _unsupported("a camera raw file, or a TIFF that begins with a preview; convert it to JPEG")
    if max(directory.numbers.get(exif.SAMPLE_FORMAT, (1,))) != 1:
        raise _unsupported("a TIFF of signed or floating-point samples; save it with 8 or 16 bits")
    if max(directory.numbers.get(exif.BITS_PER_SAMPLE, (1,))) > 16:
        raise _unsupported("a TIFF of more than 16 bits for each sample; save it with 8 or 16 bits")
    size = directory.number(exif.IMAGE_LENGTH, 0), directory.number(exif.IMAGE_WIDTH, 0)
    return _Picture(*size, exif_block=data)


def _read_bmp(data: bytes) -> _Picture:
    """Source: Windows bitmap headers BITMAPCOREHEADER and BITMAPINFOHEADER; a negative height means top row first."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes not in (12, 40, 52, 56, 64, 108, 124):  # two letters are not much of a mark
        raise _unsupported(f"not a picture: begins with {_show(data[:16])}")
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return _Picture(abs(height), width)


def _read_heif(data: bytes) -> _Picture:
    import pillow_heif

    try:
        picture = pillow_heif.open_heif(data)  # reads the boxes; pixels are decoded when asked for
        width, height = picture.size
    except MemoryError:
        raise
    except Exception as error:  # libheif's errors arrive as five builtin types
        if _last_box_is_cut(data):
            raise IndexError("box beyond the end") from error
        raise PhotoError("corrupt", "the HEIC decoder cannot read the header; copy the file again") from error
    return _Picture(height, width, picture.info.get("exif"))


def _last_box_is_cut(data: bytes) -> bool:
    """Source: ISO/IEC 14496-12, section 4.2 (a length of 1 is followed by a long one; 0 reaches to the end)."""
    at = 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data.ljust(at + 16, b"\0"), at + 8)
        if length < 8:
            return False
        at += length
    return at != len(data)


_READERS = {
    "jpeg": _read_jpeg,
    "png": _read_png,
    "webp": _read_webp,
    "tiff": _read_tiff,
    "bmp": _read_bmp,
    "heif": _read_heif,
}
