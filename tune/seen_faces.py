"""The faces that anchors are for: those of labelled photos as a training shows them to the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.report import Progress
from pipelines.settings import settings_toml
from pipelines.train_config import AnchorSettings, TrainConfig, read_train_config
from retinafocus.anchors import AnchorConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.training.anchor_estimation import Floats, blank_pixels, face_sizes, faces_at_factors, faces_in_crops
from retinafocus.training.pixels import reduction_for
from retinafocus.training.samples import CropSamples
from retinafocus.training.start import Heads

DRAWS = 4000
"""Crops looked at if nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenFaces:
    """Which photos, and how the network sees their faces."""

    folder: str
    """Labelled photos in the Parquet form."""

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


def training_settings(seen: SeenFaces) -> TrainConfig:
    """The settings of the training the anchors are for."""
    config = TrainConfig() if seen.config is None else read_train_config(Path(seen.config))
    if seen.crop_size is not None:
        crop = dataclasses.replace(config.sample.crop, side=seen.crop_size)
        config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, crop=crop))
    return config


def network_faces(seen: SeenFaces, config: TrainConfig, photos: Sequence[LabelledPhoto], progress: Progress) -> Floats:
    """(N, 2) width and height of the faces as the network sees them, network-input pixels."""
    if seen.factors is not None:
        return faces_at_factors(photos, seen.factors)
    seed = config.seed if seen.seed is None else seen.seed
    samples = CropSamples(
        photos,
        blank_pixels(photos, lambda photo: reduction_for(photo, config.data.largest_mpx * 1e6)),
        preset=config.model.to_preset(),
        config=dataclasses.replace(config.sample, seed=seed + config.sample.seed),
        source_weights=config.data.source_weights,
    )
    draws = seen.draws or DRAWS
    progress.start(draws, done=0)
    try:
        return faces_in_crops(samples, draws, progress.photo)
    finally:
        progress.stop()


def describe_faces(seen: SeenFaces, config: TrainConfig, photos: Sequence[LabelledPhoto], faces: Floats) -> list[str]:
    """Two lines for a person; there is at least one face."""
    sizes, labelled = face_sizes(faces), sum(len(photo.boxes) for photo in photos)
    low, middle, high = np.percentile(sizes, (5, 50, 95))
    if seen.factors is not None:
        shown = f"whole photos at {', '.join(f'{factor:g}' for factor in seen.factors)} of their size"
    else:
        shown = f"{seen.draws or DRAWS:,} {config.sample.kind} of {config.sample.crop.side} px"
    return [
        f"photos   {len(photos):,} of {seen.folder} with {labelled:,} faces",
        f"seen     {len(faces):,} faces in {shown}: half below {middle:.3g} px, nine tenths between {low:.3g} and "
        f"{high:.3g} px; height / width {np.median(faces[:, 1] / faces[:, 0]):.2f} (median)",
    ]


def training_file(seen: SeenFaces, config: TrainConfig, anchors: AnchorConfig, comments: Sequence[str]) -> str:
    """The training's settings with these anchors in, for `retinafocus train --config`."""
    heads: Heads = "new" if config.model.init else "keep"
    model = dataclasses.replace(
        config.model, heads=heads, anchors=AnchorSettings(sizes=anchors.sizes, ratio=anchors.ratio)
    )
    data = config.data if config.data.folders else dataclasses.replace(config.data, folders=(seen.folder,))
    lines = [
        *(f"# {line}" if line else "#" for line in comments),
        "#",
        "# retinafocus train --config THIS -o OUT; or take the table [model.anchors] into settings of your own.",
        "",
        "",
    ]
    return "\n".join(lines) + settings_toml(dataclasses.replace(config, model=model, data=data))
