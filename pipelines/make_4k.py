"""`retinafocus make-4k`: photos with labels joined into canvases of 4K and more, none of them resized."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.data import on_all_cores
from pipelines.report import Progress
from retinafocus.datasets.canvas_layout import LayoutConfig
from retinafocus.datasets.canvas_set import FOCUS_PX, FORMATS, CanvasSet
from retinafocus.datasets.canvas_sources import ListedPhoto, list_photos
from retinafocus.datasets.canvas_writer import (
    JPEG_SIDE,
    ExcludedPhoto,
    SourcePhoto,
    count_faces,
    covered_shares,
    focus_shares,
    place_photos,
    write_canvas,
    write_tables,
)
from retinafocus.datasets.parquet_writer import whole_folder
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.photos import MAX_PIXELS, decode, read_bytes, read_header


@dataclass(frozen=True, kw_only=True, slots=True)
class CanvasJob:
    """What to make canvases of, and how."""

    path: str
    """A folder in the Parquet form, or one with WIDER FACE's `WIDER_val/images`."""

    output: str
    """The folder to write; must not exist, or be empty. With several layouts it gets a folder for each."""

    layouts: Sequence[LayoutConfig]
    """The canvases; one set is made for each."""

    format: str = "png"
    """Of the pictures: png, which loses nothing, or jpeg (quality 95)."""

    ground_truth: str | None = None
    """The folder of WIDER FACE's `.mat` files; None looks below `path`."""

    expect: Sequence[str] = ()
    """The definition that each set must have, in the order of `layouts`; empty takes any."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise SettingsError(f"format: {self.format} is not known; choose {', '.join(FORMATS)}")
        for layout in self.layouts:
            if layout.width * layout.height > MAX_PIXELS:
                size = f"{layout.width}x{layout.height}"
                raise SettingsError(
                    f"size: {size} is more than the decoder takes by default, {MAX_PIXELS:,} px; choose less"
                )
            if self.format == "jpeg" and max(layout.width, layout.height) > JPEG_SIDE:
                raise SettingsError(
                    f"size: a side of {max(layout.width, layout.height):,} px is more than JPEG has, {JPEG_SIDE:,}; "
                    "choose png, or less"
                )
        if len({_set_folder(layout, self.layouts) for layout in self.layouts}) < max(1, len(self.layouts)):
            raise SettingsError("layouts: one or more are needed, each of another size; each has a folder of its size")
        if self.expect and len(self.expect) != len(self.layouts):
            raise SettingsError(
                f"expect: {len(self.expect)} definitions for {len(self.layouts)} sets; name one for each"
            )
        for definition in self.expect:
            # An empty one, as an unset variable of a shell gives, must not pass for "any".
            if not re.fullmatch(r"[0-9a-f]{64}", definition):
                raise SettingsError(
                    f"expect: {definition!r} is no definition; write the 64 digits that make-4k printed"
                )


def make_canvases(job: CanvasJob, progress: Progress) -> str:
    """Look at every photo, lay them out, write the canvases.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: there are no photos that can be placed, or a set is not the expected one.
        LabelError: the labels cannot be read.
        RunError: the output cannot be written, or a photo changed meanwhile.
    """
    output = Path(job.output)
    listed = list_photos(Path(job.path), None if job.ground_truth is None else Path(job.ground_truth))
    with whole_folder(output) as unfinished:
        sources, unusable = _look_at_all(listed, progress)
        sets = [place_photos(sources, layout, job.format) for layout in job.layouts]
        for canvases, too_large in sets:
            if not canvases.tiles:
                first = "".join(f"; {one.truth.name}: {one.reason}" for one in [*unusable, *too_large][:1])
                raise SettingsError(f"{job.path}: none of the {len(listed)} photos can be placed{first}")
        _check_expected([canvases for canvases, _ in sets], job.expect)
        folders = [_set_folder(layout, job.layouts) for layout in job.layouts]
        for (canvases, too_large), folder in zip(sets, folders, strict=True):
            _write_set(canvases, sources, [*unusable, *too_large], unfinished / folder, progress)
    return "\n\n".join(
        _summary(canvases, [*unusable, *too_large], output / folder)
        for (canvases, too_large), folder in zip(sets, folders, strict=True)
    )


def _set_folder(layout: LayoutConfig, layouts: Sequence[LayoutConfig]) -> str:
    return "." if len(layouts) == 1 else f"{layout.width}x{layout.height}"


def _look_at_all(listed: Sequence[ListedPhoto], progress: Progress) -> tuple[list[SourcePhoto], list[ExcludedPhoto]]:
    """The photos that can be decoded, and the others with the reason."""
    sources: list[SourcePhoto] = []
    excluded: list[ExcludedPhoto] = []
    progress.start(len(listed), done=0)
    try:
        for photo, looked in zip(listed, on_all_cores(_look, [photo.path for photo in listed]), strict=True):
            if isinstance(looked, PhotoError):
                excluded.append(ExcludedPhoto(photo.truth, looked.status, looked.reason))
            elif photo.size not in (None, looked[0]):
                reason = f"the labels were made for {_pixels(photo.size)}, the upright photo has {_pixels(looked[0])}"
                excluded.append(ExcludedPhoto(photo.truth, "wrong_size", reason))
            else:
                sources.append(SourcePhoto(photo.truth, photo.ignored, photo.labelled(looked[0]), looked[1]))
            is_usable = bool(sources) and sources[-1].truth is photo.truth
            progress.photo(int((~photo.ignored).sum()) if is_usable else None)
    finally:
        progress.stop()
    return sources, excluded


def _look(path: Path) -> tuple[tuple[int, int], str] | PhotoError:
    """The upright (height, width) and the sha256 of a photo that can be decoded, or why it cannot."""
    try:
        data = read_bytes(path)
        header = read_header(data)
        decode(data, header, reduction=8)  # reads all of the data, and costs the least
    except PhotoError as error:
        return error
    return (header.height, header.width), hashlib.sha256(data).hexdigest()


def _pixels(size: tuple[int, int] | None) -> str:
    return "nothing" if size is None else f"{size[1]} x {size[0]} px"


def _check_expected(sets: Sequence[CanvasSet], expected: Sequence[str]) -> None:
    for canvases, wanted in zip(sets, expected, strict=False):  # as many as sets, or none
        if (definition := canvases.definition()) != wanted:
            size = f"{canvases.settings.width}x{canvases.settings.height}"
            raise SettingsError(
                f"expect: the set of {size} would be {definition}, not {wanted}; the photos, their labels or the "
                "arguments are others"
            )


def _write_set(
    canvases: CanvasSet,
    sources: Sequence[SourcePhoto],
    excluded: Sequence[ExcludedPhoto],
    folder: Path,
    progress: Progress,
) -> None:
    photos = {source.truth.name: source.labelled for source in sources}
    tiles = canvases.by_canvas()
    (folder / "images").mkdir(parents=True)
    progress.start(len(canvases.tiles), done=0)
    try:
        write = partial(write_canvas, canvases, photos=photos, folder=folder)
        for name, _ in zip(tiles, on_all_cores(write, list(tiles)), strict=True):
            for tile in tiles[name]:
                progress.photo(int((~tile.ignored).sum()))
    finally:
        progress.stop()
    write_tables(canvases, photos, excluded, folder)


def _summary(canvases: CanvasSet, excluded: Sequence[ExcludedPhoto], folder: Path) -> str:
    settings = canvases.settings
    photos = [tile.photo for tile in canvases.tiles]
    rows, ignored = sum(len(photo.boxes) for photo in photos), sum(int(tile.ignored.sum()) for tile in canvases.tiles)
    counts = ", ".join(f"{count:,} {setting}" for setting, count in count_faces(photos).items())
    focus = sorted(focus_shares(canvases).values())
    lines = [
        f"canvases {len(canvases.pictures):,} of {settings.width} x {settings.height} px in {folder}, "
        f"{np.mean([*covered_shares(canvases).values()]):.0%} of them under photos",
        f"photos   {len(photos):,} placed, {len(excluded):,} left out",
        f"faces    {counts}; {rows:,} rows in all, {ignored:,} of them ignored",
        f"focus    faces under {FOCUS_PX:g} px cover {focus[0]:.3%} to {focus[-1]:.3%} of a canvas, "
        f"{np.median(focus):.3%} of the one in the middle",
    ]
    if excluded:
        kinds = ", ".join(f"{count:,} {status}" for status, count in Counter(one.status for one in excluded).items())
        lost = ", ".join(f"{count:,} {name}" for name, count in count_faces([one.truth for one in excluded]).items())
        first = f"{excluded[0].truth.name}: {excluded[0].reason}"
        lines.append(f"left out {kinds}, with faces {lost}; first {first}; all in {folder / 'excluded.parquet'}")
    return "\n".join([*lines, f"hash     {canvases.definition()}"])
