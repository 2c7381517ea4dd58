"""Sets of anchors side by side, published ones, a preset's and the estimated one, and how well each covers faces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipelines.train_config import TrainConfig
from retinafocus.anchors import AnchorConfig
from retinafocus.training.anchor_coverage import (
    ALL_SIZES,
    BUCKETS,
    FORMS,
    PUBLISHED_ANCHORS,
    Coverage,
    Form,
    coverage,
)
from retinafocus.training.anchor_estimation import EstimateConfig, Floats, estimate_anchors, face_sizes

CURVE = tuple((2.0 ** (half / 2), 2.0 ** ((half + 1) / 2)) for half in range(2, 20))
"""Half octaves of the plot, 2 to 1024 px."""

FEWEST = 20
"""Faces an octave must have to count: the share of fewer says nothing."""

Measure = Literal["over_035", "mean_overlap"]

ESTIMATED = "estimated"
"""Name of the set that is recommended."""

TABLE_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("strides", pa.list_(pa.int32()), nullable=False),
        pa.field("sizes", pa.list_(pa.float64()), nullable=False),
        pa.field("ratio", pa.float64(), nullable=False),
        pa.field("anchors_per_mpx", pa.float64(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("faces", pa.int64(), nullable=False),
        pa.field("mean_overlap", pa.float64()),
        pa.field("over_035", pa.float64()),
        pa.field("over_050", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Anchors under a name, and how well they cover the faces."""

    name: str
    anchors: AnchorConfig

    rows: list[Coverage]
    """Of each form: all sizes, then each octave."""

    curve: list[Coverage]
    """Of each form: each half octave of `CURVE`."""

    @property
    def per_mpx(self) -> float:
        """See `anchors_per_mpx`."""
        return anchors_per_mpx(self.anchors)

    def balanced(self, measure: Measure) -> float:
        """See `balanced`; of all places of the faces."""
        return balanced([row for row in self.rows if row.form == "mean" and (row.low, row.high) in BUCKETS], measure)

    def all_sizes(self, form: Form) -> Coverage:
        """Of all faces."""
        return next(row for row in self.rows if row.form == form and (row.low, row.high) == ALL_SIZES)


def balanced(rows: Sequence[Coverage], measure: Measure) -> float:
    """The mean over octaves of sizes, each the same, so that tiny faces do not decide because they are many; octaves
    with fewer than `FEWEST` faces do not count.

    Args:
        rows: one for each octave; one at least has `FEWEST` faces.
        measure: a share or mean of `Coverage`.
    """
    return float(np.mean([getattr(row, measure) for row in rows if row.faces >= FEWEST]))


def anchors_per_mpx(anchors: AnchorConfig) -> float:
    """Anchors on a million pixels of network input: what the heads and the matching cost."""
    return 1e6 * sum(anchors.per_cell / stride**2 for stride in anchors.strides)


def rounded(anchors: AnchorConfig) -> AnchorConfig:
    """Sizes to a tenth of a pixel and the ratio to a hundredth: as exact as anybody can mean them."""
    sizes = tuple(tuple(max(0.1, round(size, 1)) for size in level) for level in anchors.sizes)
    return AnchorConfig(strides=anchors.strides, sizes=sizes, ratio=max(0.01, round(anchors.ratio, 2)))


def compared_sets(
    faces: Floats, estimated: AnchorConfig, config: TrainConfig, estimate: EstimateConfig
) -> list[AnchorSet]:
    """The published sets, the preset's, the estimated one, and the same without its ratio and without the remedies."""
    chosen = known_anchors(config)
    if len(np.unique(face_sizes(faces))) >= estimate.per_level * len(estimate.strides):
        plain = dataclasses.replace(estimate, smallest=0.0, octave_balance=0.0, every_octave_to=0.0)
        chosen["plain k-means"] = rounded(estimate_anchors(faces, plain))
    chosen["estimated, square"] = dataclasses.replace(estimated, ratio=1.0)
    chosen[ESTIMATED] = estimated
    told = {name: anchors for name, anchors in chosen.items() if name == ESTIMATED or anchors != estimated}
    return measured_sets(faces, told)


def known_anchors(config: TrainConfig) -> dict[str, AnchorConfig]:
    """The published anchors and those of a training's preset, by name; one name where they are the same."""
    preset = config.model.to_preset()
    same = [name for name, anchors in PUBLISHED_ANCHORS.items() if anchors == preset.anchors]
    known = {f"{name} = {preset.name}" if name in same else name: each for name, each in PUBLISHED_ANCHORS.items()}
    return known if same else {**known, preset.name: preset.anchors}


def measured_sets(faces: Floats, chosen: Mapping[str, AnchorConfig]) -> list[AnchorSet]:
    """How well anchors cover faces: (N, 2) widths and heights, network-input pixels."""
    buckets = (ALL_SIZES, *BUCKETS, *CURVE)
    sets = []
    for name, anchors in chosen.items():
        rows = np.array(coverage(faces, anchors, buckets), dtype=object).reshape(len(FORMS), len(buckets))
        split = 1 + len(BUCKETS)
        sets.append(AnchorSet(name, anchors, [*rows[:, :split].flat], [*rows[:, split:].flat]))
    return sets


def coverage_table(sets: Sequence[AnchorSet]) -> pa.Table:
    """A row for each set, form and range of sizes."""
    return pa.Table.from_pylist([_row(each, row) for each in sets for row in each.rows], schema=TABLE_SCHEMA)


def _row(each: AnchorSet, row: Coverage) -> dict[str, Any]:
    told = {name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(row).items()}  # fmt: skip
    return {
        "set": each.name,
        "strides": list(each.anchors.strides),
        "sizes": [size for level in each.anchors.sizes for size in level],
        "ratio": each.anchors.ratio,
        "anchors_per_mpx": each.per_mpx,
        **told,
    }
