"""What a case of `benchmarks.fuzz` goes through in a child process: every way from bytes to pixels, and its memory."""

from __future__ import annotations

import math
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fuzz_child import STATUSES, Outcome
from retinafocus import Detector, DetectorConfig
from retinafocus.errors import PhotoError
from retinafocus.footprint import decoded_bytes, streamed_bytes
from retinafocus.headers import PhotoHeader
from retinafocus.levels import Level
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.photos import decode, read_header
from retinafocus.streams import can_stream, open_stream
from retinafocus.strips import _libvips

MIB = 2**20

MAX_PIXELS = 2**22
"""What the readers are told to decode whole at most: 4 Mpx, so that a case takes milliseconds."""

STREAM_BYTES = 96 * MIB
"""What they may take for a photo in strips."""

STREAMED_PIXELS = 2**25
"""A larger photo is opened for strips, and only looked at as a whole."""

SIDE = 256
"""Of the squares that a level is read in."""

SLACK = 24 * MIB
"""Beyond what is predicted: what malloc keeps, and Python's own."""

BACKSTOP = 512 * MIB
"""Beyond that no memory is given at all."""


class Bad(Exception):
    """A reader did what no bytes may make it do."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass
class Reader:
    """Reads cases. Made once in each child, before any memory is measured."""

    detector: Detector = field(init=False)
    _peak: float = 0.0

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        config = DetectorConfig(device="cpu", engine="torch", threads=1, max_pixels=MAX_PIXELS)
        self.detector = Detector(RetinaFocus(get_preset("mobile025")), config)
        _libvips()

    def __call__(self, data: bytes) -> Outcome:
        start, self._peak = time.process_time(), 0.0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result, detail = self._read(data), ""
        except Bad as bad:
            result, detail = bad.kind, bad.detail
        return Outcome(result, detail, time.process_time() - start, self._peak / MIB)

    def _read(self, data: bytes) -> str:
        """Every way; the first status that is not ok is the case's, all others are looked at too."""
        with self._step("header", 3 * len(data)):
            header, status = _attempt(lambda: read_header(data))
        if header is None:
            return status
        whole, strips = self._budgets(header, data)
        statuses = []
        for reduction in (1, 8):
            with self._step(f"decode at 1/{reduction}", whole):
                pixels, status = _attempt(
                    lambda by=reduction: decode(data, header, reduction=by, max_pixels=MAX_PIXELS)
                )
            if pixels is not None and pixels.shape != (
                _part(header.height, reduction),
                _part(header.width, reduction),
                3,
            ):
                raise Bad("shape", f"decode at 1/{reduction}: {pixels.shape} for {header}")
            statuses.append(status)
        del pixels
        with self._step("prepare", max(whole, strips)):
            statuses.append(_attempt(lambda: self.detector.prepare(data))[1])
        if strips:
            with self._step("strips", strips):
                statuses.append(_attempt(lambda: _read_in_strips(data, header))[1])
        return next((status for status in statuses if status != "ok"), "ok")

    def _budgets(self, header: PhotoHeader, data: bytes) -> tuple[int, int]:
        """Predicted bytes: of decoding whole; of reading in strips, 0 where the format or the header admit none."""
        pixels = header.height * header.width
        predicted, _ = _attempt(lambda: decoded_bytes(header, data))
        # What is above the limit must be refused before anything is allocated. Halving takes a copy and a quarter.
        whole = max(predicted or 0, 7 * pixels) if pixels <= MAX_PIXELS else 0
        reason, _ = _attempt(lambda: can_stream(header, data))
        strips = 0
        if reason == "":
            predicted, _ = _attempt(lambda: streamed_bytes(header, data, open_pixels=2 * SIDE * header.width))
            strips = min(predicted or 0, STREAM_BYTES)
        return whole, strips

    @contextmanager
    def _step(self, name: str, predicted: int) -> Iterator[None]:
        """Measure one step's memory, which may not be more than predicted."""
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts from here. Source: proc(5)
        before = _status_bytes("VmRSS")
        limit = _status_bytes("VmData") + predicted + BACKSTOP
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        try:
            yield
        except Bad as bad:
            raise Bad(bad.kind, f"{name}: {bad.detail}") from bad
        except Exception as error:  # the very thing that is looked for
            raise Bad("exception", f"{name}: {type(error).__name__}: {error}") from error
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        used = _status_bytes("VmHWM") - before
        self._peak = max(self._peak, used)
        if used > predicted + SLACK:
            raise Bad("memory", f"{name}: {used / MIB:.0f} MiB, predicted {predicted / MIB:.0f}")


def _attempt(read: Callable[[], object]) -> tuple[object | None, str]:
    """A reader's result and "ok", or None and the status of the photo.

    Raises:
        Bad: the status or the text is not one a row may have, or memory ran out that should not have been asked for.
    """
    try:
        return read(), "ok"
    except PhotoError as error:
        if error.status not in STATUSES:
            raise Bad("exception", f"status {error.status}: {error.reason}") from error
        if error.status == "out_of_memory":
            raise Bad("memory", f"asked for more than {BACKSTOP / MIB:.0f} MiB beyond its prediction") from error
        if not error.reason.isprintable() or " at 0x" in error.reason:
            raise Bad("text", repr(error.reason)) from error
        return None, error.status


def _read_in_strips(data: bytes, header: PhotoHeader) -> None:
    """The photo at an eighth of its size, then whole, in squares."""
    source = open_stream(data, header, memory=STREAM_BYTES, open_pixels=2 * SIDE * header.width)
    large = header.height * header.width > STREAMED_PIXELS
    for scale in (1 / 8,) if large else (1 / 8, 1.0):
        size = _part(header.height, 1 / scale), _part(header.width, 1 / scale)
        level = Level(
            index=0,
            scale=scale,
            size=size,
            photo_size=(header.height, header.width),
            covered=source.covered(scale),
            face_range=(0.0, math.inf),
        )
        pixels = sum(square.size // 3 for _, square in source.read(level, _squares(*size)))
        if pixels != level.pixels:
            raise Bad("shape", f"{pixels} px of a level of {size}")


def _squares(height: int, width: int) -> NDArray[np.int32]:
    corners = [(x, y) for y in range(0, height, SIDE) for x in range(0, width, SIDE)]
    return np.array([(x, y, min(x + SIDE, width), min(y + SIDE, height)) for x, y in corners], np.int32)


def _part(side: int, reduction: float) -> int:
    return math.ceil(side / reduction)


def _status_bytes(name: str) -> int:
    """A field of this process's status. Source: proc(5)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
