"""The cascade with a perfect focus map: what the labels would have marked stands in for what the network says.

The library is run as it is. Its pixel source tells which rectangle of which level comes next, and its engine answers
for that rectangle with the network's boxes and the labels' focus map. This needs an engine that takes one picture at a
time, as all CPU engines do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus import Detector
from retinafocus.cascade import CascadeConfig, PhotoResult, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.engines import Engine
from retinafocus.errors import SettingsError
from retinafocus.evaluation.matching import box_areas
from retinafocus.levels import Level
from retinafocus.models import Outputs
from retinafocus.postprocessing import PostConfig
from retinafocus.sources import Area, PixelSource
from retinafocus.training.targets import POSITIVE, FocusLabelConfig, focus_labels

SURE = 20.0
"""Logit of a marked cell, and minus that of the others: probabilities of 1 and 0 for every threshold."""

Box = tuple[int, int, int, int]


class WatchedSource:
    """A pixel source that remembers the rectangle it gave last."""

    def __init__(self, source: PixelSource) -> None:
        self.source = source
        self.given: tuple[Level, Box] | None = None

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return self.source.covered(scale)

    def load(self, level: Level) -> None:
        """See `PixelSource.load`."""
        self.source.load(level)

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`."""
        for number, pixels in self.source.read(level, boxes):
            left, top, right, bottom = boxes[number].tolist()
            self.given = level, (left, top, right, bottom)
            yield number, pixels


class OracleEngine:
    """An engine whose focus maps are the labels of one photo.

    Args:
        engine: finds the faces; takes one picture at a time.
        source: of the photo.
        photo: its labels.
        labels: which faces are marked, in network-input pixels of each level.

    Raises:
        SettingsError: the engine takes several pictures at a time, or its network has no focus branch to stand in for.
    """

    batch = 1

    def __init__(self, engine: Engine, source: WatchedSource, photo: LabelledPhoto, labels: FocusLabelConfig) -> None:
        if engine.batch != 1:
            raise SettingsError(f"the oracle needs an engine that takes one picture at a time, not {engine.device}")
        if engine.preset.focus is None:
            raise SettingsError(f"preset {engine.preset.name} has no focus branch, so nothing asks for a focus map")
        self.engine, self.source, self.photo, self.labels = engine, source, photo, labels
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self.preset = engine.preset
        self.stride = engine.preset.focus.stride

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """See `Engine.run`."""
        assert self.source.given is not None
        level, box = self.source.given
        marked = label_map(self.photo, level, box, self.labels, self.stride)
        logits = torch.from_numpy(np.where(marked, np.float32(SURE), np.float32(-SURE)))
        return self.engine.run(pixels)._replace(focus_logits=logits[None, None])


def label_map(photo: LabelledPhoto, level: Level, box: Box, labels: FocusLabelConfig, stride: int) -> NDArray[np.bool_]:
    """(ceil(h / stride), ceil(w / stride)) which cells of a rectangle of a level hold faces worth a finer look.

    Args:
        photo: its labels; faces and regions in doubt are not marked.
        level: of the photo.
        box: xyxy level pixels.
        labels: sizes in level pixels.
        stride: level pixels per cell.
    """
    corner = np.array([*box[:2], *box[:2]], np.float32)
    sides = np.sqrt(box_areas(photo.boxes.astype(np.float64))).astype(np.float32) * np.float32(level.scale)
    painted = focus_labels(
        torch.from_numpy(level.from_photo(photo.boxes) - corner),
        torch.from_numpy(sides),
        torch.from_numpy(level.from_photo(photo.ignore) - corner),
        size=(box[3] - box[1], box[2] - box[0]),
        stride=stride,
        config=labels,
    )
    marked: NDArray[np.bool_] = (painted == POSITIVE).numpy()
    return marked


def look_with_labels(
    detector: Detector, photo: LabelledPhoto, cascade: CascadeConfig, labels: FocusLabelConfig, post: PostConfig
) -> PhotoResult:
    """Find the faces of a labelled photo, looking where its labels say."""
    data = photo.path.read_bytes()
    prepared = prepare(data, min_face=detector.config.min_face, preset=detector.preset, config=cascade)
    source = WatchedSource(prepared.source)
    engine = OracleEngine(detector.engine, source, photo, labels)
    return look(dataclasses.replace(prepared, source=source), engine, cascade, post)
