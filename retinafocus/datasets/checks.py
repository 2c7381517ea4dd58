"""What is suspicious about labelled photos: among their boxes, among their landmarks, and between photos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.likeness import HASH_BITS, Bits, first_alike

PROBLEMS = {
    "bad row": "a row of the tables cannot be used",
    "unreadable": "the picture cannot be decoded, or is not there",
    "wrong size": "the picture's size is not the one its labels were made for",
    "same file in both": "the other folder has the very same file: a leak between splits",
    "alike in both": "the other folder shows nearly the same, maybe mirrored: a leak between splits",
}
"""What spoils a training or falsifies its score, by name."""

NOTES = {
    "same file": "an earlier photo is the very same file",
    "alike": "an earlier photo shows nearly the same, maybe mirrored",
    "box twice": "two boxes of the photo are one face (IoU above 0.9)",
    "odd shape": "the box is over three times as high as wide, or as wide as high",
    "under 4 px": "sqrt(width * height) is too small to see a face in it",
    "landmark outside": "a landmark lies further outside the box than half its longer side",
    "eyes exchanged": "the left eye is right of the right one: fine in a face upside down, wrong in most",
}
"""What is worth a look, by name."""

TWICE_IOU = 0.9
LONGEST_SHAPE = 3.0
SMALLEST_SIDE = 4.0
OUTSIDE_PART = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found about one photo."""

    kind: str
    """A key of `PROBLEMS` or `NOTES`."""

    image: str
    """The photo's path below `images/`."""

    detail: str = ""
    """Which box, which other photo, or what the decoder said."""


def face_shapes(photos: Iterable[LabelledPhoto]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N,) sqrt(width * height) in pixels of the photo, and (N,) height / width, of all faces of the photos."""
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(photo.boxes for photo in photos)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.sqrt(widths * heights), heights / widths


def count_marked(photos: Iterable[LabelledPhoto]) -> int:
    """How many faces of the photos have a landmark."""
    return sum(int(np.isfinite(photo.landmarks).any(axis=(1, 2)).sum()) for photo in photos)


def label_findings(image: str, photo: LabelledPhoto) -> list[Finding]:
    """What is worth a look among the faces of one photo; details count its faces from 0."""
    found = []
    widths, heights = (photo.boxes[:, 2:] - photo.boxes[:, :2]).T
    points = photo.landmarks
    for kind, wrong in (
        ("box twice", _repeated(photo.boxes)),
        ("odd shape", np.maximum(widths, heights) > LONGEST_SHAPE * np.minimum(widths, heights)),
        ("under 4 px", np.sqrt(widths * heights) < SMALLEST_SIDE),
        ("landmark outside", _outside(photo.boxes, points)),
        ("eyes exchanged", points[:, 0, 0] > points[:, 1, 0]),  # never for missing ones: NaN compares as false
    ):
        for number in np.flatnonzero(wrong):
            box = ", ".join(f"{value:.1f}" for value in photo.boxes[number])
            found.append(Finding(kind, image, f"face {number} at {box}"))
    return found


def _repeated(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) whether an earlier box is nearly the same."""
    both = torch.from_numpy(boxes)
    earlier: NDArray[np.bool_] = (torch.tril(box_iou(both, both), diagonal=-1) > TWICE_IOU).any(dim=1).numpy()
    return earlier


def _outside(boxes: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) whether a point lies further out than `OUTSIDE_PART` of the box's longer side."""
    margin = OUTSIDE_PART * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None, None]
    beyond = (points < boxes[:, None, :2] - margin) | (points > boxes[:, None, 2:] + margin)
    return np.asarray(beyond.any(axis=(1, 2)))


@dataclass(slots=True)
class Likenesses:
    """The hashes of photos that could be decoded."""

    images: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Content hashes."""

    shown: list[Bits] = field(default_factory=list)
    mirrored: list[Bits] = field(default_factory=list)
    """Picture hashes, as it is and with left and right exchanged."""


def repeats(photos: Likenesses) -> list[Finding]:
    """Photos that repeat an earlier one of the same folder, each once."""
    return _shared(photos, photos, ("same file", "alike"), earlier=True)


def leaks(photos: Likenesses, others: Likenesses) -> list[Finding]:
    """Photos that another folder has as well, each once."""
    return _shared(photos, others, ("same file in both", "alike in both"), earlier=False)


def _shared(photos: Likenesses, others: Likenesses, kinds: tuple[str, str], *, earlier: bool) -> list[Finding]:
    first = {name: number for number, name in reversed(list(enumerate(others.files)))}
    upright = first_alike(_table(photos.shown), _table(others.shown), earlier=earlier)
    turned = first_alike(_table(photos.shown), _table(others.mirrored), earlier=earlier)
    found = []
    for number, image in enumerate(photos.images):
        same = first.get(photos.files[number], -1)
        if same >= 0 and not (earlier and same >= number):
            found.append(Finding(kinds[0], image, others.images[same]))
        elif upright[number] >= 0:
            found.append(Finding(kinds[1], image, others.images[upright[number]]))
        elif turned[number] >= 0:
            found.append(Finding(kinds[1], image, f"{others.images[turned[number]]} mirrored"))
    return found


def _table(hashes: list[Bits]) -> Bits:
    return np.array(hashes, dtype=np.bool_).reshape(-1, HASH_BITS)
