"""How well anchors cover faces: the best overlap a face has with any anchor, over many faces, by their size.

Two questions, because they differ most for the smallest faces. *Shape*: with an anchor centred on the face. *Placed*:
with the anchors where they are, on the grid of their level; a face may have its centre anywhere between them, so the
answer is told for the worst place there is and for the mean over places.

Faces are (N, 2) float64 widths and heights in network-input pixels, as in `anchor_estimation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from retinafocus.anchors import AnchorConfig
from retinafocus.errors import SettingsError
from retinafocus.training.anchor_estimation import Floats, Range, face_sizes

Place = tuple[float, float]
"""(x, y) in network-input pixels."""

Form = Literal["shape", "mean", "worst"]
FORMS: tuple[Form, ...] = get_args(Form)

BUCKETS: tuple[Range, ...] = (
    (0.0, 8.0),
    (8.0, 16.0),
    (16.0, 32.0),
    (32.0, 64.0),
    (64.0, 128.0),
    (128.0, 256.0),
    (256.0, 512.0),
    (512.0, math.inf),
)
"""Octaves of sqrt(width * height), network-input pixels; low <= size < high."""

ALL_SIZES: Range = (0.0, math.inf)

PLACES = 256
"""Places of a face's centre that the mean is taken over: over all faces within 0.01 of the mean over 4,096 places."""

CORNER: Place = (0.0, 0.0)
"""Where cells of all levels meet: half a stride off for every anchor."""

# Steps of a sequence that fills the square evenly, also modulo any stride: Roberts' R2, the powers of 1 / p for the
# real root p of p^3 = p + 1. A regular grid of places would meet the cells of a fine level at one phase only.
_STEPS = np.array([0.7548776662466927, 0.5698402909980532])

PUBLISHED_ANCHORS = {
    # biubug6/Pytorch_Retinaface, data/config.py.
    "biubug6": AnchorConfig(sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))),
    # biubug6/Face-Detector-1MB-with-landmark, data/config.py.
    "1mb": AnchorConfig(sizes=((10.0, 20.0), (32.0, 64.0), (128.0, 256.0))),
    # RetinaFace, arXiv 1905.00641, table 2: three sizes a level, a third of an octave apart.
    "paper": AnchorConfig(
        strides=(4, 8, 16, 32, 64),
        sizes=tuple(tuple(4.0 * stride * 2 ** (third / 3) for third in range(3)) for stride in (4, 8, 16, 32, 64)),
    ),
    # Selective Refinement Network, arXiv 1809.02693, section 3.1, and ChiCheng123/SRN.
    "srn": AnchorConfig(
        strides=(4, 8, 16, 32, 64, 128),
        sizes=tuple((2.0 * stride, 2.0 * stride * math.sqrt(2)) for stride in (4, 8, 16, 32, 64, 128)),
        ratio=1.25,
    ),
}
"""Anchors that others have published, by a short name."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How well anchors cover the faces of a range of sizes."""

    form: Form
    """shape: centred on the face; mean and worst: on the grids, over places and at the worst place."""

    low: float
    high: float
    """Sizes, low <= size < high, network-input pixels."""

    faces: int

    mean_overlap: float
    """Mean best IoU; NaN without faces, as the shares."""

    over_035: float
    """Share of the faces (and places) with a best IoU above 0.35, from where on anchors are positive."""

    over_050: float
    """The same above 0.5."""


def shape_overlaps(faces: Floats, anchors: AnchorConfig) -> Floats:
    """(N,) best IoU of each face with an anchor of the same centre."""
    return _best_overlaps(faces, anchors, None)


def placed_overlaps(faces: Floats, anchors: AnchorConfig, place: Place) -> Floats:
    """(N,) best IoU of each face with the anchors of an unbounded input.

    Args:
        faces: (N, 2); widths and heights.
        anchors: an anchor's centre is (index + 0.5) * stride.
        place: (x, y) of the faces' centre, network-input pixels.
    """
    return _best_overlaps(faces, anchors, place)


def worst_overlaps(faces: Floats, anchors: AnchorConfig) -> Floats:
    """(N,) best IoU of each face at the place where that is least: a corner that cells of all levels share."""
    return _best_overlaps(faces, anchors, CORNER)


def _best_overlaps(faces: Floats, anchors: AnchorConfig, place: Place | None) -> Floats:
    widths, heights = faces[:, 0], faces[:, 1]
    areas, best = widths * heights, np.zeros(len(faces))
    shape = math.sqrt(anchors.ratio)
    for stride, sizes in zip(anchors.strides, anchors.sizes, strict=True):
        # Of the anchors of one size, the nearest overlaps most.
        off_x, off_y = (0.0, 0.0) if place is None else (abs(at % stride - stride / 2) for at in place)
        for size in sizes:
            shared = _shared(widths, size / shape, off_x) * _shared(heights, size * shape, off_y)
            np.maximum(best, shared / (areas + size * size - shared), out=best)
    return best


def _shared(lengths: Floats, length: float, apart: float) -> Floats:
    """(N,) length that intervals share with one whose centre is `apart` from theirs."""
    shared: Floats = np.minimum(np.minimum(lengths, length), (lengths + length) / 2 - apart)
    return np.maximum(shared, 0.0, out=shared)


def coverage(
    faces: Floats, anchors: AnchorConfig, buckets: Sequence[Range] = (ALL_SIZES, *BUCKETS), places: int = PLACES
) -> list[Coverage]:
    """How well the anchors cover the faces.

    Args:
        faces: (N, 2) float64; widths and heights, all above 0. N may be 0.
        anchors: their levels decide the grids.
        buckets: ranges of sizes to tell.
        places: of the faces' centres in the mean, at least 1.

    Returns:
        One record for each form and bucket, in this order.

    Raises:
        SettingsError: `places` is below 1.
    """
    if places < 1:
        raise SettingsError(f"places is {places}; choose at least 1")
    spots = (np.arange(1, places + 1)[:, None] * _STEPS % 1.0) * math.lcm(*anchors.strides)
    told = {
        "shape": _of_each_face(faces, anchors, [None]),
        "mean": _of_each_face(faces, anchors, [(float(x), float(y)) for x, y in spots]),
        "worst": _of_each_face(faces, anchors, [CORNER]),
    }
    sizes = face_sizes(faces)
    rows = []
    for form in FORMS:
        for low, high in buckets:
            inside = (sizes >= low) & (sizes < high)
            means = told[form][:, inside].mean(axis=1) if inside.any() else np.full(3, math.nan)
            rows.append(Coverage(form, low, high, int(inside.sum()), *means.tolist()))
    return rows


def _of_each_face(faces: Floats, anchors: AnchorConfig, places: Sequence[Place | None]) -> Floats:
    """(3, N) of each face, means over the places: best IoU, whether it is above 0.35, and above 0.5."""
    totals = np.zeros((3, len(faces)))
    for place in places:
        overlaps = _best_overlaps(faces, anchors, place)
        totals += np.stack([overlaps, overlaps > 0.35, overlaps > 0.5])
    return totals / len(places)
