"""Raw detections: removing duplicates from them gives what a detection gives, to the last bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli
from pipelines.detect_config import DetectSettings
from pipelines.planning import detector_config
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.operating_points import Goal
from retinafocus.postprocessing import PostConfig
from tune import photo_parts
from tune.raw_detections import RawDetections, read_raw, with_duplicates, write_raw
from tune.threshold_report import compare
from tune.threshold_trials import RawSet
from tune.thresholds import ThresholdsJob, settings_file

CONFIG = DetectorConfig(device="cpu", engine="torch", threads=1, cascade=CascadeConfig(mode="focus"))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained(None, with_duplicates(CONFIG))


def labelled(path: Path, picture: np.ndarray) -> LabelledPhoto:
    assert cv2.imwrite(str(path), picture)
    none = np.zeros((0, 4), np.float32)
    return LabelledPhoto(
        path, (picture.shape[0], picture.shape[1]), none, np.zeros((0, 5, 2), np.float32), none, "t", ()
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledPhoto]:
    """One with ovals that may pass for faces, and one where there is nothing."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(2)
    picture = np.full((300, 420, 3), 90, np.uint8)
    for _ in range(12):
        x, y, side = (int(random.integers(*ends)) for ends in ((0, 420), (0, 300), (8, 30)))
        cv2.ellipse(picture, (x, y), (side, side * 5 // 4), 0, 0, 360, (150, 180, 230), -1)
        for shift in (-1, 1):
            cv2.circle(picture, (x + shift * side // 3, y - side // 4), max(1, side // 6), (30, 30, 60), -1)
    return [labelled(root / "ovals.png", picture), labelled(root / "grey.png", np.full((64, 64, 3), 128, np.uint8))]


@pytest.fixture(scope="module")
def raw(
    tmp_path_factory: pytest.TempPathFactory, photos: list[LabelledPhoto], detector: Detector
) -> list[RawDetections]:
    folder = tmp_path_factory.mktemp("raw")
    write_raw(folder, photos, detector, {"weights": "those"})
    return read_raw(folder, photos)


@pytest.mark.parametrize(
    ("nms_iou", "keep_top_k", "score"),
    [
        pytest.param(0.4, 20_000, 0.02, id="default"),
        pytest.param(0.2, None, 0.02, id="few duplicates"),
        pytest.param(0.8, None, 0.02, id="many duplicates"),
        pytest.param(1.0, None, 0.02, id="all duplicates"),
        pytest.param(0.0, None, 0.02, id="nothing may touch"),
        pytest.param(0.4, 3, 0.02, id="no more faces than are kept"),
        pytest.param(0.4, None, 0.1, id="score threshold"),
    ],
)
def test_removing_duplicates_gives_what_a_detection_gives(
    photos: list[LabelledPhoto],
    raw: list[RawDetections],
    detector: Detector,
    nms_iou: float,
    keep_top_k: int | None,
    score: float,
) -> None:
    post = PostConfig(nms_iou=nms_iou, keep_top_k=keep_top_k, score_floor=score)
    for photo, kept in zip(photos, raw, strict=True):
        ready = prepare(photo.path.read_bytes(), min_face=20, preset=detector.preset, config=CONFIG.cascade)
        faces, estimated = (
            look(ready, detector.engine, CONFIG.cascade, post).faces,
            kept.without_duplicates(nms_iou, keep_top_k),
        )
        shown = estimated.scores >= np.float32(score)
        assert np.array_equal(estimated.boxes[shown], faces.boxes)
        assert np.array_equal(estimated.scores[shown], faces.scores)


def test_candidates_are_there_before_duplicates_go(raw: list[RawDetections]) -> None:
    assert len(raw[0].scores) > 2 * len(raw[0].without_duplicates(0.4, None).scores) > 0
    assert raw[0].scores.min() >= np.float32(0.02)
    assert raw[1].boxes.shape == (0, 4)  # nothing there


def test_detect_finds_with_the_chosen_settings_what_was_estimated_for_them(
    photos: list[LabelledPhoto], raw: list[RawDetections], tmp_path: Path
) -> None:
    part, path = RawSet(photos, raw, 20, 20_000), tmp_path / "settings.toml"
    default, chosen = ({"post.nms_iou": iou, "score_threshold": score} for iou, score in ((0.4, 0.3), (0.8, 0.05)))
    job = ThresholdsJob(folder="a", output="b", settings=DetectSettings(device="cpu", engine="torch"))
    path.write_text(settings_file(job, compare(part, part, default, chosen, Goal(), seed=0)))
    config = detector_config(cli._parser().parse_args(["detect", "photos", "-o", "out", "--config", str(path)]))
    faces = Detector.from_pretrained(None, dataclasses.replace(config, threads=1)).detect(photos[0].path)
    estimated = raw[0].without_duplicates(0.8, None)
    assert np.array_equal(faces.boxes, estimated.boxes[estimated.scores >= np.float32(0.05)])
    assert len(faces) > 2 * (raw[0].without_duplicates(0.4, None).scores >= np.float32(0.3)).sum()


def test_passes_of_other_weights_or_photos_do_not_mix(
    tmp_path: Path, photos: list[LabelledPhoto], detector: Detector
) -> None:
    done: list[int] = []
    write_raw(tmp_path, photos, detector, {"weights": ("those", 1)}, done.append)
    write_raw(tmp_path, photos, detector, {"weights": ("those", 1)}, done.append)
    assert done == [0, 1, 1, 2]
    with pytest.raises(SettingsError, match=r"weights was \['those', 1\], is others\); choose another folder"):
        write_raw(tmp_path, photos, detector, {"weights": "others"})
    with pytest.raises(SettingsError, match="the cache is of other photos"):
        read_raw(tmp_path, photos[:1])
    with pytest.raises(RunError, match="the cache of photos is not finished; run the same command again"):
        read_raw(tmp_path / "none", photos)


def test_a_cache_says_itself_how_it_is_parted(
    tmp_path: Path, photos: list[LabelledPhoto], detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(photo_parts, "PHOTOS_IN_A_PART", 1)
        write_raw(tmp_path, photos, detector, {})
    done: list[int] = []
    write_raw(tmp_path, photos, detector, {}, done.append)
    assert done == [2]
    assert len(read_raw(tmp_path, photos)) == 2


def test_photos_that_do_not_fit_their_labels_are_named(
    tmp_path: Path, photos: list[LabelledPhoto], detector: Detector
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    broken = dataclasses.replace(photos[0], path=tmp_path / "broken.jpg")
    with pytest.raises(RunError, match=r"broken\.jpg: .*; mend it or take it from the labels"):
        write_raw(tmp_path / "one", [broken], detector, {})
    turned = dataclasses.replace(photos[0], size=(420, 300))
    with pytest.raises(RunError, match=r"ovals\.png is \(300, 420\) px, its labels say \(420, 300\)"):
        write_raw(tmp_path / "two", [turned], detector, {})
