"""What the network says about chips themselves, remembered: for estimates that are no estimates any more.

A chip has no surroundings, and on a part of a large face the network may see a face of its own. From whole levels that
cannot be told (docs/tuning.md has how much it changes), so chips that no setting asked for before are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinafocus.cascade import CascadeConfig, prepare
from retinafocus.engines import Engine
from retinafocus.errors import PhotoError, RunError
from retinafocus.focus.way import Box
from retinafocus.levels import Level
from retinafocus.photos import read_bytes
from retinafocus.postprocessing import PostConfig, find_candidates
from tune.level_cache import SCORE_FLOOR, CachedLook, CachedPhoto, route_of


class ChipAnswers:
    """Looks at chips, each only once."""

    def __init__(self, engine: Engine, min_face: float) -> None:
        self._engine, self._min_face = engine, min_face
        self._remembered: dict[tuple[str, str, float, Box], CachedLook] = {}
        self.pixels = 0
        """That went through the network so far."""

    def __len__(self) -> int:
        """Chips that are remembered."""
        return len(self._remembered)

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
        keys = [(photo.name, route, level.scale, box) for box in boxes]
        unseen = [key for key in keys if key not in self._remembered]
        if unseen:
            try:
                self._look(unseen, cascade, level)
            except PhotoError as error:
                raise RunError(f"{photo.name}: {error}; mend it or take it from the labels") from error
        return [self._remembered[key] for key in keys]

    def _look(self, keys: Sequence[tuple[str, str, float, Box]], cascade: CascadeConfig, level: Level) -> None:
        preset, post = self._engine.preset, PostConfig(score_floor=SCORE_FLOOR, top_k=None)
        data = read_bytes(keys[0][0])
        source = prepare(data, min_face=self._min_face, preset=preset, config=cascade).source
        for number, pixels in source.read(level, np.array([key[3] for key in keys], np.int32)):
            outputs = self._engine.run(pixels[None])
            found = find_candidates(outputs, pixels.shape[:2], preset, post)
            focus = outputs.focus_logits
            logits = None if focus is None else focus[0, 0].float().cpu().numpy()
            self._remembered[keys[number]] = CachedLook(keys[number][3], found, logits)
            self.pixels += pixels.shape[0] * pixels.shape[1]
