"""`tune focus-labels`: which labels settings mean, how branches are judged and chosen, and the settings that come out.

The search itself is run in tests/pipelines/test_tune_focus_labels.py.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.settings import settings_toml
from pipelines.train_config import TrainConfig, read_train_config
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_label_tables
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.training.augment import LabelledCrop
from retinafocus.training.focus_heads import Head
from retinafocus.training.losses import LossConfig
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import find_weights, load_model
from tune.focus_labels import (
    LabelsJob,
    finalists_of,
    halves,
    judged_maps,
    model_settings,
    present_head,
    tune_focus_labels,
)
from tune.kept_maps import CropMaps, PhotoMaps
from tune.label_judge import LED, ROUTES, JudgeFiles, LabelJudge, led_at, mpx_of, precision, really_found
from tune.label_report import points_of, verdict
from tune.label_trials import SPACE, LabelTrials, check_space, features_of, head_of, settings_of_head
from tune.level_cache import read_cache, route_of, write_cache
from tune.space import parse_space
from tune.sweep import Trial

PRESENT = Head("P3", FocusLabelConfig(smallest=3, small=40, large=64))
JOB = LabelsJob(folder="a", judge="b", output="c")


def trial(number: int, error: str = "", settings: dict[str, Any] | None = None, **results: float) -> Trial:
    return Trial(number=number, settings=settings or {}, results=results, seconds=1.0, error=error)


# Settings


def test_settings_of_a_search_mean_these_labels() -> None:
    settings = {"model.focus": "C4", "sample.focus.smallest": 2.5, "sample.focus.small": 30.0, "large_over_small": 1.5}
    assert head_of(settings, PRESENT) == Head("C4", FocusLabelConfig(smallest=2.5, small=30, large=45))
    assert head_of({}, PRESENT) == PRESENT
    assert head_of({"sample.focus.small": 20.0}, PRESENT).labels.large == 32.0, "c keeps its distance from b"
    assert head_of({"sample.focus.large": 80.0}, PRESENT).labels.large == 80.0
    rounded_below = {"sample.focus.small": 23.4512, "large_over_small": 1.0}
    assert head_of(rounded_below, PRESENT).labels.large == 23.4512, "c is not below b"


def test_default_space_holds_the_present_choice() -> None:
    space = parse_space(SPACE, "default")
    check_space(space, PRESENT)
    settings = settings_of_head(PRESENT, space)
    assert list(settings) == list(space.searched)
    assert head_of(settings, PRESENT) == PRESENT
    assert features_of(space, PRESENT) == ["C2", "C3", "C4", "P2", "P3", "P4"]
    assert features_of(parse_space('"sample.focus.small" = [20, 30]\n"model.focus" = "C4"', "t"), PRESENT) == [
        "C4",
        "P3",
    ]


def test_weights_own_branch_is_judged_though_the_search_never_reads_its_map(detector: RetinaFocus) -> None:
    assert detector.preset.focus is not None
    own = dataclasses.replace(detector.preset, focus=dataclasses.replace(detector.preset.focus, feature="P2"))
    assert judged_maps(["C4"], own) == ("c2", "c4", "p3")
    assert judged_maps(["C4"], dataclasses.replace(own, focus=None)) == judged_maps(["C4"], None) == ("c4",)


def test_space_of_the_documents_is_the_default_one() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    (space,) = re.findall(r"```toml\n(\"model.focus.*?)```", docs, re.S)
    assert parse_space(space, "docs") == parse_space(SPACE, "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('"loss.focus_weight" = [1.0, 2.0]', "loss.focus_weight: not searched here; choose", id="unknown"),
        pytest.param('"model.focus" = ["P3", "P5"]', "model.focus is 'P5'; choose among C2", id="map"),
        pytest.param('"sample.focus.small" = { from = 2.0, to = 9.0 }', "want 0 <= smallest < small", id="b below a"),
        pytest.param('"sample.focus.large" = [30.0, 64.0]', "large_over_small in place of", id="c below b"),
        pytest.param('"sample.focus.large" = [70.0]\n"large_over_small" = 2.0', "two ways to say c", id="both"),
        pytest.param('"sample.focus.small" = ["x", "y"]', "could not convert", id="no number"),
    ],
)
def test_space_is_checked_before_anything_is_computed(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_space(parse_space(text, "test"), PRESENT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"steps": 3}, "steps is 3; choose at least 4", id="steps"),
        pytest.param({"crops": 0}, "crops is 0", id="crops"),
        pytest.param({"min_face": 0.0}, "min_face is 0 px", id="face"),
    ],
)
def test_job_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(JOB, **changes)


def test_photos_to_judge_on_are_not_those_that_are_learned_from(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="branches learn from these photos; judge them on others"):
        tune_focus_labels(dataclasses.replace(JOB, folder=str(tmp_path), judge=f"{tmp_path}/../{tmp_path.name}"))


def test_search_that_cannot_be_is_refused_before_its_long_passes(labels_alone: Path, tmp_path: Path) -> None:
    """The pictures are not even there."""
    shutil.copytree(labels_alone, tmp_path / "judge")
    job = LabelsJob(folder=str(labels_alone), judge=str(tmp_path / "judge"), output=str(tmp_path / "out"), trials=0)
    with pytest.raises(SettingsError, match="trials is 0; choose at least 1"):
        tune_focus_labels(job)
    assert not (tmp_path / "out").exists()


def test_photos_that_two_folders_share_are_refused(tmp_path: Path) -> None:
    # As folders of ours share them: by links.
    for name in ("train", "judge"):
        (tmp_path / name / "images").mkdir(parents=True)
        write_label_tables({"a.png": labelled(1)}, tmp_path / name)
    assert cv2.imwrite(str(tmp_path / "train" / "images" / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "judge" / "images" / "a.png").symlink_to(tmp_path / "train" / "images" / "a.png")
    job = dataclasses.replace(
        JOB, folder=str(tmp_path / "train"), judge=str(tmp_path / "judge"), output=str(tmp_path / "out")
    )
    with pytest.raises(SettingsError, match=r"judge: 1 photos are also in .*train, a\.png for one"):
        tune_focus_labels(job)


def test_present_choice_is_that_of_the_training_and_of_the_weights() -> None:
    preset = load_model(find_weights(None)).preset
    config = TrainConfig()
    assert present_head(config, preset) == Head("P3", config.sample.focus)
    assert (
        present_head(dataclasses.replace(config, model=dataclasses.replace(config.model, focus="C4")), preset).feature
        == "C4"
    )
    assert present_head(config, dataclasses.replace(preset, focus=None)).feature == "P3"


def test_settings_file_starts_a_training_from_the_frozen_detector(tmp_path: Path) -> None:
    from retinafocus.training.start import starting_model

    preset = load_model(find_weights(None)).preset
    model = dataclasses.replace(model_settings(JOB, preset), focus="C4")
    config = TrainConfig()
    config = dataclasses.replace(config, model=model, loop=dataclasses.replace(config.loop, freeze="all-but-focus"))
    (tmp_path / "settings.toml").write_text(settings_toml(config))
    read = read_train_config(tmp_path / "settings.toml")
    assert read == config
    network = starting_model(read.model.to_preset(), init=read.model.init, heads=read.model.heads)
    assert network.preset.focus is not None
    assert network.preset.focus.feature == "C4"


def test_anchors_of_the_weights_that_are_not_the_presets_go_into_the_settings() -> None:
    preset = load_model(find_weights(None)).preset
    sizes = ((9.0, 18.0), (30.0, 60.0), (120.0, 250.0))
    other = dataclasses.replace(
        preset, anchors=dataclasses.replace(preset.anchors, sizes=sizes), face_range=(18.0, 150.0)
    )
    assert model_settings(JOB, other).to_preset().detector_difference(other) == ""
    assert model_settings(JOB, other).to_preset().face_range == (18.0, 150.0)


# Choosing


def labelled(faces: int) -> LabelledPhoto:
    return LabelledPhoto(
        path=Path("a.jpg"), size=(9, 9), boxes=np.ones((faces, 4), np.float32) * np.array([0, 0, 5, 5], np.float32),
        landmarks=np.full((faces, 5, 2), np.nan, np.float32), ignore=np.zeros((0, 4), np.float32), source="test",
        kinds=("human",) * faces,
    )  # fmt: skip


def test_every_second_photo_ranks_and_the_others_check() -> None:
    ranked, checked = halves([labelled(count) for count in (1, 2, 0, 3, 4)], "x", 5.0)
    assert [len(photo.boxes) for photo in ranked] == [1, 0, 4]
    assert [len(photo.boxes) for photo in checked] == [2, 3]
    with pytest.raises(SettingsError, match="x: every second photo ranks trials"):
        halves([labelled(1), labelled(0)], "x", 5.0)
    with pytest.raises(SettingsError, match="both need faces of 6 px or more"):
        halves([labelled(1), labelled(1)], "x", 6.0)


def test_finalists_had_the_whole_training() -> None:
    b = [{"sample.focus.small": float(size)} for size in (40, 10, 20, 30, 50)]
    tried = [
        trial(0, settings=b[0], mean_ap=0.9, trained=1.0),  # the present choice is there anyway
        trial(1, settings=b[1], mean_ap=0.8, trained=0.25),
        trial(2, settings=b[2], mean_ap=0.6, trained=1.0),
        trial(3, settings=b[3], mean_ap=0.7, trained=1.0),
        trial(4, settings=b[4], error="lost"),
        trial(5, settings=b[3], mean_ap=0.7, trained=1.0),  # proposed again
        trial(6, settings=b[0], mean_ap=0.9, trained=1.0),  # the present choice, proposed
    ]
    assert [each.number for each in finalists_of(tried, 3)] == [3, 2]
    assert [each.number for each in finalists_of(tried, 1)] == [3]


def finals(*rows: tuple[int, float, float]) -> list[Trial]:
    """(trial, mean AP ranked, mean AP checked)."""
    return [
        trial(place, settings={"trial": number, "repeat": place, "model.focus": "C4" if number else "P3"},
              ranked_mean_ap=ranked, mean_ap=checked)
        for place, (number, ranked, checked) in enumerate(rows)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "number", "sure", "words"),
    [
        pytest.param([(0, 0.8, 0.80), (5, 0.9, 0.84), (0, 0.8, 0.82), (5, 0.8, 0.83)], 5, True,
                     r"C4-3-40-64 \(trial 5\): \+2\.50 points .*, ahead in each of 2 repeats", id="ahead"),
        pytest.param([(0, 0.8, 0.80), (5, 0.9, 0.84), (0, 0.8, 0.82), (5, 0.8, 0.81)], 5, False,
                     r"\+1\.50 points .* no further from the present choice", id="within the noise"),
        pytest.param([(0, 0.8, 0.84), (5, 0.9, 0.80), (0, 0.8, 0.83), (5, 0.9, 0.82)], 5, False,
                     r"-2\.50 points .* behind the present choice in each of 2 repeats; keep P3-3-40-64", id="behind"),
        pytest.param([(0, 0.9, 0.80), (5, 0.9, 0.84)], 0, False, "The present choice", id="a tie"),
        pytest.param([(0, 0.9, 0.80), (5, 0.8, 0.84), (0, 0.9, 0.82), (5, 0.8, 0.83)], 0, False,
                     "The present choice, P3-3-40-64: no other ranked higher", id="chosen where it ranks"),
    ],
)  # fmt: skip
def test_choice_is_made_on_some_photos_and_told_on_others(
    rows: list[tuple[int, float, float]], number: int, sure: bool, words: str
) -> None:
    found = verdict([trial(9, settings={"trial": -1, "repeat": 1}, ranked_mean_ap=0.99, mean_ap=0.99), *finals(*rows)],
                    PRESENT)  # fmt: skip
    assert (found.trial, found.sure) == (number, sure)
    assert re.search(words, found.words)


def test_points_of_a_finalist_are_rows(tmp_path: Path) -> None:
    points = [{"ap": 0.5, "mpx": 1.0}, {"ap": 0.75, "mpx": 2.0}]
    own = trial(0, settings={"trial": 0, "repeat": 2}, mean_ap=0.6)
    pq.write_table(pa.Table.from_pylist(points), tmp_path / "trial-0-2.parquet")
    known = {"trial": 0, "repeat": 2, "branch": "P3-3-40-64, present"}
    assert points_of([own], tmp_path, PRESENT) == [known | point for point in points]


# Judging


@pytest.fixture(scope="module")
def detector() -> RetinaFocus:
    return load_model(find_weights(None))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, detector: RetinaFocus) -> JudgeFiles:
    """Two photos, one too small for chips."""
    root = tmp_path_factory.mktemp("judged")
    random, photos = np.random.default_rng(1), []
    for name, (height, width) in {"a.png": (300, 420), "b.png": (90, 120)}.items():
        small = random.integers(40, 200, (height // 20, width // 20, 3), dtype=np.uint8)
        assert cv2.imwrite(str(root / name), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
        photos.append(dataclasses.replace(labelled(1), path=root / name, size=(height, width)))
    photos[0].boxes[:] = (40, 40, 70, 75)
    engine = Detector(detector, DetectorConfig(device="cpu", engine="torch", threads=1)).engine
    write_cache(root / "levels", photos, engine, ROUTES, {"min_face": 20.0})
    pairs = list(zip(photos, read_cache(root / "levels", photos).photos, strict=True))
    maps = PhotoMaps(folder=root / "maps", maps=("c2", "p3"))
    maps.write(detector, pairs, LED, route_of(LED, detector.preset), 20.0)
    return JudgeFiles(cache=root / "levels", photos=photos, maps=maps, min_face=20.0)


def test_ends_of_the_curve_are_the_coarse_levels_and_looking_everywhere(
    files: JudgeFiles, detector: RetinaFocus
) -> None:
    judge = LabelJudge(files, detector)
    # The large photo whole at half its size; at every level if each is looked at. The small one has one level.
    everywhere = mpx_of(really_found(detector, CascadeConfig(mode="exhaustive"), files.photos, 20.0))
    assert judge.whole_mpx == pytest.approx(everywhere)
    assert judge.coarse.cost == pytest.approx((150 * 210 + 90 * 120) / 2e6 / everywhere)
    assert judge.everywhere.cost == 1.0


def test_curve_of_the_weights_own_branch_costs_what_the_cascade_costs(files: JudgeFiles, detector: RetinaFocus) -> None:
    assert detector.focus is not None
    judge = LabelJudge(files, detector)
    curve = judge.curve(detector.focus)
    # A multiply-add for each weight and cell of 8 x 8 px: 641 a pixel, beside 2,395 of the detector.
    assert judge.work_with(detector.focus) == pytest.approx(1 + 641 / 2395, rel=2e-3)
    assert judge.coarse.cost < curve[0][1].cost < curve[-1][1].cost
    for thresholds, point in judge.curve(detector.focus, [(0.6, 0.6), (0.55, 0.55)]):
        found = really_found(detector, led_at(thresholds, detector.preset), files.photos, 20.0)
        expected = judge.work_with(detector.focus) * mpx_of(found) / judge.whole_mpx
        assert point == pytest.approx((expected, precision(found, files.photos, 20.0).ap))


def test_branch_after_its_training_is_in_evaluation_mode(detector: RetinaFocus, tmp_path: Path) -> None:
    # On P2 it has batch norm: judged while training, it would learn from the photos it is judged on.
    box, none = np.array([[4, 4, 20, 20]], np.float32), np.zeros((0, 4), np.float32)
    crop = LabelledCrop(
        pixels=np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), boxes=box,
        sides=np.array([16], np.float32), landmarks=np.full((1, 5, 2), np.nan, np.float32), ignore=none,
        in_range=np.ones(1, bool),
    )  # fmt: skip
    crops = CropMaps(folder=tmp_path, crops=2, batch=2, maps=("c2", "p3"))
    crops.write(detector, lambda number: crop)
    judge = JudgeFiles(cache=tmp_path, photos=[], maps=PhotoMaps(folder=tmp_path, maps=()), min_face=20.0)
    trials = LabelTrials(weights=tmp_path, crops=crops, judge=judge, present=PRESENT, steps=4, loss=LossConfig())
    shares = []
    for share, branch in trials.trained(detector, dataclasses.replace(PRESENT, feature="P2"), seed=0):
        assert not branch.training
        shares.append(share)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert not branch.training
    seen = {int(value) for name, value in branch.state_dict().items() if name.endswith("num_batches_tracked")}
    assert seen == {4}, "and each batch was learned from in training mode"


def test_room_around_focus_cells_is_the_same_for_every_map(detector: RetinaFocus) -> None:
    preset = detector.preset
    assert preset.focus is not None
    for feature, dilation in {"C2": 5, "P3": 3, "C4": 3}.items():
        other = dataclasses.replace(preset, focus=dataclasses.replace(preset.focus, feature=feature))
        assert {chip.dilation for chip in led_at((0.1, 0.2), other).chips} == {dilation}


def test_photos_too_small_for_chips_judge_nothing(files: JudgeFiles, detector: RetinaFocus, tmp_path: Path) -> None:
    engine = Detector(detector, DetectorConfig(device="cpu", engine="torch", threads=1)).engine
    write_cache(tmp_path, files.photos[1:], engine, ROUTES, {"min_face": 20.0})
    small = dataclasses.replace(files, cache=tmp_path, photos=files.photos[1:])
    with pytest.raises(SettingsError, match="no photo is large enough for chips at min_face 20 px"):
        LabelJudge(small, detector)
