"""One trial of `retinafocus tune anchor-search`: the anchors that settings stand for, and how well they cover faces."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.settings import settings_of
from retinafocus.anchors import AnchorConfig
from retinafocus.errors import SettingsError
from retinafocus.models.presets import LEVEL_STRIDES
from retinafocus.training.anchor_coverage import BUCKETS, coverage
from retinafocus.training.anchor_estimation import EstimateConfig, Floats, estimate_anchors, face_sizes
from tune.anchor_sets import FEWEST, anchors_per_mpx, balanced, rounded
from tune.space import Choice, Settings, Space, nested
from tune.sweep import Results

SPACE = """\
"per_level" = { from = 1, to = 4 }
"ratio" = { from = 1.0, to = 1.5 }
"smallest" = { from = 4.0, to = 20.0, log = true }
"octave_balance" = { from = 0.0, to = 1.0 }
"every_octave_to" = [0.0, 32.0, 64.0, 128.0, 256.0, 512.0]
"update" = ["median", "best"]
"scale.0" = { from = 0.7, to = 1.6, log = true }
"scale.1" = { from = 0.7, to = 1.6, log = true }
"scale.2" = { from = 0.7, to = 1.6, log = true }
"""
"""What is searched if no file says so."""

EACH_OCTAVE = 256
"""Faces of an octave that a trial looks at: on photographs, coverage by the 1,569 faces of a trial was within 0.002 of
that by all 46,748, for the anchors of a preset and of four trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorChoice:
    """What a search may set. Sizes are sqrt(width * height) in network-input pixels."""

    per_level: int = 2
    """Anchors in each cell of each level."""

    ratio: float = 0.0
    """Height over width of the anchors; 0 takes the median of the faces."""

    smallest: float = 8.0
    """Faces from this size on are clustered; see `EstimateConfig`, as for the next three."""

    octave_balance: float = 0.0
    every_octave_to: float = 512.0
    """An anchor for each octave up to this size, or as far as there are anchors."""

    update: Literal["median", "best"] = "median"

    scale: tuple[float, ...] = (1.0,) * len(LEVEL_STRIDES)
    """The estimated sizes of each level, finest first, are multiplied by this."""

    sizes: tuple[tuple[float, ...], ...] = ()
    """Sizes of each level, finest first, in place of estimated ones; nothing but the ratio goes with them."""

    def __post_init__(self) -> None:
        self.estimate()
        if len(self.scale) != len(LEVEL_STRIDES) or not all(0 < each < math.inf for each in self.scale):
            raise SettingsError(f"scale is {self.scale}; give {len(LEVEL_STRIDES)} numbers above 0, one for each level")
        if self.sizes:
            AnchorConfig(strides=LEVEL_STRIDES, sizes=self.sizes)

    def estimate(self, smallest_face: float = 1.0) -> EstimateConfig:
        """The estimation, with no more octaves than there are anchors; `smallest_face` is where octaves begin if
        `smallest` is 0."""
        config = EstimateConfig(
            per_level=self.per_level, strides=LEVEL_STRIDES, ratio=self.ratio or None, smallest=self.smallest,
            octave_balance=self.octave_balance, every_octave_to=self.every_octave_to, update=self.update,
        )  # fmt: skip
        first = math.floor(math.log2(self.smallest or smallest_face))
        reach = 2.0 ** (first + self.per_level * len(LEVEL_STRIDES))
        return dataclasses.replace(config, every_octave_to=min(self.every_octave_to, reach))


@dataclass(frozen=True, slots=True)
class FacesByOctave:
    """Faces that a trial looks at: equally many of each octave, as far as it has so many."""

    faces: Floats
    """(M, 2) widths and heights, network-input pixels."""

    counts: tuple[int, ...]
    """Faces that there are in each of `BUCKETS`."""

    def results(self, anchors: AnchorConfig) -> Results:
        """How well anchors cover the faces, wherever they are between the cells; see `balanced`."""
        rows = [row for row in coverage(self.faces, anchors, BUCKETS) if row.form == "mean"]
        told = [dataclasses.replace(row, faces=count) for row, count in zip(rows, self.counts, strict=True)]
        return {
            "coverage": balanced(told, "over_035"),
            "mean_overlap": balanced(told, "mean_overlap"),
            "all_faces": sum(row.over_035 * row.faces for row in told if row.faces) / sum(self.counts),
            "anchors_per_mpx": anchors_per_mpx(anchors),
        }


def faces_by_octave(faces: Floats, each: int = EACH_OCTAVE) -> FacesByOctave:
    """Faces at even steps through those of each octave in the order of their sizes; their own order changes nothing.

    Args:
        faces: (N, 2) float64; widths and heights, all above 0.
        each: faces of an octave at most.

    Raises:
        SettingsError: no octave has `FEWEST` faces.
    """
    order = np.lexsort((faces[:, 1] / faces[:, 0], face_sizes(faces)))
    sizes = face_sizes(faces)[order]
    chosen, counts = [], []
    for low, high in BUCKETS:
        first, last = np.searchsorted(sizes, (low, high)).tolist()
        number = min(each, last - first)
        chosen.append(order[first + ((np.arange(number) + 0.5) * (last - first) / max(number, 1)).astype(int)])
        counts.append(last - first)
    if max(counts) < FEWEST:
        raise SettingsError(f"no octave of sizes has {FEWEST} faces; give more photos or more crops (--draws)")
    return FacesByOctave(faces[np.concatenate(chosen)], tuple(counts))


@dataclass(frozen=True, slots=True)
class AnchorTrials:
    """What every process needs to try settings; called, it gets ready."""

    faces: Floats
    """(N, 2) widths and heights, network-input pixels."""

    def __call__(self) -> Callable[[int, Settings], Iterator[Results]]:
        """See `sweep.Prepare`."""
        sample = faces_by_octave(self.faces)

        def evaluate(number: int, settings: Settings) -> Iterator[Results]:
            yield sample.results(anchors_of(settings, self.faces))

        return evaluate

    def digest(self) -> str:
        """Of the faces, in any order."""
        return hashlib.sha256(self.faces[np.lexsort(self.faces.T)].tobytes()).hexdigest()


def anchors_of(settings: Settings, faces: Floats) -> AnchorConfig:
    """The anchors that settings of a search stand for, to a tenth of a pixel.

    Args:
        settings: as `AnchorChoice`, with dotted names.
        faces: (N, 2); widths and heights in network-input pixels, all above 0.

    Raises:
        SettingsError: a setting is unknown, of another type or out of range, or the faces are too few for it.
    """
    choice = settings_of(AnchorChoice, nested(settings), "search space")
    if choice.sizes:
        ratio = choice.ratio or float(np.median(faces[:, 1] / faces[:, 0]))
        return rounded(AnchorConfig(strides=LEVEL_STRIDES, sizes=choice.sizes, ratio=ratio))
    anchors = estimate_anchors(faces, choice.estimate(float(face_sizes(faces).min())))
    sizes = tuple(
        tuple(size * scale for size in level) for level, scale in zip(anchors.sizes, choice.scale, strict=True)
    )
    return rounded(dataclasses.replace(anchors, sizes=sizes))


def check_space(space: Space) -> None:
    """Refuse what cannot be searched, before anything is computed.

    Raises:
        SettingsError: a setting is unknown, or its range leads out of what it may be.
    """
    names = {name.split(".")[0] for name in [*space.searched, *space.fixed]}
    if "sizes" in names and (others := sorted(names - {"sizes", "ratio"})):
        raise SettingsError(
            f"search space: sizes are given, and {', '.join(others)} would change nothing; give sizes or the others"
        )
    places = [0.0] * len(space.searched)
    for settings in (space.at(places), space.at([1.0] * len(places))):
        settings_of(AnchorChoice, nested(settings), "search space")
    for name, kind in space.searched.items():
        for value in kind.values if isinstance(kind, Choice) else ():
            settings_of(AnchorChoice, nested({**space.at(places), name: value}), "search space")


def starts_of(space: Space, faces: Floats) -> list[Settings]:
    """What `retinafocus tune anchors` estimates if nothing is said, for each number of anchors in the space; none where
    sizes are searched."""
    names = [*space.searched, *space.fixed]
    if any(name.split(".")[0] == "sizes" for name in names):
        return []
    kind = space.searched.get("per_level")
    if kind is None:
        counts = [space.fixed.get("per_level", AnchorChoice().per_level)]
    else:
        counts = list(kind.values) if isinstance(kind, Choice) else list(range(int(kind.low), int(kind.high) + 1))
    usual = {name: getattr(AnchorChoice(), name.split(".")[0]) for name in space.searched}
    usual |= {"scale": list(AnchorChoice().scale)} if "scale" in usual else {}
    usual |= {name: 1.0 for name in usual if name.startswith("scale.")}
    usual |= {"ratio": round(float(np.median(faces[:, 1] / faces[:, 0])), 2)} if "ratio" in usual else {}
    return [{**space.fixed, **usual, **({"per_level": count} if "per_level" in names else {})} for count in counts]
