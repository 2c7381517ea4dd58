"""How much memory a worker of a job takes at its peak, from the headers of its photos and the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.forecast import SampledPhoto, read_headers
from pipelines.planning import Plan
from retinafocus.cascade import MAX_DECODERS, STREAM_BYTES
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.engines.torch_engine import MAX_BATCH
from retinafocus.footprint import KEPT_BYTES, NETWORK_BYTES
from retinafocus.levels import LevelPlan
from retinafocus.models import Preset
from retinafocus.sources import plan_decoding

PIXEL_BYTES = 3

# Photos that are decoded, or wait decoded, while the network looks at another: `stages.StageConfig.read_ahead`. An
# engine that looks at several has two more groups of them.
WAITING = 2
GROUPS_WAITING = 2

# What libraries take when they are first used, and the candidates of a photo: 20 to 75 MB with the three CPU engines.
FIRST_USE = 80_000_000


# What a process has to itself that has loaded all libraries, Ray's too, and the weights that ship, before its first
# photo: 0.47 to 0.50 GB were measured with the three CPU engines, beside 0.4 GB that a machine's processes share.
PROGRAM_BYTES = 500_000_000

# Headers read to know what a job's photos take: of its largest files.
HEADERS_READ = 16

# Where a header lies further on, the command reads the file whole to find it: not one that would fill its memory, as
# the largest of an archive may, nor for minutes.
WHOLE_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What of a worker's detector decides about memory."""

    preset: Preset
    config: DetectorConfig
    engine: str
    precision: str
    device: str
    batch: int


def expected_bytes(planned: Plan, shards: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Expected peak of a worker of a job, the program itself included, by its device; None where it is not known.

    On a GPU what its own libraries hold of the CPU's memory is not in it. With `--careful` nothing is known: no header
    of photos that may kill is read in this process.

    Args:
        planned: the job.
        shards: what is to be done.
    """
    chosen = pa.array([row["shard"] for row in shards], pa.int32())
    wanted = planned.manifest.filter(pc.is_in(planned.manifest.column("shard"), chosen))
    largest = wanted.take(pc.select_k_unstable(wanted, HEADERS_READ, [("bytes", "descending")]))
    most = 0 if planned.job.careful else HEADERS_READ
    sample = list(read_headers(largest, most, planned.job.storage, whole_bytes=WHOLE_BYTES).photos.values())
    found: dict[str, int | None] = {}
    for config in (planned.detector, planned.beside):
        if config is not None:
            looks = _planned_looks(planned.weights.preset, config)
            photos = [(photo, _levels(photo, looks)) for photo in sample]
            taken = _bytes(photos, looks) if photos else None
            found[config.device] = None if taken is None else PROGRAM_BYTES + taken
    return found


def worker_bytes(photos: Sequence[tuple[SampledPhoto, LevelPlan]], detector: Detector) -> int | None:
    """Expected peak of a worker, beside the program itself, where the largest photos meet.

    Args:
        photos: of the job, each with its levels; one at least.
        detector: of the worker.

    Returns:
        Bytes of the files, of their pixels and of the network with all that it comes to keep; on a GPU those of the
        CPU's memory alone. None where the network's share has not been measured.
    """
    engine = detector.engine
    looks = Looks(
        preset=detector.preset, config=detector.config,
        engine=engine.name, precision=engine.precision, device=engine.device, batch=engine.batch,
    )  # fmt: skip
    return _bytes(photos, looks)


def _planned_looks(preset: Preset, config: DetectorConfig) -> Looks:
    """Of a detector that is not made yet, or cannot be here; nothing in its settings is left open."""
    batch = 1 if config.device == "cpu" else MAX_BATCH
    return Looks(
        preset=preset, config=config,
        engine=config.engine, precision=config.precision, device=config.device, batch=batch,
    )  # fmt: skip


def _levels(photo: SampledPhoto, looks: Looks) -> LevelPlan:
    config = looks.config
    if config.whole_looks is not None:
        return config.whole_looks.plan(photo.size)
    return config.cascade.plan(photo.size, config.min_face, looks.preset)


def _bytes(photos: Sequence[tuple[SampledPhoto, LevelPlan]], looks: Looks) -> int | None:
    batch, each = looks.batch, 0
    if looks.device == "cpu":
        name = looks.engine if looks.precision == "float32" else f"{looks.engine} {looks.precision}"
        if (looks.preset.backbone, name) not in NETWORK_BYTES:
            return None
        each = NETWORK_BYTES[looks.preset.backbone, name]
    waiting = WAITING if batch == 1 else GROUPS_WAITING * batch
    decoders = min(waiting, WAITING if batch == 1 else MAX_DECODERS)
    admitted = [pair for pair in photos if not _is_refused(*pair, looks)]
    needed = [_photo_bytes(*pair, looks) for pair in admitted] or [(0, 0, 0)]
    decoding, held, looked_at = zip(*needed, strict=True)
    most = looks.config.cascade.network_pixels
    shown = max((min(plan.finest.pixels, most) for _, plan in admitted), default=0)
    files = (waiting + batch) * max(photo.file_bytes for photo, _ in photos)
    pixels = decoders * max(decoding) + (waiting - decoders) * max(held) + batch * max(looked_at)
    # A batch is cut from its photos, and put together once more: as many pixels as one large picture has.
    pictures = PIXEL_BYTES * shown * (1 if batch == 1 else 2)
    taken: int = FIRST_USE + files + pixels + pictures + each * shown + KEPT_BYTES.get(looks.engine, 0)
    return taken


def _is_refused(photo: SampledPhoto, plan: LevelPlan, looks: Looks) -> bool:
    """Whether `cascade.prepare` refuses a photo by its header: in strips it would take too much as well."""
    limit = looks.config.max_pixels
    return photo.pixels > limit and photo.streamed_bytes + _tile_bytes(plan, looks) > STREAM_BYTES * limit


def _tile_bytes(plan: LevelPlan, looks: Looks) -> int:
    """Of the tiles that are open at a time where two rows of them overlap, in a photo read in strips."""
    height, width = plan.finest.size
    return PIXEL_BYTES * 2 * min(height, math.isqrt(looks.config.cascade.network_pixels)) * width


def _photo_bytes(photo: SampledPhoto, plan: LevelPlan, looks: Looks) -> tuple[int, int, int]:
    """Of a photo beside its file: while it is prepared, while it waits, and while it is looked at."""
    config = looks.config
    if photo.pixels > config.max_pixels:
        return photo.streamed_bytes, photo.streamed_bytes, photo.streamed_bytes + _tile_bytes(plan, looks)
    decoding = plan_decoding(photo.header, plan, config.cascade.finer_looks)
    coarse, fine = (_pyramid_bytes(photo, reduction) for reduction in (decoding.coarse, decoding.fine))
    prepared = max(photo.decoded_bytes[decoding.coarse], coarse)
    if decoding.once:
        return prepared, coarse, fine
    return prepared, coarse, max(coarse + photo.decoded_bytes[decoding.fine], fine)


def _pyramid_bytes(photo: SampledPhoto, reduction: int) -> int:
    """The photo at that scale, halved again and again: a third more."""
    return 4 * PIXEL_BYTES * photo.pixels // reduction**2 // 3
