"""How well weights find faces: AP by face size, one table for each set of photos, several weights side by side.

    python -m benchmarks.accuracy FOLDER --weights A.safetensors B.safetensors [--crowd SOURCE ...] [--min-face 20 10]

FOLDER is a folder of labelled photos in the Parquet form that none of the weights was trained on. Three sets are made:

* labelled: the photos of all sources but the crowd ones, photos without faces included;
* crowd: the photos of the sources named by --crowd, whose labels may be of another kind, so never mixed with others;
* tiny: the labelled photos shrunk 2 to 6 times onto 4K canvases that are covered with the photos without faces at their
  own size, nothing enlarged; the same canvases every time. Faces that end up below 4 px are ignored.

The scorer is the project's own (`retinafocus.evaluation`); the table says recall and false positives at --at-score.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.mosaics import Pasted, paved, shrunk, united
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.evaluation.average_precision import PhotoTruth, score
from retinafocus.photos import decode

CANVAS = (2160, 3840)
SHRINK = (2.0, 6.0)
SMALLEST_FACE = 4.0
PHOTOS_ON_A_CANVAS = 8
GUTTER = 8

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """Pixels made when they are needed, and what is known about them."""

    pixels: Callable[[], Pixels]
    truth: PhotoTruth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="labelled photos in the Parquet form")
    parser.add_argument("--weights", nargs="+", required=True, help="weights files to compare")
    parser.add_argument("--crowd", nargs="*", default=[], help="sources to report apart")
    parser.add_argument(
        "--min-face", nargs="+", type=float, default=[20.0], help="smallest faces to look for (default: 20)"
    )
    parser.add_argument(
        "--sets", nargs="+", default=["labelled", "crowd", "tiny"], help="which sets (default: all three)"
    )
    parser.add_argument("--at-score", type=float, default=0.5, help="of recall and false positives (default: 0.5)")
    parser.add_argument("--mode", default="auto", help="auto, focus or exhaustive (default: auto, as in a job)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--engine", default="auto", help="auto, torch, openvino or onnx (default: auto)")
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], help="precisions to compare, such as float32 int8"
    )
    options = parser.parse_args()
    photos = read_parquet_folder(options.folder)
    labelled = [photo for photo in photos if photo.source not in options.crowd]
    sets = {
        "labelled": [_scene(photo) for photo in labelled],
        "crowd": [_scene(photo) for photo in photos if photo.source in options.crowd],
        "tiny": list(tiny_scenes(labelled, seed=0)),
    }
    compared = itertools.product(options.sets, options.min_face, options.weights, options.precision)
    for name, min_face, weights, precision in compared:
        config = DetectorConfig(
            min_face=min_face,
            score_threshold=0.02,
            device=options.device,
            engine=options.engine,
            precision=precision,
            threads=1,
            cascade=CascadeConfig(mode=options.mode),
        )
        detector = Detector.from_pretrained(weights, config)
        found = [detector.detect(scene.pixels()) for scene in sets[name]]
        title = f"{name}, min_face {min_face:g}: {Path(weights).name} ({detector.preset.name}, {precision})"
        print(f"### {title}\n", flush=True)
        scores = score([scene.truth for scene in sets[name]], found, at_score=options.at_score)
        print(scores.to_markdown(), flush=True)


def tiny_scenes(photos: Sequence[LabelledPhoto], seed: int) -> Iterator[Scene]:
    """4K canvases of photos without faces, with shrunk photos of faces among them.

    Args:
        photos: with and without faces.
        seed: decides every place and size.
    """
    random = np.random.default_rng(seed)
    negatives = [photo for photo in photos if not len(photo.boxes) and not len(photo.ignore)]
    positives = [photo for photo in photos if len(photo.boxes)]
    order = random.permutation(len(positives))
    for start in range(0, len(order), PHOTOS_ON_A_CANVAS):
        chosen = [positives[number] for number in order[start : start + PHOTOS_ON_A_CANVAS]]
        pasted = _pasted(chosen, random)
        floor = int(random.integers(1 << 30))
        yield Scene(lambda pasted=pasted, floor=floor: _paint(pasted, negatives, floor), _tiny_truth(pasted))  # type: ignore[misc]


def _pasted(photos: Sequence[LabelledPhoto], random: np.random.Generator) -> list[Pasted]:
    """Where each shrunk photo lies: one in each cell of a grid that covers the canvas."""
    columns, rows = PHOTOS_ON_A_CANVAS // 2, 2
    cell = (CANVAS[0] // rows, CANVAS[1] // columns)
    pasted = []
    for number, photo in zip(random.permutation(columns * rows), photos, strict=False):
        factor = max(random.uniform(*SHRINK), photo.size[0] / cell[0], photo.size[1] / cell[1])
        height, width = (max(1, round(side / factor)) for side in photo.size)
        top = int(number // columns * cell[0] + random.integers(0, cell[0] - height + 1))
        left = int(number % columns * cell[1] + random.integers(0, cell[1] - width + 1))
        pasted.append(Pasted(photo, (left, top, width, height)))
    return pasted


def _tiny_truth(pasted: Sequence[Pasted]) -> PhotoTruth:
    known = united(pasted, CANVAS, "tiny", SMALLEST_FACE)
    return PhotoTruth(known.boxes, known.ignore)


def _paint(pasted: Sequence[Pasted], negatives: Sequence[LabelledPhoto], seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    canvas = paved((negatives[int(random.integers(len(negatives)))] for _ in itertools.count()), CANVAS)
    for item in pasted:
        left, top, width, height = item.place
        canvas[max(0, top - GUTTER) : top + height + GUTTER, max(0, left - GUTTER) : left + width + GUTTER] = 128
        canvas[top : top + height, left : left + width] = shrunk(item)
    return canvas


def _scene(photo: LabelledPhoto) -> Scene:
    return Scene(lambda: decode(photo.path.read_bytes()), PhotoTruth(photo.boxes, photo.ignore))


if __name__ == "__main__":
    main()
