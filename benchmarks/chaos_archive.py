"""The photos of a chaos run: small ones with faces, broken ones of every kind, odd names, and what becomes of them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

from benchmarks.chaos_faults import DEADLY
from retinafocus.storage import Storage

WIDTH, HEIGHT = 640, 480

ODD_NAMES = ("with space.jpg", "100%25.jpg", "what?#.jpg", "été ☃.jpg", "\u202efdp.jpg", "long-" + "n" * 200 + ".jpg")
# Object stores have no such names.
ODD_NAMES_OF_DISKS = ("two\nlines.jpg", os.fsdecode(b"not-utf-8-\xff\xfe.jpg"))

# Gone when the photos are looked at, back when those that failed are tried again.
AWAY = ("plain/0003.jpg", "plain/0017.jpg")
# Overwritten after the photos were listed.
CHANGED = "plain/0009.jpg"
# Changed, gone and come by the time of the second listing.
REPLACED, VANISHED, NEW = "plain/0012.jpg", "plain/0020.jpg", "new/{:02d}.jpg"
# Taken out at the end.
FORGOTTEN = ("plain/0001.jpg", "broken/truncated.jpg")


class Photos(Protocol):
    """Where the photos are."""

    @property
    def location(self) -> str:
        """What a command gets as its input."""

    def put(self, name: str, data: bytes) -> None:
        """Write a photo, or write it anew."""

    def take_away(self, name: str) -> None:
        """Delete it."""

    def bring_back(self, name: str, data: bytes) -> None:
        """As it was, its time included."""


class FolderPhotos:
    """Photos in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._times: dict[str, int] = {}

    @property
    def location(self) -> str:
        return str(self._root)

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def take_away(self, name: str) -> None:
        self._times[name] = (self._root / name).stat().st_mtime_ns
        (self._root / name).unlink()

    def bring_back(self, name: str, data: bytes) -> None:
        self.put(name, data)
        os.utime(self._root / name, ns=(self._times[name], self._times[name]))


class BucketPhotos:
    """Photos in an object store, whose entity tags are hashes of the content."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def location(self) -> str:
        return self._storage.location

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(name, data)

    def take_away(self, name: str) -> None:
        self._storage.delete(name)

    def bring_back(self, name: str, data: bytes) -> None:
        self.put(name, data)


class Archive:
    """An archive and its history.

    Args:
        photos: where they go.
        seed: of the pictures.
        plain: photos without anything odd; 24 at least for the whole history.
        deadly: with one that kills its decoder.
    """

    def __init__(self, photos: Photos, *, seed: int, plain: int = 32, deadly: bool = False) -> None:
        self.photos = photos
        self._random = np.random.default_rng(seed)
        self._face = cv2.cvtColor(astronaut()[:260, 80:360], cv2.COLOR_RGB2BGR)
        self._written = {f"plain/{number:04d}.jpg": self._jpeg() for number in range(plain)}
        names = ODD_NAMES if isinstance(photos, BucketPhotos) else (*ODD_NAMES, *ODD_NAMES_OF_DISKS)
        self._written |= {f"odd/{name}": self._jpeg() for name in names}
        self._written |= {f"broken/{name}": data for name, data in self._broken(deadly).items()}
        for name, data in self._written.items():
            photos.put(name, data)

    def after_listing(self) -> None:
        """Some photos go, one is overwritten."""
        for name in AWAY:
            self.photos.take_away(name)
        self.photos.put(CHANGED, self._jpeg() + b"longer than before\xff\xd9")

    def before_retry(self) -> None:
        """Those that went come back."""
        for name in AWAY:
            self.photos.bring_back(name, self._written[name])

    def before_update(self) -> None:
        """Photos come, change and vanish."""
        for number in range(8):
            self.photos.put(NEW.format(number), self._jpeg())
        self.photos.put(REPLACED, self._jpeg() + b"another size\xff\xd9")
        self.photos.take_away(VANISHED)

    def _jpeg(self) -> bytes:
        """A cloudy picture with one or two portraits."""
        clouds = self._random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(clouds, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for _ in range(int(self._random.integers(1, 3))):
            side = int(self._random.integers(60, 260))
            portrait = cv2.resize(self._face, (side, side), interpolation=cv2.INTER_AREA)
            left, top = (int(self._random.integers(0, most - side)) for most in (WIDTH, HEIGHT))
            picture[top : top + side, left : left + side] = portrait
        return _encoded(".jpg", np.asarray(picture, np.uint8))

    def _broken(self, deadly: bool) -> Mapping[str, bytes]:
        whole, png = self._jpeg(), bytearray(_encoded(".png", np.zeros((40, 50, 3), np.uint8)))
        png[-20] ^= 0xFF
        huge = bytearray(_encoded(".jpg", np.zeros((40, 50, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]))
        at = huge.index(b"\xff\xc2") + 5
        huge[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
        broken = {
            "truncated.jpg": whole[: len(whole) // 2],
            "corrupt.png": bytes(png),
            "text.jpg": b"this is no photo",
            "empty.jpg": b"",
            "huge.jpg": bytes(huge),
        }
        return broken | ({"deadly.jpg": whole + DEADLY + b"\xff\xd9"} if deadly else {})


def _encoded(form: str, picture: NDArray[np.uint8], settings: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(form, picture, settings)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {form}")
    return data.tobytes()
