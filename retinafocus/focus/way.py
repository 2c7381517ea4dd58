"""How far one photo has come: what is looked at next, what was seen, and what it cost."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.engines import photo_errors
from retinafocus.errors import PhotoError
from retinafocus.faces import Faces
from retinafocus.focus.chips import chips_around, tiles_of
from retinafocus.focus.settings import CascadeConfig
from retinafocus.focus.stacking import Look, Stack, stack
from retinafocus.levels import Level, LevelPlan
from retinafocus.models import Outputs, Preset
from retinafocus.photos import PhotoHeader
from retinafocus.postprocessing import Candidates, PostConfig, check_finite, find_all_candidates, sigmoid
from retinafocus.sources import PixelSource
from retinafocus.voting import Voting

Box = tuple[int, int, int, int]
"""xyxy in level pixels, right and bottom exclusive."""

STEPS = ("decode", "network", "other")
"""What a photo's time is spent on; other is candidates, chips and stacking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPhoto:
    """A photo on its way to the network."""

    header: PhotoHeader | None
    """None for a photo that was given as pixels."""

    plan: LevelPlan
    source: PixelSource

    ms_decode: float
    """Milliseconds from bytes to what the levels looked at whole need."""

    voting: Voting | None = None
    """How boxes that overlap become one; None: the best one stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """How a photo's faces came about."""

    stack: Stack
    looks: tuple[Look, ...]

    focus_maps: dict[int, NDArray[np.float32]]
    """For each level that had one, by index: (H, W) probabilities, one per cell; 0 where nobody looked."""

    times: tuple[dict[str, float], ...]
    """Milliseconds by step (decode, network, other) of each level that was looked at, coarsest first. What `prepare`
    decoded is not in them, nor stacking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoResult:
    """What looking at one photo gave, and what it cost."""

    faces: Faces
    header: PhotoHeader | None
    """None for a photo that was given as pixels."""
    plan: LevelPlan
    pixels_processed: int
    """Pixels that went through the network, over all levels."""
    chips: int
    """Rectangles looked at on levels that the focus map chooses from."""
    focus_share: float
    """Share of the finest level that was looked at, 0..1; overlaps of tiles count once."""
    chip_pixels: int
    chip_pixels_asked: int
    """Pixels of the chips, and how many of them the focus map had asked for: the rest made them rectangles, of sides
    that the network knows."""
    ms_decode: float
    ms_network: float
    ms_other: float
    """Milliseconds for candidates, chips and stacking."""
    trace: Trace


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a level on its way through the network."""

    way: Way
    level: Level
    box: Box
    pixels: NDArray[np.uint8]


@dataclass(slots=True)
class Way:
    """How far one photo has come."""

    photo: PreparedPhoto
    preset: Preset
    config: CascadeConfig
    post: PostConfig
    error: PhotoError | None = None
    looks: list[Look] = field(default_factory=list)
    focus_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    boxes: NDArray[np.int32] = field(init=False)
    """Rectangles of the next level to look at; none: done."""
    index: int = 0
    said: list[tuple[Box, Outputs]] = field(default_factory=list)
    """Rectangles of this level, and what the network said about each, that was not read yet."""
    said_pixels: int = 0
    """Of those rectangles together."""
    chips: int = 0
    chip_pixels: int = 0
    chip_pixels_asked: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds_until: list[dict[str, float]] = field(default_factory=list)
    """`seconds` as they were when each level was done."""

    def __post_init__(self) -> None:
        self.boxes = self._tiled([(0, 0, *self.photo.plan.levels[0].size[::-1])])

    @property
    def goes_on(self) -> bool:
        return self.error is None and len(self.boxes) > 0

    @property
    def level(self) -> Level:
        return self.photo.plan.levels[self.index]

    def load(self) -> None:
        """Decode what the next level needs; an error ends the way."""
        start = time.perf_counter()
        with self._errors_caught():
            self.photo.source.load(self.level)
        self.seconds["decode"] += time.perf_counter() - start

    def parts(self) -> Iterator[Part]:
        """The pixels of the next level's rectangles; an error ends them and the way."""
        if self.error is not None:
            return
        with self._errors_caught():
            start = time.perf_counter()
            for number, pixels in self.photo.source.read(self.level, self.boxes):
                if self.level.mirrored:
                    pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
                self.seconds["decode"] += time.perf_counter() - start
                left, top, right, bottom = self.boxes[number].tolist()
                yield Part(self, self.level, (left, top, right, bottom), pixels)
                if self.error is not None:  # of the network: the others need not be looked at
                    return
                start = time.perf_counter()

    def take(self, part: Part, outputs: Outputs) -> None:
        """What the network said about one rectangle: outputs for a batch of one."""
        self.said.append((part.box, outputs))
        self.said_pixels += area(part.box)
        # A level's rectangles are read together, but no more than as much as one large picture takes in memory.
        if self.said_pixels >= self.config.network_pixels:
            with self._errors_caught():
                self._understand()

    def saw(self, box: Box, candidates: Candidates, focus_logits: NDArray[np.float32] | None) -> None:
        """What was found in one rectangle of this level.

        Args:
            box: one of `boxes`.
            candidates: in pixels of the rectangle.
            focus_logits: (h, w) of its cells; None where there is no map, or none is needed.
        """
        self.looks.append(Look(self.level, box, candidates))
        if focus_logits is not None and self._needs_map(self.level):
            self._paint(box, focus_logits)

    def advance(self) -> None:
        """Choose the rectangles of the next level."""
        finished = self.level
        with self._errors_caught():
            self._understand()
            start = time.perf_counter()
            self._choose()
            self.seconds["other"] += time.perf_counter() - start
        # The time so far also stands for each level that was left out.
        self.seconds_until.extend(dict(self.seconds) for _ in range(self.index - finished.index))

    def answer(self) -> PhotoResult | PhotoError:
        """What was found, or what kept the photo from being looked at."""
        with self._errors_caught():
            return self.error or self._result()
        assert self.error is not None
        return self.error

    def _result(self) -> PhotoResult:
        start = time.perf_counter()
        stacked = stack(
            self.looks,
            border=self.config.border,
            nms_iou=self.post.nms_iou,
            soft_sigma=self.post.soft_sigma,
            score_floor=self.post.score_floor,
            keep_top_k=self.post.keep_top_k,
            left=self.config.left_to_finer,
            voting=self.photo.voting,
        )
        return PhotoResult(
            faces=stacked.faces,
            header=self.photo.header,
            plan=self.photo.plan,
            pixels_processed=sum(area(look.box) for look in self.looks),
            chips=self.chips,
            focus_share=share_looked_at(self.photo.plan.finest, self.looks),
            chip_pixels=self.chip_pixels,
            chip_pixels_asked=self.chip_pixels_asked,
            ms_decode=self.photo.ms_decode + 1000 * self.seconds["decode"],
            ms_network=1000 * self.seconds["network"],
            ms_other=1000 * (self.seconds["other"] + time.perf_counter() - start),
            trace=Trace(
                stack=stacked, looks=tuple(self.looks), focus_maps=self.focus_maps, times=tuple(self._level_times())
            ),
        )

    @contextlib.contextmanager
    def _errors_caught(self) -> Iterator[None]:
        """An error of this photo ends its way and no other's."""
        try:
            with photo_errors(cv2.error):
                yield
        except PhotoError as error:
            self.error = error

    def _understand(self) -> None:
        """Find the candidates in what the network said about rectangles of this level, and lay out its focus map."""
        start = time.perf_counter()
        said, self.said, self.said_pixels = self.said, [], 0
        if said:
            boxes, outputs = zip(*said, strict=True)
            sizes = [(bottom - top, right - left) for left, top, right, bottom in boxes]
            found = find_all_candidates(outputs, sizes, self.preset, self.post)
            if self.level.mirrored:
                found = [each.mirrored(width) for each, (_, width) in zip(found, sizes, strict=True)]
            for box, each, candidates in zip(boxes, outputs, found, strict=True):
                logits = each.focus_logits if self._needs_map(self.level) else None
                self.saw(box, candidates, None if logits is None else logits[0, 0].float().cpu().numpy())
        self.seconds["other"] += time.perf_counter() - start

    def _choose(self) -> None:
        """Go to the next level; no rectangles of it: done."""
        finished, self.index = self.level, self.index + 1
        if self.index == len(self.photo.plan.levels):
            self.boxes = np.empty((0, 4), np.int32)
        elif self.index < self.photo.plan.whole:
            self.boxes = self._tiled([(0, 0, *self.level.size[::-1])])
        elif self._is_crowded(finished):
            self.index = len(self.photo.plan.levels) - 1
            self.boxes = self._tiled([(0, 0, *self.level.size[::-1])])
            self.chips += len(self.boxes)
        else:
            self.boxes = self._tiled(self._chips(finished).tolist())
            self.chips += len(self.boxes)

    def _is_crowded(self, level: Level) -> bool:
        """Whether focus pixels cover so much of a level that those between it and the finest would spare nothing."""
        threshold = self.config.chips_of(self.index - self.photo.plan.whole, self.preset).threshold
        assert threshold is not None
        return float((self.focus_maps[level.index] >= threshold).mean()) > self.config.crowded

    def _needs_map(self, level: Level) -> bool:
        return self.photo.plan.whole - 1 <= level.index < len(self.photo.plan.levels) - 1

    def _paint(self, box: Box, logits: NDArray[np.float32]) -> None:
        """Lay a rectangle's focus map into its level's; where they overlap the larger probability counts."""
        check_finite(logits)
        probabilities = sigmoid(logits)
        stride = self._focus_stride()
        if self.index not in self.focus_maps:
            self.focus_maps[self.index] = np.zeros([math.ceil(side / stride) for side in self.level.size], np.float32)
        canvas = self.focus_maps[self.index]
        left, top = box[:2]
        # A rectangle that was shifted to the level's border need not begin at a cell: then it counts for both cells.
        for row in {top // stride, -(-top // stride)}:
            for column in {left // stride, -(-left // stride)}:
                under = canvas[row : row + len(probabilities), column : column + probabilities.shape[1]]
                np.maximum(under, probabilities[: under.shape[0], : under.shape[1]], out=under)

    def _chips(self, parent: Level) -> NDArray[np.int32]:
        """(N, 4) rectangles of the next level, from the focus map of the one before; the whole level if they nearly
        fill it."""
        config = self.config.chips_of(self.index - self.photo.plan.whole, self.preset)
        stride = self._focus_stride()
        assert config.threshold is not None
        focus_map = self.focus_maps[parent.index]
        cells = chips_around(
            focus_map,
            threshold=config.threshold,
            dilation=config.dilation,
            min_side=math.ceil(config.min_chip / stride),
        )
        height, width = self.level.size
        # One coarse pixel is exactly so many finer ones: scales are powers of two. (The coarse pixels may show up to
        # one more of them than the photo has; chips have more room around faces than that.)
        cell = stride * round(self.level.scale / parent.scale)
        size = np.minimum((cells[:, 2:] - cells[:, :2]) * cell, (width, height))
        corner = np.minimum(cells[:, :2] * cell, (width, height) - size)
        chips = np.concatenate([corner, corner + size], axis=1).astype(np.int32)
        if size.prod(axis=1).sum() > self.config.whole_above * height * width:
            return np.array([(0, 0, width, height)], np.int32)
        self.chip_pixels += int(size.prod(axis=1).sum())
        self.chip_pixels_asked += int((focus_map >= config.threshold).sum()) * cell**2
        return chips

    def _tiled(self, boxes: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        overlap = self.config.tile_overlap(self.preset)
        tiles = [tiles_of(tuple(box), self.config.network_pixels, overlap) for box in boxes]  # type: ignore[arg-type]
        parts = np.concatenate([np.empty((0, 4), np.int32), *tiles])
        # Those of one shape in a row: an engine that prepares itself for a shape then does so once.
        height, width = parts[:, 3] - parts[:, 1], parts[:, 2] - parts[:, 0]
        return parts[np.lexsort((width, height))]

    def _level_times(self) -> Iterator[dict[str, float]]:
        before: dict[str, float] = {}
        for until in self.seconds_until:
            yield {step: 1000 * (until.get(step, 0.0) - before.get(step, 0.0)) for step in STEPS}
            before = until

    def _focus_stride(self) -> int:
        assert self.preset.focus is not None
        return self.preset.focus.stride


def share_looked_at(level: Level, looks: Sequence[Look]) -> float:
    """How much of a level was looked at, 0..1; overlaps of its rectangles count once."""
    boxes = [look.box for look in looks if look.level.index == level.index]
    if not boxes:
        return 0.0
    # On a grid of cells: exact areas of overlapping rectangles are not worth their price.
    cell = 32
    seen = np.zeros([math.ceil(side / cell) for side in level.size], bool)
    for left, top, right, bottom in boxes:
        seen[top // cell : math.ceil(bottom / cell), left // cell : math.ceil(right / cell)] = True
    return float(seen.mean())


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
