"""MTCNN as facenet-pytorch has it."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-face", type=int, required=True, help="min_face_size")
    parser.add_argument("--thresholds", nargs=3, type=float, required=True, help="of the three networks")
    options = parser.parse_args()
    serve(lambda: load(options.min_face, options.thresholds))


def load(min_face: int, thresholds: Sequence[float]) -> tuple[Mapping[str, Any], Look]:
    import torch
    from facenet_pytorch import MTCNN
    from PIL import Image, ImageOps

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    detector = MTCNN(keep_all=True, min_face_size=min_face, thresholds=list(thresholds), device="cpu")

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        boxes, scores = detector.detect(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
        return ([], []) if boxes is None else (boxes.tolist(), scores.tolist())

    hello = {
        "name": "facenet-pytorch MTCNN",
        "version": importlib.metadata.version("facenet-pytorch"),
        "licence": "MIT",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
