"""Samples are numbered, balanced over sources, and fit into batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import SettingsError
from retinafocus.models import Preset
from retinafocus.training.augment import CropConfig
from retinafocus.training.samples import Batch, CropSamples, SampleConfig, collate

Photo = tuple[LabelledPhoto, NDArray[np.uint8]]
MakePhoto = Callable[..., Photo]


def assert_equal_batches(first: Batch, second: Batch) -> None:
    for name, value, other in zip(Batch._fields, first, second, strict=True):
        assert torch.equal(value, other), name


def test_a_sample_depends_on_its_number_alone(samples: CropSamples) -> None:
    forward = [samples[number] for number in range(4)]
    for number in (3, 1, 2, 0):
        assert_equal_batches(collate([samples[number]]), collate([forward[number]]))
    assert not np.array_equal(forward[0].crop.pixels, forward[1].crop.pixels)


def test_loader_processes_give_the_same_batches_and_a_resume_goes_on(
    samples: CropSamples, make_batches: Callable[[int, int], list[Batch]]
) -> None:
    loader = DataLoader(samples, batch_size=2, sampler=range(4, 8), collate_fn=collate, num_workers=1)
    for loaded, expected in zip(loader, make_batches(2, 4), strict=True):
        assert_equal_batches(loaded, expected)


def test_a_batch_points_at_the_positives_of_all_its_crops(samples: CropSamples) -> None:
    single = [samples[number] for number in range(6)]
    batch = collate(single)
    num_anchors = len(samples.anchors)
    assert batch.pixels.shape == (6, 3, 48, 48)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.shape == (6, num_anchors)
    assert torch.equal(batch.positives, torch.nonzero(batch.labels.flatten() == 1).flatten())
    assert len(batch.positives) == sum(len(sample.anchors.positives) for sample in single) > 0
    assert batch.box_deltas.shape == (len(batch.positives), 4)
    assert batch.focus is not None
    assert batch.focus.shape == (6, 6, 6)


def test_crops_without_faces_make_an_empty_batch(make_photo: MakePhoto, preset: Preset) -> None:
    photo, pixels = make_photo((50, 50))
    config = SampleConfig(crop=CropConfig(side=32))
    without_focus = CropSamples([photo], lambda _: pixels, preset=replace(preset, focus=None), config=config)
    batch = collate([without_focus[0]])
    assert (len(batch.positives), batch.landmark_mask.shape, batch.focus) == (0, (0, 10), None)
    assert not batch.labels.any()


def test_photos_are_drawn_by_source_not_by_face(make_photo: MakePhoto, preset: Preset) -> None:
    crowd = tuple((x, 0.0, x + 8, 9.0) for x in range(0, 90, 9))
    photos = [
        make_photo((30, 90), crowd, source="crowd"),
        make_photo((30, 90), source="plain"),
        make_photo((30, 90), source="plain"),
        make_photo((30, 90), source="never"),
    ]
    drawn: Counter[int] = Counter()

    def pixels(number: int) -> NDArray[np.uint8]:
        drawn[number] += 1
        return photos[number][1]

    samples = CropSamples(
        [photo for photo, _ in photos],
        pixels,
        preset=preset,
        config=SampleConfig(crop=CropConfig(side=16, mosaic=0)),
        source_weights={"crowd": 2.0, "never": 0.0},
    )
    for number in range(200):
        samples[number]
    assert drawn[3] == 0
    assert drawn[0] == pytest.approx(100, abs=30)
    assert drawn[1] == pytest.approx(50, abs=25)


def test_landmarks_of_tiny_faces_are_left_out(make_photo: MakePhoto, preset: Preset) -> None:
    photo, pixels = make_photo((50, 50), ((0, 0, 7, 7), (20, 20, 28, 28)))
    samples = CropSamples([photo], lambda _: pixels, preset=preset, config=SampleConfig(landmark_side=8))
    assert np.isnan(samples.photos[0].landmarks).all(axis=(1, 2)).tolist() == [True, False]
    assert not np.isnan(photo.landmarks).any(), "the caller's photo stays as it is"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param({"handmad": 1.0}, "source_weights names handmad; no photo comes from there", id="unknown"),
        pytest.param({"handmade": 0.0}, "at least one source needs more than 0", id="zero"),
        pytest.param({"handmade": -1.0}, "must not be negative", id="negative"),
    ],
)
def test_source_weights_are_checked(
    make_photo: MakePhoto, preset: Preset, weights: dict[str, float], message: str
) -> None:
    photo, pixels = make_photo((5, 5))
    with pytest.raises(SettingsError, match=message):
        CropSamples([photo], lambda _: pixels, preset=preset, config=SampleConfig(), source_weights=weights)


def test_no_photos_are_refused(preset: Preset) -> None:
    with pytest.raises(SettingsError, match="there are no photos to train on"):
        CropSamples([], lambda _: np.zeros((1, 1, 3), np.uint8), preset=preset, config=SampleConfig())
