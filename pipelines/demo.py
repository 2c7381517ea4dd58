"""`retinafocus demo`: an archive of 4K pictures with planted faces, and the whole job run on it.

The faces are two real photographs that come with scikit-image (an astronaut's portrait, seen from the front, and a
cameraman in profile), the backgrounds two landscapes that come with scikit-learn. It proves that the run works on this
machine. It says nothing of accuracy: two faces, however often pasted, are two faces.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from pipelines import detect, planning
from pipelines.pictures import draw_run
from pipelines.report import Progress, describe_plan, summary
from pipelines.supervisor import stoppable
from retinafocus.draw import save_picture
from retinafocus.errors import SettingsError
from retinafocus.runs import Run, open_run
from retinafocus.weights import find_weights

HEIGHT, WIDTH = 2160, 3840

# The face in each 512 x 512 portrait, xyxy pixels, measured by eye from hairline to chin.
ASTRONAUT_FACE = (176.0, 68.0, 270.0, 187.0)
CAMERAMAN_FACE = (196.0, 98.0, 258.0, 196.0)

# sqrt(width * height) of the faces planted in one picture, in pixels: from the default --min-face to a close portrait.
FACE_SIZES = (20, 24, 28, 34, 40, 56, 80, 120, 200, 360)

SEED = 4

# A planted face counts as found when a box of at least the display threshold covers it this well.
FOUND_IOU = 0.5


@dataclass(frozen=True)
class _Portrait:
    pixels: NDArray[np.uint8]
    face: tuple[float, float, float, float]

    @property
    def side(self) -> float:
        x1, y1, x2, y2 = self.face
        return float(np.sqrt((x2 - x1) * (y2 - y1)))


def run_demo(options: argparse.Namespace) -> int:
    """Make the archive, run `detect` on it, count the planted faces that were found, draw the pictures."""
    folder = Path(options.output)
    photos, out = folder / "photos", folder / "out"
    job = planning.DetectJob(
        inputs=[str(photos)],
        output=str(out),
        weights=options.weights,
        detector=planning.detector_config(options),
        workers=options.workers,
        runner=options.runner,
        existing="overwrite",
    )
    find_weights(job.weights)  # better missed now than after the pictures are made
    planted = make_archive(photos, options.pictures)
    print(f"made {options.pictures} pictures of {WIDTH} x {HEIGHT} with {planted.num_rows} planted faces in {photos}\n")
    planned = planning.plan(job)
    print(describe_plan(planned))
    with stoppable():
        finished = detect.run(planned, Progress())
    print(f"\n{summary(str(out), finished)}\n")
    pictures = folder / "annotated"
    drawn = draw_run(str(out), str(pictures), None, options.pictures, sheet=False)
    print(count_found(open_run(out), planted, planned.weights.preset.display_threshold))
    print(f"pictures {pictures} ({len(drawn)} annotated)")
    return 0


def make_archive(folder: Path, pictures: int) -> pa.Table:
    """Write the pictures and `planted.parquet` beside them; the same ones every time.

    Args:
        folder: where the JPEGs go.
        pictures: how many. The last one (of two or more) holds no face at all.

    Returns:
        One row per planted face: image (file name), x1, y1, x2, y2 in pixels of the picture.
    """
    if pictures < 1:
        raise SettingsError(f"pictures is {pictures}; choose 1 or more")
    portraits, backgrounds = _photographs()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("demo-*.jpg"):
        stale.unlink()
    random = np.random.default_rng(SEED)
    rows = []
    for number in range(pictures):
        canvas = _background(backgrounds[number % len(backgrounds)], random)
        if number == 0 or number < pictures - 1:
            for face in _plant(canvas, portraits, random):
                rows.append(
                    {"image": f"demo-{number:03d}.jpg", **dict(zip(("x1", "y1", "x2", "y2"), face, strict=True))}
                )
        save_picture(folder / f"demo-{number:03d}.jpg", canvas)
    schema = pa.schema([("image", pa.string()), *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2"))])
    planted = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(planted, folder.parent / "planted.parquet")
    return planted


def count_found(run: Run, planted: pa.Table, threshold: float) -> str:
    """One line: how many planted faces have a box, and how many boxes have no planted face."""
    faces = run.faces().to_pandas()
    faces = faces[faces["score"] >= threshold]
    names = faces["uri"].map(lambda uri: Path(uri).name)
    truth = planted.to_pandas()
    columns = ["x1", "y1", "x2", "y2"]
    found = others = 0
    for name in sorted(set(names) | set(truth["image"])):
        boxes = torch.tensor(faces.loc[names == name, columns].to_numpy(np.float32))
        wanted = torch.tensor(truth.loc[truth["image"] == name, columns].to_numpy(np.float32))
        hits = box_iou(boxes, wanted) >= FOUND_IOU
        found += int(hits.any(dim=0).sum())
        others += int((~hits.any(dim=1)).sum())
    return (
        f"planted  {found} of {len(truth)} planted faces found (score >= {threshold:g}, IoU >= {FOUND_IOU:g}), "
        f"{others} other boxes; this shows that the run works, not how accurate it is"
    )


def _photographs() -> tuple[list[_Portrait], list[NDArray[np.uint8]]]:
    try:
        from skimage.data import astronaut, camera
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise SettingsError(f"the demo needs {error.name}; install it with: pip install 'retinafocus[demo]'") from error
    cameraman = np.repeat(camera()[:, :, None], 3, axis=2)
    portraits = [_Portrait(astronaut(), ASTRONAUT_FACE), _Portrait(cameraman, CAMERAMAN_FACE)]
    return portraits, [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]


def _background(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """A landscape enlarged to fill the canvas, with sensor noise, so that the JPEG weighs what a 4K photo weighs."""
    height, width = picture.shape[:2]
    scale = max(HEIGHT / height, WIDTH / width)
    size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)[:HEIGHT, :WIDTH].astype(np.int16)
    noise = random.normal(0, 2, (HEIGHT, WIDTH, 1)).astype(np.int16)
    noisy: NDArray[np.uint8] = np.clip(large + noise, 0, 255).astype(np.uint8)
    return noisy


def _plant(
    canvas: NDArray[np.uint8], portraits: list[_Portrait], random: np.random.Generator
) -> Iterator[tuple[float, float, float, float]]:
    """Paste portraits of every size where they do not cover one another; yields the faces' boxes."""
    taken: list[tuple[int, int, int, int]] = []
    for index, size in enumerate(reversed(FACE_SIZES)):
        # Two astronauts for each cameraman: a profile is the harder face.
        portrait = portraits[int(index % 3 == 2)]
        scale = size / portrait.side
        side = round(portrait.pixels.shape[0] * scale)
        place = _free_place(taken, side, random)
        if place is None:
            continue
        left, top = place
        taken.append((left, top, left + side, top + side))
        tile = cv2.resize(portrait.pixels, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        canvas[top : top + side, left : left + side] = tile[: HEIGHT - top]
        x1, y1, x2, y2 = (edge * side / portrait.pixels.shape[0] for edge in portrait.face)
        yield left + x1, top + y1, left + x2, top + y2


def _free_place(
    taken: list[tuple[int, int, int, int]], side: int, random: np.random.Generator
) -> tuple[int, int] | None:
    for _ in range(200):
        # The body of a large portrait may hang out at the bottom; its face never does.
        left, top = int(random.integers(0, WIDTH - side + 1)), int(random.integers(0, max(1, HEIGHT - side // 2)))
        if all(left >= x2 or left + side <= x1 or top >= y2 or top + side <= y1 for x1, y1, x2, y2 in taken):
            return left, top
    return None
