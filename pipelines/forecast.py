"""How long a run will take, from a few headers and fewer photos looked at."""

from __future__ import annotations

import contextlib
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import pyarrow as pa

from pipelines.workers import Workers
from retinafocus.cascade import STEPS
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.footprint import decoded_bytes, streamed_bytes
from retinafocus.photos import REDUCTIONS, PhotoHeader, read_bytes, read_header
from retinafocus.reading import local_path, read_start
from retinafocus.storage import OBJECT_SCHEMES, StorageConfig, uri_scheme

SAMPLED_HEADERS = 16

# What a photo costs depends on what is on it, so several are looked at, but nobody waits long for a forecast.
LOOKED_AT = 6
SECONDS_OF_LOOKING = 8.0

# Looked at before the first photo: it pays for memory, threads and the engine's preparation, and costs the same
# whatever the archive holds.
WARM_UP = (540, 960, 3)

# Most headers lie in the first bytes of a file.
HEADER_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run is expected to cost."""

    photos: int
    network_megapixels: float
    """Through the network for one photo, over all scales."""
    exhaustive_megapixels: float
    """What it would be if every photo were looked at whole on every scale."""
    seconds_per_photo: float
    """Of one worker."""
    seconds: float
    """Of the whole run, without start-up."""
    sampled: int
    """Photos whose header was read."""
    looked_at: int
    """Photos that were looked at."""

    def of(self, photos: int) -> Forecast:
        """The same for another number of such photos."""
        share = photos / self.photos if self.photos else 0.0
        return replace(self, photos=photos, seconds=self.seconds * share)


@dataclass(frozen=True, kw_only=True)
class SampledPhoto:
    """What a photo's first bytes tell."""

    header: PhotoHeader
    file_bytes: int
    decoded_bytes: dict[int, int]
    """Peak memory of decoding it at once, by the reduction in the decoder; see `footprint`."""
    streamed_bytes: int
    """The same in strips, without the tiles that are open."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright photo."""
        return self.header.height, self.header.width

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.header.height * self.header.width


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Photos spread evenly over an archive, by their headers."""

    photos: dict[str, SampledPhoto] = field(default_factory=dict)
    """By uri."""
    failed: Counter[str] = field(default_factory=Counter)
    """Photos whose header could not be read, by status."""


@dataclass(kw_only=True)
class Calibration:
    """What looking at a few photos took, summed over them."""

    looked_at: int = 0
    photo_pixels: int = 0
    planned_pixels: int = 0
    """Through the network, had every level been looked at whole."""
    shown_pixels: int = 0
    """Through the network."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    """By step, of one worker."""

    def expected_pixels(self, planned: float) -> float:
        """Through the network for a photo whose levels have so many pixels together; 0 if no photo was looked at."""
        return planned * self.shown_pixels / self.planned_pixels if self.looked_at else 0.0

    def expected_seconds(self, photo_pixels: float, planned: float) -> dict[str, float]:
        """By step, for a photo of that size whose levels have so many pixels; zeros if no photo was looked at."""
        if not self.looked_at:
            return dict.fromkeys(STEPS, 0.0)
        shares = {step: planned / self.planned_pixels for step in STEPS}
        # Decoding grows with the photo, whatever is looked for in it.
        shares["decode"] = photo_pixels / self.photo_pixels
        return {step: self.seconds[step] * shares[step] for step in STEPS}


def forecast(
    manifest: pa.Table, weights: str, config: DetectorConfig, workers: Workers, storage: StorageConfig | None = None
) -> Forecast:
    """Read headers spread over the archive, look at a few of those photos, and multiply.

    Args:
        manifest: the photos that are to be looked at.
        weights: path of the weights.
        config: what to look for.
        workers: the run's workers.
        storage: how object stores are reached.

    Returns:
        The forecast; zero seconds where none of the sampled photos can be read, or where there are none.
    """
    if not manifest.num_rows:  # the network need not even be loaded
        return Forecast(
            photos=0, network_megapixels=0.0, exhaustive_megapixels=0.0, seconds_per_photo=0.0, seconds=0.0,
            sampled=0, looked_at=0,
        )  # fmt: skip
    detector = Detector.from_pretrained(weights, config)
    sample = read_headers(manifest, SAMPLED_HEADERS, storage)
    calibration = calibrate(detector, list(sample.photos), storage)
    photo_pixels, planned = mean_pixels(sample, detector)
    per_photo = sum(calibration.expected_seconds(photo_pixels, planned).values())
    return Forecast(
        photos=manifest.num_rows,
        network_megapixels=calibration.expected_pixels(planned) / 1e6,
        exhaustive_megapixels=planned / 1e6,
        seconds_per_photo=per_photo,
        seconds=per_photo * manifest.num_rows / workers.count,
        sampled=len(sample.photos),
        looked_at=calibration.looked_at,
    )


def read_headers(
    manifest: pa.Table, most: int, storage: StorageConfig | None = None, *, whole_bytes: int | None = None
) -> Sample:
    """Headers of at most so many photos, spread evenly over the archive.

    Args:
        manifest: of the archive.
        most: photos at most.
        storage: how object stores are reached.
        whole_bytes: a file that does not tell in its first bytes is read whole up to this size, and passed over beyond;
            None reads it whatever its size.
    """
    photos = manifest.num_rows
    chosen = np.unique(np.linspace(0, photos - 1, min(photos, most)).astype(int))
    sample = Sample()
    for uri in manifest.column("uri").take(pa.array(chosen)).to_pylist():
        try:
            if (photo := _read_photo(uri, storage, whole_bytes)) is not None:
                sample.photos[uri] = photo
        except PhotoError as error:
            sample.failed[error.status] += 1
        except Exception:  # whatever is wrong with this photo, its row in the run will say it
            sample.failed["corrupt"] += 1
    return sample


def mean_pixels(sample: Sample, detector: Detector) -> tuple[float, float]:
    """Pixels of a photo, and of all its levels together, on average over a sample; zeros for an empty one."""
    if not sample.photos:
        return 0.0, 0.0
    photos = sample.photos.values()
    planned = [detector.exhaustive_pixels(photo.size) for photo in photos]
    return float(np.mean([photo.pixels for photo in photos])), float(np.mean(planned))


def calibrate(detector: Detector, uris: Sequence[str], storage: StorageConfig | None = None) -> Calibration:
    """Look at `LOOKED_AT` photos, spread evenly, or fewer if that takes longer than `SECONDS_OF_LOOKING`.

    What cannot be looked at is passed over, and another photo taken for it.
    """
    calibration = Calibration()
    if uris:
        detector.detect(np.zeros(WARM_UP, np.uint8))
    started = perf_counter()
    spread = np.unique(np.linspace(0, len(uris) - 1, min(len(uris), LOOKED_AT)).astype(int)).tolist()
    for number in dict.fromkeys([*spread, *range(len(uris))]):
        if calibration.looked_at == LOOKED_AT or perf_counter() - started > SECONDS_OF_LOOKING:
            break
        try:
            data = read_bytes(uris[number], storage)
            result = detector.look(detector.prepare(data))
        except SettingsError:
            raise
        except Exception:
            continue  # whatever is wrong with this photo, its row in the run will say it
        height, width = result.plan.photo_size
        calibration.looked_at += 1
        calibration.photo_pixels += height * width
        calibration.planned_pixels += detector.exhaustive_pixels(result.plan.photo_size)
        calibration.shown_pixels += result.pixels_processed
        for step, spent in zip(STEPS, (result.ms_decode, result.ms_network, result.ms_other), strict=True):
            calibration.seconds[step] += spent / 1e3
    return calibration


def _read_photo(uri: str, storage: StorageConfig | None, whole_bytes: int | None) -> SampledPhoto | None:
    """What a photo's header tells, from the first bytes of its file where they suffice; None: it is passed over."""
    if os.path.isfile(local_path(uri)) or uri_scheme(uri) in OBJECT_SCHEMES:
        # Otherwise the header lies further on, or something is wrong: the whole file decides what.
        with contextlib.suppress(OSError, PhotoError, SettingsError, struct.error):
            start, size = read_start(uri, HEADER_BYTES, storage)
            with contextlib.suppress(PhotoError, struct.error):
                return _sampled(start, size)
            if whole_bytes is not None and size > whole_bytes:
                return None
    data = read_bytes(uri, storage)
    return _sampled(data, len(data))


def _sampled(data: bytes, size: int) -> SampledPhoto:
    """What the first bytes of a file of that size tell."""
    header = read_header(data)
    return SampledPhoto(
        header=header,
        file_bytes=size,
        decoded_bytes={
            reduction: decoded_bytes(header, data, file_bytes=size, reduction=reduction) for reduction in REDUCTIONS
        },
        streamed_bytes=streamed_bytes(header, data, file_bytes=size),
    )
