"""The tables: what each detector finds, what it costs, and who it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers.catalogue import LEFT_OUT, Peer
from benchmarks.peers.conversation import Answer, Hello
from retinafocus.evaluation.average_precision import PhotoTruth, average_precision, score

ALLOWED_FALSE = 0.1
"""False boxes per photo at which all detectors are compared, whatever their scores mean."""

LOOSE_IOU = 0.3

_COLUMNS: dict[str, pa.DataType] = {
    "set": pa.string(),
    "detector": pa.string(),
    "faces": pa.string(),
    "size_low": pa.float64(),
    "size_high": pa.float64(),
    "num_photos": pa.int64(),
    "num_faces": pa.int64(),
    "ap50": pa.float64(),
    "ap50_low": pa.float64(),
    "ap50_high": pa.float64(),
    "ap30": pa.float64(),
    "ap30_low": pa.float64(),
    "ap30_high": pa.float64(),
    "recall50": pa.float64(),
    "recall30": pa.float64(),
    "false_per_photo": pa.float64(),
    "recall50_at_allowed_false": pa.float64(),
    "core_seconds": pa.float64(),
    "peak_mib": pa.float64(),
    "photos_without_answer": pa.int64(),
    "version": pa.string(),
    "licence": pa.string(),
    "weights_in_wheel": pa.bool_(),
    "settings": pa.string(),
    "threads": pa.string(),
}
PEERS_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""One row for each set, detector and range of face sizes; the last nine columns are the same for all ranges. AP and
recall 0..1; recall, false boxes, time and memory of the run at the detector's own threshold, AP and the recall at
`ALLOWED_FALSE` false boxes a photo of the run at a low one."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a detector answered for a set of photos."""

    set_name: str
    peer: Peer
    hello: Hello
    truths: Sequence[PhotoTruth]
    default: Sequence[Answer]
    low: Sequence[Answer]


def rows_of(measured: Measured, bootstrap: int = 1000) -> list[Row]:
    """All sizes first, then each range. A photo without an answer counts as one in which nothing was found."""
    truths, low, default = measured.truths, measured.low, measured.default
    answered = [answer for answer in default if not answer.error]
    hello, peer = measured.hello, measured.peer
    shared = {
        "set": measured.set_name,
        "detector": peer.name,
        "num_photos": len(truths),
        "core_seconds": statistics.fmean(one.milliseconds for one in answered) / 1000 if answered else math.nan,
        "peak_mib": max((answer.peak_mib for answer in answered), default=math.nan),
        "photos_without_answer": sum(bool(one.error or other.error) for one, other in zip(low, default, strict=True)),
        "version": f"{hello.name} {hello.version}",
        "licence": hello.licence,
        "weights_in_wheel": hello.weights_in_wheel,
        "settings": peer.told,
        "threads": peer.threads,
    }
    rows = []
    for row in score(truths, low, bootstrap=bootstrap).rows:
        loose = average_precision(truths, low, iou_threshold=LOOSE_IOU, size_range=row.size_range, bootstrap=bootstrap)
        strict_default, loose_default = (
            average_precision(
                truths, default, iou_threshold=iou, size_range=row.size_range, at_score=-math.inf, bootstrap=0
            )
            for iou in (0.5, LOOSE_IOU)
        )
        rows.append(
            {
                **shared,
                "faces": row.name,
                "size_low": row.size_range[0],
                "size_high": row.size_range[1],
                "num_faces": row.ap50.num_faces,
                **_with_ends("ap50", row.ap50),
                **_with_ends("ap30", loose),
                "recall50": strict_default.recall,
                "recall30": loose_default.recall,
                "false_per_photo": strict_default.false_positives_per_photo,
                "recall50_at_allowed_false": recall_at(truths, low, ALLOWED_FALSE, row.size_range),
            }
        )
    return rows


def recall_at(
    truths: Sequence[PhotoTruth],
    found: Sequence[Answer],
    allowed: float,
    size_range: tuple[float, float] = (0.0, math.inf),
) -> float:
    """Recall at IoU 0.5 with the lowest threshold that gives at most `allowed` false boxes per photo.

    nan without faces, or with so few photos that not one false box is allowed; 0 where even the surest boxes are too
    many false ones.
    """
    if 0 < allowed * len(truths) < 1:
        return math.nan
    scores = np.unique(np.concatenate([np.zeros(0, np.float32), *(answer.scores for answer in found)]))
    first, behind = 0, len(scores)  # of the thresholds that are high enough
    best = average_precision(truths, found, size_range=size_range, at_score=math.inf, bootstrap=0)
    while first < behind:
        middle = (first + behind) // 2
        result = average_precision(truths, found, size_range=size_range, at_score=float(scores[middle]), bootstrap=0)
        if result.false_positives_per_photo <= allowed:
            best, behind = result, middle
        else:
            first = middle + 1
    return best.recall


def to_table(rows: Sequence[Row]) -> pa.Table:
    """The rows of all detectors and sets."""
    return pa.Table.from_pylist(list(rows), schema=PEERS_SCHEMA)


def to_markdown(rows: Sequence[Row], faults: dict[str, str]) -> str:
    """Tables for people: one for each set, then who the detectors are, then who is missing and why."""
    parts = [_quality_table(name, [row for row in rows if row["set"] == name]) for name in _in_order(rows, "set")]
    parts.append(_who_table(rows))
    parts.append(_missing_table(faults))
    return "\n".join(part for part in parts if part)


def _quality_table(name: str, rows: Sequence[Row]) -> str:
    ranges = _in_order(rows, "faces")
    counts = {row["faces"]: row["num_faces"] for row in rows}
    sizes = " | ".join(f"{one} ({counts[one]:,})" for one in ranges[1:])
    lines = [
        f"### {name}: {rows[0]['num_photos']:,} photos, {counts[ranges[0]]:,} faces",
        "",
        f"| detector | AP50 [95 %] | {sizes} | AP30 [95 %] | recall at IoU 0.5 / 0.3 | false per photo "
        f"| recall at {ALLOWED_FALSE:g} false | core-s | peak MiB | no answer |",
        "|---|---:|" + "---:|" * (len(ranges) + 6),
    ]
    for detector in _in_order(rows, "detector"):
        own = {row["faces"]: row for row in rows if row["detector"] == detector}
        everything = own[ranges[0]]
        cells = [
            detector,
            *(_percent(own[one], "ap50") for one in ranges),
            _percent(everything, "ap30"),
            f"{_share(everything['recall50'])} / {_share(everything['recall30'])}",
            f"{everything['false_per_photo']:.2f}",
            _share(everything["recall50_at_allowed_false"]),
            f"{everything['core_seconds']:.3f}",
            f"{everything['peak_mib']:,.0f}",
            str(everything["photos_without_answer"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _who_table(rows: Sequence[Row]) -> str:
    lines = [
        "### Who they are",
        "",
        "| detector | version | licence | weights come with the package | settings | threads |",
        "|---|---|---|---|---|---|",
    ]
    seen = set()
    for row in rows:
        if row["detector"] not in seen:
            seen.add(row["detector"])
            cells = (row["detector"], row["version"], row["licence"], "yes" if row["weights_in_wheel"] else "no")
            lines.append(f"| {' | '.join(cells)} | {row['settings']} | {row['threads']} |")
    return "\n".join(lines) + "\n"


def _missing_table(faults: dict[str, str]) -> str:
    lines = ["### Who is missing", "", "| detector | why |", "|---|---|"]
    for name, reason in [*faults.items(), *LEFT_OUT]:
        lines.append(f"| {name} | {' '.join(reason.split()).replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _in_order(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _with_ends(name: str, result: Any) -> Row:
    return {name: result.ap, f"{name}_low": result.low, f"{name}_high": result.high}


def _percent(row: Row, name: str) -> str:
    if math.isnan(row[name]):
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{100 * row[name]:.1f}" + ("" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
