"""The pictures of an evaluation hold the curves they are to show."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from pipelines.protocol_plots import LOOKS, write_landmark_errors, write_precision_recall
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.evaluation.landmark_error import LandmarkResult, landmark_error
from retinafocus.evaluation.wider_protocol import ProtocolPhoto, ProtocolResult, evaluate_protocol


def results(seed: int, photos: int = 20) -> dict[str, ProtocolResult]:
    """Three lists of chance detections."""
    random = np.random.default_rng(seed)
    truth, found = [], {}
    for number in range(photos):
        corner = np.arange(5)[:, None] * 40.0
        boxes = np.concatenate([corner, corner, np.full((5, 2), 20.0)], axis=1)
        kept = {name: np.arange(5) < count for name, count in (("easy", 1), ("medium", 3), ("hard", 5))}
        truth.append(ProtocolPhoto(str(number), boxes, kept))
        moved = boxes[:, :2] + random.normal(0, 4, (5, 2))
        found[str(number)] = PhotoDetections(np.concatenate([moved, moved + 20], axis=1), random.random(5))
    return evaluate_protocol(truth, found)


def has_colour(path: Path, colour: str) -> bool:
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.abs(picture - wanted).max(axis=2) < 8).sum() > 50)


def test_one_detector_has_a_curve_for_each_setting(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    write_precision_recall({"ours": results(1)}, path)
    assert cv2.imread(str(path)).shape == (600, 900, 3)
    assert [has_colour(path, colour) for colour, _ in LOOKS[:4]] == [True, True, True, False]


def test_several_detectors_share_a_field_for_each_setting(tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    write_precision_recall({"ours": results(1), "theirs": results(2)}, path)
    assert cv2.imread(str(path)).shape == (500, 1500, 3)
    assert [has_colour(path, colour) for colour, _ in LOOKS[:3]] == [True, True, False]


def test_nothing_found_and_no_face_are_pictures_too(tmp_path: Path) -> None:
    nothing = ProtocolPhoto("a", np.array([[0.0, 0, 9, 9]]), {"hard": np.ones(1, np.bool_)})
    write_precision_recall({"ours": evaluate_protocol([nothing], {}, ("hard",))}, tmp_path / "nothing.png")
    write_precision_recall({"ours": evaluate_protocol([], {})}, tmp_path / "none.png")
    write_landmark_errors({"ours": landmark_error([], [])}, tmp_path / "faces.png")
    assert all(cv2.imread(str(path)) is not None for path in tmp_path.iterdir())


def landmark_result(errors: list[float]) -> LandmarkResult:
    limits = np.linspace(0, 0.2, 201)
    values = np.array(errors)
    shares = np.array([(values <= limit).mean() for limit in limits])
    return LandmarkResult(nme=0.04, failure_rate=0.1, area=0.6, num_labelled=9, num_matched=len(errors), errors=values,
                          point_errors=np.full(5, 0.04), limits=limits, shares=shares)  # fmt: skip


def test_landmark_errors_have_a_curve_for_each_detector(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.png"
    write_landmark_errors({"ours": landmark_result([0.02, 0.05]), "theirs": landmark_result([0.04, 0.12])}, path)
    assert [has_colour(path, colour) for colour, _ in LOOKS[:3]] == [True, True, False]


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    one = results(1, photos=1)
    for count in (0, 9):
        with pytest.raises(SettingsError, match=f"there are {count} results to draw; choose 1 to 8 of them"):
            write_precision_recall({str(number): one for number in range(count)}, tmp_path / "a.png")
    with pytest.raises(SettingsError, match="evaluate all with the same ones"):
        write_precision_recall({"a": one, "b": {"easy": one["easy"]}}, tmp_path / "a.png")
    with pytest.raises(RunError, match=r"a\.png: the plot cannot be written \(No such file"):
        write_precision_recall({"a": one}, tmp_path / "nowhere" / "a.png")
