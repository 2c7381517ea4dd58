"""The photos that all detectors are shown, with their faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinafocus.datasets.canvas_set import Tile, read_canvas_set
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import SettingsError
from retinafocus.evaluation.average_precision import PhotoTruth


@dataclass(frozen=True)
class PhotoSet:
    """Files and what is known of them, in the same order."""

    name: str
    paths: list[Path]
    truths: list[PhotoTruth]


def read_set(folder: Path, sources: Sequence[str] | None = None, limit: int | None = None) -> PhotoSet:
    """A set of labelled photos or of canvases.

    Args:
        folder: of photos in the Parquet form, or written by `retinafocus make-4k`.
        sources: of the photos to take; None for all but those whose faces only detectors saw. Canvases are taken
            whole, but only photos of these sources count on them (all for None).
        limit: most photos, spread evenly over the set; None for all.

    Raises:
        SettingsError: a source is not there, or no photo is left.
        LabelError: the folder is in neither form.
    """
    if has_canvases(folder):
        pairs = _canvases(folder, sources)
    else:
        photos = of_sources(read_parquet_folder(folder), sources)
        pairs = [(photo.path, PhotoTruth(photo.boxes, photo.ignore)) for photo in photos]
    if limit is not None and limit < len(pairs):
        pairs = [pairs[number] for number in np.linspace(0, len(pairs) - 1, limit).round().astype(int)]
    if not pairs:
        raise SettingsError(f"{folder}: no photos are left to look at; see --sources and --limit")
    return PhotoSet(folder.resolve().name, [path.resolve() for path, _ in pairs], [truth for _, truth in pairs])


def has_canvases(folder: Path) -> bool:
    """Whether `retinafocus make-4k` wrote the folder."""
    return (folder / "canvases.parquet").exists()


def _canvases(folder: Path, sources: Sequence[str] | None) -> list[tuple[Path, PhotoTruth]]:
    canvases = read_canvas_set(folder)
    return [(canvases.pictures[name], canvas_truth(tiles, sources)) for name, tiles in canvases.by_canvas().items()]


def canvas_truth(tiles: Sequence[Tile], sources: Sequence[str] | None = None) -> PhotoTruth:
    """The faces of a canvas of these tiles, in pixels of the canvas; rows without area are no face to be found.

    A tile of a source that is not among these is one region to ignore. A photo's source is the first part of its name.
    """
    corners, ignored = [np.zeros((0, 4))], [np.zeros(0, np.bool_)]
    for tile in tiles:
        if sources is not None and tile.photo.name.split("/")[0] not in sources:
            left, top, width, height = tile.place
            corners.append(np.array([[left, top, left + width, top + height]], np.float64))
            ignored.append(np.ones(1, np.bool_))
            continue
        left, top, width, height = tile.photo.boxes.T
        moved = np.stack([left, top, left + width, top + height], axis=1) + np.tile(tile.place[:2], 2)
        corners.append(moved)
        ignored.append(tile.ignored)
    boxes, is_ignored = np.concatenate(corners).astype(np.float32), np.concatenate(ignored)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return PhotoTruth(boxes[has_area & ~is_ignored], boxes[has_area & is_ignored])


def of_sources(photos: Sequence[LabelledPhoto], sources: Sequence[str] | None) -> list[LabelledPhoto]:
    """The photos of these sources; None for all but those whose faces only detectors saw."""
    there = {photo.source for photo in photos}
    if sources is not None:
        if unknown := set(sources) - there:
            raise SettingsError(
                f"there is no source {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}"
            )
        return [photo for photo in photos if photo.source in sources]
    with_faces = {photo.source for photo in photos if photo.kinds}
    by_people = {photo.source for photo in photos if "human" in photo.kinds}
    return [photo for photo in photos if photo.source not in with_faces - by_people]
