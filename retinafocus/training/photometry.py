"""Changes to the pixels of a crop that leave its faces where they are: light, colour, blur, noise, compression.

OpenCV rather than torchvision transforms: on uint8 crops of 320 px in a loader process it takes a fraction of the time,
and the processor that makes samples is often the one that trains.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotometryConfig:
    """Chances, 0..1, of each change."""

    light: float = 0.5
    """Brightness by +-32 levels and contrast by 0.5..1.5 (Pytorch_Retinaface, data_augment.py)."""

    colour: float = 0.4
    """Saturation by 0.5..1.5 and hue by +-18 of 180 (the same source)."""

    grey: float = 0.1
    """No colour at all."""

    low_light: float = 0.1
    """Gamma 1.3..3 and a darker white, as in a photo taken too dark; noise follows more often than else."""

    blur: float = 0.15
    """Out of focus (Gaussian), moved (a line), or enlarged from a smaller picture."""

    noise: float = 0.15
    """Gaussian sensor noise of 2..15 levels, of brightness or of each colour."""

    compression: float = 0.3
    """JPEG of quality 20..90."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise SettingsError(f"photometry.{field.name} is {getattr(self, field.name)}; choose 0..1")


def distort(pixels: NDArray[np.uint8], rng: np.random.Generator, config: PhotometryConfig) -> NDArray[np.uint8]:
    """Change light, colour and sharpness at random.

    Args:
        pixels: (H, W, 3) uint8 RGB; never written to.
        rng: decides which changes happen and how strong they are.
        config: the chances.

    Returns:
        (H, W, 3) uint8 RGB; the argument itself where nothing happened.
    """
    dark = rng.random() < config.low_light
    if rng.random() < config.light:
        pixels = _change_light(pixels, rng)
    if rng.random() < config.colour:
        pixels = _change_colour(pixels, rng)
    if rng.random() < config.grey:
        pixels = _as_bytes(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
    if rng.random() < config.blur:
        pixels = _blur(pixels, rng)
    if dark:
        pixels = _darken(pixels, rng)
    if rng.random() < (max(config.noise, 0.6) if dark else config.noise):
        pixels = _add_noise(pixels, rng)
    if rng.random() < config.compression:
        pixels = _compress(pixels, rng)
    return pixels


def _as_bytes(pixels: Any) -> NDArray[np.uint8]:
    """What OpenCV returns for uint8 pixels; its type information says any number type."""
    return np.asarray(pixels, dtype=np.uint8)


def _through_table(pixels: NDArray[np.uint8], levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Replace each level 0..255 by its entry in `levels` (256,)."""
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return _as_bytes(cv2.LUT(pixels, table))


def _change_light(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    shift, contrast = rng.uniform(-32, 32), rng.uniform(0.5, 1.5)
    return _through_table(pixels, (np.arange(256.0) + shift - 128) * contrast + 128)


def _darken(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    gamma, white = rng.uniform(1.3, 3.0), rng.uniform(110, 255)
    return _through_table(pixels, (np.arange(256.0) / 255) ** gamma * white)


def _change_colour(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    hue, saturation = rng.integers(-18, 19), rng.uniform(0.5, 1.5)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    table = np.stack(
        [(levels + hue) % 180, np.clip(np.rint(levels * saturation), 0, 255), levels], axis=1, dtype=np.float64
    ).astype(np.uint8)
    return _as_bytes(cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB))


def _blur(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    kind = rng.integers(3)
    if kind == 0:
        return _as_bytes(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 2.0)))
    if kind == 1:
        length, angle = int(rng.integers(3, 10)), rng.uniform(0, np.pi)
        reach = (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
        centre = np.full(2, (length - 1) / 2)
        line = np.zeros((length, length), dtype=np.float32)
        start, end = np.rint(centre - reach).astype(int), np.rint(centre + reach).astype(int)
        cv2.line(line, start.tolist(), end.tolist(), 1.0)
        return _as_bytes(cv2.filter2D(pixels, -1, line / line.sum()))
    height, width = pixels.shape[:2]
    factor = rng.uniform(0.3, 0.8)
    small = cv2.resize(
        pixels, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    return _as_bytes(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _add_noise(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    channels = 1 if rng.random() < 0.5 else 3
    noise = rng.standard_normal((*pixels.shape[:2], channels), dtype=np.float32) * np.float32(rng.uniform(2, 15))
    return _as_bytes(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _compress(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV reads what OpenCV wrote"
    return _as_bytes(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
