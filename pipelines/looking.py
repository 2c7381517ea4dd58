"""What becomes of one photo in a job: read, prepared, looked at. Whatever goes wrong is the photo's status."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from retinafocus.cascade import PhotoResult, PreparedPhoto
from retinafocus.detector import Detector
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.faces import Faces
from retinafocus.photos import PhotoHeader, read_header
from retinafocus.reading import read_photo
from retinafocus.storage import StorageConfig

Row = dict[str, Any]
"""A photo's row of the manifest."""


@dataclass
class Looked:
    """All that became of one photo."""

    row: Row
    status: str = "ok"
    error: str | None = None
    header: PhotoHeader | None = None
    prepared: PreparedPhoto | None = None
    faces: Faces | None = None
    pixels: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """What the cascade did, for the timing table."""
    ms: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def take(self, result: PhotoResult, exhaustive_pixels: int) -> None:
        """What was found, and what it cost."""
        self.faces, self.pixels = result.faces, result.pixels_processed
        # Decoding for a finer look is beside what `Looker.prepare` took.
        self.ms["decode"] += max(0.0, result.ms_decode - self.ms["decode"])
        self.ms["network"] += result.ms_network
        self.ms["other"] += result.ms_other
        self.counts.update(
            pixels_planned=exhaustive_pixels,
            chips=result.chips,
            chip_pixels=result.chip_pixels,
            chip_pixels_asked=result.chip_pixels_asked,
        )

    def fail(self, status: str, reason: str) -> None:
        """It was not looked at, and why."""
        self.status, self.error = status, reason


class Looker:
    """Takes photos of a manifest to their results.

    Args:
        detector: looks at them.
        storage: how object stores are reached.
        on_header: called with the pixels of each photo as soon as they are known; from several threads.
    """

    def __init__(
        self, detector: Detector, storage: StorageConfig | None = None, on_header: Callable[[int], None] | None = None
    ) -> None:
        self.detector = detector
        self.storage = storage
        self._on_header = on_header or (lambda pixels: None)

    def prepare(self, row: Row) -> Looked:
        """Read and decode one photo; needs no network, so many threads may call it.

        Raises:
            SettingsError: of the job, not of this photo.
        """
        looked = Looked(row=row)
        try:
            data = self._read(looked)
            start = perf_counter()
            header = looked.header = read_header(data)
            self._on_header(header.height * header.width)
            looked.prepared = self.detector.prepare(data)
            looked.ms["decode"] += 1e3 * (perf_counter() - start)
        except SettingsError:
            raise
        except Exception as error:
            looked.fail(*_failure(error, "corrupt"))
        return looked

    def look(self, group: Sequence[Looked]) -> None:
        """Find the faces of prepared photos, side by side where the engine gains from it. One thread at a time."""
        photos = [looked for looked in group if looked.prepared is not None]
        results: Sequence[PhotoResult | PhotoError]
        try:
            results = self.detector.look_many([looked.prepared for looked in photos if looked.prepared is not None])
        except Exception as error:
            if len(photos) > 1:  # which one it was, shows one by one
                for looked in photos:
                    self.look([looked])
                return
            results = [PhotoError(*_failure(error, "model_error"))]
        for looked, result in zip(photos, results, strict=True):
            looked.prepared = None  # the pixels: the largest thing in memory
            if isinstance(result, PhotoError):
                looked.fail(result.status, result.reason)
            else:
                looked.take(result, self.detector.exhaustive_pixels(result.plan.photo_size))

    def _read(self, looked: Looked) -> bytes:
        """The file of a photo, if it is the one that was listed.

        Raises:
            PhotoError: `vanished`, `changed`, or as `photos.read_photo`.
        """
        row = looked.row
        if row["vanished"]:
            raise PhotoError("vanished", "it was listed before and was not there any more at the last update")
        start = perf_counter()
        file = read_photo(row["uri"], self.storage)
        looked.ms["read"] += 1e3 * (perf_counter() - start)
        size = len(file.data)
        if row["bytes"] is not None and size != row["bytes"]:
            raise PhotoError("changed", f"{size} bytes now, {row['bytes']} when it was listed")
        looked.row = {**row, "bytes": size}
        # A store's name for the content says more than the time: the same content may be written again.
        told = "etag" if row["etag"] is not None and file.etag is not None else "modified"
        listed, found = row[told], getattr(file, told)
        if listed is not None and found is not None and found != listed:
            raise PhotoError("changed", "written to since it was listed; `retinafocus index --update` lists it again")
        _verify(file.data, row["checksum"])
        return file.data


def _verify(data: bytes, checksum: str | None) -> None:
    """Hold a photo against the checksum its list gave.

    Args:
        data: the whole file.
        checksum: `sha256:HEX` or `md5:HEX`; None for none.

    Raises:
        PhotoError: `changed`.
    """
    if checksum is None:
        return
    kind, _, expected = checksum.partition(":")
    if hashlib.new(kind, data, usedforsecurity=False).hexdigest() != expected.lower():
        raise PhotoError("changed", f"its {kind} is not the one in the list; copy the file again")


def _failure(error: Exception, unforeseen: str) -> tuple[str, str]:
    """Status and reason of a photo's row. What nobody foresaw is a row too: one photo must not end an archive's run."""
    if isinstance(error, PhotoError):
        return error.status, error.reason
    if isinstance(error, MemoryError):
        return "out_of_memory", "there was not enough memory for it; use fewer workers or a smaller max_pixels"
    # Its kind, not its text, which may hold addresses: two runs must record the same.
    return unforeseen, f"an unforeseen {type(error).__name__}; please report it with the photo"
