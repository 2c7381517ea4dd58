"""MTCNN as the package of that name has it, with TensorFlow."""

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
    import numpy as np
    import tensorflow as tf
    from mtcnn import MTCNN
    from PIL import Image, ImageOps

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    detector = MTCNN(device="CPU:0")
    proposals, refined, last = thresholds

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
        faces = detector.detect_faces(
            pixels,
            box_format="xyxy",
            min_face_size=min_face,
            threshold_pnet=proposals,
            threshold_rnet=refined,
            threshold_onet=last,
        )
        return [[float(side) for side in face["box"]] for face in faces], [float(face["confidence"]) for face in faces]

    hello = {
        "name": "mtcnn",
        "version": f"{importlib.metadata.version('mtcnn')}, TensorFlow {tf.__version__}",
        "licence": "MIT",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
