"""How long decoding takes beside OpenCV and Pillow, and how many flipped bits each format lets through.

    python -m benchmarks.photos [--repeats 15]                  decode times of a made 4K JPEG
    python -m benchmarks.photos --bitflips 1000 [--seed 0]      detection of single flipped bits, by format

Prints a Markdown table; benchmarks/README.md holds recorded ones. Times are CPU time of one thread, which other work
on the machine distorts less than the clock. The pictures are made here: noise of all scales with the spectrum of
photographs, which costs an entropy decoder about what a photograph does.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from retinafocus.errors import PhotoError
from retinafocus.photos import REDUCTIONS, decode, read_header

Pixels = NDArray[np.uint8]

SPEED_SIZE = (2160, 3840)
FLIP_SIZE = (360, 480)
CV2_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def make_picture(size: tuple[int, int], seed: int = 0) -> Pixels:
    """(height, width, 3) uint8: octaves of smooth noise, coarse ones stronger, and the grain of a sensor.

    The strengths are set so that the 4K picture has about 3 bits for each pixel at quality 90, as photographs have.
    """
    height, width = size
    numbers = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 11):
        cells = numbers.normal(size=(-(-height >> octave) + 3, -(-width >> octave) + 3, 3)).astype(np.float32)
        total += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) * 4 * 2 ** (octave / 3)
    total += numbers.normal(size=(height, width, 1)).astype(np.float32) * 6
    return np.clip(total, 0, 255).astype(np.uint8)


def encode(picture: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, **options)
    else:
        Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def decode_with_pillow(data: bytes, reduction: int) -> Pixels:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // reduction, image.height // reduction))
    return np.asarray(image)


def median_ms(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1000


def print_speed(repeats: int) -> None:
    cv2.setNumThreads(1)
    data = encode(make_picture(SPEED_SIZE), "JPEG", quality=90)
    array = np.frombuffer(data, np.uint8)
    print(f"{SPEED_SIZE[1]} x {SPEED_SIZE[0]} JPEG, quality 90, 4:2:0, {len(data) / 1e6:.1f} MB; median of {repeats}")
    print(f"header: {median_ms(lambda: read_header(data), 200):.3f} ms\n")
    print("| reduction | decode() ms | cv2.imdecode ms (BGR) | Pillow ms | cv2 / ours | Pillow / ours |")
    print("|---:|---:|---:|---:|---:|---:|")
    for reduction in REDUCTIONS:
        ours = median_ms(lambda step=reduction: decode(data, reduction=step), repeats)  # type: ignore[misc]
        opencv = median_ms(lambda step=reduction: cv2.imdecode(array, CV2_FLAGS[step]), repeats)  # type: ignore[misc]
        pillow = median_ms(lambda step=reduction: decode_with_pillow(data, step), repeats)  # type: ignore[misc]
        shares = f"{opencv / ours:.2f} | {pillow / ours:.2f}"
        print(f"| 1/{reduction} | {ours:.1f} | {opencv:.1f} | {pillow:.1f} | {shares} |")


def flip_photos() -> dict[str, tuple[bytes, bytes]]:
    """By name: a photo, and the bytes its pixels begin with (everything up to there counts as header)."""
    picture = make_picture(FLIP_SIZE)
    photos = {
        "JPEG": (encode(picture, "JPEG", quality=90), b"\xff\xda"),
        "JPEG, progressive": (encode(picture, "JPEG", quality=90, progressive=True), b"\xff\xda"),
        "JPEG, restarts each row": (encode(picture, "JPEG", quality=90, restart_marker_rows=1), b"\xff\xda"),
        "PNG": (encode(picture, "PNG"), b"IDAT"),
        "WebP, lossy": (encode(picture, "WEBP", quality=90), b"\x9d\x01\x2a"),
        "WebP, lossless": (encode(picture, "WEBP", lossless=True), b"VP8L"),
        "TIFF, uncompressed": (encode(picture, "TIFF"), picture[0, 0].tobytes()),
        "TIFF, LZW": (encode(picture, "TIFF", compression="tiff_lzw"), b"\x80"),
        "TIFF, deflate": (encode(picture, "TIFF", compression="tiff_adobe_deflate"), b"\x78"),
        "BMP": (encode(picture, "BMP"), picture[-1, 0, ::-1].tobytes()),
    }
    if importlib.util.find_spec("pillow_heif"):
        photos["HEIC"] = (encode(picture, "HEIF", quality=90), b"mdat")
    return photos


def flip_bits(data: bytes, first: int, flips: int, seed: int) -> tuple[int, int, list[float]]:
    """Flip one bit at a time in data[first:]; (raised, decoded equal, shares of pixels changed where undetected)."""
    whole = decode(data)
    dice = random.Random(seed)
    raised, equal, changed = 0, 0, []
    for _ in range(flips):
        position = dice.randrange(first * 8, len(data) * 8)
        broken = bytearray(data)
        broken[position // 8] ^= 1 << position % 8
        try:
            pixels = decode(bytes(broken))
        except PhotoError:
            raised += 1
            continue
        if pixels.shape != whole.shape:
            changed.append(1.0)
        elif np.array_equal(pixels, whole):
            equal += 1
        else:
            changed.append(float((pixels != whole).any(axis=2).mean()))
    return raised, equal, changed


def print_flips(flips: int, seed: int) -> None:
    print(f"{flips} single flipped bits for each row, seed {seed}; {FLIP_SIZE[1]} x {FLIP_SIZE[0]} pictures\n")
    print("| format | flipped in | raised | decoded equal | decoded differently | over 1 % of pixels changed |")
    print("|---|---|---:|---:|---:|---:|")
    for name, (data, mark) in flip_photos().items():
        for where, first in (("pixel data", data.index(mark)), ("anywhere", 0)):
            raised, equal, changed = flip_bits(data, first, flips, seed)
            counts = (raised, equal, len(changed), sum(share > 0.01 for share in changed))
            shares = " | ".join(f"{100 * count / flips:.1f} %" for count in counts)
            print(f"| {name} | {where} | {shares} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="decodes for each time")
    parser.add_argument("--bitflips", type=int, default=0, help="flips for each format; 0 measures times instead")
    parser.add_argument("--seed", type=int, default=0, help="of the flipped positions")
    options = parser.parse_args()
    versions = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}, OpenCV {cv2.__version__}"
    print(f"Python {platform.python_version()}, {versions}\n")
    if options.bitflips:
        print_flips(options.bitflips, options.seed)
    else:
        print_speed(options.repeats)


if __name__ == "__main__":
    main()
