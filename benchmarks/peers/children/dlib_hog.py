"""dlib's frontal face detector: HOG and five linear filters, the weights compiled into the library."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upsample", type=int, required=True, help="times the photo is doubled")
    parser.add_argument("--threshold", type=float, required=True, help="0 is the default, lower finds more")
    options = parser.parse_args()
    serve(lambda: load(options.upsample, options.threshold))


def load(upsample: int, threshold: float) -> tuple[Mapping[str, Any], Look]:
    import dlib
    import numpy as np
    from PIL import Image, ImageOps

    detector = dlib.get_frontal_face_detector()

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
        rectangles, scores, _ = detector.run(pixels, upsample, threshold)
        # right and bottom are the last pixels that belong to the rectangle.
        boxes = [[one.left(), one.top(), one.right() + 1, one.bottom() + 1] for one in rectangles]
        return boxes, list(scores)

    hello = {"name": "dlib", "version": dlib.__version__, "licence": "BSL-1.0", "weights_in_wheel": True}
    return hello, look


if __name__ == "__main__":
    main()
