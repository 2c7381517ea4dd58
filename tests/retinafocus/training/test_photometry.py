"""Photometric changes keep shape and type, are decided by the generator alone, and can be switched off."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.training.photometry import PhotometryConfig, distort

NOTHING = PhotometryConfig(**{field.name: 0.0 for field in fields(PhotometryConfig)})
CHANGES = [field.name for field in fields(PhotometryConfig)]


def picture(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_all_chances_zero_change_nothing() -> None:
    pixels = picture()
    assert distort(pixels, np.random.default_rng(0), NOTHING) is pixels


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_keeps_shape_and_leaves_the_argument_alone(change: str) -> None:
    pixels = picture()
    before = pixels.copy()
    config = replace(NOTHING, **{change: 1.0})
    for seed in range(6):
        changed = distort(pixels, np.random.default_rng(seed), config)
        assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
        assert (changed != before).any()
        assert (distort(pixels, np.random.default_rng(seed), config) == changed).all(), "same seed, same picture"
    assert (pixels == before).all()


@pytest.mark.parametrize("change", CHANGES)
def test_one_pixel_is_enough(change: str) -> None:
    for seed in range(6):
        changed = distort(picture(1, 1), np.random.default_rng(seed), replace(NOTHING, **{change: 1.0}))
        assert changed.shape == (1, 1, 3)


def test_grey_has_no_colour_and_low_light_is_darker() -> None:
    grey = distort(picture(), np.random.default_rng(0), replace(NOTHING, grey=1.0))
    assert (grey.min(axis=2) == grey.max(axis=2)).all()
    dark = distort(picture(), np.random.default_rng(0), replace(NOTHING, low_light=1.0))
    assert dark.mean() < 0.7 * picture().mean()


def test_a_chance_above_one_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"photometry\.noise is 2\.0; choose 0\.\.1"):
        PhotometryConfig(noise=2.0)
