"""Anchors for the faces at hand: sizes and a shape by clustering, and the pyramid level each size belongs to.

What counts is a face as the network sees it: after the crops and resizes of the training, or at the factors at which
photos will be looked at. Faces are (N, 2) float64 widths and heights in network-input pixels; a size is
sqrt(width * height), as in `anchors.AnchorConfig`.

Source: k-means with the distance 1 - IoU of boxes with one centre (YOLO9000, arXiv 1612.08242, section 2), as the
RetinaFace fine-tuning literature takes it over. With one ratio for all anchors and faces, the IoU of the sizes a and b
is (min / max)^2, so the problem has one dimension, and the nearest size is the one at the least |log(a / b)|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinafocus.anchors import AnchorConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.training.samples import CropSamples

Floats = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateConfig:
    """How anchors are estimated. Sizes are sqrt(width * height) in network-input pixels."""

    per_level: int = 2
    """Anchors in each cell of each level."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Network-input pixels per cell of the levels, finest first."""

    ratio: float | None = None
    """Height over width of the anchors; None takes the median of the faces."""

    smallest: float = 8.0
    """Faces below this size are left out of the clustering. Half of a crowd's faces are smaller than one stride of the
    finest level, where no anchor can be sure to meet them; left in, they draw most anchors there."""

    octave_balance: float = 0.0
    """0: every face counts the same. 1: every octave of sizes counts the same, however few its faces. Between: faces
    weigh the share of their octave to the power of -octave_balance."""

    every_octave_to: float = 512.0
    """Every octave (8 to 16, 16 to 32, ...) from `smallest` up to this size gets an anchor of its own: that of its own
    faces, or its middle where there are none. Only further anchors are clustered. 0: no octave, plain clustering."""

    update: Literal["median", "best"] = "median"
    """The size for a cluster of faces: their median (least sum of |log|), or that with the least sum of 1 - IoU."""

    def __post_init__(self) -> None:
        if self.per_level < 1:
            raise SettingsError(f"per_level is {self.per_level}; choose at least 1")
        if not self.strides or self.strides[0] < 1 or list(self.strides) != sorted(set(self.strides)):
            raise SettingsError(f"strides is {self.strides}; give each level's stride once, finest first, such as 8 16")
        if self.ratio is not None and not 0 < self.ratio < math.inf:
            raise SettingsError(f"ratio is {self.ratio}; choose a positive height/width")
        if not (0 <= self.smallest < math.inf and 0 <= self.every_octave_to < math.inf):
            raise SettingsError(
                f"smallest is {self.smallest} and every_octave_to {self.every_octave_to}; choose 0 px or more"
            )
        if not 0 <= self.octave_balance <= 1:
            raise SettingsError(f"octave_balance is {self.octave_balance}; choose 0..1")


class AnchorFit(NamedTuple):
    """How an anchor suits the level it is on."""

    size: float
    stride: int
    worst_overlap: float
    """IoU with a face of its own size and shape, centred half a stride off in both axes: the least there is."""


def faces_in_crops(samples: CropSamples, count: int, tell: Callable[[int], None] = lambda faces: None) -> Floats:
    """Faces as the first crops of a training show them, cut at the border as the network learns them.

    Args:
        samples: of the training; their pixels are cut and resized, but looked at by nobody (`blank_pixels`).
        count: how many crops, from sample 0 on.
        tell: called after each crop with the number of its faces.

    Returns:
        (N, 2) float64; width and height in network-input pixels. Faces that a chip of another scale is for, and those
        below `crop.smallest_face`, are not among them. N may be 0.
    """
    found = [np.zeros((0, 2))]
    for number in range(count):
        crop = samples.crop(number)
        boxes = crop.boxes[crop.in_range].astype(np.float64)
        found.append(boxes[:, 2:] - boxes[:, :2])
        tell(len(boxes))
    return with_area(np.concatenate(found))


def blank_pixels(
    photos: Sequence[LabelledPhoto], reduction: Callable[[LabelledPhoto], int]
) -> Callable[[int], NDArray[np.uint8]]:
    """Black pixels of the right size for `CropSamples`, where only the boxes matter: no picture is opened.

    Args:
        photos: the list.
        reduction: photo pixels per pixel and axis, as a training decodes them; it decides how windows are rounded.
    """
    sizes = [tuple(-(-side // reduction(photo)) for side in photo.size) for photo in photos]
    blank = np.zeros((*np.max(sizes, axis=0, initial=1), 3), np.uint8)
    return lambda place: blank[: sizes[place][0], : sizes[place][1]]


def faces_at_factors(photos: Sequence[LabelledPhoto], factors: Sequence[float]) -> Floats:
    """Faces as whole photos show them at these factors of their size, one after the other.

    Args:
        photos: any number.
        factors: network-input pixels per photo pixel, all above 0.

    Returns:
        (N, 2) float64; width and height in network-input pixels; each face once for each factor.

    Raises:
        SettingsError: there is no factor, or one is not above 0.
    """
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise SettingsError(f"factors are {tuple(factors)}; give numbers above 0")
    boxes = np.concatenate([np.zeros((0, 4)), *(photo.boxes.astype(np.float64) for photo in photos)])
    sides = with_area(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([sides * factor for factor in factors])


def with_area(faces: Floats) -> Floats:
    """Those of the (N, 2) widths and heights that are both above 0."""
    return faces[(faces > 0).all(axis=1)]


def face_sizes(faces: Floats) -> Floats:
    """(N,) sqrt(width * height) of (N, 2) widths and heights."""
    return np.sqrt(faces[:, 0] * faces[:, 1])


def estimate_anchors(faces: Floats, config: EstimateConfig) -> AnchorConfig:
    """Anchors that suit the faces.

    Args:
        faces: (N, 2) float64; widths and heights, all above 0, in network-input pixels. Their order changes nothing.
        config: how many, and the remedies against anchors that are all tiny.

    Returns:
        The anchors, smallest on the finest level.

    Raises:
        SettingsError: no face is large enough, there are fewer different sizes than anchors, or more octaves.
    """
    sizes = face_sizes(faces)
    faces, sizes = faces[sizes >= config.smallest], sizes[sizes >= config.smallest]
    if not len(sizes):
        raise SettingsError(f"no face is {config.smallest:g} px or larger; choose a smaller smallest, or other photos")
    weights = octave_weights(sizes, config.octave_balance)
    ratio = config.ratio or _weighted_median(faces[:, 1] / faces[:, 0], weights)
    clustered = cluster_sizes(
        sizes,
        config.per_level * len(config.strides),
        weights=weights,
        octaves=_octaves(config.smallest or float(sizes.min()), config.every_octave_to),
        update=config.update,
    )
    return AnchorConfig(strides=config.strides, sizes=assign_levels(clustered.tolist(), config.strides), ratio=ratio)


def octave_weights(sizes: Floats, balance: float) -> Floats:
    """(N,) weight of each face: the share of its octave of sizes to the power of -balance."""
    octaves = np.floor(np.log2(sizes))
    _, numbers, counts = np.unique(octaves, return_inverse=True, return_counts=True)
    weights: Floats = (counts / len(sizes)) ** -balance
    return weights[numbers.reshape(-1)]


def _octaves(low: float, high: float) -> list[Range]:
    """The octaves that hold sizes from `low` up to, not including, `high`, which is 0 for none."""
    if high <= low:
        return []
    return [(2.0**power, 2.0 ** (power + 1)) for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)))]


def cluster_sizes(
    sizes: Floats,
    count: int,
    *,
    weights: Floats | None = None,
    octaves: Sequence[Range] = (),
    update: Literal["median", "best"] = "median",
) -> Floats:
    """Cluster sizes by 1 - IoU, deterministically.

    One size is fixed in each octave, at the best place for the faces there. The others start at the quantiles
    (i + 0.5) / k; then faces go to their nearest size and sizes to the best place for their faces, as long as the cost
    falls. A size that no face is nearest to moves to the face that costs most.

    Args:
        sizes: (N,) float64; at least one, all above 0.
        count: how many sizes are wanted, k above.
        weights: (N,) float64 above 0; None counts every face once.
        octaves: ranges [low, high) that get a size each.
        update: see `EstimateConfig.update`, which decides the cost as well.

    Returns:
        (count,) float64, ascending.

    Raises:
        SettingsError: there are more octaves than sizes wanted, or fewer different faces than further sizes.
    """
    free = count - len(octaves)
    if free < 0:
        raise SettingsError(
            f"{count} anchors cannot give one to each of the {len(octaves)} octaves from {octaves[0][0]:g} to "
            f"{octaves[-1][1]:g} px; choose more per level, or a smaller every_octave_to (0 for plain clustering)"
        )
    values, numbers = np.unique(sizes, return_inverse=True)
    if len(values) < free:
        raise SettingsError(
            f"{free} anchors are to be found and the faces have {len(values)} different sizes; choose fewer per level"
        )
    clusters = _Clusters(values, np.bincount(numbers.reshape(-1), weights).astype(np.float64), update)
    places = clusters.start(free, octaves)
    cost = clusters.cost(places)
    while True:
        moved = clusters.move(places)
        lower = clusters.cost(moved)
        if not lower < cost:
            return np.array([place.size for place in places])
        places, cost = moved, lower


class _Place(NamedTuple):
    """A size that faces go to. Of two equal ones the fixed one comes first, so that the other has what lies above."""

    size: float
    free: bool


class _Clusters:
    """Different sizes, ascending, with their weights, and what becomes of places among them, ascending too."""

    def __init__(self, values: Floats, weights: Floats, update: Literal["median", "best"]) -> None:
        self.values, self.weights, self.update = values, weights, update
        self.running = np.concatenate([[0.0], np.cumsum(weights)])
        # Sums from which the IoU of any range of values with any place follows.
        self.squares = np.concatenate([[0.0], np.cumsum(weights * values**2)])
        self.inverses = np.concatenate([[0.0], np.cumsum(weights / values**2)])

    def start(self, free: int, octaves: Sequence[Range]) -> list[_Place]:
        quantiles = [(number + 0.5) / free * self.running[-1] for number in range(free)]
        places = [_Place(self._reaching(quantile), free=True) for quantile in quantiles]
        for low, high in octaves:
            first, last = np.searchsorted(self.values, (low, high)).tolist()
            places.append(_Place(self._best(first, last) if last > first else math.sqrt(low * high), free=False))
        return sorted(places)

    def cost(self, places: Sequence[_Place]) -> float:
        return float((self.weights * self._costs(places)).sum())

    def move(self, places: Sequence[_Place]) -> list[_Place]:
        """Each free place to the best one for the values nearest to it."""
        ends = self._ends(places)
        moved = []
        may_jump = True
        for place, first, last in zip(places, ends[:-1], ends[1:], strict=True):
            if place.free and last > first:
                place = _Place(self._best(first, last), free=True)
            elif place.free and may_jump:
                dearest = int((self.weights * self._costs(places)).argmax())
                place = _Place(float(self.values[dearest]), free=True)
                may_jump = False  # two at once would jump to the same place
            moved.append(place)
        return sorted(moved)

    def _ends(self, places: Sequence[_Place]) -> list[int]:
        """(K + 1,) where the values nearest to each place begin; of two equally near the smaller one has them."""
        sizes = np.array([place.size for place in places])
        inner = np.searchsorted(self.values, np.sqrt(sizes[:-1] * sizes[1:]), side="right")
        return [0, *inner.tolist(), len(self.values)]

    def _costs(self, places: Sequence[_Place]) -> Floats:
        """(V,) what each value costs: |log| of its ratio to the nearest place, or 1 - IoU with it."""
        nearest = np.repeat([place.size for place in places], np.diff(self._ends(places)))
        apart = np.abs(np.log(self.values / nearest))
        costs: Floats = -np.expm1(-2 * apart) if self.update == "best" else apart
        return costs

    def _best(self, first: int, last: int) -> float:
        """The best place for the values first..last - 1, which is one of them; the lower one of equals."""
        if self.update == "median":
            return self._reaching((self.running[first] + self.running[last]) / 2)
        # Between two values the sum of IoU is A / c^2 + B c^2, which has no maximum there.
        places, until = self.values[first:last], np.arange(first, last) + 1
        overlaps = (self.squares[until] - self.squares[first]) / places**2
        overlaps += (self.inverses[last] - self.inverses[until]) * places**2
        return float(places[int(overlaps.argmax())])

    def _reaching(self, weight: float) -> float:
        """The first value at which the running weight reaches this."""
        return float(self.values[min(int(np.searchsorted(self.running[1:], weight)), len(self.values) - 1)])


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.lexsort((weights, values))
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, running[-1] / 2)])


def assign_levels(sizes: Sequence[float], strides: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Sizes by level: equally many on each, the smallest on the finest.

    Raises:
        SettingsError: the levels cannot have equally many.
    """
    if not strides or not sizes or len(sizes) % len(strides):
        raise SettingsError(f"{len(sizes)} sizes cannot be shared equally by {len(strides)} levels")
    ascending, each = sorted(sizes), len(sizes) // len(strides)
    return tuple(tuple(ascending[first : first + each]) for first in range(0, len(sizes), each))


def worst_overlap(size: float, stride: float, ratio: float = 1.0) -> float:
    """IoU of an anchor with a face of its own size and shape, centred half a stride off in both axes.

    Args:
        size: sqrt(width * height), in the unit of `stride`.
        stride: from one cell of the level to the next.
        ratio: height over width.
    """
    width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
    shared = max(0.0, width - stride / 2) * max(0.0, height - stride / 2)
    return shared / (2 * width * height - shared)


def anchor_fits(anchors: AnchorConfig) -> list[AnchorFit]:
    """How each anchor suits its level, finest level first."""
    return [
        AnchorFit(size, stride, worst_overlap(size, stride, anchors.ratio))
        for stride, sizes in zip(anchors.strides, anchors.sizes, strict=True)
        for size in sizes
    ]
