"""MediaPipe's face detection (BlazeFace)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from serve import Look, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=int, required=True, help="model_selection: 0 short range, 1 full range")
    parser.add_argument("--threshold", type=float, required=True, help="min_detection_confidence; 0.5 is the default")
    options = parser.parse_args()
    serve(lambda: load(options.model, options.threshold))


def load(model: int, threshold: float) -> tuple[Mapping[str, Any], Look]:
    import cv2
    import mediapipe

    cv2.setNumThreads(1)
    detector = mediapipe.solutions.face_detection.FaceDetection(
        model_selection=model, min_detection_confidence=threshold
    )

    def look(photo: str) -> tuple[list[list[float]], list[float]]:
        pixels = cv2.imread(photo)  # turned upright
        if pixels is None:
            raise ValueError("OpenCV cannot read the photo")
        height, width = pixels.shape[:2]
        found = detector.process(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).detections or []
        boxes = []
        for one in found:
            box = one.location_data.relative_bounding_box
            boxes.append(
                [box.xmin * width, box.ymin * height, (box.xmin + box.width) * width, (box.ymin + box.height) * height]
            )
        return boxes, [one.score[0] for one in found]

    hello = {
        "name": "MediaPipe BlazeFace",
        "version": mediapipe.__version__,
        "licence": "Apache-2.0",
        "weights_in_wheel": True,
    }
    return hello, look


if __name__ == "__main__":
    main()
