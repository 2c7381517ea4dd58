"""What the frozen network makes of pictures, kept: the maps that a focus branch may read.

Making the crops of a training and looking at them takes seven times as long as teaching a branch on P3 what they show
(docs/tuning.md). All trials learn from the same crops and are judged on the same photos, so both are done once. Only
the maps that the search may read are kept, as 16-bit numbers.

A part is one file, written whole or not at all: a pass that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retinafocus.cascade import CascadeConfig, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError
from retinafocus.levels import LevelPlan
from retinafocus.models import RetinaFocus
from retinafocus.models.backbone import Stages
from retinafocus.models.pyramid import Levels
from retinafocus.photos import read_bytes
from retinafocus.training.augment import LabelledCrop
from retinafocus.training.focus_heads import CropFaces, features
from tune.level_cache import CachedPhoto

READ_BY = {"C2": ("c2",), "C3": ("c3",), "C4": ("c4",), "P2": ("c2", "p3"), "P3": ("p3",), "P4": ("p4",)}
"""The maps that a branch on a feature needs; the step from P3 to P2 is its own to learn."""

BATCHES_IN_A_PART = 8

Maps = dict[str, NDArray[np.float16]]
"""By the name of the map, (N, channels, h, w)."""


def maps_read_by(chosen: Iterable[str]) -> tuple[str, ...]:
    """The names of the maps that branches on these features need, in order."""
    return tuple(sorted({name for feature in chosen for name in READ_BY[feature]}))


def as_stages(maps: Mapping[str, NDArray[np.float16]]) -> tuple[Stages, Levels]:
    """Kept maps as a branch takes them; those that were not kept are empty."""
    known: dict[str, Tensor] = {name: torch.from_numpy(each.astype(np.float32)) for name, each in maps.items()}
    stages = Stages(*(known.get(name, torch.empty(0)) for name in Stages._fields))
    return stages, Levels(*(known.get(name, torch.empty(0)) for name in Levels._fields))


@dataclass(frozen=True, kw_only=True, slots=True)
class CropMaps:
    """The crops that all trials learn from: files of a folder."""

    folder: Path
    crops: int
    batch: int
    maps: tuple[str, ...]

    def write(
        self, detector: RetinaFocus, crop: Callable[[int], LabelledCrop], done: Callable[[int], None] = lambda n: None
    ) -> None:
        """Look at the crops that are missing.

        Args:
            detector: in evaluation mode.
            crop: gives the crop of a number; all are of one size.
            done: called with the number of crops that were there already, and then after each part.

        Raises:
            RunError: the network says numbers that 16 bits cannot hold.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(self.parts) if not self._path(number).exists()]
        done(sum(len(self._numbers(number)) for number in range(self.parts) if number not in missing))
        for number in missing:
            crops = [crop(each) for each in self._numbers(number)]
            values: dict[str, NDArray[Any]] = {
                "size": np.array(crops[0].pixels.shape[:2]),
                "boxes": np.concatenate([each.boxes for each in crops]),
                "sides": np.concatenate([each.sides for each in crops]),
                "ignore": np.concatenate([each.ignore for each in crops]),
                "faces": np.array([len(each.boxes) for each in crops]),
                "regions": np.array([len(each.ignore) for each in crops]),
            }
            for first in range(0, len(crops), self.batch):
                pixels = np.stack([each.pixels for each in crops[first : first + self.batch]])
                for name, each in _looked_at(detector, pixels, self.maps).items():
                    values[f"{name}-{first // self.batch}"] = each
            _write(self._path(number), values)
            done(len(crops))

    def batches(self, read: Sequence[str], seed: int) -> Iterator[tuple[Stages, Levels, list[CropFaces]]]:
        """Batches without end, all crops once before any comes again.

        Args:
            read: the names of the maps that are wanted.
            seed: of the order of the batches; a batch always holds the same crops.
        """
        random = np.random.default_rng(seed)
        while True:
            for number in random.permutation(self.parts):
                with np.load(self._path(int(number))) as part:
                    faces = _faces(part)
                    for place in random.permutation(-(-len(faces) // self.batch)):
                        maps = {name: part[f"{name}-{place}"] for name in read}
                        yield *as_stages(maps), faces[place * self.batch : (place + 1) * self.batch]

    @property
    def parts(self) -> int:
        """How many files there are."""
        return -(-self.crops // (self.batch * BATCHES_IN_A_PART))

    def _numbers(self, part: int) -> range:
        size = self.batch * BATCHES_IN_A_PART
        return range(part * size, min((part + 1) * size, self.crops))

    def _path(self, part: int) -> Path:
        return self.folder / f"crops-{part:05d}.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoMaps:
    """The photos that trials are judged on: a file for each, of the levels that chips are chosen from."""

    folder: Path
    maps: tuple[str, ...]

    def write(
        self,
        detector: RetinaFocus,
        photos: Sequence[tuple[LabelledPhoto, CachedPhoto]],
        cascade: CascadeConfig,
        route: str,
        min_face: float,
        done: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Look at the photos that are missing, at the rectangles that the cache of levels has looked at.

        Args:
            detector: in evaluation mode.
            photos: with what is cached of them.
            cascade: decides from which pixels a level is made.
            route: of the cache.
            min_face: the smallest wanted face, in photo pixels.
            done: called after each photo.

        Raises:
            RunError: the network says numbers that 16 bits cannot hold.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, (photo, cached) in enumerate(photos):
            if not self._path(number).exists():
                ready = prepare(read_bytes(photo.path), min_face=min_face, preset=detector.preset, config=cascade)
                values: dict[str, NDArray[Any]] = {}
                for level in chosen_from(ready.plan):
                    boxes = [look.box for look in cached.routes[route][level.scale].looks]
                    for place, pixels in ready.source.read(level, np.array(boxes, np.int32)):
                        looked = _looked_at(detector, pixels[None], self.maps)
                        values |= {f"{level.scale}-{place}-{name}": each for name, each in looked.items()}
                _write(self._path(number), values)
            done(1)

    def read(self, number: int, scale: float, look: int, read: Sequence[str]) -> tuple[Stages, Levels]:
        """The maps of a rectangle of a level of a photo."""
        with np.load(self._path(number)) as photo:
            return as_stages({name: photo[f"{scale}-{look}-{name}"] for name in read})

    def _path(self, number: int) -> Path:
        return self.folder / f"photo-{number:05d}.npz"


def chosen_from(plan: LevelPlan) -> tuple[Any, ...]:
    """The levels of a photo whose focus maps decide about chips, coarsest first."""
    return plan.levels[plan.whole - 1 : -1]


def digest_of(record: Mapping[str, Any]) -> str:
    """A short name for all that kept maps depend on."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def _looked_at(detector: RetinaFocus, pixels: NDArray[np.uint8], names: Sequence[str]) -> Maps:
    stages, levels = features(detector, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    known = {**stages._asdict(), **levels._asdict()}
    largest = float(np.finfo(np.float16).max)
    for name in names:
        if not float(known[name].abs().max()) <= largest:
            raise RunError(f"map {name} of these weights has values that 16 bits cannot hold (above {largest:g})")
    return {name: known[name].numpy().astype(np.float16) for name in names}


def _faces(part: Mapping[str, NDArray[Any]]) -> list[CropFaces]:
    height, width = part["size"].tolist()
    faces, regions = np.cumsum(part["faces"])[:-1], np.cumsum(part["regions"])[:-1]
    listed = zip(
        np.split(part["boxes"], faces), np.split(part["sides"], faces), np.split(part["ignore"], regions), strict=True
    )
    return [CropFaces((height, width), *each) for each in listed]


def _write(path: Path, values: Mapping[str, NDArray[Any]]) -> None:
    """Its name appears when it is whole: whoever is killed meanwhile leaves no part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]  # numpy's annotations take the names for its own options
    os.replace(temporary, path)
