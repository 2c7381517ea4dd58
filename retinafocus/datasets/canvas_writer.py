"""Photos and their places made into a set of canvases: pictures, labels, and a summary a person can read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from numpy.typing import NDArray

from retinafocus.datasets.canvas_layout import Item, LayoutConfig, lay_out
from retinafocus.datasets.canvas_set import (
    FOCUS_PX,
    FORMATS,
    CanvasSet,
    CanvasSettings,
    Tile,
    focus_area,
    write_canvas_tables,
)
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_label_tables
from retinafocus.errors import LabelError, PhotoError, RunError
from retinafocus.evaluation.wider_protocol import SETTINGS, ProtocolPhoto
from retinafocus.photos import decode, read_bytes

JPEG_QUALITY = 95
"""With all colour samples (4:4:4): saving at 75 a second time costs detail that faces of 10 px have not to spare."""

JPEG_SIDE = 65_500
"""Pixels; the longest side that libjpeg writes."""

# Of two canvases, OpenCV's own choice (runs of equal bytes) made PNG larger by a fifth, in half the time; level 6 makes
# it smaller by 2 to 5 %, in twice the time.
PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT)

Pixels = NDArray[np.uint8]

EXCLUDED_TABLE = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        *(pa.field(setting, pa.int32(), nullable=False) for setting in SETTINGS),
    ]
)
"""One row for each photo that is on no canvas, with its faces by list."""


@dataclass(frozen=True, slots=True, eq=False)
class SourcePhoto:
    """A photo that can be placed."""

    truth: ProtocolPhoto
    ignored: NDArray[np.bool_]
    """(N,) rows of the truth that are neither face nor background."""

    labelled: LabelledPhoto
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class ExcludedPhoto:
    """A photo that is on no canvas."""

    truth: ProtocolPhoto
    status: str
    """One of `retinafocus.errors.STATUSES`, "wrong_size", or "too_large" for the canvas."""

    reason: str


def place_photos(
    sources: Sequence[SourcePhoto], config: LayoutConfig, picture_format: str
) -> tuple[CanvasSet, list[ExcludedPhoto]]:
    """Lay photos out on canvases; nothing is written or decoded.

    Args:
        sources: in the order of their list; names are unique.
        config: the canvases and the order. Balanced means the area of faces under `FOCUS_PX`.
        picture_format: one of `FORMATS`.

    Returns:
        The set, whose pictures are named relative to its folder, and the photos too large for a canvas.
    """
    fitting = [source for source in sources if config.holds(source.labelled.size)]
    items = [
        Item(source.truth.name, source.labelled.size, focus_area(source.truth, source.ignored)) for source in fitting
    ]
    tiles, pictures = [], {}
    for number, places in enumerate(lay_out(items, config)):
        canvas = f"canvas-{number:04d}"
        pictures[canvas] = Path("images", f"{canvas}{FORMATS[picture_format]}")
        for place_number, place in enumerate(places):
            source = fitting[place.item]
            height, width = source.labelled.size
            where = place.left, place.top, width, height
            tiles.append(Tile(canvas, place_number, source.truth, source.ignored, where, source.sha256))
    settings = CanvasSettings(
        width=config.width,
        height=config.height,
        format=picture_format,
        gutter=config.gutter,
        order=config.order,
        seed=config.seed,
    )
    excluded = [_too_large(source, config) for source in sources if not config.holds(source.labelled.size)]
    return CanvasSet(settings, tuple(tiles), pictures), excluded


def _too_large(source: SourcePhoto, config: LayoutConfig) -> ExcludedPhoto:
    height, width = source.labelled.size
    reason = f"{width} x {height} px do not fit on {config.width} x {config.height} px with a gutter of {config.gutter}"
    return ExcludedPhoto(source.truth, "too_large", reason)


def write_canvas(canvases: CanvasSet, name: str, photos: Mapping[str, LabelledPhoto], folder: Path) -> None:
    """Write one canvas's picture.

    Args:
        canvases: the set.
        name: of the canvas.
        photos: by name, with the paths of their files.
        folder: of the set; has `images/`.

    Raises:
        RunError: a photo is not the one that was placed any more.
    """
    settings = canvases.settings
    pixels = np.empty((settings.height, settings.width, 3), np.uint8)
    pixels[:] = settings.fill
    for tile in canvases.by_canvas()[name]:
        left, top, width, height = tile.place
        pixels[top : top + height, left : left + width] = _decoded(tile, photos[tile.photo.name].path)
    (folder / canvases.pictures[name]).write_bytes(encode(pixels, settings.format))


def _decoded(tile: Tile, path: Path) -> Pixels:
    try:
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() == tile.sha256:
            return decode(data)
        reason = "it was changed"
    except PhotoError as error:
        reason = error.reason
    raise RunError(f"{path}: {reason} since its place was chosen; make the set again")


def encode(pixels: Pixels, picture_format: str) -> bytes:
    """(H, W, 3) uint8 RGB as the bytes of a picture."""
    if picture_format == "jpeg":
        return bytes(simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, "RGB", "444"))
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), PNG_OPTIONS)
    return bytes(encoded.tobytes())


def write_tables(
    canvases: CanvasSet,
    photos: Mapping[str, LabelledPhoto],
    excluded: Sequence[ExcludedPhoto],
    folder: Path,
) -> None:
    """Write all of a set but its pictures: the manifest, the labels in the Parquet form, and `summary.md`."""
    write_canvas_tables(canvases, folder)
    labelled = {
        canvases.pictures[name].name: _united([(tile, photos[tile.photo.name]) for tile in tiles], canvases.settings)
        for name, tiles in canvases.by_canvas().items()
    }
    write_label_tables(labelled, folder)
    pq.write_table(_excluded_rows(excluded), folder / "excluded.parquet")
    (folder / "summary.md").write_text(describe(canvases, excluded), encoding="utf-8")


def _united(parts: Sequence[tuple[Tile, LabelledPhoto]], settings: CanvasSettings) -> LabelledPhoto:
    """The labels of a whole canvas, in its pixels."""
    shifts = [np.array(tile.place[:2] * 2, np.float32) for tile, _ in parts]
    photos = [photo for _, photo in parts]
    landmarks = [photo.landmarks + shift[:2] for photo, shift in zip(photos, shifts, strict=True)]
    return replace(
        photos[0],
        size=(settings.height, settings.width),
        boxes=np.concatenate([photo.boxes + shift for photo, shift in zip(photos, shifts, strict=True)]),
        landmarks=np.concatenate(landmarks),
        ignore=np.concatenate([photo.ignore + shift for photo, shift in zip(photos, shifts, strict=True)]),
        source="canvas",
        kinds=tuple(kind for photo in photos for kind in photo.kinds),
    )


def _excluded_rows(excluded: Sequence[ExcludedPhoto]) -> pa.Table:
    rows = [
        {"name": photo.truth.name, "status": photo.status, "reason": photo.reason, **count_faces([photo.truth])}
        for photo in excluded
    ]
    return pa.Table.from_pylist(rows, schema=EXCLUDED_TABLE)


def read_excluded(folder: Path) -> tuple[int, dict[str, int]]:
    """How many photos `excluded.parquet` names, and their faces of each list.

    Raises:
        LabelError: it is missing or is none.
    """
    path = folder / "excluded.parquet"
    try:
        table = pq.read_table(path, columns=[*SETTINGS])
    except (OSError, pa.ArrowException) as error:
        raise LabelError(
            f"{path}: cannot be read ({error}); copy the set of canvases again, or make it again"
        ) from error
    return table.num_rows, {setting: int(np.sum(table.column(setting).to_numpy())) for setting in SETTINGS}


def count_faces(photos: Sequence[ProtocolPhoto]) -> dict[str, int]:
    """Faces of each list."""
    return {setting: sum(int(photo.kept[setting].sum()) for photo in photos) for setting in SETTINGS}


def focus_shares(canvases: CanvasSet) -> dict[str, float]:
    """Share of each canvas's area in faces under `FOCUS_PX`, 0..1: what the focus branch cannot skip."""
    area = canvases.settings.width * canvases.settings.height
    return {
        name: sum(focus_area(tile.photo, tile.ignored) for tile in tiles) / area
        for name, tiles in canvases.by_canvas().items()
    }


def covered_shares(canvases: CanvasSet) -> dict[str, float]:
    """Share of each canvas's area under photos, 0..1."""
    area = canvases.settings.width * canvases.settings.height
    return {
        name: sum(tile.place[2] * tile.place[3] for tile in tiles) / area
        for name, tiles in canvases.by_canvas().items()
    }


def describe(canvases: CanvasSet, excluded: Sequence[ExcludedPhoto]) -> str:
    """What a set holds, canvas by canvas, as Markdown."""
    settings = canvases.settings
    focus, covered = focus_shares(canvases), covered_shares(canvases)
    drawn = "" if settings.order == "listed" else f", seed {settings.seed}"
    lines = [
        f"# {len(canvases.pictures)} canvases of {settings.width} x {settings.height} px",
        "",
        f"{len(canvases.tiles):,} photos, none resized; order {settings.order}{drawn}, gutter {settings.gutter} px, "
        f"{settings.format.upper()}. Definition `{canvases.definition()}`.",
        "",
        f"Focus: share of the canvas in faces under {FOCUS_PX:g} px. Rows: all rows of the labels; ignored: those that "
        "are neither face nor background.",
        "",
        f"| canvas | photos | rows | {' | '.join(SETTINGS)} | ignored | photos cover | focus |",
        "|---|---:|---:|" + "---:|" * (len(SETTINGS) + 3),
    ]
    for name, tiles in [*canvases.by_canvas().items(), ("all", list(canvases.tiles))]:
        photos = [tile.photo for tile in tiles]
        shares = [float(np.mean([*part.values()])) if name == "all" else part[name] for part in (covered, focus)]
        counts = [len(tiles), sum(len(photo.boxes) for photo in photos), *count_faces(photos).values()]
        counts.append(sum(int(tile.ignored.sum()) for tile in tiles))
        cells = [name, *(f"{count:,}" for count in counts), f"{shares[0]:.1%}", f"{shares[1]:.3%}"]
        lines.append(f"| {' | '.join(cells)} |")
    if excluded:
        lines += ["", f"{len(excluded):,} photos are on no canvas:", ""]
        lines += [f"* {photo.truth.name}: {photo.status}, {photo.reason}" for photo in excluded]
    return "\n".join(lines) + "\n"
