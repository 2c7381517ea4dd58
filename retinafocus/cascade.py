"""One photo's way: encoded bytes to pixels, the whole photo coarsely, chips of it finely, to faces.

The way has two halves, so that a job can read ahead: `prepare` needs no network and may run in threads, `look_many` is
the network and what follows. Photos go through it side by side, level by level, so that an engine that gains from
batches gets full ones; the answer for each is the same as if it went alone.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retinafocus.engines import Engine
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.faces import Faces
from retinafocus.focus.chips import ChipConfig, chips_around, focus_pixels, tiles_of
from retinafocus.focus.stacking import Look, Stack, stack
from retinafocus.levels import ZOOM, Level, LevelPlan, plan_levels
from retinafocus.models import Outputs, Preset
from retinafocus.photos import MAX_PIXELS, PhotoHeader, read_header
from retinafocus.postprocessing import PostConfig, find_candidates
from retinafocus.sources import DecodedPhoto, GivenPixels, PixelSource, plan_decoding

# Threads that decode for the photos of one call: one photo at a time would keep an engine that is fast waiting.
MAX_DECODERS = 8

MODES = ("auto", "focus", "exhaustive")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """Where a photo is looked at more closely."""

    mode: str = "auto"
    """focus: finer levels only where the focus map points; exhaustive: every level whole; auto: focus where the network
    has a focus branch."""

    chips: tuple[ChipConfig, ...] = (ChipConfig(),)
    """How a focus map becomes chips: for each finer level in turn, the last one for all that follow."""

    border: float = 3.0
    """A box closer than this to an inner side of its chip or tile, in network-input pixels, counts as cut and is
    dropped."""

    whole_above: float = 0.65
    """When chips would cover more than this share of a level it is looked at whole: many chips cost more than what they
    leave out."""

    zoom: int = ZOOM
    """Ratio of the scales of neighbouring levels, a power of two. 2 adds levels between, with chips of their own."""

    network_pixels: int = 2**23
    """Most pixels the network is shown at once: a 4K photo whole. Larger levels are cut into overlapping tiles, so
    that its memory (46 bytes a pixel on a CPU) does not grow with the photo."""

    finer_looks: float = 0.5
    """Share of photos expected to need a finer look; decides whether a JPEG is decoded reduced first, or whole at
    once. Results differ in the last digits of a score, so it is a setting, not learnt on the way."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"cascade.mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        if not self.chips:
            raise SettingsError("cascade.chips is empty; give one entry at least")
        if not 0 <= self.border < math.inf:
            raise SettingsError(f"cascade.border is {self.border}; choose 0 px or more")
        if not 0 <= self.whole_above <= 1:
            raise SettingsError(f"cascade.whole_above is {self.whole_above}; choose a share 0..1")
        if not 0 <= self.finer_looks <= 1:
            raise SettingsError(f"cascade.finer_looks is {self.finer_looks}; choose a share 0..1")

    def uses_focus(self, preset: Preset) -> bool:
        """Whether a network of that preset is asked where to look.

        Raises:
            SettingsError: it must be and cannot.
        """
        if self.mode == "focus" and preset.focus is None:
            raise SettingsError(
                f"cascade.mode is focus, but the weights (preset {preset.name}) have no focus branch; use mode "
                "exhaustive, or weights with one"
            )
        return self.mode != "exhaustive" and preset.focus is not None

    def plan(self, photo_size: tuple[int, int], min_face: float, preset: Preset) -> LevelPlan:
        """The levels of a photo; see `levels.plan_levels`."""
        focus = preset.focus if self.uses_focus(preset) else None
        return plan_levels(
            photo_size,
            min_face=min_face,
            face_range=preset.face_range,
            focus_from=None if focus is None else focus.smallest,
            zoom=self.zoom,
        )

    def tile_overlap(self, preset: Preset) -> int:
        """Level pixels that neighbouring tiles share: the largest face kept from a level that has finer ones, whole."""
        return math.ceil(preset.face_range[1] + 2 * self.border)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPhoto:
    """A photo on its way to the network."""

    header: PhotoHeader | None
    """None for a photo that was given as pixels."""

    plan: LevelPlan
    source: PixelSource

    ms_decode: float
    """Milliseconds from bytes to what the levels looked at whole need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """How a photo's faces came about."""

    stack: Stack
    looks: tuple[Look, ...]

    focus_maps: dict[int, NDArray[np.float32]]
    """For each level that had one, by index: (H, W) probabilities, one per cell; 0 where nobody looked."""


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


def prepare(
    photo: bytes | Pixels,
    *,
    min_face: float,
    preset: Preset,
    config: CascadeConfig | None = None,
    max_pixels: int = MAX_PIXELS,
) -> PreparedPhoto:
    """Plan the levels of a photo and decode what those looked at whole need.

    Args:
        photo: the encoded photo, or its (H, W, 3) uint8 RGB pixels, upright.
        min_face: the smallest wanted face, sqrt(w*h) in pixels of the upright original photo.
        preset: of the network: the sizes it finds and what its focus map marks.
        config: None for the defaults.
        max_pixels: most pixels of a photo; decided before pixels are allocated.

    Raises:
        PhotoError: unsupported_format, truncated, corrupt, too_large or out_of_memory.
        SettingsError: a setting is out of range or asks for a focus branch that is not there.
    """
    start = time.perf_counter()
    config = CascadeConfig() if config is None else config
    header = read_header(photo) if isinstance(photo, bytes) else None
    size = (np.shape(photo)[0], np.shape(photo)[1]) if header is None else (header.height, header.width)
    plan = config.plan(size, min_face, preset)
    source = _source(photo, header, plan, config, max_pixels)
    plan = plan.covering({level.scale: source.covered(level.scale) for level in plan.levels})
    return PreparedPhoto(header=header, plan=plan, source=source, ms_decode=_milliseconds(start))


def look_many(
    photos: Sequence[PreparedPhoto], engine: Engine, config: CascadeConfig, post: PostConfig
) -> list[PhotoResult | PhotoError]:
    """Find the faces of prepared photos.

    Each answer depends on that photo, the weights and the settings alone: not on the other photos or their order.

    Args:
        photos: from `prepare`, with the engine's preset and the same settings; may be empty.
        engine: runs the network.
        config: where to look more closely.
        post: how candidates become faces.

    Returns:
        For each photo, in order, what was found, or why it could not be looked at.
    """
    ways = [_Way(photo, engine.preset, config, post) for photo in photos]
    while going := [way for way in ways if way.goes_on]:
        _look_at_next_level(going, engine)
    return [way.error or way.result() for way in ways]


def look(photo: PreparedPhoto, engine: Engine, config: CascadeConfig, post: PostConfig) -> PhotoResult:
    """Find the faces of one prepared photo; see `look_many`.

    Raises:
        PhotoError: out_of_memory or model_error, or what decoding for a finer level met.
    """
    (result,) = look_many([photo], engine, config, post)
    if isinstance(result, PhotoError):
        raise result
    return result


def _source(
    photo: bytes | Pixels, header: PhotoHeader | None, plan: LevelPlan, config: CascadeConfig, max_pixels: int
) -> PixelSource:
    if header is None or not isinstance(photo, bytes):
        return GivenPixels(np.asarray(photo, np.uint8))
    return DecodedPhoto(photo, header, plan, plan_decoding(header, plan, config.finer_looks), max_pixels)


@dataclass(frozen=True, slots=True)
class _Part:
    """A rectangle of a level on its way through the network."""

    way: _Way
    level: Level
    box: tuple[int, int, int, int]
    pixels: Pixels


@dataclass(slots=True)
class _Way:
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
    chips: int = 0
    chip_pixels: int = 0
    chip_pixels_asked: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

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
        try:
            self.photo.source.load(self.level)
        except PhotoError as error:
            self.error = error
        self.seconds["decode"] += time.perf_counter() - start

    def parts(self) -> Iterator[_Part]:
        """The pixels of the next level's rectangles; an error ends them and the way."""
        if self.error is not None:
            return
        try:
            start = time.perf_counter()
            for number, pixels in self.photo.source.read(self.level, self.boxes):
                self.seconds["decode"] += time.perf_counter() - start
                left, top, right, bottom = self.boxes[number].tolist()
                yield _Part(self, self.level, (left, top, right, bottom), pixels)
                start = time.perf_counter()
        except PhotoError as error:
            self.error = error

    def take(self, part: _Part, outputs: Outputs) -> None:
        """What the network said about one rectangle: outputs for a batch of one."""
        start = time.perf_counter()
        try:
            candidates = find_candidates(outputs, part.pixels.shape[:2], self.preset, self.post)
        except PhotoError as error:
            self.error = error
            return
        self.looks.append(Look(part.level, part.box, candidates))
        if self._needs_map(part.level) and outputs.focus_logits is not None:
            self._paint(part, outputs.focus_logits[0, 0].float().sigmoid().cpu().numpy())
        self.seconds["other"] += time.perf_counter() - start

    def advance(self) -> None:
        """Choose the rectangles of the next level."""
        start = time.perf_counter()
        finished, self.index = self.level, self.index + 1
        if self.index == len(self.photo.plan.levels):
            self.boxes = np.empty((0, 4), np.int32)
        elif self.index < self.photo.plan.whole:
            self.boxes = self._tiled([(0, 0, *self.level.size[::-1])])
        else:
            self.boxes = self._tiled(self._chips(finished).tolist())
            self.chips += len(self.boxes)
        self.seconds["other"] += time.perf_counter() - start

    def result(self) -> PhotoResult:
        start = time.perf_counter()
        stacked = stack(
            self.looks, border=self.config.border, nms_iou=self.post.nms_iou, keep_top_k=self.post.keep_top_k
        )
        return PhotoResult(
            faces=stacked.faces,
            header=self.photo.header,
            plan=self.photo.plan,
            pixels_processed=sum(_area(look.box) for look in self.looks),
            chips=self.chips,
            focus_share=self._finest_share(),
            chip_pixels=self.chip_pixels,
            chip_pixels_asked=self.chip_pixels_asked,
            ms_decode=self.photo.ms_decode + 1000 * self.seconds["decode"],
            ms_network=1000 * self.seconds["network"],
            ms_other=1000 * (self.seconds["other"] + time.perf_counter() - start),
            trace=Trace(stack=stacked, looks=tuple(self.looks), focus_maps=self.focus_maps),
        )

    def _needs_map(self, level: Level) -> bool:
        return self.photo.plan.whole - 1 <= level.index < len(self.photo.plan.levels) - 1

    def _paint(self, part: _Part, probabilities: NDArray[np.float32]) -> None:
        """Lay a rectangle's focus map into its level's; where they overlap the larger probability counts."""
        stride = self._focus_stride()
        size = tuple(math.ceil(side / stride) for side in part.level.size)
        canvas = self.focus_maps.setdefault(part.level.index, np.zeros(size, np.float32))
        left, top = part.box[:2]
        # A rectangle that was shifted to the level's border need not begin at a cell: then it counts for both cells.
        for row in {top // stride, -(-top // stride)}:
            for column in {left // stride, -(-left // stride)}:
                under = canvas[row : row + len(probabilities), column : column + probabilities.shape[1]]
                np.maximum(under, probabilities[: under.shape[0], : under.shape[1]], out=under)

    def _chips(self, parent: Level) -> NDArray[np.int32]:
        """(N, 4) rectangles of the next level, from the focus map of the one before; the whole level if they nearly
        fill it."""
        config = self.config.chips[min(self.index - self.photo.plan.whole, len(self.config.chips) - 1)]
        stride = self._focus_stride()
        threshold = config.threshold
        if threshold is None:
            assert self.preset.focus is not None
            threshold = self.preset.focus.threshold
        mask = focus_pixels(self.focus_maps[parent.index], threshold, config.dilation)
        cells = chips_around(mask, math.ceil(config.min_chip / stride))
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
        self.chip_pixels_asked += min(int(mask.sum()) * cell**2, height * width)
        return chips

    def _tiled(self, boxes: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        overlap = self.config.tile_overlap(self.preset)
        tiles = [tiles_of(tuple(box), self.config.network_pixels, overlap) for box in boxes]  # type: ignore[arg-type]
        return np.concatenate([np.empty((0, 4), np.int32), *tiles])

    def _finest_share(self) -> float:
        finest = self.photo.plan.finest
        boxes = [look.box for look in self.looks if look.level.index == finest.index]
        if not boxes:
            return 0.0
        # On a grid of cells: exact areas of overlapping rectangles are not worth their price.
        cell = 32
        seen = np.zeros([math.ceil(side / cell) for side in finest.size], bool)
        for left, top, right, bottom in boxes:
            seen[top // cell : math.ceil(bottom / cell), left // cell : math.ceil(right / cell)] = True
        return float(seen.mean())

    def _focus_stride(self) -> int:
        assert self.preset.focus is not None
        return self.preset.focus.stride


def _look_at_next_level(ways: Sequence[_Way], engine: Engine) -> None:
    """Take each photo one level further: rectangles of one shape together, as many as the engine gains from."""
    if len(ways) > 1:
        with ThreadPoolExecutor(max_workers=min(len(ways), MAX_DECODERS)) as decoders:
            list(decoders.map(_Way.load, ways))
    waiting: dict[tuple[int, ...], list[_Part]] = defaultdict(list)
    for way in ways:
        for part in way.parts():
            parts = waiting[part.pixels.shape]
            parts.append(part)
            # Full, or as much in memory as one large picture would take.
            if len(parts) == engine.batch or len(parts) * _area(part.box) >= way.config.network_pixels:
                _run(waiting.pop(part.pixels.shape), engine)
    for parts in waiting.values():
        _run(parts, engine)
    for way in ways:
        if way.error is None:
            way.advance()


def _run(parts: Sequence[_Part], engine: Engine) -> None:
    """Run the network on rectangles of one shape; what fails together is tried one by one."""
    start = time.perf_counter()
    try:
        outputs = engine.run(np.stack([part.pixels for part in parts]) if len(parts) > 1 else parts[0].pixels[None])
    except PhotoError as error:
        if len(parts) == 1:
            parts[0].way.error = error
            return
        for part in parts:
            if part.way.error is None:
                _run([part], engine)
        return
    each = (time.perf_counter() - start) / len(parts)
    for number, part in enumerate(parts):
        part.way.seconds["network"] += each
        part.way.take(part, _of_one(outputs, number))


def _of_one(outputs: Outputs, number: int) -> Outputs:
    """What was said about one picture of a batch."""
    chosen = slice(number, number + 1)
    focus = outputs.focus_logits
    return Outputs(
        outputs.class_logits[chosen],
        outputs.box_deltas[chosen],
        outputs.landmark_deltas[chosen],
        None if focus is None else focus[chosen],
    )


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _milliseconds(since: float) -> float:
    return 1000 * (time.perf_counter() - since)
