"""RetinaFocus itself, spoken to and measured like the others. The only script here that imports it."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-face", type=float, required=True, help="smallest face to find, px")
    parser.add_argument("--precision", required=True, help="float32 or int8")
    parser.add_argument("--threshold", type=float, help="score_threshold (default: the library's own)")
    parser.add_argument("--weights", help="weights file (default: the ones that ship)")
    options = parser.parse_args()
    serve(lambda: load(options))


def load(options: argparse.Namespace) -> tuple[Mapping[str, Any], Look]:
    from retinafocus import Detector, DetectorConfig

    threshold = DetectorConfig().score_threshold if options.threshold is None else options.threshold
    config = DetectorConfig(
        min_face=options.min_face,
        score_threshold=threshold,
        device="cpu",
        engine="openvino",
        precision=options.precision,
        threads=1,
    )
    detector = Detector.from_pretrained(options.weights, config)

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        faces = detector.detect(photo)
        return faces.boxes.tolist(), faces.scores.tolist()

    hello = {
        "name": "RetinaFocus",
        "version": f"{importlib.metadata.version('retinafocus')}, OpenVINO {importlib.metadata.version('openvino')}",
        "licence": "Apache-2.0, weights non-commercial research",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
