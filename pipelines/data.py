"""`retinafocus data import`: labelled photos of any known form into the Parquet form that training reads."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pipelines.folders import PHOTO_SUFFIXES
from pipelines.report import Progress
from retinafocus.datasets.checks import count_marked
from retinafocus.datasets.coco import read_coco
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import Pictures, write_parquet_folder
from retinafocus.datasets.photo_labels import (
    DroppedRow,
    PhotoLabels,
    check_names,
    face_kinds,
    labelled_photo,
    text_lines,
)
from retinafocus.datasets.retinaface import has_sizes, read_label_txt, read_labelv2_txt
from retinafocus.datasets.voc import read_voc
from retinafocus.datasets.widerface import read_wider_mat, read_wider_text
from retinafocus.datasets.yolo import read_yolo
from retinafocus.errors import LabelError, PhotoError, SettingsError
from retinafocus.photos import decode, read_bytes, read_header

FORMATS = ("coco", "yolo", "voc", "widerface")

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportJob:
    """What to import, from where, and how."""

    format: str
    """One of `FORMATS`."""

    labels: str
    """COCO: the json. WIDER FACE: the txt or mat. YOLO: the folder. VOC: the folder, or a list of ImageSets/Main."""

    output: str
    """The folder to write; must not exist, or be empty."""

    images: str | None = None
    """The folder of pictures that the names in the labels are relative to; None looks at the usual places."""

    classes: Sequence[str] | None = None
    """Classes that are faces; None where the labels have only one."""

    source: str | None = None
    """Name of the collection; None takes "widerface", or the name of the labels."""

    pictures: Pictures = "link"
    """Whether pictures are linked or copied."""

    first_pixel: int = 1
    """VOC only: the number of the first pixel, 1 as in the format, or 0."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise SettingsError(f"from: {self.format} is not known; choose {', '.join(FORMATS)}")
        if self.first_pixel not in (0, 1):
            raise SettingsError(f"first_pixel is {self.first_pixel}; choose 1 (Pascal VOC) or 0")


@dataclass(frozen=True, slots=True)
class SkippedPhoto:
    """A photo of the labels that was not written."""

    image: str
    status: str
    """One of `retinafocus.errors.STATUSES`, or "wrong_size"."""

    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the labels; every photo and every row of them is in here."""

    photos: dict[str, LabelledPhoto]
    skipped: list[SkippedPhoto]
    dropped: list[DroppedRow]
    left_out: Counter[str]
    """Rows of classes that are no faces."""


def import_labels(job: ImportJob, progress: Progress) -> str:
    """Read labels, look at every picture, write what can be used.

    Returns:
        A summary for a person; the lists behind its counts are in `import.json` in the output folder.

    Raises:
        LabelError: a label is malformed, or nothing is labelled at all.
        SettingsError: the pictures are not found, or it is not said which classes are faces.
        RunError: the output cannot be written.
    """
    listed = _read(job)
    check_names(listed)
    if job.format == "widerface" and not any(photo.rows for photo in listed):
        raise LabelError(f"{job.labels}: it lists names without a single face, like the test split: nobody labelled it")
    kinds = face_kinds(listed, job.classes)
    root = _pictures_folder(job, listed)
    imported = _convert(job, listed, kinds, root, progress)
    if not imported.photos:
        first = imported.skipped[0]
        raise SettingsError(f"images: none of the {len(listed)} pictures can be used; {first.image}: {first.reason}")
    write_parquet_folder(imported.photos, Path(job.output), pictures=job.pictures)
    record = {
        "format": job.format,
        "labels": job.labels,
        "photos": len(imported.photos),
        "skipped": [asdict(photo) for photo in imported.skipped],
        "dropped": [asdict(row) for row in imported.dropped],
        "left_out": dict(imported.left_out),
    }
    Path(job.output, "import.json").write_text(json.dumps(record, indent=1) + "\n")
    return _summary(job, listed, imported)


def _read(job: ImportJob) -> list[PhotoLabels]:
    path = Path(job.labels)
    if not path.exists():
        raise LabelError(f"{path}: there is no such file or folder")
    if job.format in ("coco", "widerface") and path.is_dir():
        raise LabelError(f"{path}: this is a folder; name the file of labels in it")
    readers: dict[str, Callable[[], list[PhotoLabels]]] = {
        "coco": lambda: read_coco(path),
        "yolo": lambda: read_yolo(path, PHOTO_SUFFIXES, _upright_size),
        "voc": lambda: read_voc(path, first_pixel=job.first_pixel),
        "widerface": lambda: read_widerface(path),
    }
    if not (listed := readers[job.format]()):
        raise LabelError(f"{path}: there is no photo in it")
    return listed


def read_widerface(path: Path) -> list[PhotoLabels]:
    """Read any of WIDER FACE's label files: `.mat` by its suffix, the others by how their first line looks."""
    if path.suffix.lower() == ".mat":
        return read_wider_mat(path)
    _, first = next(text_lines(path), ("", ""))
    if first.startswith("#"):
        return read_labelv2_txt(path) if has_sizes(first) else read_label_txt(path)
    return read_wider_text(path)


def _upright_size(path: Path) -> tuple[int, int] | None:
    try:
        header = read_header(read_bytes(path))
    except PhotoError:
        return None  # the photo is looked at again, and counted as skipped with this error
    return header.height, header.width


def _pictures_folder(job: ImportJob, listed: Sequence[PhotoLabels]) -> Path:
    """The folder of pictures: the named one, or the first usual place that has one of the first pictures listed."""
    labels = Path(os.path.abspath(job.labels))
    if job.images is not None or job.format == "yolo":
        return labels if job.images is None else Path(job.images)
    folder = labels if labels.is_dir() else labels.parent
    split = next((part for part in reversed(labels.stem.split("_")) if part not in ("bbx", "gt")), "")
    above = [folder.parent, folder.parents[1]] if job.format == "voc" and labels.is_file() else [folder.parent]
    places = [
        folder / "images",
        folder / "JPEGImages",
        folder,
        *(place / name for place in above for name in ("images", "JPEGImages", split, f"WIDER_{split}/images")),
    ]
    for place in places:
        if any((place / photo.name).is_file() for photo in listed[:100]):
            return place
    raise SettingsError(
        f"images: {listed[0].name} is in none of {', '.join(dict.fromkeys(map(str, places)))}; "
        "name the folder of pictures with --images"
    )


def _convert(
    job: ImportJob, listed: Sequence[PhotoLabels], kinds: frozenset[str] | None, root: Path, progress: Progress
) -> Imported:
    source = job.source or ("widerface" if job.format == "widerface" else Path(job.labels).absolute().stem)
    imported = Imported({}, [], [], Counter())
    progress.start(len(listed), done=0)
    try:
        for labels, looked in zip(listed, on_all_cores(_look, [root / photo.name for photo in listed]), strict=True):
            skipped = _reason_to_skip(labels, looked)
            progress.photo(None if skipped else len(labels.rows))
            if skipped or isinstance(looked, PhotoError):
                imported.skipped.extend(skipped)
                continue
            photo, dropped = labelled_photo(labels, root / labels.name, looked, source=source, kinds=kinds)
            imported.photos[PurePosixPath(labels.name).as_posix()] = photo
            imported.dropped.extend(dropped)
            if kinds is not None:
                imported.left_out.update(row.kind for row in labels.rows if row.kind not in kinds)
    finally:
        progress.stop()
    return imported


def _look(path: Path) -> tuple[int, int] | PhotoError:
    """Decode a picture to be sure that it can be: its upright (height, width), or the error."""
    try:
        data = read_bytes(path)
        header = read_header(data)
        decode(data, header, reduction=8)  # reads all of the data, and costs the least
    except PhotoError as error:
        return error
    return header.height, header.width


def _reason_to_skip(labels: PhotoLabels, looked: tuple[int, int] | PhotoError) -> list[SkippedPhoto]:
    if isinstance(looked, PhotoError):
        return [SkippedPhoto(labels.name, looked.status, looked.reason)]
    if labels.size is not None and labels.size != looked:
        sizes = f"{labels.size[1]} x {labels.size[0]} px, the upright photo has {looked[1]} x {looked[0]}"
        return [SkippedPhoto(labels.name, "wrong_size", f"the labels were made for {sizes}")]
    return []


def on_all_cores(function: Callable[[Input], Output], inputs: Sequence[Input]) -> Iterator[Output]:
    """The results in the order of the inputs; decoders let other threads run."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        try:
            yield from pool.map(function, inputs)
        finally:
            pool.shutdown(cancel_futures=True)


def _summary(job: ImportJob, listed: Sequence[PhotoLabels], imported: Imported) -> str:
    photos = imported.photos.values()
    faces = sum(len(photo.boxes) for photo in photos)
    without = sum(not len(photo.boxes) for photo in photos)
    skipped = Counter(photo.status for photo in imported.skipped)
    dropped = Counter(row.reason for row in imported.dropped)
    lines = [
        f"labels   {job.labels}: {len(listed):,} photos, {sum(len(photo.rows) for photo in listed):,} rows",
        f"photos   {len(photos):,} written to {job.output} as {'links' if job.pictures == 'link' else 'copies'}, "
        f"{without:,} of them without a face",
        f"faces    {faces:,}, {count_marked(photos):,} with landmarks; "
        f"{sum(len(photo.ignore) for photo in photos):,} ignore regions",
    ]
    if skipped:
        first = imported.skipped[0]
        lines.append(f"skipped  {skipped.total():,} photos: {_counts(skipped)}; first {first.image}: {first.reason}")
    if dropped:
        lines.append(f"dropped  {dropped.total():,} rows: {_counts(dropped)}; first {imported.dropped[0].place}")
    if imported.left_out:
        lines.append(f"left out {imported.left_out.total():,} rows of other classes: {_counts(imported.left_out)}")
    if skipped or dropped:
        lines.append(f"lists    {Path(job.output, 'import.json')}")
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())
