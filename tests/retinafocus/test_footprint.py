"""Memory: what the header predicts, what a process takes, and huge photos under a limit that the system enforces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from retinafocus.footprint import decoded_bytes, streamed_bytes
from retinafocus.photos import read_header

MIB, GIB = 2**20, 2**30
SIDE = 256

# Reads levels of a photo whole, in squares, or decodes it, or both, and reports seconds, the peak of the resident
# memory and what of it came after the file was read. The limit is RLIMIT_DATA: the kernel then refuses whatever a
# process asks to write to beyond it, touched or not. RLIMIT_AS would count the gigabytes of libraries that torch maps
# and never touches, and a resident peak is only known when it is too late.
READ_LEVELS = """
import json, math, resource, sys, time
import numpy as np
from retinafocus.errors import PhotoError
from retinafocus.levels import Level
from retinafocus.photos import decode, read_header
from retinafocus.streams import StreamedPhoto
from retinafocus.strips import _libvips
path, limit, side, whole, scales = json.loads(sys.argv[1])
if limit:
    import torch  # a worker has it loaded
_libvips()  # its libraries are not what is measured

def field(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def squares(height, width):
    corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    return np.array([(x, y, min(x + side, width), min(y + side, height)) for x, y in corners], np.int32)

data = open(path, "rb").read()
if limit < 0:  # beyond what is there already
    limit = field("VmData") - limit
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
start, before = time.perf_counter(), field("VmHWM")
header = read_header(data)
source = StreamedPhoto(data, header) if scales else None
corners, decoded = [], "no"
for scale in scales:
    size = math.ceil(header.height * scale), math.ceil(header.width * scale)
    level = Level(index=0, scale=scale, size=size, photo_size=(header.height, header.width),
                  covered=source.covered(scale), face_range=(0.0, math.inf))
    boxes, pixels = squares(*size), 0
    for number, square in source.read(level, boxes):
        pixels += square.size // 3
        if number == len(boxes) - 1:
            corners.append(square[-1, -1].tolist())
    assert pixels == level.pixels
if whole:
    try:
        decode(data, header, max_pixels=2**40)
        decoded = "ok"
    except PhotoError as error:
        decoded = error.status
print(json.dumps({"peak": field("VmHWM"), "more": field("VmHWM") - before, "corners": corners, "decoded": decoded,
                  "seconds": round(time.perf_counter() - start, 1)}))
"""


def read_levels(path: Path, *scales: float, limit: int = 0, whole: bool = False, side: int = SIDE) -> dict[str, Any]:
    arguments = json.dumps([str(path), limit, side, whole, scales])
    # One arena: with several, glibc's reserves would count as the photo's.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ_LEVELS, arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def write_photo(path: Path, height: int, width: int, **options: Any) -> Path:
    """A photo of soft blobs with a white last corner of 2048 px, written strip by strip."""
    pyvips = pytest.importorskip("pyvips")
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    blobs = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 200, cv2.NORM_MINMAX)
    patch = pyvips.Image.new_from_array(blobs, interpretation="srgb")
    white = pyvips.Image.black(2048, 2048, bands=3) + 255
    photo = patch.replicate(-(-width // 1000), -(-height // 1000)).crop(0, 0, width, height)
    photo.insert(white.cast("uchar"), width - 2048, height - 2048).write_to_file(str(path), **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("photo.jpg", {"Q": 85}, id="jpeg"),
        pytest.param("photo.jpg", {"Q": 85, "interlace": True}, id="progressive jpeg"),
        pytest.param("photo.png", {"compression": 1}, id="png"),
        pytest.param("photo.tif", {"compression": "jpeg", "tile": True, "tile_height": 1024}, id="tiff in tall tiles"),
    ],
)
def test_predicted_memory_is_between_the_peak_and_three_times_it(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    path = write_photo(tmp_path / name, 3000, 6000, **options)
    data = path.read_bytes()
    header = read_header(data)
    more = read_levels(path, 0.25, 1.0)["more"]
    predicted = streamed_bytes(header, data, open_pixels=2 * SIDE * header.width)
    assert more <= predicted <= 3 * more, (more / MIB, predicted / MIB)
    more = read_levels(path, whole=True)["more"]
    predicted = decoded_bytes(header, data)
    assert 0.95 * more <= predicted <= 1.5 * more, (more / MIB, predicted / MIB)


def test_a_large_photo_is_read_under_a_limit_that_stops_decoding_it_whole(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "photo.jpg", 9000, 9000, Q=85)  # 232 MiB of pixels
    read = read_levels(path, 1 / 64, 0.25, 1.0, limit=-170 * MIB, whole=True)
    assert read["corners"] == [[255] * 3] * 3
    assert read["decoded"] == "out_of_memory"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("photo.jpg", {"Q": 85}, id="jpeg"),
        pytest.param(
            "photo.tif", {"compression": "jpeg", "tile": True, "tile_width": 256, "tile_height": 256}, id="tiled tiff"
        ),
    ],
)
def test_a_gigapixel_is_read_in_six_gibibytes(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = write_photo(tmp_path / name, 32000, 32000, **options)
    read = read_levels(path, 1 / 256, 1 / 64, 1 / 16, 0.25, 1.0, limit=6 * GIB, side=2048)
    print(name, path.stat().st_size // MIB, "MiB:", {key: read[key] for key in ("peak", "more", "seconds")})
    assert read["peak"] < 2 * GIB
    assert read["corners"] == [[255] * 3] * 5
