"""The weights that ship: there, loadable without a download, documented, and able to find a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retinafocus import Detector
from retinafocus.models import get_preset
from retinafocus.weights import BUNDLED, DEFAULT_NAME, find_weights, load_model, read_info

CARD = BUNDLED / "MODEL_CARD.md"

# The astronaut's face in scikit-image's portrait, xyxy pixels, by eye from hairline to chin.
ASTRONAUT = (176.0, 68.0, 270.0, 187.0)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained()


def test_default_weights_are_the_bundled_ones_with_the_preset_of_that_name() -> None:
    path = find_weights(None)
    assert path == find_weights(DEFAULT_NAME) == BUNDLED / f"{DEFAULT_NAME}.safetensors"
    assert load_model(path).preset == get_preset(DEFAULT_NAME)
    assert path.stat().st_size < 4_000_000


def test_card_and_file_belong_together_and_say_the_licence() -> None:
    info = read_info(find_weights(None))
    assert info.sha256 in CARD.read_text()
    assert "non-commercial" in info.licence
    assert "non-commercial" in (BUNDLED / "LICENSE-WEIGHTS.txt").read_text()


@pytest.mark.parametrize("side", [24, 48, 96, 300])
def test_one_face_is_found_once_where_it_is(detector: Detector, side: int) -> None:
    data = pytest.importorskip("skimage.data", reason="the portrait comes with scikit-image")
    import cv2

    scale = side / np.sqrt((ASTRONAUT[2] - ASTRONAUT[0]) * (ASTRONAUT[3] - ASTRONAUT[1]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=method)
    found = detector.detect(np.ascontiguousarray(picture)).above(detector.preset.display_threshold)
    truth = np.array(ASTRONAUT) * scale
    overlap = np.minimum(found.boxes[:, 2:], truth[2:]) - np.maximum(found.boxes[:, :2], truth[:2])
    intersection = np.clip(overlap, 0, None).prod(axis=1)
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
    iou = intersection / (areas + (truth[2:] - truth[:2]).prod() - intersection)
    assert (iou > 0.5).sum() == 1
    assert iou[0] > 0.5  # the surest of all


def test_picture_without_a_face_gives_none(detector: Detector) -> None:
    data = pytest.importorskip("skimage.data", reason="the picture comes with scikit-image")
    assert len(detector.detect(data.coffee()).above(detector.preset.display_threshold)) == 0


def test_card_is_part_of_the_package() -> None:
    listed = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'retinafocus = ["py.typed", "data/*"]' in listed
