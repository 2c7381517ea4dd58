"""The numbers of an evaluation are the scorer's; a photo that cannot be looked at counts as nothing found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.models import RetinaFocus
from retinafocus.training.validation import detect_labelled, detection_metrics, protocol_metrics


def test_metrics_by_hand(make_photo: Callable[..., tuple]) -> None:
    photos = [make_photo((100, 100), ((10, 10, 30, 30),))[0], make_photo((100, 100), ((0, 0, 50, 50),))[0]]
    hit = PhotoDetections(np.array([[10, 10, 30, 30]], np.float32), np.array([0.9], np.float32))
    metrics = detection_metrics(photos, [hit, None])
    assert metrics["ap"] == 0.5
    assert (metrics["ap 16-32 px"], metrics["ap 32-96 px"]) == (1.0, 0.0)
    assert "ap <16 px" not in metrics
    assert (metrics["recall"], metrics["false_per_photo"], metrics["unread"]) == (0.5, 0.0, 1.0)


def test_photos_are_looked_at_and_the_model_is_left_as_it_is(
    model: RetinaFocus, make_photo: Callable[..., tuple], tmp_path: Path
) -> None:
    photo, pixels = make_photo((40, 60))
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    photos = [replace(photo, path=tmp_path / name) for name in ("a.png", "none.png")]
    model.train()
    found = detect_labelled(model, photos, min_face=20, device="cpu")
    assert model.training
    assert found[0] is not None
    assert found[0].scores.min(initial=1.0) >= np.float32(0.02)
    assert found[1] is None


@pytest.mark.parametrize("faces", [(), ((1, 1, 9, 9),)], ids=["no face", "no detection"])
def test_nothing_to_measure_is_left_out(make_photo: Callable[..., tuple], faces: tuple) -> None:
    metrics = detection_metrics([make_photo((20, 20), faces)[0]], [PhotoDetections()])
    assert metrics.get("ap") == (0.0 if faces else None)


def test_the_protocols_ap_by_hand(make_photo: Callable[..., tuple]) -> None:
    # Heights 60, 35, 5: one face is easy, two are medium and hard, one is in no list. The medium one is found, the easy
    # one lies in a photo that cannot be looked at.
    faces = [((10, 10, 30, 45), (50, 50, 55, 55)), ((0, 0, 50, 60),), ()]
    photos = [
        replace(make_photo((100, 100), boxes)[0], path=Path(f"set/images/{number}.jpg"))
        for number, boxes in enumerate(faces)
    ]
    found = [
        PhotoDetections(np.array([[10, 10, 30, 45], [50, 50, 55, 55]], np.float32), np.array([0.9, 0.8], np.float32)),
        None,
        PhotoDetections(np.array([[0, 0, 9, 9]], np.float32), np.array([0.7], np.float32)),
    ]
    assert protocol_metrics(photos, found, Path("set/images")) == {"ap easy": 0, "ap medium": 0.5, "ap hard": 0.5}
    assert protocol_metrics(photos[2:], found[2:], Path("set/images")) == {}
