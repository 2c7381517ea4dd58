"""Pixels of labelled photos for the samples: decoded when wanted, kept while there is room, bad files passed over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import PhotoError, RunError
from retinafocus.photos import REDUCTIONS, decode, read_bytes, read_header
from retinafocus.training.samples import CropSamples, Sample

SMALLEST_REDUCED_FACE = 16.0
"""A photo is not decoded so small that its smallest face gets fewer decoded pixels, sqrt(width * height), than this."""

TRIES = 100
"""Samples drawn in place of one whose photo cannot be decoded, before the training stops."""

FURTHER = 2**40
"""Number between a sample and the one drawn in its place: beyond the samples of any training."""


class PhotoPixels:
    """The pixels of photos by their place in a list, for `CropSamples`.

    Args:
        photos: the list.
        cache_bytes: decoded pixels kept in each process; those unused for longest go first.
        largest: photos of more pixels than this are decoded at 1/2, 1/4 or 1/8, as far as `SMALLEST_REDUCED_FACE`
            allows; so a crop of a photo from 100 Mpx holds a few of them.
    """

    def __init__(self, photos: Sequence[LabelledPhoto], *, cache_bytes: int = 2**32, largest: float = 4e6) -> None:
        self.photos = photos
        self.cache_bytes = cache_bytes
        self.largest = largest
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._failed: dict[int, PhotoError] = {}

    def __call__(self, place: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of the whole photo, perhaps reduced; not to be written to.

        Raises:
            PhotoError: the photo cannot be decoded, or is not of the size its labels say; the reason has its path.
        """
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        if place in self._failed:
            raise self._failed[place]
        try:
            pixels = self._decode(self.photos[place])
        except PhotoError as error:
            self._failed[place] = PhotoError(error.status, f"{self.photos[place].path}: {error.reason}")
            raise self._failed[place] from error
        self._keep(place, pixels)
        return pixels

    def _decode(self, photo: LabelledPhoto) -> NDArray[np.uint8]:
        data = read_bytes(photo.path)
        header = read_header(data)
        if (header.height, header.width) != photo.size:
            found, labelled = f"{header.width} x {header.height}", f"{photo.size[1]} x {photo.size[0]}"
            raise PhotoError("changed", f"the photo is {found} px, its labels are for {labelled} px; mend the labels")
        return decode(data, header, reduction=reduction_for(photo, self.largest))

    def _keep(self, place: int, pixels: NDArray[np.uint8]) -> None:
        if pixels.nbytes > self.cache_bytes:
            return
        self._kept[place] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self.cache_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def reduction_for(photo: LabelledPhoto, largest: float) -> int:
    """Photo pixels per decoded pixel and axis: the least of 1, 2, 4, 8 that brings the photo to `largest` pixels.

    Less where the smallest face would fall below `SMALLEST_REDUCED_FACE` decoded pixels.
    """
    height, width = photo.size
    sides = np.sqrt((photo.boxes[:, 2:] - photo.boxes[:, :2]).prod(axis=1))
    finest = float(sides.min()) / SMALLEST_REDUCED_FACE if len(sides) else np.inf
    allowed = [reduction for reduction in REDUCTIONS if reduction == 1 or reduction <= finest]
    enough = [reduction for reduction in allowed if height * width <= largest * reduction**2]
    return min(enough, default=max(allowed))


class ReadableSamples(Dataset[Sample]):
    """Samples in which photos that cannot be decoded are replaced by others, and told.

    Which sample stands in depends on its number and the files alone, like the samples themselves.

    Args:
        samples: whose pixels raise PhotoError where a photo cannot be decoded.
        tell: called with each such error, again and again for the same photo.
    """

    def __init__(self, samples: CropSamples, tell: Callable[[PhotoError], None]) -> None:
        self.samples = samples
        self.tell = tell

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`.

        Raises:
            RunError: none of many photos could be decoded.
        """
        for attempt in range(TRIES):
            try:
                return self.samples[number + attempt * FURTHER]
            except PhotoError as error:
                self.tell(error)
                last = error
        raise RunError(f"{TRIES} photos in a row cannot be decoded (the last: {last.reason}); check the data folders")
