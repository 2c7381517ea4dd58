"""How much memory a worker of a job takes at its peak, from the headers of its photos and the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.forecast import SampledPhoto
from retinafocus.cascade import MAX_DECODERS, STREAM_BYTES
from retinafocus.detector import Detector
from retinafocus.footprint import KEPT_BYTES, NETWORK_BYTES
from retinafocus.levels import LevelPlan
from retinafocus.sources import plan_decoding

PIXEL_BYTES = 3

# Photos that are decoded, or wait decoded, while the network looks at another: `stages.StageConfig.read_ahead`. An
# engine that looks at several has two more groups of them.
WAITING = 2
GROUPS_WAITING = 2

# What libraries take when they are first used, and the candidates of a photo: 20 to 75 MB with the three CPU engines.
FIRST_USE = 80_000_000


def worker_bytes(photos: Sequence[tuple[SampledPhoto, LevelPlan]], detector: Detector) -> int | None:
    """Expected peak of a worker, beside the program itself, where the largest photos meet.

    Args:
        photos: of the job, each with its levels; one at least.
        detector: of the worker.

    Returns:
        Bytes of the files, of their pixels and of the network with all that it comes to keep; on a GPU those of the
        CPU's memory alone. None where the network's share has not been measured.
    """
    engine, batch = detector.engine, detector.engine.batch
    each = 0
    if engine.device == "cpu":
        name = engine.name if engine.precision == "float32" else f"{engine.name} {engine.precision}"
        if (detector.preset.backbone, name) not in NETWORK_BYTES:
            return None
        each = NETWORK_BYTES[detector.preset.backbone, name]
    waiting = WAITING if batch == 1 else GROUPS_WAITING * batch
    decoders = min(waiting, WAITING if batch == 1 else MAX_DECODERS)
    admitted = [pair for pair in photos if not _is_refused(*pair, detector)]
    needed = [_photo_bytes(*pair, detector) for pair in admitted] or [(0, 0, 0)]
    decoding, held, looked_at = zip(*needed, strict=True)
    most = detector.config.cascade.network_pixels
    shown = max((min(plan.finest.pixels, most) for _, plan in admitted), default=0)
    files = (waiting + batch) * max(photo.file_bytes for photo, _ in photos)
    pixels = decoders * max(decoding) + (waiting - decoders) * max(held) + batch * max(looked_at)
    # A batch is cut from its photos, and put together once more: as many pixels as one large picture has.
    pictures = PIXEL_BYTES * shown * (1 if batch == 1 else 2)
    taken: int = FIRST_USE + files + pixels + pictures + each * shown + KEPT_BYTES.get(engine.name, 0)
    return taken


def _is_refused(photo: SampledPhoto, plan: LevelPlan, detector: Detector) -> bool:
    """Whether `cascade.prepare` refuses a photo by its header: in strips it would take too much as well."""
    limit = detector.config.max_pixels
    return photo.pixels > limit and photo.streamed_bytes + _tile_bytes(plan, detector) > STREAM_BYTES * limit


def _tile_bytes(plan: LevelPlan, detector: Detector) -> int:
    """Of the tiles that are open at a time where two rows of them overlap, in a photo read in strips."""
    height, width = plan.finest.size
    return PIXEL_BYTES * 2 * min(height, math.isqrt(detector.config.cascade.network_pixels)) * width


def _photo_bytes(photo: SampledPhoto, plan: LevelPlan, detector: Detector) -> tuple[int, int, int]:
    """Of a photo beside its file: while it is prepared, while it waits, and while it is looked at."""
    config = detector.config
    if photo.pixels > config.max_pixels:
        return photo.streamed_bytes, photo.streamed_bytes, photo.streamed_bytes + _tile_bytes(plan, detector)
    decoding = plan_decoding(photo.header, plan, config.cascade.finer_looks)
    coarse, fine = (_pyramid_bytes(photo, reduction) for reduction in (decoding.coarse, decoding.fine))
    prepared = max(photo.decoded_bytes[decoding.coarse], coarse)
    if decoding.once:
        return prepared, coarse, fine
    return prepared, coarse, max(coarse + photo.decoded_bytes[decoding.fine], fine)


def _pyramid_bytes(photo: SampledPhoto, reduction: int) -> int:
    """The photo at that scale, halved again and again: a third more."""
    return 4 * PIXEL_BYTES * photo.pixels // reduction**2 // 3
