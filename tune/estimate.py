"""What a setting of the cascade would find and cost, from cached whole levels: the cascade itself, without the network.

The library's own `Way` chooses levels, chips and tiles and stacks what was found; only the answers come from the cache
(`tune.level_cache`). A level that is looked at whole answers as the network did. A chip is looked at itself
(`tune.chip_answers`), once for all settings that ask for it; or it is answered with what the network said there when it
saw the whole level: the focus map inside it, and the candidates whose centre lies in it, of which the cascade drops
those near an inner side. The second way needs no photos and takes a fraction of the time, and is too kind to small
chips: the network says something else where it sees no surroundings (docs/tuning.md has how much).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinafocus.cascade import CascadeConfig, PhotoResult, PreparedPhoto
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.focus.way import Box, Way
from retinafocus.levels import Level
from retinafocus.models import Preset
from retinafocus.postprocessing import Candidates, PostConfig
from retinafocus.sources import Area
from tune.chip_answers import ChipAnswers
from tune.level_cache import CachedLevel, CachedLook, CachedPhoto, route_of


@dataclass(frozen=True, slots=True)
class CachedPixels:
    """In place of a photo's pixels, which are not kept."""

    levels: dict[float, CachedLevel]

    def covered(self, scale: float) -> Area:
        """See `PixelSource.covered`."""
        return self.levels[scale].covered

    def load(self, level: Level) -> None:
        """See `PixelSource.load`.

        Raises:
            RunError: always.
        """
        raise RunError("the pixels of a cached photo are not kept; look at the photo itself")

    def read(self, level: Level, boxes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """See `PixelSource.read`; raises RunError."""
        self.load(level)
        yield from ()


def estimate(
    photo: CachedPhoto,
    *,
    min_face: float,
    cascade: CascadeConfig,
    post: PostConfig,
    preset: Preset,
    answers: ChipAnswers | None = None,
) -> PhotoResult:
    """What the cascade would find in a photo, and what it would show the network.

    Args:
        photo: from the cache.
        min_face: the one the cache was made with.
        cascade: settings of a route that is in the cache.
        post: with a score floor not below that of the cache.
        preset: of the network.
        answers: looks at chips. None: they are answered from the whole level.

    Returns:
        As the cascade would, to the last bit if chips are looked at; its times are those of the estimate. Without
        looking, pixels and chips are exact where all levels that chips are chosen on are looked at whole.

    Raises:
        SettingsError: the route is not in the cache.
        PhotoError: as `cascade.look`.
    """
    route = route_of(cascade, preset)
    if route not in photo.routes:
        raise SettingsError(f"route {route!r} is not in the cache, which has {', '.join(photo.routes)}")
    levels = photo.routes[route]
    source = CachedPixels(levels)
    plan = cascade.plan(photo.size, min_face, preset)
    plan = plan.covering({level.scale: source.covered(level.scale) for level in plan.levels})
    way = Way(PreparedPhoto(header=None, plan=plan, source=source, ms_decode=0.0), preset, cascade, post)
    stride = 1 if preset.focus is None else preset.focus.stride
    while way.goes_on:
        level = levels[way.level.scale]
        boxes = [(left, top, right, bottom) for left, top, right, bottom in way.boxes.tolist()]
        known = {look.box: look for look in level.looks}
        unknown = [box for box in boxes if box not in known]
        if answers is None:
            known |= {box: _seen(level, box, stride, cascade.border) for box in unknown}
        elif unknown:
            known |= {look.box: look for look in answers.look(photo, cascade, way.level, unknown)}
        for box in boxes:
            way.saw(box, _limited(known[box], post), known[box].focus_logits)
        way.advance()
    result = way.answer()
    if isinstance(result, PhotoError):
        raise result
    return result


def _seen(level: CachedLevel, box: Box, stride: int, border: float) -> CachedLook:
    """What the network would say about a rectangle of a level, judging by the whole level."""
    left, top, right, bottom = box
    parts = [_inside(each, box, border, level.looks) for each in level.looks]
    found = Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
    )
    if any(each.focus_logits is None for each in level.looks):
        return CachedLook(box, found, None)
    # A rectangle at the level's far border need not begin at a cell: the nearest ones stand for its own.
    row, column = round(top / stride), round(left / stride)
    height, width = math.ceil((bottom - top) / stride), math.ceil((right - left) / stride)
    logits = _level_map(level.looks, stride)
    return CachedLook(box, found, logits[row : row + height, column : column + width])


def _inside(seen: CachedLook, box: Box, border: float, looks: Sequence[CachedLook]) -> Candidates:
    """The candidates of a whole level, or of one of its tiles, whose centre lies in a rectangle; in pixels of it."""
    found = seen.candidates
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 + np.array(seen.box[:2], np.float32)
    chosen = ((centres >= box[:2]) & (centres < box[2:])).all(axis=1)
    if len(looks) > 1:
        chosen &= ~_cut_by_tile(seen, border, looks)
    shift = np.array([seen.box[0] - box[0], seen.box[1] - box[1]], np.float32)
    boxes, landmarks = found.boxes[chosen] + np.tile(shift, 2), found.landmarks[chosen] + shift
    return Candidates(boxes, found.scores[chosen], landmarks)


def _cut_by_tile(seen: CachedLook, border: float, looks: Sequence[CachedLook]) -> NDArray[np.bool_]:
    """Whether candidates of a tile touch a side of it that lies inside the level; another tile has them whole."""
    edges = np.array([each.box for each in looks])
    low, high = np.array(seen.box[:2]), np.array(seen.box[2:])
    boxes, sides = seen.candidates.boxes, high - low
    at_low = (boxes[:, :2] < border) & (low > edges[:, :2].min(axis=0))
    at_high = (boxes[:, 2:] > sides - border) & (high < edges[:, 2:].max(axis=0))
    cut: NDArray[np.bool_] = (at_low | at_high).any(axis=1)
    return cut


def _level_map(looks: Sequence[CachedLook], stride: int) -> NDArray[np.float32]:
    """The focus logits of a whole level; where tiles overlap the larger ones, as in the cascade."""
    if len(looks) == 1 and looks[0].focus_logits is not None:
        return looks[0].focus_logits
    width, height = np.array([each.box[2:] for each in looks]).max(axis=0)
    canvas = np.full((math.ceil(height / stride), math.ceil(width / stride)), -np.inf, np.float32)
    for each in looks:
        assert each.focus_logits is not None
        row, column = round(each.box[1] / stride), round(each.box[0] / stride)
        under = canvas[row : row + len(each.focus_logits), column : column + each.focus_logits.shape[1]]
        np.maximum(under, each.focus_logits[: under.shape[0], : under.shape[1]], out=under)
    return canvas


def _limited(seen: CachedLook, post: PostConfig) -> Candidates:
    """The candidates that `find_all_candidates` would give: from the floor on, and no more than it admits."""
    found = seen.candidates
    chosen = np.flatnonzero(found.scores >= np.float32(post.score_floor))
    left, top, right, bottom = seen.box
    limit = post.candidate_limit((bottom - top) * (right - left))
    if limit is not None and len(chosen) > limit:
        chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")[:limit]]
    return Candidates(found.boxes[chosen], found.scores[chosen], found.landmarks[chosen])
