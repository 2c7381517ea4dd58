"""`retinafocus plan`: what looking at an archive will cost, for several smallest faces side by side.

Sizes come from headers, times from a few photos looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import psutil
import pyarrow as pa

from pipelines.cluster_model import PhotoCost
from pipelines.cluster_plan import ClusterJob, cluster_words, sample_words
from pipelines.forecast import Calibration, Sample, SampledPhoto, calibrate, mean_pixels, read_headers
from pipelines.inventory import InventoryConfig, list_photos, manifest_table
from pipelines.manifest import shard_rows
from pipelines.report import duration
from pipelines.sampling import Measured, measure, sample_size
from pipelines.worker_memory import worker_bytes
from pipelines.workers import CPU_THREADS, Workers, resolve_workers
from retinafocus.cascade import STEPS
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.levels import Level, LevelPlan
from retinafocus.sources import plan_decoding
from retinafocus.storage import StorageConfig

# Of a large archive so many headers are read: enough for averages, and seconds even on slow storage.
SAMPLED_HEADERS = 400


@dataclass(frozen=True, kw_only=True)
class PlanJob:
    """Everything `retinafocus plan` was asked for."""

    inputs: Sequence[str]
    """Folders, photos, globs or lists of photos."""
    detectors: Sequence[DetectorConfig]
    """What to look for: one for each smallest face, otherwise alike; at least one."""
    weights: str | None = None
    """Name or path of the weights; None takes the ones that ship."""
    workers: str | None = None
    """`N`, `cpu=N` or `gpu=N`; None fills the machine."""
    gpu_seconds: Sequence[float] = ()
    """What a GPU takes for a photo, where that is known: one for all detectors, or one for each."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """How object stores are reached."""
    sample: str | None = None
    """Share of the photos, or number of them, that all workers look at, to go by what they took; None: a few photos,
    one after another."""
    cluster: ClusterJob | None = None
    """Clusters to compare."""
    price_per_hour: float | None = None
    """Of a machine like this one."""

    def __post_init__(self) -> None:
        if len(self.gpu_seconds) not in (0, 1, len(self.detectors)):
            raise SettingsError(
                f"gpu-seconds has {len(self.gpu_seconds)} values for {len(self.detectors)} smallest faces; give "
                "one, or one for each"
            )
        for seconds in self.gpu_seconds:
            if not 0 < seconds < math.inf:
                raise SettingsError(f"gpu-seconds is {seconds:g}; give the seconds a GPU takes for a photo, above 0")


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one smallest face costs."""

    min_face: float
    plan: LevelPlan
    """Of a photo of the commonest size."""
    planned_pixels: float
    """Through the network for a photo, every level whole, on average."""
    decoding: Counter[str]
    """Photos of the sample by how they are decoded, in words."""
    memory_bytes: int | None
    """Expected peak of a worker beside the program itself; None where the network's share is not known."""
    calibration: Calibration
    seconds: dict[str, float]
    """Expected for a photo, by step; zeros where no photo could be looked at."""
    gpu_seconds: float | None
    """What a GPU takes for a photo, given or measured; None where neither."""
    measured: Measured | None = None
    """What a sample took, looked at by all workers."""

    @property
    def worker_seconds(self) -> float:
        """Expected of a worker for a photo; 0 where no photo could be looked at."""
        return sum(self.seconds.values()) if self.measured is None else self.measured.worker_seconds

    @property
    def cores(self) -> int | None:
        """Fewest CPU cores that decode as fast as one GPU looks, by the time one photo takes with nothing beside it;
        None where that is not known."""
        if self.gpu_seconds is None or not self.calibration.looked_at:
            return None
        return math.ceil(self.seconds["decode"] / self.gpu_seconds)


def plan_report(job: PlanJob) -> str:
    """Read headers, look at a few photos for each smallest face, and say what it will cost.

    Raises:
        SettingsError, WeightsError: as `retinafocus detect` would.
    """
    workers = resolve_workers(job.workers, job.detectors[0].device)
    if workers.beside is not None:
        raise SettingsError(f"workers is {job.workers}; name one kind, as GPU and CPU workers take unlike times")
    inventory = list_photos(job.inputs, InventoryConfig(storage=job.storage))
    manifest = manifest_table(inventory)
    sample = read_headers(manifest, SAMPLED_HEADERS, job.storage)
    prices, program, engine = [], 0, ""
    for number, config in enumerate(job.detectors):
        config = replace(config, device=workers.device, threads=CPU_THREADS)
        detector = Detector.from_pretrained(job.weights, config)
        # Before the first photo the process holds what any worker does: libraries and weights.
        program = program or psutil.Process().memory_info().rss
        engine = (
            f"{detector.preset.name}, {detector.engine.name} on {detector.engine.device}, {detector.engine.precision}"
        )
        if sample.photos:
            given = job.gpu_seconds[number % len(job.gpu_seconds)] if job.gpu_seconds else None
            found = price(sample, detector, given, job.storage)
            if job.sample is not None:
                found = replace(found, measured=_measure(job, manifest, detector, workers))
            prices.append(found)
    lines = [
        *_archive_words(manifest, sample),
        f"weights  {engine}",
        f"workers  {workers.count} on {workers.device}",
        "",
    ]
    if not prices:
        return "\n".join([*lines, "no header could be read, so nothing can be said of these photos"])
    lines += [*_table(prices, manifest.num_rows, workers, program), *_notes(prices)]
    return "\n".join(
        [*lines, *_measured_words(job, prices, manifest.num_rows, workers), *_clusters(job, prices, manifest)]
    )


def _measure(job: PlanJob, manifest: pa.Table, detector: Detector, workers: Workers) -> Measured:
    """Look at photos spread evenly over the archive."""
    photos = manifest.num_rows
    chosen = np.unique(np.linspace(0, photos - 1, sample_size(job.sample or "", photos)).astype(int))
    uris = manifest.column("uri").take(pa.array(chosen)).to_pylist()
    return measure(uris, detector.config, job.weights, workers, job.storage)


def _measured_words(job: PlanJob, prices: Sequence[Price], photos: int, workers: Workers) -> list[str]:
    return [
        line
        for price in prices
        if price.measured is not None
        for line in [
            "", *_of_face(price, prices), *sample_words(price.measured, photos, workers.count, job.price_per_hour)
        ]
    ]  # fmt: skip


def _clusters(job: PlanJob, prices: Sequence[Price], manifest: pa.Table) -> list[str]:
    """What clusters would take, for each smallest face."""
    if job.cluster is None:
        return []
    lines = []
    sizes = [size for size in manifest.column("bytes").to_pylist() if size is not None]
    shards = [row["photos"] for row in shard_rows(manifest)]
    for price in prices:
        if not price.worker_seconds:
            continue
        cost = PhotoCost(seconds=price.worker_seconds, file_bytes=sum(sizes) / len(sizes) if sizes else 0.0)
        lines += ["", *_of_face(price, prices), *cluster_words(job.cluster, job.cluster.predictions(cost, shards))]
    if lines:
        lines += ["", *_cluster_notes(job, prices)]
    return lines


def _cluster_notes(job: PlanJob, prices: Sequence[Price]) -> list[str]:
    lines = [
        "note     worked out for nodes whose workers are as fast as those here; nodes lost on the way, and the "
        "time to rent them, are not in it"
    ]
    if all(price.measured is None for price in prices):
        lines.append(
            "note     workers side by side are slower than one alone, which the times above are of; --sample 0.1% "
            "measures them all at once, on this archive"
        )
    return lines


def _of_face(price: Price, prices: Sequence[Price]) -> list[str]:
    return [f"smallest face {price.min_face:g} px:"] if len(prices) > 1 else []


def price(sample: Sample, detector: Detector, gpu_seconds: float | None, storage: StorageConfig | None = None) -> Price:
    """What a detector's settings cost.

    Args:
        sample: of the archive; one header at least.
        detector: with the settings; it looks at a few of the photos.
        gpu_seconds: what a GPU takes for a photo, if known.
    """
    config, preset = detector.config, detector.preset
    sizes = Counter(photo.size for photo in sample.photos.values())
    plans = {size: config.cascade.plan(size, config.min_face, preset) for size in sizes}
    calibration = calibrate(detector, list(sample.photos), storage)
    photo_pixels, planned = mean_pixels(sample, detector)
    seconds = calibration.expected_seconds(photo_pixels, planned)
    if gpu_seconds is None and detector.engine.device != "cpu" and calibration.looked_at:
        gpu_seconds = seconds["network"]
    photos = [(photo, plans[photo.size]) for photo in sample.photos.values()]
    return Price(
        min_face=config.min_face,
        plan=plans[sizes.most_common(1)[0][0]],
        planned_pixels=planned,
        decoding=Counter(_decoding_words(photo, plan, config) for photo, plan in photos),
        memory_bytes=worker_bytes(photos, detector),
        calibration=calibration,
        seconds=seconds,
        gpu_seconds=gpu_seconds,
    )


def _decoding_words(photo: SampledPhoto, plan: LevelPlan, config: DetectorConfig) -> str:
    if photo.pixels > config.max_pixels:
        return "over max-pixels"
    decoding = plan_decoding(photo.header, plan, config.cascade.finer_looks)
    if decoding.once:
        return f"{_reduced(decoding.fine)} at once"
    return f"{_reduced(decoding.coarse)}, then {_reduced(decoding.fine)} on demand"


def _reduced(reduction: int) -> str:
    return "whole" if reduction == 1 else f"1/{reduction}"


def _archive_words(manifest: pa.Table, sample: Sample) -> list[str]:
    photos = list(sample.photos.values())
    failed = sum(sample.failed.values())
    read = len(photos) + failed
    which = "all" if read == manifest.num_rows else f"{read:,}, spread evenly"
    causes = ", ".join(f"{count:,} {status}" for status, count in sample.failed.most_common())
    lines = [
        f"photos   {manifest.num_rows:,}",
        f"headers  {which}; {failed:,} could not be read" + (f" ({causes})" if failed else ""),
    ]
    if photos:
        headers = [photo.header for photo in photos]
        kinds = Counter(f"{'progressive ' if header.progressive else ''}{header.format}" for header in headers)
        height, width = max(photos, key=lambda photo: photo.pixels).size
        mean = sum(photo.pixels for photo in photos) / len(photos)
        lines.append(
            f"sizes    {mean / 1e6:.1f} Mpx on average, {width} x {height} px at most; "
            + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        )
    return lines


def _table(prices: Sequence[Price], photos: int, workers: Workers, program: int) -> list[str]:
    """One column for each smallest face, aligned for a terminal."""
    height, width = prices[0].plan.photo_size
    deepest = max(len(price.plan.levels) for price in prices)
    rows = [
        ["smallest face", *(f"{price.min_face:g} px" for price in prices)],
        [f"of {width} x {height} px:", *("scale, px, Mpx" for _ in prices)],
        *([f"  level {index}", *(_level_words(price, index) for price in prices)] for index in range(deepest)),
        ["Mpx a photo, all whole", *(f"{price.planned_pixels / 1e6:.2f}" for price in prices)],
        ["Mpx a photo, expected", *map(_expected_words, prices)],
        ["decoding", *map(_shares_words, prices)],
        [
            "seconds a photo, one worker",
            *(_or_unknown(price, f"{sum(price.seconds.values()):.3f}") for price in prices),
        ],
        *([f"  {step}", *(_or_unknown(price, f"{price.seconds[step]:.3f}") for price in prices)] for step in STEPS),
        [
            f"{photos:,} photos, {workers.count} workers",
            *(_or_unknown(price, duration(price.worker_seconds * photos / workers.count)) for price in prices),
        ],
        ["memory of a worker, about", *(_memory_words(price, program) for price in prices)],
        ["cores to feed one GPU", *map(_cores_words, prices)],
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _level_words(price: Price, index: int) -> str:
    if index >= len(price.plan.levels):
        return "-"
    level: Level = price.plan.levels[index]
    how = "whole" if index < price.plan.whole else "chips"
    return f"{Fraction(level.scale)} {level.size[1]}x{level.size[0]} {level.pixels / 1e6:.2f} {how}"


def _expected_words(price: Price) -> str:
    expected = price.calibration.expected_pixels(price.planned_pixels)
    return _or_unknown(price, f"{expected / 1e6:.2f} ({100 * expected / price.planned_pixels:.0f} %)")


def _shares_words(price: Price) -> str:
    counts = price.decoding.most_common()
    if len(counts) == 1:
        return counts[0][0]
    return "; ".join(f"{100 * count / price.decoding.total():.0f} % {words}" for words, count in counts)


def _or_unknown(price: Price, words: str) -> str:
    """The words, unless they rest on photos that could not be looked at."""
    return words if price.calibration.looked_at else "not known"


def _memory_words(price: Price, program: int) -> str:
    return "not known" if price.memory_bytes is None else f"{(program + price.memory_bytes) / 1e9:.1f} GB"


def _cores_words(price: Price) -> str:
    if price.cores is None:
        return "not known"
    return f"{price.cores} or more ({price.seconds['decode']:.3f} / {price.gpu_seconds:.4f} s)"


def _notes(prices: Sequence[Price]) -> list[str]:
    """What will not be found, and what the figures rest on."""
    # The words depend on the smallest face alone; a large photo has every level there can be.
    lines = ["", *(f"missed   {price.plan.not_found}" for price in prices if price.plan.not_found)]
    looked_at = ", ".join(str(price.calibration.looked_at) for price in prices)
    lines.append(f"note     expected pixels and times are from {looked_at} photos looked at, one after another")
    if any(price.cores is not None for price in prices):
        lines.append(
            "note     cores to feed one GPU: decoding a photo on one core, nothing beside it, / what the GPU takes for "
            "it; photos decoded side by side share the memory's speed and take longer"
        )
    if any(price.gpu_seconds is None for price in prices):
        lines.append("note     no GPU here: for the cores that feed one, give --gpu-seconds, what it takes for a photo")
    if any("over max-pixels" in price.decoding for price in prices):
        lines.append("note     photos over max-pixels are decoded in strips, or too_large where their format cannot be")
    return lines
