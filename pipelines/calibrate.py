"""`retinafocus weights calibrate`: look at some photographs, and write down what enters each convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inventory import InventoryConfig, list_photos
from retinafocus.calibration import RangeRecorder
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.photos import read_bytes
from retinafocus.storage import StorageConfig
from retinafocus.weights import WeightsInfo, add_ranges, find_weights, load_model

# Photographs looked at: with 32, 64 and 128 the answers in 8-bit integers are equally far from those in float32.
PHOTOS = 64


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What came of it."""

    weights: WeightsInfo
    """The written file."""
    looked_at: int
    passed_over: int
    """Photographs that could not be read or looked at; others were taken for them."""


def calibrate(
    weights: str | None,
    inputs: Sequence[str],
    output: str,
    progress: Callable[[int, int], None] | None = None,
    storage: StorageConfig | None = None,
) -> Calibrated:
    """Measure a network's ranges on photographs spread evenly over the inputs, and write its weights with them.

    The same photographs give the same file, on one kind of machine.

    Args:
        weights: a file, or a name `find_weights` knows; None for those that ship.
        inputs: folders, `s3://` or `gs://` prefixes, photos, globs or lists of photos.
        output: the weights file to write.
        progress: called after each photograph with how many were looked at, and how many will be.
        storage: how object stores are reached.

    Raises:
        SettingsError: there are no photographs, or none can be looked at.
        WeightsError: the weights cannot be read, or the file not be written.
    """
    path = find_weights(weights)
    recorder = RangeRecorder(load_model(path))
    storage = storage or StorageConfig()
    uris = list_photos(inputs, InventoryConfig(storage=storage)).uris()
    wanted = min(PHOTOS, len(uris))
    spread = np.unique(np.linspace(0, len(uris) - 1, wanted).astype(int)).tolist()
    looked_at, passed_over, fault = 0, 0, ""
    for number in dict.fromkeys([*spread, *range(len(uris))]):
        if looked_at == wanted:
            break
        try:
            recorder.look(read_bytes(uris[number], storage))
        except PhotoError as error:
            passed_over += 1
            fault = fault or f"{uris[number]}: {error.reason}"
            continue
        looked_at += 1
        if progress is not None:
            progress(looked_at, wanted)
    if not looked_at:
        raise SettingsError(f"none of the {passed_over} photographs can be looked at ({fault}); give others")
    return Calibrated(weights=add_ranges(path, recorder.ranges(), output), looked_at=looked_at, passed_over=passed_over)
