"""dlib's CNN face detector (max-margin object detection), with the weights that face_recognition_models carries."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upsample", type=int, required=True, help="times the photo is doubled")
    options = parser.parse_args()
    serve(lambda: load(options.upsample))


def load(upsample: int) -> tuple[Mapping[str, Any], Look]:
    import dlib
    import numpy as np
    from PIL import Image, ImageOps

    # The package itself asks for pkg_resources, which newer setuptools lack; only its file is wanted.
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        raise ImportError("face_recognition_models is not installed")
    weights = Path(package.origin).parent / "models" / "mmod_human_face_detector.dat"
    detector = dlib.cnn_face_detection_model_v1(str(weights))

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
        found = detector(pixels, upsample)
        boxes = [[one.rect.left(), one.rect.top(), one.rect.right() + 1, one.rect.bottom() + 1] for one in found]
        return boxes, [one.confidence for one in found]

    models = importlib.metadata.version("face_recognition_models")
    hello = {
        "name": "dlib CNN",
        "version": f"{dlib.__version__}, face_recognition_models {models}",
        "licence": "BSL-1.0, weights CC0",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
