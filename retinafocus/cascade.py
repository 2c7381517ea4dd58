"""One photo's way: encoded bytes to pixels, the whole photo coarsely, chips of it finely, to faces.

The way has two halves, so that a job can read ahead: `prepare` needs no network and may run in threads, `look_many` is
the network and what follows. Photos go through it side by side, level by level, so that an engine that gains from
batches gets full ones; the answer for each is the same as if it went alone.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from retinafocus.engines import Engine, photo_errors
from retinafocus.errors import PhotoError
from retinafocus.focus.settings import CascadeConfig
from retinafocus.focus.way import STEPS, Part, PhotoResult, PreparedPhoto, Trace, Way, area, share_looked_at
from retinafocus.levels import LevelPlan
from retinafocus.models import Outputs, Preset
from retinafocus.photos import MAX_PIXELS, PhotoHeader, read_header
from retinafocus.postprocessing import PostConfig
from retinafocus.sources import DecodedPhoto, GivenPixels, PixelSource, ResizedPhoto, plan_decoding
from retinafocus.streams import open_stream
from retinafocus.whole_looks import WholeLooks

__all__ = [
    "MAX_DECODERS",
    "STEPS",
    "CascadeConfig",
    "PhotoResult",
    "PreparedPhoto",
    "Trace",
    "look",
    "look_many",
    "prepare",
    "share_looked_at",
]

# Threads that decode for the photos of one call: one photo at a time would keep an engine that is fast waiting.
MAX_DECODERS = 8

# Memory for reading a photo in strips, for each of the most pixels that are decoded at once: 2 GiB at the default.
STREAM_BYTES = 16

Pixels = NDArray[np.uint8]


def prepare(
    photo: bytes | Pixels,
    *,
    min_face: float,
    preset: Preset,
    config: CascadeConfig | None = None,
    max_pixels: int = MAX_PIXELS,
    looks: WholeLooks | None = None,
) -> PreparedPhoto:
    """Plan the levels of a photo and decode what those looked at whole need.

    Args:
        photo: the encoded photo, or its (H, W, 3) uint8 RGB pixels, upright.
        min_face: the smallest wanted face, sqrt(w*h) in pixels of the upright original photo.
        preset: of the network: the sizes it finds and what its focus map marks.
        config: None for the defaults.
        max_pixels: most pixels that are decoded at once; larger photos are read in strips, if that can be done in
            16 bytes for each of these. Decided from the header, before pixels are allocated.
        looks: look at the photo whole at these sizes, whatever the smallest wanted face and the cascade's mode.

    Raises:
        PhotoError: unsupported_format, truncated, corrupt, too_large or out_of_memory.
        SettingsError: a setting is out of range or asks for a focus branch that is not there.
    """
    start = time.perf_counter()
    config = CascadeConfig() if config is None else config
    header = read_header(photo) if isinstance(photo, bytes) else None
    size = (np.shape(photo)[0], np.shape(photo)[1]) if header is None else (header.height, header.width)
    plan = config.plan(size, min_face, preset) if looks is None else looks.plan(size)
    source = _source(photo, header, plan, config, max_pixels, resized=looks is not None)
    plan = plan.covering({level.scale: source.covered(level.scale) for level in plan.levels})
    voting = None if looks is None else looks.voting
    return PreparedPhoto(header=header, plan=plan, source=source, ms_decode=_milliseconds(start), voting=voting)


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
    ways = [Way(photo, engine.preset, config, post) for photo in photos]
    while going := [way for way in ways if way.goes_on]:
        _look_at_next_level(going, engine)
    return [way.answer() for way in ways]


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
    photo: bytes | Pixels,
    header: PhotoHeader | None,
    plan: LevelPlan,
    config: CascadeConfig,
    max_pixels: int,
    *,
    resized: bool,
) -> PixelSource:
    """Decoded in memory, or read in strips where that would take too much of it; `resized`: for levels of any size."""
    if header is None or not isinstance(photo, bytes):
        pixels = np.asarray(photo, np.uint8)
        return ResizedPhoto(pixels) if resized else GivenPixels(pixels)
    if header.height * header.width <= max_pixels:
        if resized:
            return ResizedPhoto.decoded(photo, header, plan, max_pixels)
        return DecodedPhoto(photo, header, plan, plan_decoding(header, plan, config.finer_looks), max_pixels)
    # Two rows of tiles are open at a time where they overlap.
    height, width = plan.finest.size
    open_pixels = 2 * min(height, math.isqrt(config.network_pixels)) * width
    return open_stream(photo, header, memory=STREAM_BYTES * max_pixels, open_pixels=open_pixels)


def _look_at_next_level(ways: Sequence[Way], engine: Engine) -> None:
    """Take each photo one level further: rectangles of one shape together, as many as the engine gains from."""
    if len(ways) > 1:
        with ThreadPoolExecutor(max_workers=min(len(ways), MAX_DECODERS)) as decoders:
            list(decoders.map(Way.load, ways))
    waiting: dict[tuple[int, ...], list[Part]] = defaultdict(list)
    for way in ways:
        for part in way.parts():
            parts = waiting[part.pixels.shape]
            parts.append(part)
            # Full, or as much in memory as one large picture would take.
            if len(parts) == engine.batch or len(parts) * area(part.box) >= way.config.network_pixels:
                _run(waiting.pop(part.pixels.shape), engine)
    for parts in waiting.values():
        _run(parts, engine)
    for way in ways:
        if way.error is None:
            way.advance()


def _run(parts: Sequence[Part], engine: Engine) -> None:
    """Run the network on rectangles of one shape; what fails together is tried in halves, at last one by one."""
    start = time.perf_counter()
    try:
        with photo_errors():
            pixels = np.stack([part.pixels for part in parts]) if len(parts) > 1 else parts[0].pixels[None]
        outputs = engine.run(pixels)
    except PhotoError as error:
        if len(parts) == 1:
            parts[0].way.error = error
            return
        middle = len(parts) // 2
        for half in (parts[:middle], parts[middle:]):
            if going := [part for part in half if part.way.error is None]:
                _run(going, engine)
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


def _milliseconds(since: float) -> float:
    return 1000 * (time.perf_counter() - since)
