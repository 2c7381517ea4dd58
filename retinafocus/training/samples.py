"""Samples and batches: which photo a crop comes from, and the crop's targets ready for the losses.

Sample number n depends on n, the seed, the photos and the settings alone. So the same samples come in the same order
for any number of loader processes, and a resumed training goes on with exactly the samples it had not seen yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from retinafocus.anchors import anchor_boxes
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.models.presets import Preset
from retinafocus.training.augment import CropConfig, LabelledCrop, random_crop
from retinafocus.training.chips import ChipConfig, random_chip
from retinafocus.training.photometry import PhotometryConfig, distort
from retinafocus.training.targets import (
    MATCH_PRESETS,
    AnchorTargets,
    FocusLabelConfig,
    MatchConfig,
    anchor_targets,
    focus_labels,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How samples are drawn and labelled."""

    kind: Literal["crops", "chips"] = "crops"
    """Crops at random zooms, or chips at a few fixed scales, each for faces of its own sizes (SNIPER)."""

    crop: CropConfig = field(default_factory=CropConfig)
    """Where crops are cut, and how large. Of these, chips take side, flip and smallest_face."""

    chip: ChipConfig = field(default_factory=ChipConfig)
    """Where chips are cut."""

    photometry: PhotometryConfig = field(default_factory=PhotometryConfig)
    """How their pixels are changed."""

    match: MatchConfig = MATCH_PRESETS["retinafocus"]
    """Which anchors are positive, negative, ignored."""

    focus: FocusLabelConfig = field(default_factory=FocusLabelConfig)
    """Which focus cells are positive, negative, ignored."""

    landmark_side: float = 8.0
    """Landmarks of faces with a smaller sqrt(width * height) are left out, in pixels of the photo: they mean little."""

    seed: int = 0
    """Decides all samples."""


class Sample(NamedTuple):
    """One crop with its targets."""

    crop: LabelledCrop
    """The crop after photometric changes."""

    anchors: AnchorTargets
    """Targets of the detection heads."""

    focus: Tensor | None
    """(h, w) int8 labels of the focus map; None where the preset has no focus branch."""


class Batch(NamedTuple):
    """B samples; the P positive anchors of all of them in one list, P may be 0."""

    pixels: Tensor
    """(B, 3, side, side) uint8 RGB, channels-last in memory."""

    labels: Tensor
    """(B, A) int8: label of each anchor."""

    positives: Tensor
    """(P,) int64: places of the positive anchors in the flattened (B * A)."""

    box_deltas: Tensor
    """(P, 4) float32."""

    landmark_deltas: Tensor
    """(P, 10) float32; 0 where missing."""

    landmark_mask: Tensor
    """(P, 10) bool; False where missing."""

    focus: Tensor | None
    """(B, h, w) int8 labels of the focus maps, or None."""


class CropSamples(Dataset[Sample]):
    """An endless, numbered row of random samples from labelled photos.

    Args:
        photos: at least one.
        pixels: gives the pixels (H, W, 3) uint8 RGB of a photo by its place in `photos`; may give a reduced decode.
        preset: of the network to be trained; its anchors, variances and focus branch decide the targets.
        config: how samples are drawn and labelled.
        source_weights: how much likelier than 1 the photos of a source are drawn; sources not named have 1. Within
            a source all photos are equally likely, whatever the number of their faces.

    Raises:
        SettingsError: there are no photos, a source is unknown, or all weights are 0.
    """

    def __init__(
        self,
        photos: Sequence[LabelledPhoto],
        pixels: Callable[[int], NDArray[np.uint8]],
        *,
        preset: Preset,
        config: SampleConfig,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.photos = [_without_doubtful_landmarks(photo, config.landmark_side) for photo in photos]
        self.pixels = pixels
        self.preset = preset
        self.config = config
        self.cumulative = _cumulative_shares(photos, source_weights or {})
        side = config.crop.side
        self.anchors = anchor_boxes(preset.anchors, (side, side))

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, from 0 on."""
        crop, rng = self._cut(number)
        crop = crop._replace(pixels=distort(crop.pixels, rng, self.config.photometry))
        return Sample(crop, *self._targets(crop))

    def crop(self, number: int) -> LabelledCrop:
        """The crop of sample `number` before its pixels are changed."""
        return self._cut(number)[0]

    def _cut(self, number: int) -> tuple[LabelledCrop, np.random.Generator]:
        """The crop, and what goes on to decide everything random about its sample."""
        rng = np.random.default_rng((self.config.seed, number))

        def pick() -> tuple[LabelledPhoto, NDArray[np.uint8]]:
            place = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            return self.photos[place], self.pixels(place)

        if self.config.kind == "chips":
            return random_chip(*pick(), rng, self.config.crop, self.config.chip), rng
        return random_crop(*pick(), pick, rng, self.config.crop), rng

    def _targets(self, crop: LabelledCrop) -> tuple[AnchorTargets, Tensor | None]:
        boxes, ignore = torch.from_numpy(crop.boxes), torch.from_numpy(crop.ignore)
        in_range = torch.from_numpy(crop.in_range)
        matched = anchor_targets(
            self.anchors,
            boxes[in_range],
            torch.from_numpy(crop.landmarks)[in_range],
            torch.cat([ignore, boxes[~in_range]]),
            variances=self.preset.variances,
            config=self.config.match,
        )
        if self.preset.focus is None:
            return matched, None
        side, sides = self.config.crop.side, torch.from_numpy(crop.sides)
        stride = self.preset.focus.stride
        return matched, focus_labels(boxes, sides, ignore, size=(side, side), stride=stride, config=self.config.focus)


def collate(samples: Iterable[Sample]) -> Batch:
    """Put samples of equal size, at least one, into a batch; for `torch.utils.data.DataLoader(collate_fn=...)`."""
    samples = list(samples)
    targets = [sample.anchors for sample in samples]
    labels = torch.stack([target.labels for target in targets])
    offsets = range(0, labels.numel(), labels.shape[1])
    focus = [sample.focus for sample in samples if sample.focus is not None]
    return Batch(
        pixels=torch.from_numpy(np.stack([sample.crop.pixels for sample in samples])).permute(0, 3, 1, 2),
        labels=labels,
        positives=torch.cat([target.positives + offset for target, offset in zip(targets, offsets, strict=True)]),
        box_deltas=torch.cat([target.box_deltas for target in targets]),
        landmark_deltas=torch.cat([target.landmark_deltas for target in targets]),
        landmark_mask=torch.cat([target.landmark_mask for target in targets]),
        focus=torch.stack(focus) if focus else None,
    )


def _cumulative_shares(photos: Sequence[LabelledPhoto], source_weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Running sum of each photo's chance, ending at 1."""
    if not photos:
        raise SettingsError("there are no photos to train on; check the folder of labels")
    unknown = sorted(set(source_weights) - {photo.source for photo in photos})
    if unknown:
        raise SettingsError(f"source_weights names {', '.join(unknown)}; no photo comes from there")
    weights = np.array([source_weights.get(photo.source, 1.0) for photo in photos], dtype=np.float64)
    if (weights < 0).any() or weights.sum() <= 0:
        raise SettingsError("source_weights must not be negative, and at least one source needs more than 0")
    cumulative: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    # The last photos may have weight 0; rounding must not leave a gap that only they could fill.
    cumulative[cumulative >= cumulative[-1]] = 1.0
    return cumulative


def _without_doubtful_landmarks(photo: LabelledPhoto, smallest: float) -> LabelledPhoto:
    sides = np.sqrt((photo.boxes[:, 2:] - photo.boxes[:, :2]).prod(axis=1))
    landmarks = photo.landmarks.copy()
    landmarks[sides < smallest] = np.nan
    return replace(photo, landmarks=landmarks)
