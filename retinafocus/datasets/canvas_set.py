"""A set of canvases joined from labelled photos, as `retinafocus make-4k` writes it: the truth, and the way back.

    canvases = read_canvas_set(Path("wider-4k"))
    found = {name: detector.detect(path) for name, path in canvases.pictures.items()}
    evaluate_protocol(canvases.canvas_truth(), found)                           # as pictures of 4K
    evaluate_protocol(canvases.tile_truth(), canvases.carry_back(found))        # as the photos they are made of

Nothing is resized on the way to a canvas, so the lists a face belongs to stay valid; they are carried, never worked out
again. A tile is a photo at its place. Rows are all rows of the source's labels, also those that no list counts.

Source: section 4.1 of the RetinaFocus paper, which joins 4K pictures from the validation photos of WIDER FACE.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.errors import LabelError, SettingsError
from retinafocus.evaluation.average_precision import HasBoxesAndScores, PhotoDetections
from retinafocus.evaluation.wider_protocol import SETTINGS, ProtocolPhoto

FILL = (123, 117, 104)
"""RGB of the empty ground: what the network subtracts from every pixel, so that it sees zeros there."""

FORMATS = {"png": ".png", "jpeg": ".jpg"}
"""Suffix of the pictures by their format."""

FOCUS_PX = 32.0
"""sqrt(width * height) in pixels under which a face counts as one for the focus branch."""

CANVASES_TABLE = pa.schema(
    [
        pa.field("canvas", pa.string(), nullable=False),
        pa.field("tile", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        *(pa.field(column, pa.int32(), nullable=False) for column in ("x", "y", "w", "h")),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
"""One row for each tile."""

FACES_TABLE = pa.schema(
    [
        pa.field("canvas", pa.string(), nullable=False),
        pa.field("tile", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        *(pa.field(column, pa.float64(), nullable=False) for column in ("x", "y", "w", "h")),
        *(pa.field(setting, pa.bool_(), nullable=False) for setting in SETTINGS),
        pa.field("ignore", pa.bool_(), nullable=False),
    ]
)
"""One row for each row of the source's labels, with its box on the canvas."""

_METADATA = b"retinafocus_canvas_set"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class CanvasSettings:
    """What a set was made with."""

    width: int
    """Of every canvas, in pixels."""

    height: int
    """Of every canvas, in pixels."""

    format: str
    """Of the pictures; one of `FORMATS`."""

    gutter: int
    order: str
    seed: int
    fill: tuple[int, int, int] = FILL


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A photo at its place on a canvas."""

    canvas: str
    number: int
    """Of the tile on its canvas, from 0."""

    photo: ProtocolPhoto
    """The photo's truth, in its own pixels: all N rows."""

    ignored: NDArray[np.bool_]
    """(N,) rows that are neither face nor background: WIDER FACE's `invalid`, or ignore regions."""

    place: tuple[int, int, int, int]
    """x, y, width, height on the canvas, in pixels."""

    sha256: str
    """Of the photo's file, as hexadecimal text."""


@dataclass(frozen=True, slots=True, eq=False)
class CanvasSet:
    """Canvases and what lies on them."""

    settings: CanvasSettings
    tiles: tuple[Tile, ...]
    """By canvas, and by number within it. Each photo has one."""

    pictures: Mapping[str, Path]
    """File of each canvas by its name, in order."""

    def by_canvas(self) -> dict[str, list[Tile]]:
        """The tiles of each canvas."""
        return {name: list(tiles) for name, tiles in groupby(self.tiles, key=lambda tile: tile.canvas)}

    def canvas_truth(self) -> list[ProtocolPhoto]:
        """One entry per canvas, named for it, in pixels of the canvas: the rows of its tiles one after the other."""
        truth = []
        for name, tiles in self.by_canvas().items():
            boxes = np.concatenate([_on_canvas(tile) for tile in tiles])
            kept = {setting: np.concatenate([tile.photo.kept[setting] for tile in tiles]) for setting in SETTINGS}
            truth.append(ProtocolPhoto(name, boxes, kept))
        return truth

    def tile_truth(self) -> list[ProtocolPhoto]:
        """One entry per source photo, as its labels have it, in pixels of the photo; photos left out have none."""
        return [tile.photo for tile in self.tiles]

    def carry_back(self, found: Mapping[str, HasBoxesAndScores]) -> dict[str, PhotoDetections]:
        """Give each detection on a canvas to the photo that contains its centre.

        Such a box is moved and cut at the photo's border. One whose centre is on no photo goes to the nearest, as an
        empty box at the nearest point of its border: it counts there, and matches no face.

        Args:
            found: by canvas name; boxes xyxy in pixels of the canvas. Canvases that are absent have none.

        Returns:
            What was found on every source photo, by its name; boxes xyxy in pixels of the photo, in the order given.

        Raises:
            SettingsError: `found` has a name that is no canvas of this set.
        """
        if unknown := sorted(set(found) - set(self.pictures)):
            raise SettingsError(f"{unknown[0]}: there is no such canvas; the set has {len(self.pictures)} others")
        carried: dict[str, PhotoDetections] = {}
        for name, tiles in self.by_canvas().items():
            here = found.get(name, PhotoDetections())
            places = np.array([tile.place for tile in tiles], np.float32)
            owners, is_inside = _owners(here.boxes, places)
            for number, tile in enumerate(tiles):
                mine = owners == number
                boxes = _in_tile(here.boxes[mine], is_inside[mine], places[number])
                carried[tile.photo.name] = PhotoDetections(boxes, here.scores[mine])
        return carried

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """`canvases.parquet` and `faces.parquet`, without the settings."""
        places = np.array([tile.place for tile in self.tiles], np.int32).reshape(-1, 4)
        canvases = [
            [tile.canvas for tile in self.tiles],
            [tile.number for tile in self.tiles],
            [tile.photo.name for tile in self.tiles],
            *places.T,
            [tile.sha256 for tile in self.tiles],
        ]
        counts = [len(tile.photo.boxes) for tile in self.tiles]
        boxes = np.concatenate([np.zeros((0, 4)), *(_on_canvas(tile) for tile in self.tiles)])
        faces = [
            *(np.repeat(np.array(column, dtype=object), counts) for column in canvases[:3]),
            np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)]),
            *boxes.T,
            *(_flags([tile.photo.kept[setting] for tile in self.tiles]) for setting in SETTINGS),
            _flags([tile.ignored for tile in self.tiles]),
        ]
        return _table(canvases, CANVASES_TABLE), _table(faces, FACES_TABLE)

    def definition(self) -> str:
        """A hash of what the set is: the photos' bytes, their places and labels, and the form of the pictures.

        Sets of equal hashes are one test, wherever they were made; PNG pictures have equal pixels as well.
        """
        return _definition(self.settings, *self.tables())


def focus_area(photo: ProtocolPhoto, ignored: NDArray[np.bool_]) -> float:
    """Area of a photo's faces under `FOCUS_PX`, in pixels; overlaps count twice, ignored rows (N,) not at all."""
    areas = np.maximum(photo.boxes[:, 2], 0) * np.maximum(photo.boxes[:, 3], 0)
    # Rounded once: NumPy's order of adding is the machine's, and the balanced order goes by this.
    return math.fsum(areas[(areas < FOCUS_PX**2) & ~ignored])


def write_canvas_tables(canvases: CanvasSet, folder: Path) -> None:
    """Write `canvases.parquet`, which also holds the settings and the definition's hash, and `faces.parquet`."""
    tiles, faces = canvases.tables()
    settings = {"version": _VERSION, **asdict(canvases.settings), "definition": canvases.definition()}
    pq.write_table(tiles.replace_schema_metadata({_METADATA: json.dumps(settings)}), folder / "canvases.parquet")
    pq.write_table(faces, folder / "faces.parquet")


def read_canvas_set(folder: Path) -> CanvasSet:
    """Read a set that `retinafocus make-4k` wrote; no picture is opened.

    Raises:
        LabelError: it is none, was written by another version, lacks a picture, or its tables were changed since.
    """
    canvases = _read(folder / "canvases.parquet", CANVASES_TABLE)
    faces = _read(folder / "faces.parquet", FACES_TABLE)
    settings, definition = _settings(canvases, folder / "canvases.parquet")
    if _definition(settings, canvases, faces) != definition:
        raise LabelError(f"{folder}: the tables are not those that were written; make the set again")
    tiles = _tiles(canvases, faces)
    names = dict.fromkeys(tile.canvas for tile in tiles)
    pictures = {name: folder / "images" / f"{name}{FORMATS[settings.format]}" for name in names}
    if missing := [path for path in pictures.values() if not path.is_file()]:
        raise LabelError(f"{missing[0]}: {len(missing)} pictures of the set are missing; copy the folder again")
    return CanvasSet(settings, tiles, pictures)


def _on_canvas(tile: Tile) -> NDArray[np.float64]:
    """(N, 4) x, y, width, height of the tile's rows, in pixels of the canvas."""
    return tile.photo.boxes + np.array([*tile.place[:2], 0, 0], np.float64)


def _owners(boxes: NDArray[np.float32], places: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(K,) the nearest of the (T, 4) places to the centre of each of the (K, 4) boxes, and (K,) whether it is in it."""
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    low, high = places[None, :, :2], places[None, :, :2] + places[None, :, 2:]
    # The far edges are not part of a tile: photos that touch share no point.
    inside = np.asarray(((centres >= low) & (centres < high)).all(axis=2))
    away = np.maximum(np.maximum(low - centres, centres - high), 0)
    distances = np.where(inside, -1, (away.astype(np.float64) ** 2).sum(axis=2))
    return distances.argmin(axis=1), np.asarray(inside.any(axis=1))


def _in_tile(
    boxes: NDArray[np.float32], is_inside: NDArray[np.bool_], place: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(K, 4) boxes of a canvas in pixels of the tile; those whose centre (K,) is not inside shrink to a point."""
    centres = np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2)
    moved = np.where(is_inside[:, None], boxes, centres) - np.tile(place[:2], 2)
    return np.asarray(np.clip(moved, 0, np.tile(place[2:], 2)), np.float32)


def _flags(parts: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, np.bool_), *parts])


def _table(columns: Sequence[Any], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _definition(settings: CanvasSettings, canvases: pa.Table, faces: pa.Table) -> str:
    head = [_VERSION, settings.width, settings.height, settings.format, list(settings.fill)]
    digest = hashlib.sha256(json.dumps(head).encode())
    for table in (canvases, faces):
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            digest.update(b"\n" + json.dumps(row).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise LabelError(f"{path}: there is no such file; make a set with: retinafocus make-4k") from None
    except (pa.ArrowInvalid, OSError) as error:  # Arrow has both for damaged files
        reason = str(error).strip().replace("\n", " ")
        raise LabelError(f"{path}: this is no Parquet file, or a damaged one ({reason}); copy it again") from None
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise LabelError(f"{path}: the columns are not those of a set of canvases; make it again")
    return table


def _settings(canvases: pa.Table, path: Path) -> tuple[CanvasSettings, str]:
    try:
        content = json.loads((canvases.schema.metadata or {})[_METADATA])
        version, definition = content.pop("version"), content.pop("definition")
        settings = CanvasSettings(**{**content, "fill": tuple(content["fill"])})
    except (KeyError, TypeError, ValueError):
        raise LabelError(f"{path}: it does not say how it was made; make the set again") from None
    if version != _VERSION or settings.format not in FORMATS:
        raise LabelError(f"{path}: written by another version of this program; make the set again")
    return settings, definition


def _tiles(canvases: pa.Table, faces: pa.Table) -> tuple[Tile, ...]:
    columns = {name: faces.column(name).to_numpy() for name in ("x", "y", "w", "h", *SETTINGS, "ignore")}
    boxes = np.stack([columns[name] for name in ("x", "y", "w", "h")], axis=1)
    owners = list(zip(faces.column("canvas").to_pylist(), faces.column("tile").to_pylist(), strict=True))
    counts = {owner: len(list(rows)) for owner, rows in groupby(owners)}
    tiles, start = [], 0
    for row in canvases.to_pylist():
        rows = slice(start, start := start + counts.get((row["canvas"], row["tile"]), 0))
        place = row["x"], row["y"], row["w"], row["h"]
        kept = {setting: columns[setting][rows].astype(np.bool_) for setting in SETTINGS}
        photo = ProtocolPhoto(row["name"], boxes[rows] - np.array([*place[:2], 0, 0], np.float64), kept)
        ignored = columns["ignore"][rows].astype(np.bool_)
        tiles.append(Tile(row["canvas"], row["tile"], photo, ignored, place, row["sha256"]))
    return tuple(tiles)
