"""`retinafocus data check`: what is wrong, repeated or odd in a folder of labelled photos, and how its faces spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.data import on_all_cores
from pipelines.report import Progress
from retinafocus.datasets.checks import (
    NOTES,
    PROBLEMS,
    Finding,
    Likenesses,
    count_marked,
    face_shapes,
    label_findings,
    leaks,
    repeats,
)
from retinafocus.datasets.labelled import Fault, LabelledPhoto, read_parquet_folder
from retinafocus.datasets.likeness import Bits, content_hash, mirrored, picture_hash
from retinafocus.errors import PhotoError
from retinafocus.evaluation.average_precision import SIZE_BUCKETS
from retinafocus.photos import REDUCTIONS, decode, read_bytes, read_header

# A picture is decoded no smaller than this for its hash, in pixels of its shorter side.
HASHED_SIDE = 64

FINDINGS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("kind", "image", "detail")])


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    findings: list[Finding]
    text: str
    """For a person to read."""

    @property
    def has_problems(self) -> bool:
        """Whether something is to be mended before training or scoring."""
        return any(finding.kind in PROBLEMS for finding in self.findings)


def check_folder(
    folder: str, against: str | None, plots: str | None, table: str | None, stream: TextIO | None = None
) -> Report:
    """Look at every row and every picture of a folder in the Parquet form.

    Args:
        folder: the labelled photos.
        against: another such folder, of which `folder` must share no photo.
        plots: write sizes.png, ratios.png and density.png into this folder.
        table: write every finding into this Parquet file.
        stream: where progress is told; None is stderr.

    Raises:
        LabelError: the tables of a folder cannot be read.
        SettingsError: plots are wanted and matplotlib is not installed.
    """
    if plots is not None:
        from pipelines.label_plots import require_matplotlib

        require_matplotlib()
    faults: list[Fault] = []
    photos = _named(folder, faults)
    findings = [Finding("bad row", image, fault.reason) for fault in faults for image in fault.images]
    findings += [finding for image, photo in photos.items() for finding in label_findings(image, photo)]
    likenesses, unreadable = _look_at_all(photos, Progress(stream))
    findings += unreadable + repeats(likenesses)
    if against is not None:
        others, unreadable_others = _look_at_all(_named(against, []), Progress(stream))
        findings += leaks(likenesses, others)
        compared = f"{len(others.images):,} photos of {against}" + (
            f"; {len(unreadable_others):,} of its photos cannot be read and were not" if unreadable_others else ""
        )
    else:
        compared = ""
    if table is not None:
        rows = [{"kind": finding.kind, "image": finding.image, "detail": finding.detail} for finding in findings]
        pq.write_table(pa.Table.from_pylist(rows, schema=FINDINGS_SCHEMA), table)
    text = [*describe_photos(list(photos.values())), *([f"compared {compared}"] if compared else [])]
    if plots is not None:
        from pipelines.label_plots import write_plots

        text += [f"plot     {path}" for path in write_plots(list(photos.values()), Path(plots))]
    return Report(findings, "\n".join([*text, *_describe_findings(findings)]))


def _named(folder: str, faults: list[Fault]) -> dict[str, LabelledPhoto]:
    images = Path(folder, "images")
    return {photo.path.relative_to(images).as_posix(): photo for photo in read_parquet_folder(Path(folder), faults)}


@dataclass(frozen=True, slots=True)
class _Seen:
    size: tuple[int, int]
    file: str
    shown: Bits
    mirrored: Bits


def _look(path: Path) -> _Seen | PhotoError:
    try:
        data = read_bytes(path)
        header = read_header(data)
        side = min(header.height, header.width)
        pixels = decode(
            data, header, reduction=max(step for step in REDUCTIONS if step == 1 or side >= step * HASHED_SIDE)
        )
    except PhotoError as error:
        return error
    return _Seen(
        (header.height, header.width), content_hash(data), picture_hash(pixels), picture_hash(mirrored(pixels))
    )


def _look_at_all(photos: dict[str, LabelledPhoto], progress: Progress) -> tuple[Likenesses, list[Finding]]:
    """The hashes of the photos that can be decoded, and what is wrong with the pictures."""
    found, likenesses = [], Likenesses()
    progress.start(len(photos), done=0)
    try:
        results = on_all_cores(_look, [photo.path for photo in photos.values()])
        for (image, photo), seen in zip(photos.items(), results, strict=True):
            progress.photo(None if isinstance(seen, PhotoError) else len(photo.boxes))
            if isinstance(seen, PhotoError):
                found.append(Finding("unreadable", image, f"{seen.status}: {seen.reason}"))
                continue
            if seen.size != photo.size:
                sizes = f"{photo.size[1]} x {photo.size[0]} px in the tables, {seen.size[1]} x {seen.size[0]} upright"
                found.append(Finding("wrong size", image, sizes))
            likenesses.images.append(image)
            likenesses.files.append(seen.file)
            likenesses.shown.append(seen.shown)
            likenesses.mirrored.append(seen.mirrored)
    finally:
        progress.stop()
    return likenesses, found


def describe_photos(photos: Sequence[LabelledPhoto]) -> list[str]:
    """How many photos and faces there are, how large the faces, of which shape, and how many in a photo."""
    counts = np.array([len(photo.boxes) for photo in photos], np.int64)
    lines = [
        f"photos   {len(photos):,}, {int((counts == 0).sum()):,} of them without a face",
        f"faces    {counts.sum():,}, {count_marked(photos):,} with landmarks; "
        f"{sum(len(photo.ignore) for photo in photos):,} ignore regions",
    ]
    sources = Counter(photo.source for photo in photos)
    if len(sources) > 1:
        lines.append("sources  " + ", ".join(f"{name} {count:,}" for name, count in sources.most_common()))
    sizes, ratios = face_shapes(photos)
    if not len(sizes):
        return lines
    shares = [
        f"{low:g}{f' to {high:g}' if np.isfinite(high) else ' and more'}: "
        f"{100 * float(((sizes >= low) & (sizes < high)).mean()):.1f} %"
        for low, high in SIZE_BUCKETS
    ]
    densest = photos[int(counts.argmax())].path.name
    return [
        *lines,
        f"sizes    {', '.join(shares)} of the faces (sqrt(width * height), px); {_spread(sizes, ' px')}",
        f"ratios   height / width: {_spread(ratios, '')}",
        f"density  faces in a photo: {_spread(counts, '')}, at most {counts.max():,} ({densest})",
    ]


def _spread(values: NDArray[np.number[Any]], unit: str) -> str:
    low, middle, high = np.percentile(values, (5, 50, 95))
    return f"half below {middle:.3g}{unit}, nine tenths between {low:.3g} and {high:.3g}{unit}"


def _describe_findings(findings: Sequence[Finding]) -> list[str]:
    """A line for each kind found, with its meaning and its first case."""
    counts = Counter(finding.kind for finding in findings)
    lines = []
    for title, kinds in (("problems", PROBLEMS), ("notes", NOTES)):
        there = [kind for kind in kinds if counts[kind]]
        lines.append(f"{title}{'' if there else ': none'}")
        for kind in there:
            first = next(finding for finding in findings if finding.kind == kind)
            lines.append(f"  {counts[kind]:,} {kind}: {kinds[kind]}")
            lines.append(f"      first {first.image}: {first.detail}")
    return lines
