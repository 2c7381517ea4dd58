"""How long a run will take, from a few headers and one photo looked at."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pyarrow as pa

from pipelines.workers import Workers
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.levels import plan_levels
from retinafocus.photos import read_bytes, read_header

SAMPLED_HEADERS = 16


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run is expected to cost."""

    photos: int
    network_megapixels: float
    """Of one photo, over all scales: the mean of the sampled headers."""
    seconds_per_photo: float
    """Of one worker."""
    seconds: float
    """Of the whole run, without start-up."""
    sampled: int
    """Photos whose header was read."""


def forecast(manifest: pa.Table, weights: str, config: DetectorConfig, workers: Workers) -> Forecast:
    """Read headers spread over the archive, look at the first photo that can be decoded, and multiply.

    Args:
        manifest: the run's photos.
        weights: path of the weights.
        config: what to look for.
        workers: the run's workers.

    Returns:
        The forecast; zero seconds where none of the sampled photos can be read.
    """
    detector = Detector.from_pretrained(weights, config)
    photos = manifest.num_rows
    chosen = np.unique(np.linspace(0, photos - 1, min(photos, SAMPLED_HEADERS)).astype(int))
    megapixels, seconds_per_megapixel = [], None
    for uri in manifest.column("uri").take(pa.array(chosen)).to_pylist():
        try:
            data = read_bytes(uri)
            header = read_header(data)
            size = (header.height, header.width)
            plan = plan_levels(size, min_face=config.min_face, face_range=detector.preset.face_range)
            pixels = plan.pixels / 1e6
            if seconds_per_megapixel is None:
                detector.detect(data)  # the first call also pays for memory and threads
                start = perf_counter()
                detector.detect(data)
                seconds_per_megapixel = (perf_counter() - start) / pixels
        except SettingsError:
            raise
        except Exception:
            continue  # whatever is wrong with this photo, its row in the run will say it
        megapixels.append(pixels)
    mean = float(np.mean(megapixels)) if megapixels else 0.0
    per_photo = mean * (seconds_per_megapixel or 0.0)
    return Forecast(
        photos=photos,
        network_megapixels=mean,
        seconds_per_photo=per_photo,
        seconds=per_photo * photos / workers.count,
        sampled=len(megapixels),
    )
