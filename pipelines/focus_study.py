"""`retinafocus data focus-study`: what a detector finds at each face size, and the focus sizes a, b, c that follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipelines.focus_plots import write_plots
from pipelines.focus_words import describe_answer, describe_bins, describe_settings, describe_shares
from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from retinafocus.boxes import clip_boxes
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.engines import Engine, make_engine
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.evaluation.focus_limits import recommend
from retinafocus.evaluation.focus_shares import FocusShares, focus_shares
from retinafocus.evaluation.focus_study import (
    FACES_SCHEMA,
    FACTORS,
    FALSE_POSITIVES_SCHEMA,
    bins_table,
    size_bins,
    study_photo,
)
from retinafocus.levels import ZOOM
from retinafocus.nms import nms
from retinafocus.photos import decode, read_bytes
from retinafocus.postprocessing import PostConfig, find_candidates
from retinafocus.sources import level_pixels
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import find_weights, load_model

# A 4K photo at twice its size: 1.5 GB in the network. A larger photo is left out whole, or its faces would be missing
# from the large sizes only.
MAX_PIXELS = 2**25

# Scales at which the shares of faces and cells are told.
SCALES = (0.5, 0.25)

# Told beside the recommendation: AutoFocus, PIXTA's TextFocus for faces, and a narrow band for a small backbone.
COMPARED = ((5.0, 64.0, 90.0), (5.0, 25.0, 90.0), (3.0, 32.0, 64.0))

# Photos named on the screen; recommendation.json has all.
NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyJob:
    """What to look at, with what, at which sizes."""

    folder: str
    """Labelled photos in the Parquet form."""

    output: str
    """Folder for the tables, the plots and the recommendation; without an earlier study in it."""

    weights: str | None = None
    """Weights file; None for the ones that ship."""

    sources: Sequence[str] | None = None
    """Only photos of these sources; None takes all."""

    limit: int | None = None
    """At most this many photos, drawn at random; None takes all."""

    seed: int = 0
    """Of that draw, and of the two halves."""

    factors: Sequence[float] = FACTORS
    """Of a photo's size."""

    zoom: float = ZOOM
    """Ratio of the scales of neighbouring levels in the cascade the labels are for."""

    compared: Sequence[tuple[float, float, float]] = COMPARED
    """Other (a, b, c) whose shares of faces and cells are told."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.factors or not all(0 < factor < math.inf for factor in self.factors):
            raise SettingsError(f"factors are {tuple(self.factors)}; give numbers above 0")
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"limit is {self.limit}; choose at least 1")
        if not 1 < self.zoom < math.inf:
            raise SettingsError(f"zoom is {self.zoom}; choose above 1")


@dataclass(slots=True)
class _Looks:
    """What looking at the photos gave."""

    photos: list[LabelledPhoto] = field(default_factory=list)
    """Those that could be looked at, at every factor."""
    faces: list[pa.Table] = field(default_factory=list)
    false_positives: list[pa.Table] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    network_pixels: int = 0


def run_study(job: StudyJob, progress: Progress) -> str:
    """Look at the photos, write what was found, and say which a, b and c follow.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: there is nothing to look at, the output holds a study, or matplotlib is not installed.
        LabelError: the labels cannot be read.
        WeightsError: the weights cannot be read.
        RunError: the output cannot be written.
    """
    require_matplotlib()
    output = Path(job.output)
    if (output / "recommendation.json").exists():
        raise SettingsError(f"{output}: there is a study in it already; choose another -o folder")
    weights = find_weights(job.weights)
    engine = make_engine(load_model(weights), name="torch", device=job.device)
    listed = chosen_photos(read_parquet_folder(Path(job.folder)), job)
    try:
        output.mkdir(parents=True, exist_ok=True)
        looks = _look_at_all(job, listed, engine, progress)
        return _report(job, weights, listed, looks, engine.preset.face_range[1])
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error}); choose another -o folder") from error


def chosen_photos(photos: Sequence[LabelledPhoto], job: StudyJob) -> list[LabelledPhoto]:
    """The photos of the sources; of more than the limit, as many drawn at random, in the order given.

    Raises:
        SettingsError: a source is unknown, or there is no photo.
    """
    there = sorted({photo.source for photo in photos})
    if job.sources is not None and (unknown := set(job.sources) - set(there)):
        raise SettingsError(f"sources: {', '.join(sorted(unknown))} not among the labels; choose {', '.join(there)}")
    chosen = [photo for photo in photos if job.sources is None or photo.source in job.sources]
    if not chosen:
        raise SettingsError(f"{job.folder}: there is no photo in it")
    if job.limit is None or job.limit >= len(chosen):
        return chosen
    drawn = np.random.default_rng(job.seed).choice(len(chosen), size=job.limit, replace=False)
    return [chosen[number] for number in np.sort(drawn)]


def _look_at_all(job: StudyJob, listed: Sequence[LabelledPhoto], engine: Engine, progress: Progress) -> _Looks:
    looks = _Looks()
    images = Path(job.folder, "images")
    progress.start(len(listed), done=0)
    try:
        for photo in listed:
            name = photo.path.relative_to(images).as_posix()
            try:
                found = look_at_factors(photo, job.factors, engine)
            except PhotoError as error:
                looks.unreadable.append({"image": name, "status": error.status, "reason": error.reason})
                progress.photo(None)
                continue
            looks.photos.append(photo)
            for factor, detections in zip(job.factors, found, strict=True):
                faces, false_positives = study_photo(name, photo, detections, factor)
                looks.faces.append(faces)
                looks.false_positives.append(false_positives)
                looks.network_pixels += math.prod(_size_at(photo.size, factor))
            progress.photo(len(photo.boxes))
    finally:
        progress.stop()
    return looks


def look_at_factors(photo: LabelledPhoto, factors: Sequence[float], engine: Engine) -> list[PhotoDetections]:
    """What the detector finds in the whole photo at each factor, in pixels of the photo.

    Raises:
        PhotoError: the photo cannot be decoded, is not of the size its labels are for, or is too large.
    """
    pixels = decode(read_bytes(photo.path))
    if pixels.shape[:2] != photo.size:
        shown, told = (f"{size[1]} x {size[0]}" for size in (pixels.shape[:2], photo.size))
        raise PhotoError("changed", f"it is {shown} px and its labels are for {told} px")
    largest = math.prod(_size_at(photo.size, max(factors)))
    if largest > MAX_PIXELS:
        raise PhotoError("too_large", f"at {max(factors):g} of its size it has {largest} pixels; give smaller factors")
    return [look_whole(pixels, factor, engine) for factor in factors]


def _size_at(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def look_whole(pixels: NDArray[np.uint8], factor: float, engine: Engine) -> PhotoDetections:
    """Look once at a whole photo at one factor of its size: scores from 0.02 on, duplicates removed at IoU 0.4.

    Args:
        pixels: (H, W, 3) uint8 RGB of the upright photo.
        factor: above 0.
        engine: runs the network.

    Returns:
        Boxes in pixels of the photo.

    Raises:
        PhotoError: out_of_memory or model_error.
    """
    height, width = size = _size_at((pixels.shape[0], pixels.shape[1]), factor)
    config = PostConfig(score_floor=0.02, nms_iou=0.4)
    found = find_candidates(engine.run(level_pixels(pixels, size)[None]), size, engine.preset, config)
    boxes = clip_boxes(torch.from_numpy(found.boxes), size)
    kept = nms(boxes, torch.from_numpy(found.scores), config.nms_iou).numpy()
    ratio = np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2, np.float32)
    return PhotoDetections(boxes.numpy()[kept] * ratio, found.scores[kept])


def _report(job: StudyJob, weights: Path, listed: Sequence[LabelledPhoto], looks: _Looks, largest_face: float) -> str:
    """Write everything but say only what matters."""
    output = Path(job.output)
    faces = pa.concat_tables([FACES_SCHEMA.empty_table(), *looks.faces])
    false_positives = pa.concat_tables([FALSE_POSITIVES_SCHEMA.empty_table(), *looks.false_positives])
    bins, answer = size_bins(faces, job.zoom), recommend(faces, job.zoom)
    halves = [recommend(half, job.zoom) for half in _halves(faces, job.seed)]
    limits = [*([answer.labels] if answer.labels else []), *job.compared]
    shares = [(abc, _shares(looks.photos, abc)) for abc in limits]
    pq.write_table(faces, output / "faces.parquet")
    pq.write_table(false_positives, output / "false_positives.parquet")
    pq.write_table(bins_table(bins), output / "bins.parquet")
    plots = write_plots(faces, false_positives, bins, answer, looks.network_pixels, output)
    record = {
        "job": dataclasses.asdict(job) | {"weights": weights.name},
        "photos": len(looks.photos),
        "recommendation": dataclasses.asdict(answer) | {"labels": answer.labels},
        "halves": [dataclasses.asdict(half) | {"labels": half.labels} for half in halves],
        "shares": [{"labels": abc, **dataclasses.asdict(one)} for abc, each in shares for one in each],
        "unreadable": looks.unreadable,
    }
    # Written last: its presence says that the study is whole.
    (output / "recommendation.json").write_text(json.dumps(_without_nan(record), indent=2) + "\n", encoding="utf-8")
    lines = [
        *_describe_photos(weights, listed, looks, faces.num_rows, job),
        "",
        describe_bins(bins),
        *describe_answer(answer, halves),
        "",
        describe_shares(shares),
        *describe_settings(answer, largest_face),
        *(f"plot     {path}" for path in plots),
        f"tables   {output}/faces.parquet, false_positives.parquet, bins.parquet; recommendation.json",
    ]
    return "\n".join(lines)


def _halves(faces: pa.Table, seed: int) -> list[pa.Table]:
    """The rows of one half of the photos, and of the other: drawn by photo, since faces of one photo are alike."""
    names = faces.column("image").combine_chunks().dictionary_encode()
    count = len(names.dictionary)
    first = np.random.default_rng(seed).permutation(count) < count // 2
    of_first = first[names.indices.to_numpy(zero_copy_only=False)]
    return [faces.filter(pa.array(of_first)), faces.filter(pa.array(~of_first))]


def _shares(photos: Sequence[LabelledPhoto], abc: tuple[float, float, float]) -> list[FocusShares]:
    labels = FocusLabelConfig(smallest=abc[0], small=abc[1], large=abc[2])
    return [focus_shares(photos, labels, scale=scale) for scale in SCALES]


def _without_nan(value: Any) -> Any:
    """The same with null where there is nothing to say: JSON has no nan."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _describe_photos(
    weights: Path, listed: Sequence[LabelledPhoto], looks: _Looks, rows: int, job: StudyJob
) -> list[str]:
    sources = Counter(photo.source for photo in looks.photos)
    lines = [
        f"weights  {weights.name}",
        f"photos   {len(looks.photos):,} of {len(listed):,} looked at: "
        + ", ".join(f"{name} {count:,}" for name, count in sources.most_common()),
        f"faces    {sum(len(photo.boxes) for photo in looks.photos):,}, so {rows:,} rows at the factors "
        + ", ".join(f"{factor:g}" for factor in job.factors),
    ]
    if looks.unreadable:
        lines.append(f"failed   {len(looks.unreadable):,} photos")
        lines += [f"  {one['image']}: {one['status']}: {one['reason']}" for one in looks.unreadable[:NAMED]]
        if len(looks.unreadable) > NAMED:
            lines.append(f"  and {len(looks.unreadable) - NAMED:,} more, all in recommendation.json")
    return lines
