"""OpenCV's Haar cascade for frontal faces, which comes with the package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enlarge", type=int, required=True, help="how many times larger the photo is made")
    parser.add_argument("--neighbours", type=int, required=True, help="minNeighbors; 3 is the default")
    options = parser.parse_args()
    serve(lambda: load(options.enlarge, options.neighbours))


def load(enlarge: int, neighbours: int) -> tuple[Mapping[str, Any], Look]:
    import cv2

    cv2.setNumThreads(1)
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    if cascade.empty():
        raise FileNotFoundError("haarcascade_frontalface_default.xml is not in the package")

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = cv2.imread(photo, cv2.IMREAD_GRAYSCALE)  # turned upright
        if pixels is None:
            raise ValueError("OpenCV cannot read the photo")
        if enlarge != 1:
            pixels = cv2.resize(pixels, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        # The only score there is: how many windows say so. Stages and weights of detectMultiScale3 rank no better.
        boxes, counts = cascade.detectMultiScale2(pixels, minNeighbors=neighbours)
        corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
        return [[float(side) / enlarge for side in box] for box in corners], [float(count) for count in counts]

    hello = {
        "name": "OpenCV Haar",
        "version": cv2.__version__,
        "licence": "Apache-2.0, cascade BSD",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
