"""The photos that `retinafocus eval --dataset` looks at, and what is known of them: WIDER FACE, labelled photos in the
Parquet form, and canvases of 4K. All three become names, pictures and truth of one form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinafocus.datasets.canvas_set import CanvasSet, read_canvas_set
from retinafocus.datasets.canvas_sources import list_wider_photos
from retinafocus.datasets.canvas_writer import read_excluded
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import LabelError, SettingsError
from retinafocus.evaluation.average_precision import PhotoTruth
from retinafocus.evaluation.wider_protocol import ProtocolPhoto, protocol_photos

DATASETS = ("widerface", "labelled", "4k")
SPLITS = ("val", "test")

# The setting whose faces our own scorer counts, where the protocol's lists are all there is.
WIDEST_LIST = "hard"


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Which photos are meant."""

    dataset: str
    """One of `DATASETS`."""
    path: str
    """The folder of the data set."""
    split: str = "val"
    """Of WIDER FACE; test has no ground truth."""
    ground_truth: str | None = None
    """Folder of WIDER FACE's .mat files; None looks for them below `path`."""
    sources: tuple[str, ...] = ()
    """Of labelled photos, only these count; none: all."""

    def __post_init__(self) -> None:
        for name, value, choices in (("dataset", self.dataset, DATASETS), ("split", self.split, SPLITS)):
            if value not in choices:
                raise SettingsError(f"{name} is {value!r}; choose {', '.join(choices)}")
        if self.dataset != "widerface" and (self.split != "val" or self.ground_truth is not None):
            raise SettingsError("--split and --ground-truth are for --dataset widerface; leave them out")
        if self.dataset != "labelled" and self.sources:
            raise SettingsError("--sources are for --dataset labelled; leave them out")
        if self.split == "test" and self.ground_truth is not None:
            raise SettingsError("--split test has no ground truth; leave --ground-truth out")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Photos to look at, and their truth; everything by name, in one order."""

    folder: Path
    """Holds the pictures, and is looked at whole."""

    pictures: dict[str, str]
    """Path below the folder, with forward slashes, of each photo that counts."""

    protocol: list[ProtocolPhoto] | None
    """For the WIDER FACE protocol, in the order of `pictures`; None where no truth is known."""

    truths: list[PhotoTruth]
    """For our own scorer, in the same order."""

    landmarks: list[LabelledPhoto] | None = None
    """With the landmarks that are labelled, in the same order."""

    canvases: CanvasSet | None = None
    """Where the pictures are canvases: the way back to the photos they are made of."""

    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know of the set."""


def open_set(options: SetOptions) -> EvaluationSet:
    """Read what is known of the photos; no picture is opened.

    Raises:
        LabelError: pictures or labels are missing or malformed.
        SettingsError: a source is unknown, or the ground truth is not found or needs scipy.
    """
    openers: dict[str, Callable[[SetOptions], EvaluationSet]] = {
        "widerface": _widerface, "labelled": _labelled, "4k": _canvases,
    }  # fmt: skip
    return openers[options.dataset](options)


def chosen_sources(photos: Sequence[LabelledPhoto], sources: Sequence[str]) -> list[LabelledPhoto]:
    """The photos of those sources; all for none.

    Raises:
        SettingsError: there is no such source.
    """
    there = sorted({photo.source for photo in photos})
    if unknown := set(sources) - set(there):
        raise SettingsError(f"sources: {', '.join(sorted(unknown))} not among the labels; choose {', '.join(there)}")
    return [photo for photo in photos if photo.source in (sources or there)]


def _widerface(options: SetOptions) -> EvaluationSet:
    root = Path(options.path)
    folder = root / f"WIDER_{options.split}" / "images"
    if not folder.is_dir():
        raise LabelError(
            f"{folder}: there is no such folder; give the one that WIDER_{options.split}.zip was unpacked into"
        )
    if options.split == "test":
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.jpg"))
        if not paths:
            raise LabelError(f"{folder}: there are no pictures EVENT/NAME.jpg; unpack WIDER_test.zip again")
        names = {path.removesuffix(".jpg"): path for path in paths}
        return EvaluationSet(folder=folder, pictures=names, protocol=None, truths=[])
    listed = list_wider_photos(root, None if options.ground_truth is None else Path(options.ground_truth))
    truth = [photo.truth for photo in listed]
    pictures = {photo.truth.name: photo.path.relative_to(folder).as_posix() for photo in listed}
    return EvaluationSet(folder=folder, pictures=pictures, protocol=truth, truths=_truths(truth))


def _labelled(options: SetOptions) -> EvaluationSet:
    folder = Path(options.path) / "images"
    photos = chosen_sources(read_parquet_folder(Path(options.path)), options.sources)
    protocol = protocol_photos(photos, folder)
    paths = [photo.path.relative_to(folder).as_posix() for photo in photos]
    return EvaluationSet(
        folder=folder,
        pictures={photo.name: path for photo, path in zip(protocol, paths, strict=True)},
        protocol=protocol,
        truths=[PhotoTruth(photo.boxes, photo.ignore) for photo in photos],
        landmarks=photos,
    )


def _canvases(options: SetOptions) -> EvaluationSet:
    canvases = read_canvas_set(Path(options.path))
    folder = Path(options.path) / "images"
    truth = canvases.canvas_truth()
    pictures = {photo.name: canvases.pictures[photo.name].relative_to(folder).as_posix() for photo in truth}
    return EvaluationSet(
        folder=folder, pictures=pictures, protocol=truth, truths=_truths(truth), canvases=canvases,
        notes=tuple(_canvas_notes(canvases, Path(options.path))),
    )  # fmt: skip


def _canvas_notes(canvases: CanvasSet, folder: Path) -> Iterable[str]:
    """Photos that count in one way of scoring and not in the other, and those that count in none."""
    photos = canvases.tile_truth()
    if empty := sum(not len(photo.boxes) for photo in photos):
        yield (
            f"{empty:,} of {len(photos):,} photos have no box at all: by the protocol, what is found on them counts as "
            "false on a canvas, and not at all carried back."
        )
    left_out, faces = read_excluded(folder)
    if left_out:
        told = ", ".join(f"{count:,} {setting}" for setting, count in faces.items())
        yield f"{left_out:,} photos are on no canvas; their faces ({told}) count nowhere here."


def _truths(photos: Sequence[ProtocolPhoto]) -> list[PhotoTruth]:
    """For our own scorer: the faces of the widest list; all other boxes are ignored. Those without area are left out:
    nothing can find them."""
    truths = []
    for photo in photos:
        corners = np.concatenate([photo.boxes[:, :2], photo.boxes[:, :2] + photo.boxes[:, 2:]], axis=1)
        has_area = (photo.boxes[:, 2:] > 0).all(axis=1)
        is_face = photo.kept[WIDEST_LIST] & has_area
        boxes = corners.astype(np.float32)
        truths.append(PhotoTruth(boxes[is_face], boxes[has_area & ~is_face]))
    return truths
