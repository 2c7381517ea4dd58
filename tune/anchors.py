"""`retinafocus tune anchors`: START READING HERE. Anchors estimated from labelled photos, beside published ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.settings import settings_toml
from pipelines.train_config import AnchorSettings, TrainConfig, read_train_config
from pipelines.train_worker import read_folder
from retinafocus.anchors import AnchorConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.models.presets import LEVEL_STRIDES
from retinafocus.training.anchor_estimation import (
    EstimateConfig,
    Floats,
    anchor_fits,
    blank_pixels,
    estimate_anchors,
    face_sizes,
    faces_at_factors,
    faces_in_crops,
)
from retinafocus.training.pixels import reduction_for
from retinafocus.training.samples import CropSamples
from retinafocus.training.start import Heads
from tune.anchor_plots import write_plot
from tune.anchor_sets import AnchorSet, compared_sets, coverage_table, rounded
from tune.anchor_words import describe_anchors, table_text

DRAWS = 4000
"""Crops looked at if nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorsJob:
    """What to estimate from, and how."""

    folder: str
    """Labelled photos in the Parquet form."""

    output: str
    """Folder for the result; without an earlier one in it."""

    config: str | None = None
    """Settings of a training (TOML): how its crops are cut. None takes the defaults of `retinafocus train`."""

    crop_size: int | None = None
    """Edge of the crops in network-input pixels; None takes that of the settings."""

    draws: int | None = None
    """Crops to look at; None is `DRAWS`."""

    seed: int | None = None
    """Of the crops; None takes that of the settings, and so the very crops the training begins with."""

    factors: Sequence[float] | None = None
    """Faces of whole photos at these factors of their size, in place of crops."""

    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    """How many anchors, on which levels, and the remedies."""

    def __post_init__(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise SettingsError(f"draws is {self.draws}; choose at least 1")
        if self.seed is not None and self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; choose 0 or more")
        crops = {"crop_size": self.crop_size, "draws": self.draws, "seed": self.seed}
        if self.factors is not None and (given := [name for name, value in crops.items() if value is not None]):
            raise SettingsError(
                f"{', '.join(given)}: of crops, and factors look at whole photos; give one or the other"
            )


def run_estimation(job: AnchorsJob, progress: Progress) -> str:
    """Estimate anchors, compare them with published ones, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: the output holds a result, the settings contradict each other or the faces, or matplotlib is not
            installed.
        LabelError: the labels cannot be read.
        RunError: the output cannot be written.
    """
    require_matplotlib()
    output = Path(job.output)
    if (output / "anchors.json").exists():
        raise SettingsError(f"{output}: there is a result in it already; choose another -o folder")
    config = training_settings(job)
    photos = read_folder(job.folder)
    faces = network_faces(job, config, photos, progress)
    estimated = rounded(estimate_anchors(faces, job.estimate))
    sets = compared_sets(faces, estimated, config, job.estimate)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return _report(job, config, photos, faces, sets)
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error}); choose another -o folder") from error


def training_settings(job: AnchorsJob) -> TrainConfig:
    """The settings of the training the anchors are for."""
    config = TrainConfig() if job.config is None else read_train_config(Path(job.config))
    if job.crop_size is not None:
        crop = dataclasses.replace(config.sample.crop, side=job.crop_size)
        config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, crop=crop))
    return config


def network_faces(job: AnchorsJob, config: TrainConfig, photos: Sequence[LabelledPhoto], progress: Progress) -> Floats:
    """(N, 2) width and height of the faces as the network sees them, network-input pixels."""
    if job.factors is not None:
        return faces_at_factors(photos, job.factors)
    seed = config.seed if job.seed is None else job.seed
    samples = CropSamples(
        photos,
        blank_pixels(photos, lambda photo: reduction_for(photo, config.data.largest_mpx * 1e6)),
        preset=config.model.to_preset(),
        config=dataclasses.replace(config.sample, seed=seed + config.sample.seed),
        source_weights=config.data.source_weights,
    )
    draws = job.draws or DRAWS
    progress.start(draws, done=0)
    try:
        return faces_in_crops(samples, draws, progress.photo)
    finally:
        progress.stop()


def _report(
    job: AnchorsJob, config: TrainConfig, photos: Sequence[LabelledPhoto], faces: Floats, sets: Sequence[AnchorSet]
) -> str:
    output = Path(job.output)
    estimated = sets[-1].anchors
    seen = _describe_faces(job, config, photos, faces)
    pq.write_table(coverage_table(sets), output / "coverage.parquet")
    (output / "anchors.md").write_text(f"{table_text(seen, sets)}", encoding="utf-8")
    write_plot(face_sizes(faces), sets, output / "anchors.png")
    files = ["coverage.parquet", "anchors.md", "anchors.png"]
    if estimated.strides == LEVEL_STRIDES:
        (output / "anchors.toml").write_text(_settings(job, config, estimated, seen), encoding="utf-8")
        files.append("anchors.toml")
    record = {
        "job": dataclasses.asdict(job),
        "photos": len(photos),
        "faces": len(faces),
        "sets": [
            {
                "name": each.name,
                **dataclasses.asdict(each.anchors),
                "fits": [fit._asdict() for fit in anchor_fits(each.anchors)],
            }
            for each in sets
        ],
    }
    # Written last: its presence says that the result is whole.
    (output / "anchors.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return "\n".join([*seen, *describe_anchors(sets), f"files    {output}/{', '.join(files)}; anchors.json"])


def _describe_faces(job: AnchorsJob, config: TrainConfig, photos: Sequence[LabelledPhoto], faces: Floats) -> list[str]:
    sizes, labelled = face_sizes(faces), sum(len(photo.boxes) for photo in photos)
    low, middle, high = np.percentile(sizes, (5, 50, 95))
    if job.factors is not None:
        shown = f"whole photos at {', '.join(f'{factor:g}' for factor in job.factors)} of their size"
    else:
        shown = f"{job.draws or DRAWS:,} {config.sample.kind} of {config.sample.crop.side} px"
    return [
        f"photos   {len(photos):,} of {job.folder} with {labelled:,} faces",
        f"seen     {len(faces):,} faces in {shown}: half below {middle:.3g} px, nine tenths between {low:.3g} and "
        f"{high:.3g} px; height / width {np.median(faces[:, 1] / faces[:, 0]):.2f} (median)",
    ]


def _settings(job: AnchorsJob, config: TrainConfig, anchors: AnchorConfig, seen: Sequence[str]) -> str:
    """The training's settings with the estimated anchors in."""
    heads: Heads = "new" if config.model.init else "keep"
    model = dataclasses.replace(
        config.model, heads=heads, anchors=AnchorSettings(sizes=anchors.sizes, ratio=anchors.ratio)
    )
    data = config.data if config.data.folders else dataclasses.replace(config.data, folders=(job.folder,))
    comments = [
        "# Anchors estimated by `retinafocus tune anchors`, in the settings of a training.",
        "#",
        *(f"# {line}" for line in seen),
        "#",
        "# retinafocus train --config THIS -o OUT; or take the table [model.anchors] into settings of your own.",
        "",
        "",
    ]
    return "\n".join(comments) + settings_toml(dataclasses.replace(config, model=model, data=data))
