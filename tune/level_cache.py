"""What the network says about whole levels of labelled photos, kept so that settings can be tried without the network.

`write_cache` looks at each photo at every level whole, along each *route* that a search may take (looking everywhere
or being led by the focus map, and the ratio of neighbouring levels), and keeps candidates and focus maps in Parquet.
`read_cache` brings them back; `tune.estimate` lets the cascade walk through them.

A pass that was killed goes on (`tune.photo_parts`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from retinafocus.cascade import CascadeConfig, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.engines import Engine
from retinafocus.errors import PhotoError, RunError
from retinafocus.focus.settings import FOCUS_ZOOM
from retinafocus.focus.way import Box
from retinafocus.levels import ZOOM
from retinafocus.models import Outputs, Preset
from retinafocus.photos import read_bytes
from retinafocus.postprocessing import Candidates, PostConfig
from tune.photo_parts import photo_name, read_parts, write_parts

SCORE_FLOOR = 0.02
"""Candidates below it are not kept: average precision is measured down to this score."""

_CANDIDATES = pa.list_(pa.float32())
CACHE_SCHEMA: pa.Schema = pa.schema(
    {
        "photo": pa.string(),
        "route": pa.string(),
        "scale": pa.float64(),
        "covered": pa.list_(pa.float64(), 4),
        "box": pa.list_(pa.int32(), 4),
        "picture": pa.string(),
        "scores": _CANDIDATES,
        "boxes": _CANDIDATES,
        "landmarks": _CANDIDATES,
        "map_height": pa.int32(),
        "focus_logits": _CANDIDATES,
    }
)
"""One row for each rectangle that was looked at; null lists where an earlier row of the photo has the same picture."""


@dataclass(frozen=True, slots=True)
class CachedLook:
    """What was found in one rectangle of a level."""

    box: Box
    candidates: Candidates
    """Down to the score floor, in pixels of the rectangle."""
    focus_logits: NDArray[np.float32] | None
    """(h, w) of its cells; None for the finest level, and for a network without a focus branch."""


@dataclass(frozen=True, slots=True)
class CachedLevel:
    """A whole level."""

    covered: tuple[float, float, float, float]
    """See `levels.Level`."""
    looks: tuple[CachedLook, ...]
    """One, or the tiles of a level that is too large to look at at once."""


@dataclass(frozen=True, slots=True)
class CachedPhoto:
    """What was found in one photo, level by level."""

    name: str
    size: tuple[int, int]
    """(height, width) of the upright photo."""
    routes: dict[str, dict[float, CachedLevel]]
    """By `route_of`, then by the level's scale."""


@dataclass(frozen=True, slots=True)
class LevelCache:
    """All photos, in the order given, and what their cache was made with."""

    photos: tuple[CachedPhoto, ...]
    record: dict[str, Any]


def route_of(cascade: CascadeConfig, preset: Preset) -> str:
    """Which levels there are, and from which pixels they are made: settings of one route share what was cached.

    Raises:
        SettingsError: mode focus for a network without a focus branch.
    """
    return f"{'focus' if cascade.uses_focus(preset) else 'exhaustive'} {zoom_of(cascade, preset)}"


def zoom_of(cascade: CascadeConfig, preset: Preset) -> int:
    """The ratio of neighbouring levels, settled."""
    return cascade.zoom or (FOCUS_ZOOM if cascade.uses_focus(preset) else ZOOM)


def write_cache(
    folder: Path,
    photos: Sequence[LabelledPhoto],
    engine: Engine,
    routes: Sequence[CascadeConfig],
    record: dict[str, Any],
    done: Callable[[int], None] = lambda photos: None,
) -> None:
    """Look at photos that are not in the cache yet.

    Args:
        folder: of the cache; it is made.
        photos: labelled.
        engine: runs the network.
        routes: the settings of the cascade by which photos are looked at; of those with the same route the first.
        record: all that the outputs depend on, in JSON types; with `min_face`.
        done: called with the number of photos that were there already, and then after each.

    Raises:
        SettingsError: the cache in the folder was made with another record, or of other photos.
        RunError: a photo cannot be looked at.
    """
    by_route = {route_of(cascade, engine.preset): cascade for cascade in reversed(routes)}
    record = {**record, "routes": sorted(by_route)}
    min_face = record["min_face"]
    write_parts(folder, photos, CACHE_SCHEMA, record, lambda photo: _rows(photo, engine, by_route, min_face), done)


def read_cache(folder: Path, photos: Sequence[LabelledPhoto]) -> LevelCache:
    """The cache of these photos.

    Raises:
        RunError: there is none, or it is not finished.
        SettingsError: it is of other photos.
    """
    tables, record = read_parts(folder, photos)
    rows: dict[str, list[dict[str, Any]]] = {photo_name(photo): [] for photo in photos}
    for table in tables:
        for row in _numpy_rows(table):
            rows[row["photo"]].append(row)
    cached = tuple(_cached_photo(photo, rows[photo_name(photo)]) for photo in photos)
    return LevelCache(cached, record)


def _rows(
    photo: LabelledPhoto, engine: Engine, routes: dict[str, CascadeConfig], min_face: float
) -> Iterator[dict[str, Any]]:
    """Of one photo, along each route."""
    recorder = _Recorder(engine)
    told: set[str] = set()
    for route, cascade in routes.items():
        recorder.seen.clear()
        try:
            prepared = prepare(read_bytes(photo.path), min_face=min_face, preset=engine.preset, config=cascade)
            # Decoded as for this route, but looked at whole at every level.
            plan = dataclasses.replace(prepared.plan, whole=len(prepared.plan.levels))
            post = PostConfig(score_floor=SCORE_FLOOR, top_k=None)
            result = look(dataclasses.replace(prepared, plan=plan), recorder, cascade, post)
        except PhotoError as error:
            raise RunError(f"{photo.path}: {error}; mend it or take it from the labels") from error
        if prepared.plan.photo_size != photo.size:
            raise RunError(f"{photo.path} is {prepared.plan.photo_size} px, its labels say {photo.size}; mend them")
        for seen, (picture, logits) in zip(result.trace.looks, recorder.seen, strict=True):
            row = {"photo": photo_name(photo), "route": route, "scale": seen.level.scale}
            row |= {"covered": seen.level.covered, "box": seen.box, "picture": picture}
            if picture not in told:
                finest = seen.level.index == plan.finest.index
                row |= _contents(seen.candidates, None if finest else logits)
            told.add(picture)
            yield row


def _contents(found: Candidates, logits: NDArray[np.float32] | None) -> dict[str, Any]:
    row = {"scores": found.scores, "boxes": found.boxes.ravel(), "landmarks": found.landmarks.ravel()}
    return row if logits is None else {**row, "map_height": len(logits), "focus_logits": logits.ravel()}


class _Recorder:
    """An engine that notes what it was shown, picture by picture, and runs the network on each only once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self.preset, self.batch = engine.preset, 1
        self.seen: list[tuple[str, NDArray[np.float32] | None]] = []
        """A digest of each picture, and its focus logits."""
        self._outputs: dict[str, Outputs] = {}

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """See `Engine`; one picture."""
        picture = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]
        if picture not in self._outputs:
            self._outputs[picture] = Outputs(
                *(None if part is None else part.to("cpu", torch.float32) for part in self._engine.run(pixels))  # type: ignore[arg-type]
            )
        outputs = self._outputs[picture]
        focus = outputs.focus_logits
        self.seen.append((picture, None if focus is None else focus[0, 0].numpy()))
        return outputs


def _numpy_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows whose long lists are float32 arrays, not Python's numbers."""
    long = ("scores", "boxes", "landmarks", "focus_logits")
    short = table.drop_columns(list(long)).to_pylist()
    columns = {name: table.column(name) for name in long}
    for number, row in enumerate(short):
        for name, column in columns.items():
            values = column[number].values
            row[name] = None if values is None else values.to_numpy()
        yield row


def _cached_photo(photo: LabelledPhoto, rows: Sequence[dict[str, Any]]) -> CachedPhoto:
    contents: dict[str, tuple[Candidates, NDArray[np.float32] | None]] = {}
    routes: dict[str, dict[float, CachedLevel]] = {}
    for row in rows:
        if row["picture"] not in contents:
            found = Candidates(row["boxes"].reshape(-1, 4), row["scores"], row["landmarks"].reshape(-1, 5, 2))
            logits = row["focus_logits"]
            contents[row["picture"]] = (found, None if logits is None else logits.reshape(row["map_height"], -1))
        seen = CachedLook(tuple(row["box"]), *contents[row["picture"]])
        levels = routes.setdefault(row["route"], {})
        before = levels[row["scale"]].looks if row["scale"] in levels else ()
        levels[row["scale"]] = CachedLevel(tuple(row["covered"]), (*before, seen))
    return CachedPhoto(photo_name(photo), photo.size, routes)
