"""How long a run will take, from a few headers and fewer photos looked at."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pyarrow as pa

from pipelines.workers import Workers
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.photos import read_bytes, read_header

SAMPLED_HEADERS = 16

# What a photo costs depends on what is on it, so several are looked at, but nobody waits long for a forecast.
LOOKED_AT = 6
SECONDS_OF_LOOKING = 8.0


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


def forecast(manifest: pa.Table, weights: str, config: DetectorConfig, workers: Workers) -> Forecast:
    """Read headers spread over the archive, look at a few of those photos, and multiply.

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
    planned, shown, looked_at, seconds, started = [], 0.0, 0.0, 0.0, perf_counter()
    count = 0
    for uri in manifest.column("uri").take(pa.array(chosen)).to_pylist():
        try:
            data = read_bytes(uri)
            header = read_header(data)
            plan = config.cascade.plan((header.height, header.width), config.min_face, detector.preset)
            if count < LOOKED_AT and perf_counter() - started < SECONDS_OF_LOOKING:
                if count == 0:
                    detector.look(detector.prepare(data))  # the first call also pays for memory and threads
                start = perf_counter()
                result = detector.look(detector.prepare(data))
                seconds += perf_counter() - start
                shown, looked_at, count = shown + result.pixels_processed, looked_at + plan.pixels, count + 1
        except SettingsError:
            raise
        except Exception:
            continue  # whatever is wrong with this photo, its row in the run will say it
        planned.append(plan.pixels)
    mean = float(np.mean(planned)) if planned else 0.0
    per_photo = mean * seconds / looked_at if looked_at else 0.0
    return Forecast(
        photos=photos,
        network_megapixels=mean * shown / looked_at / 1e6 if looked_at else 0.0,
        exhaustive_megapixels=mean / 1e6,
        seconds_per_photo=per_photo,
        seconds=per_photo * photos / workers.count,
        sampled=len(planned),
        looked_at=count,
    )
