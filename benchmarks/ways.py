"""The ways to look at a photo that the cascade is compared with: same network, same engine, one thread.

Each takes an encoded photo and gives faces. The finest scale is the same for all of them: the one at which the smallest
wanted face is large enough for the network (1 for 20 px and the weights that ship, 2 for 10 px).

* decode: every pixel, and nothing else;
* exhaustive: every level whole, the library's own oracle;
* whole: one picture at the finest scale;
* tiles: slices of 1280 px that overlap by a fifth, and the whole photo shrunk to 1280 px; boxes that a slice cuts are
  dropped, and duplicates as in the library;
* sahi: the same slices and the same whole photo through the package of that name, which keeps cut boxes and removes
  duplicates itself, at the library's overlap;
* focus: RetinaFocus.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig, look, prepare
from retinafocus.evaluation.average_precision import HasBoxesAndScores, PhotoDetections
from retinafocus.focus.stacking import Look, stack
from retinafocus.levels import Level, LevelPlan, plan_levels
from retinafocus.nms import nms
from retinafocus.photos import decode
from retinafocus.postprocessing import Candidates, PostConfig, find_candidates

SLICE = 1280
OVERLAP = 0.2
"""Sliced inference as its authors have it: overlap of neighbouring slices in parts of a slice. Source: SAHI, arXiv
2202.06934, and the defaults of the package."""

EVALUATION_SCORE = 0.02
"""Lowest score kept where average precision is measured, which needs the unsure faces too. Time is measured at the
library's own default: duplicates of thousands of boxes nobody wants would hide what looking costs."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one way found in one photo, and how much it looked at."""

    faces: HasBoxesAndScores = dataclasses.field(default_factory=PhotoDetections)
    pixels: int = 0
    """Through the network."""
    finest_pixels: int = 0
    """Of the finest level, looked at or not."""
    chips: int = 0
    chip_share: float = 0.0
    """Part of the finest level that lies in chips, 0..1."""


Way = Callable[[bytes], Answer]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all ways share."""

    weights: str | None = None
    engine: str = "auto"
    precision: str = "float32"
    min_face: float = 20.0
    score_threshold: float = DetectorConfig().score_threshold
    device: str = "cpu"


DECODERS = ("simplejpeg", "OpenCV")
"""Of which the faster is the floor."""

WAYS = ("exhaustive", "whole", "tiles", "sahi", "focus")


def make_way(name: str, settings: Settings) -> Way:
    """One of `DECODERS` or `WAYS`, ready to be called again and again."""
    cv2.setNumThreads(1)
    if name in DECODERS:
        return functools.partial(_decode_only, name)
    if name in ("exhaustive", "focus"):
        return library_way(settings, CascadeConfig(mode=name))
    detector = _detector(settings)
    if name == "sahi":
        return functools.partial(_through_sahi, detector, _sahi_model(detector))
    return functools.partial(_look, detector, with_slices=name == "tiles")


def library_way(settings: Settings, cascade: CascadeConfig) -> Way:
    """RetinaFocus itself with any settings of the cascade."""
    return functools.partial(_through_library, _detector(settings), cascade)


def usable_ways() -> list[str]:
    """All that can be had here; sahi only where the package is."""
    return [name for name in WAYS if name != "sahi" or importlib.util.find_spec("sahi")]


@functools.lru_cache(maxsize=2)
def _detector(settings: Settings) -> Detector:
    """The one whose engine and settings all ways of these settings use."""
    config = DetectorConfig(
        min_face=settings.min_face,
        score_threshold=settings.score_threshold,
        device=settings.device,
        engine=settings.engine,
        precision=settings.precision,
        threads=1,
        cascade=CascadeConfig(mode="exhaustive"),
    )
    return Detector.from_pretrained(settings.weights, config)


def _decode_only(name: str, data: bytes) -> Answer:
    if name == "OpenCV":
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    else:
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    return Answer()


def _through_library(detector: Detector, cascade: CascadeConfig, data: bytes) -> Answer:
    prepared = prepare(data, min_face=detector.config.min_face, preset=detector.preset, config=cascade)
    result = look(prepared, detector.engine, cascade, _post(detector))
    return Answer(
        faces=result.faces,
        pixels=result.pixels_processed,
        finest_pixels=result.plan.finest.pixels,
        chips=result.chips,
        chip_share=result.focus_share if result.chips else 0.0,
    )


def _look(detector: Detector, data: bytes, *, with_slices: bool) -> Answer:
    """The whole photo at the finest scale, or slices of it and the whole photo shrunk to a slice."""
    pixels, plan = _decoded(detector, data)
    finest = dataclasses.replace(plan.finest, face_range=(0.0, math.inf))
    if with_slices:
        boxes = slices(finest.size)
        looks = [_seen(detector, finest, box, pixels[box[1] : box[3], box[0] : box[2]]) for box in boxes]
        if len(boxes) > 1:
            coarse = _shrunk_level(finest)
            shrunk = _resized(pixels, coarse.size)
            looks.append(_seen(detector, coarse, (0, 0, coarse.size[1], coarse.size[0]), shrunk))
    else:
        looks = [_seen(detector, finest, (0, 0, finest.size[1], finest.size[0]), pixels)]
    post = detector.config.post
    border = detector.config.cascade.border
    found = stack(looks, border=border, nms_iou=post.nms_iou, keep_top_k=post.keep_top_k)
    seen = sum((look.box[2] - look.box[0]) * (look.box[3] - look.box[1]) for look in looks)
    return Answer(faces=found.faces, pixels=seen, finest_pixels=finest.pixels)


def _decoded(detector: Detector, data: bytes) -> tuple[Pixels, LevelPlan]:
    """The photo at the finest scale of the library's plan, and the plan."""
    pixels = decode(data)
    size = (pixels.shape[0], pixels.shape[1])
    plan = plan_levels(size, min_face=detector.config.min_face, face_range=detector.preset.face_range)
    return _resized(pixels, plan.finest.size), plan


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    method = cv2.INTER_AREA if size[0] < pixels.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=method), np.uint8)


def _shrunk_level(finest: Level) -> Level:
    """The level whose long side is that of a slice."""
    factor = SLICE / max(finest.size)
    height, width = (max(1, round(side * factor)) for side in finest.size)
    return dataclasses.replace(finest, index=-1, scale=finest.scale * factor, size=(height, width))


def slices(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """xyxy of the slices of a picture (height, width), row by row; the last of a row or column is shifted back."""
    rows, columns = (_starts(side) for side in size)
    return [
        (left, top, min(left + SLICE, size[1]), min(top + SLICE, size[0]))
        for top, left in itertools.product(rows, columns)
    ]


def _starts(length: int) -> list[int]:
    step = SLICE - int(OVERLAP * SLICE)
    last = max(0, length - SLICE)
    return [*range(0, last, step), last]


def _seen(detector: Detector, level: Level, box: tuple[int, int, int, int], pixels: Pixels) -> Look:
    return Look(level, box, _candidates(detector, pixels))


def _candidates(detector: Detector, pixels: Pixels) -> Candidates:
    engine = detector.engine
    outputs = engine.run(np.ascontiguousarray(pixels)[None])
    return find_candidates(outputs, (pixels.shape[0], pixels.shape[1]), engine.preset, _post(detector))


def _post(detector: Detector) -> PostConfig:
    return dataclasses.replace(detector.config.post, score_floor=detector.config.score_threshold)


def _through_sahi(detector: Detector, model: Any, data: bytes) -> Answer:
    """Sliced prediction of the package, with the removal of duplicates it takes itself at low scores (NMS on IoU)."""
    from sahi.predict import get_sliced_prediction

    pixels, plan = _decoded(detector, data)
    model.pixels = 0
    result = get_sliced_prediction(
        pixels,
        model,
        slice_height=SLICE,
        slice_width=SLICE,
        overlap_height_ratio=OVERLAP,
        overlap_width_ratio=OVERLAP,
        postprocess_type="NMS",
        postprocess_match_metric="IOU",
        postprocess_match_threshold=detector.config.post.nms_iou,
        verbose=0,
    )
    found = result.object_prediction_list
    boxes = np.array([item.bbox.to_xyxy() for item in found], np.float32).reshape(-1, 4)
    ratio_y, ratio_x = plan.finest.ratio
    boxes *= np.array([ratio_x, ratio_y, ratio_x, ratio_y], np.float32)
    scores = np.array([item.score.value for item in found], np.float32)
    faces = PhotoDetections(boxes, scores)
    return Answer(faces=faces, pixels=model.pixels, finest_pixels=plan.finest.pixels)


def _found_in_one(detector: Detector, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes in pixels of the picture and scores, best first and without duplicates, as detectors commonly give them."""
    found = _candidates(detector, pixels)
    order = np.argsort(-found.scores, kind="stable")
    boxes, scores = torch.from_numpy(found.boxes[order]), torch.from_numpy(found.scores[order])
    kept = nms(boxes, scores, detector.config.post.nms_iou)
    return boxes[kept].numpy(), scores[kept].numpy()


def _sahi_model(detector: Detector) -> Any:
    """Our engine as the package wants a detector: it shrinks what is larger than a slice, and removes duplicates."""
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction

    class SahiModel(DetectionModel):  # type: ignore[misc, unused-ignore]  # without the package its types are unknown
        pixels = 0

        def load_model(self) -> None:
            self.category_mapping = {"0": "face"}

        def perform_inference(self, image: Pixels) -> None:
            factor = min(1.0, SLICE / max(image.shape[:2]))
            height, width = (max(1, round(side * factor)) for side in image.shape[:2])
            self.pixels += height * width
            boxes, scores = _found_in_one(detector, _resized(image, (height, width)))
            self._original_predictions = (boxes / factor, scores)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = (None,)
        ) -> None:
            # The package gives a list of pairs for slices, and one pair for the whole photo.
            shift, shape = (
                list(values[0]) if isinstance(values[0], (list, tuple)) else values
                for values in (shift_amount_list, full_shape_list)
            )
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box.tolist(),
                        category_id=0,
                        category_name="face",
                        score=float(score),
                        shift_amount=shift,
                        full_shape=shape,
                    )
                    for box, score in zip(*self._original_predictions, strict=True)
                ]
            ]

    return SahiModel(device="cpu", confidence_threshold=detector.config.score_threshold)
