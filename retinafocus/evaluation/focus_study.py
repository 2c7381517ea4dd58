"""The Focus Pixel study: what a detector finds at each face size.

A detector looks once at each photo at several factors of its size. `study_photo` turns one such look into a row for
each face, `size_bins` sums the rows by the size the network was shown, and `focus_limits` reads a, b and c off that.

All sizes are sqrt(width * height) of the labelled box in network-input pixels: photo pixels times the factor.

Source: the hyper-parameter study that the RetinaFocus paper, sections 3.2 and 4.3, leaves open.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.average_precision import HasBoxesAndScores
from retinafocus.evaluation.matching import box_areas, lies_in_regions, match_faces

FACTORS = (0.25, 0.33, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Factors of a photo's size at which it is looked at."""

SIZE_EDGES = (0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 25.0, 32.0, 40.0, 50.0, 64.0, 80.0, 100.0, 128.0, 256.0,
              math.inf)  # fmt: skip
"""Edges of the bins, network-input pixels; a bin holds low <= size < high."""

SCORES = (0.02, 0.3, 0.5, 0.8)
"""A face counts as found by a detection of at least this score."""

RULE_SCORE = 0.5
"""The one of `SCORES` that the rules go by."""

MATCH_IOU = 0.5

MIN_FACES = 100
"""A bin with fewer faces says nothing to the rules: a recall of 0.5 would be known no better than to 0.1."""

FACES_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("face", pa.int32(), nullable=False),  # its number among the photo's faces
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # human or pseudo
        pa.field("factor", pa.float64(), nullable=False),
        pa.field("q_net", pa.float32(), nullable=False),  # sqrt(width * height) * factor, network-input pixels
        pa.field("ratio", pa.float32(), nullable=False),  # height / width
        pa.field("score", pa.float32(), nullable=False),  # of the detection that found it; 0 if none did
        pa.field("iou", pa.float32(), nullable=True),  # with that detection; null if none
    ]
)
"""One row for each face and factor."""

FALSE_POSITIVES_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("factor", pa.float64(), nullable=False),
        pa.field("q_net", pa.float32(), nullable=False),  # of the detection, network-input pixels
        pa.field("score", pa.float32(), nullable=False),
    ]
)
"""One row for each detection that is no labelled face and does not lie in an ignore region."""


def study_photo(image: str, photo: LabelledPhoto, found: HasBoxesAndScores, factor: float) -> tuple[pa.Table, pa.Table]:
    """Compare one look at a photo with its labels. Ignore regions neither count nor make a detection false.

    Args:
        image: the photo's name in the tables.
        photo: its labels; any number of faces.
        found: what a detector found when it looked at the whole photo at one scale, in pixels of the upright photo.
        factor: of the photo's size as the network was shown it.

    Returns:
        Rows of `FACES_SCHEMA` and of `FALSE_POSITIVES_SCHEMA`.
    """
    boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores, np.float64)
    faces = np.asarray(photo.boxes, np.float64)
    (matched,) = match_faces(boxes, scores, faces, (MATCH_IOU,))
    hits = np.flatnonzero(matched >= 0)
    score, iou = np.zeros(len(faces)), np.full(len(faces), np.nan)
    score[matched[hits]] = scores[hits]
    iou[matched[hits]] = _overlap(boxes[hits], faces[matched[hits]])
    sides = faces[:, 2:] - faces[:, :2]
    rows = {
        "image": [image] * len(faces),
        "face": np.arange(len(faces)),
        "source": [photo.source] * len(faces),
        "kind": list(photo.kinds),
        "factor": np.full(len(faces), factor),
        "q_net": np.sqrt(box_areas(faces)) * factor,
        "ratio": sides[:, 1] / sides[:, 0],
        "score": score,
        "iou": iou,
    }
    false = np.flatnonzero((matched < 0) & ~lies_in_regions(boxes, np.asarray(photo.ignore, np.float64)))
    false_rows = {
        "image": [image] * len(false),
        "source": [photo.source] * len(false),
        "factor": np.full(len(false), factor),
        "q_net": np.sqrt(box_areas(boxes[false])) * factor,
        "score": scores[false],
    }
    return _table(rows, FACES_SCHEMA), _table(false_rows, FALSE_POSITIVES_SCHEMA)


def _overlap(boxes: NDArray[np.float64], faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) and (N, 4) xyxy -> (N,) IoU of each pair."""
    shared = np.concatenate([np.maximum(boxes[:, :2], faces[:, :2]), np.minimum(boxes[:, 2:], faces[:, 2:])], axis=1)
    common = box_areas(shared)
    ratio: NDArray[np.float64] = common / (box_areas(boxes) + box_areas(faces) - common)
    return ratio


def _table(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(columns[field.name], from_pandas=True).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeBin:
    """What became of the faces that the network was shown at one range of sizes; nan where there is nothing to say."""

    low: float
    """Smallest sqrt(width * height), network-input pixels."""

    high: float
    """The first size beyond."""

    faces: int
    """Rows: a face counts once for each factor that brings it into the range."""

    recalls: tuple[float, ...]
    """Share found by a detection of at least each of `SCORES`."""

    recall_low: float
    """Lower end of the Wilson 95 % interval of the recall at `RULE_SCORE`. Faces of one photo are alike, so that the
    truth lies outside more often than one time in twenty."""

    recall_high: float
    """Upper end of it."""

    mean_score: float
    """Of all faces, 0 for those not found."""

    mean_iou: float
    """Of those found."""

    pairs: int
    """Faces that were also looked at one zoom larger."""

    gain: float
    """Recall of these pairs after the zoom minus before it, at `RULE_SCORE`."""

    @property
    def recall(self) -> float:
        """Share found at `RULE_SCORE`."""
        return self.recalls[SCORES.index(RULE_SCORE)]


def size_bins(faces: pa.Table, zoom: float) -> tuple[SizeBin, ...]:
    """Sum the rows by size.

    Args:
        faces: rows of `FACES_SCHEMA`; any number.
        zoom: ratio of the scales of two levels. A gain needs factors with this ratio, such as 0.25 and 1 for a zoom of
            4; where there are none, no bin has pairs.

    Returns:
        One bin for each range between `SIZE_EDGES`.
    """
    score, iou, size = (_floats(faces, name) for name in ("score", "iou", "q_net"))
    zoomed = _scores_after_zoom(faces, score, zoom)
    number = np.digitize(size, SIZE_EDGES[1:-1])
    bins = []
    for index, (low, high) in enumerate(itertools.pairwise(SIZE_EDGES)):
        rows = number == index
        paired = rows & ~np.isnan(zoomed)
        gained = _from(zoomed[paired], RULE_SCORE).astype(np.float64) - _from(score[paired], RULE_SCORE)
        recall_low, recall_high = wilson_interval(int(_from(score[rows], RULE_SCORE).sum()), int(rows.sum()))
        bins.append(
            SizeBin(
                low=low,
                high=high,
                faces=int(rows.sum()),
                recalls=tuple(_mean(_from(score[rows], floor)) for floor in SCORES),
                recall_low=recall_low,
                recall_high=recall_high,
                mean_score=_mean(score[rows]),
                mean_iou=_mean(iou[rows & ~np.isnan(iou)]),
                pairs=int(paired.sum()),
                gain=_mean(gained),
            )
        )
    return tuple(bins)


def _floats(table: pa.Table, column: str) -> NDArray[np.float32]:
    """(R,) of a column; nan where it is null."""
    return np.asarray(table.column(column).to_numpy(), np.float32)


def _from(scores: NDArray[np.float32], floor: float) -> NDArray[np.bool_]:
    """Which scores are at least the floor, rounded as they are: as float32, 0.02 is a little less than 0.02."""
    enough: NDArray[np.bool_] = scores >= np.float32(floor)
    return enough


def _scores_after_zoom(faces: pa.Table, score: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """(R,) the score of the same face one zoom larger, nan where it was not looked at so."""
    names = faces.column("image").combine_chunks().dictionary_encode()
    image = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    face = faces.column("face").to_numpy().astype(np.int64)
    identity = image * (face.max(initial=0) + 1) + face
    factor = faces.column("factor").to_numpy()
    zoomed = np.full(len(score), np.nan, np.float32)
    for small in np.unique(factor):
        before, after = np.flatnonzero(factor == small), np.flatnonzero(np.isclose(factor, zoom * small))
        _, here, there = np.intersect1d(identity[before], identity[after], return_indices=True)
        zoomed[before[here]] = score[after[there]]
    return zoomed


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else math.nan


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, which unlike the usual one stays sensible near 0 and 1; nan, nan for none.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if total == 0:
        return math.nan, math.nan
    z = 1.959964
    share, slack = hits / total, z * z / total
    centre = share + slack / 2
    spread = z * math.sqrt(share * (1 - share) / total + slack / (4 * total))
    return max(0.0, (centre - spread) / (1 + slack)), min(1.0, (centre + spread) / (1 + slack))


def bins_table(bins: Sequence[SizeBin]) -> pa.Table:
    """One row for each bin, the recalls as columns `recall_0.02`, ...; nan where there is nothing to say."""
    rows = []
    for size_bin in bins:
        row = asdict(size_bin)
        recalls = row.pop("recalls")
        rows.append(row | {f"recall_{floor:g}": recall for floor, recall in zip(SCORES, recalls, strict=True)})
    return pa.Table.from_pylist(rows)


def false_positives_by_size(false_positives: pa.Table) -> NDArray[np.int64]:
    """(bins, scores) how many false positives each bin has from each of `SCORES` on."""
    size, score = _floats(false_positives, "q_net"), _floats(false_positives, "score")
    number = np.digitize(size, SIZE_EDGES[1:-1])
    counts = [np.bincount(number[_from(score, floor)], minlength=len(SIZE_EDGES) - 1) for floor in SCORES]
    return np.stack(counts, axis=1)
