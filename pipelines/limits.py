"""What one photo, and the photos read ahead, may take of a worker."""

from __future__ import annotations

from dataclasses import dataclass

from retinafocus.errors import SettingsError

# Bytes for each pixel that may be decoded at once. The hungriest format takes 19 (`footprint`); the rest is the file,
# its levels, and what allocators keep for themselves.
BYTES_PER_PIXEL = 32

# For the network, which is shown 8.4 Mpx at most, and for threads and libraries loaded late.
FIXED_BYTES = 2 << 30

# A photo that is read in strips gets its time that many times at most: its size is only what its header says.
MOST_TIMES = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one photo, and the photos read ahead, may take of a worker. No photo that stays within them is changed by
    them, so they are no part of what makes runs comparable."""

    photo_seconds: float = 900.0
    """A photo that takes longer is a `timeout`. The slowest measured took 80 with the weights that ship
    (docs/jobs.md), but there are others, and busier machines. A photo of more than `max_pixels`, which is read in
    strips, may take that long for each `max_pixels`."""

    photo_bytes: int | None = None
    """Memory a photo may take where photos go one by one through a process of their own; one that needs more is
    `out_of_memory`. None: 2 GiB and 32 bytes for each of `max_pixels`, 6 GiB with the default ones."""

    read_ahead_bytes: int = 256 << 20
    """Files held in memory before their photos are looked at, beside the first; fewer photos are then read ahead."""

    def __post_init__(self) -> None:
        if not 0 < self.photo_seconds < float("inf"):
            raise SettingsError(f"photo-timeout is {self.photo_seconds:g} s; choose more than 0")
        if self.photo_bytes is not None and self.photo_bytes < 1:
            raise SettingsError(f"photo-memory is {self.photo_bytes} bytes; choose at least 1")
        if self.read_ahead_bytes < 0:
            raise SettingsError(f"read-ahead-bytes is {self.read_ahead_bytes}; choose 0 (one photo at a time) or more")

    def seconds_for(self, pixels: int, max_pixels: int) -> float:
        """How long a photo of that size may take."""
        return self.photo_seconds * min(MOST_TIMES, max(1, -(-pixels // max_pixels)))

    def bytes_for(self, max_pixels: int) -> int:
        """How much memory a photo may take, if no more than that many pixels are decoded at once."""
        return FIXED_BYTES + BYTES_PER_PIXEL * max_pixels if self.photo_bytes is None else self.photo_bytes
