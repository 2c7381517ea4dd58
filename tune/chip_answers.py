"""What the network says about chips themselves, remembered: for estimates that are no estimates any more.

A chip has no surroundings, and on a part of a large face the network may see a face of its own. From whole levels that
cannot be told (docs/tuning.md has how much it changes), so chips that no setting asked for before are looked at.

Each process remembers what it saw, within bounds: what is let go, or was seen by a process that is no more, is looked
at again when a setting asks for it. That costs time and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from retinafocus.cascade import CascadeConfig, prepare
from retinafocus.engines import Engine
from retinafocus.errors import PhotoError, RunError
from retinafocus.focus.way import Box
from retinafocus.levels import Level
from retinafocus.photos import read_bytes
from retinafocus.postprocessing import PostConfig, find_candidates
from retinafocus.sources import PixelSource
from tune.level_cache import SCORE_FLOOR, CachedLook, CachedPhoto, route_of

ANSWER_BYTES = 512 * 2**20
"""Of a process, for what the network said."""

PIXEL_BYTES = 512 * 2**20
"""Of a process, for decoded photos: 15 of 4K. Decoding one takes longer than to look at its chips."""

BYTES_OF_A_PIXEL = 4
"""Three channels, and the coarser levels made from them."""

BYTES_OF_AN_ANSWER = 2048
"""Beside its arrays."""

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """Keeps what was asked for last, as much of it as its memory holds.

    Args:
        most_bytes: of the values together; one that is larger by itself is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[_Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> _Value | None:
        """What was put there, if it is still kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: _Value, size: int) -> None:
        """Keep a value that is not there, of so many bytes, and let go what was asked for longest ago."""
        if size > self._most:
            return
        self._kept[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed


class ChipAnswers:
    """Looks at chips, and at each only once as long as it is remembered.

    Args:
        engine: runs the network.
        min_face: of the cache of levels.
        answer_bytes: of what the network said.
        pixel_bytes: of decoded photos.
    """

    def __init__(
        self, engine: Engine, min_face: float, *, answer_bytes: int = ANSWER_BYTES, pixel_bytes: int = PIXEL_BYTES
    ) -> None:
        self._engine, self._min_face = engine, min_face
        self._answers: Recent[CachedLook] = Recent(answer_bytes)
        self._sources: Recent[PixelSource] = Recent(pixel_bytes)
        self.pixels = 0
        """That went through the network so far."""

    def __len__(self) -> int:
        """Chips that are remembered."""
        return len(self._answers)

    def look(self, photo: CachedPhoto, cascade: CascadeConfig, level: Level, boxes: Sequence[Box]) -> list[CachedLook]:
        """What the network says about rectangles of a level.

        Args:
            photo: from the cache; its name is its path.
            cascade: decides from which pixels the level is made.
            level: of the photo.
            boxes: xyxy in level pixels.

        Raises:
            RunError: the photo cannot be read or looked at any more.
        """
        route = route_of(cascade, self._engine.preset)
        asked = {box: self._answers.get((photo.name, route, level.scale, box)) for box in boxes}
        found = {box: answer for box, answer in asked.items() if answer is not None}
        unseen = [box for box in asked if box not in found]
        if unseen:
            try:
                seen = list(self._look(self._source(photo, route, cascade), level, unseen))
            except PhotoError as error:
                raise RunError(f"{photo.name}: {error}; mend it or take it from the labels") from error
            for new in seen:
                found[new.box] = new
                self._answers.put((photo.name, route, level.scale, new.box), new, _bytes_of(new))
        return [found[box] for box in boxes]

    def _source(self, photo: CachedPhoto, route: str, cascade: CascadeConfig) -> PixelSource:
        source = self._sources.get((photo.name, route))
        if source is None:
            data, preset = read_bytes(photo.name), self._engine.preset
            source = prepare(data, min_face=self._min_face, preset=preset, config=cascade).source
            height, width = photo.size
            self._sources.put((photo.name, route), source, BYTES_OF_A_PIXEL * height * width)
        return source

    def _look(self, source: PixelSource, level: Level, boxes: Sequence[Box]) -> Iterator[CachedLook]:
        preset, post = self._engine.preset, PostConfig(score_floor=SCORE_FLOOR, top_k=None)
        for number, pixels in source.read(level, np.array(boxes, np.int32)):
            outputs = self._engine.run(pixels[None])
            found = find_candidates(outputs, pixels.shape[:2], preset, post)
            focus = outputs.focus_logits
            logits = None if focus is None else focus[0, 0].float().cpu().numpy()
            self.pixels += pixels.shape[0] * pixels.shape[1]
            yield CachedLook(boxes[number], found, logits)


def _bytes_of(answer: CachedLook) -> int:
    found, logits = answer.candidates, answer.focus_logits
    arrays = (found.boxes, found.scores, found.landmarks, *(() if logits is None else (logits,)))
    return BYTES_OF_AN_ANSWER + sum(int(array.nbytes) for array in arrays)
