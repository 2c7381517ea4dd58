"""Kept maps: each crop once before any comes again, the maps of the network, and a killed pass that goes on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from retinafocus.errors import RunError
from retinafocus.models import RetinaFocus
from retinafocus.training.augment import LabelledCrop
from retinafocus.training.focus_heads import features
from retinafocus.weights import find_weights, load_model
from tune.kept_maps import BATCHES_IN_A_PART, CropMaps, digest_of, maps_read_by


@pytest.fixture(scope="module")
def detector() -> RetinaFocus:
    return load_model(find_weights(None))


def crop(number: int) -> LabelledCrop:
    """32 px of noise with as many faces as the number has ones in binary, and a region in every second."""
    count, regions = number.bit_count(), number % 2
    return LabelledCrop(
        pixels=np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8),
        boxes=np.full((count, 4), number, np.float32),
        sides=np.full(count, number, np.float32),
        landmarks=np.full((count, 5, 2), np.nan, np.float32),
        ignore=np.full((regions, 4), number, np.float32),
        in_range=np.ones(count, bool),
    )


def kept(folder: Path, crops: int) -> CropMaps:
    return CropMaps(folder=folder, crops=crops, batch=2, maps=maps_read_by(["P2", "C4"]))


def test_maps_that_are_needed_are_named() -> None:
    assert maps_read_by(["P2", "C4"]) == ("c2", "c4", "p3")
    assert maps_read_by(["P3"]) == ("p3",)
    assert maps_read_by([]) == ()


def test_batches_are_what_the_network_says_of_their_crops(detector: RetinaFocus, tmp_path: Path) -> None:
    maps = kept(tmp_path, 5)
    maps.write(detector, crop)
    seen = []
    for stages, levels, faces in islice(maps.batches(("c4", "p3"), seed=0), 3):
        numbers = [0 if not len(each.boxes) else int(each.boxes[0, 0]) for each in faces]
        seen += numbers
        pixels = torch.from_numpy(np.stack([crop(number).pixels for number in numbers])).permute(0, 3, 1, 2)
        expected = features(detector, pixels)
        torch.testing.assert_close(stages.c4, expected[0].c4, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(levels.p3, expected[1].p3, rtol=1e-3, atol=1e-3)
        assert stages.c2.numel() == 0
        for number, each in zip(numbers, faces, strict=True):
            assert each.size == (32, 32)
            np.testing.assert_array_equal(each.boxes, crop(number).boxes)
            np.testing.assert_array_equal(each.sides, crop(number).sides)
            np.testing.assert_array_equal(each.ignore, crop(number).ignore)
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_order_depends_on_the_seed_alone(detector: RetinaFocus, tmp_path: Path) -> None:
    maps = kept(tmp_path, 40)
    maps.write(detector, crop)

    def order(seed: int) -> list[float]:
        batches = islice(maps.batches(("p3",), seed), 40)
        return [float(faces[1].boxes[0, 0]) for _, _, faces in batches]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)[:20]) == sorted(order(1)[:20]) == [float(number) for number in range(1, 40, 2)]
    assert sorted(order(0)[20:]) == sorted(order(0)[:20])


def test_pass_that_was_killed_goes_on(detector: RetinaFocus, tmp_path: Path) -> None:
    asked: list[int] = []

    def dying(number: int) -> LabelledCrop:
        if number == 2 * BATCHES_IN_A_PART + 1:
            raise KeyboardInterrupt
        return crop(number)

    def counted(number: int) -> LabelledCrop:
        asked.append(number)
        return crop(number)

    maps = kept(tmp_path, 2 * BATCHES_IN_A_PART + 3)
    with pytest.raises(KeyboardInterrupt):
        maps.write(detector, dying)
    told: list[int] = []
    maps.write(detector, counted, told.append)
    assert asked == [16, 17, 18]
    assert told == [16, 3]
    maps.write(detector, lambda number: pytest.fail("looked again"))


def test_numbers_too_large_for_16_bits_are_refused(tmp_path: Path) -> None:
    detector = load_model(find_weights(None))
    with torch.no_grad():
        detector.mean -= 1e8
    with pytest.raises(RunError, match="map c2 of these weights has values that 16 bits cannot hold"):
        kept(tmp_path, 1).write(detector, crop)
    assert list(tmp_path.iterdir()) == []


def test_names_depend_on_all_that_is_recorded() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
