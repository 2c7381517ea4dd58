"""`retinafocus tune focus`: what may be searched, how a point is chosen, and what becomes of its settings."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import cli
from pipelines.commands.search import run_search
from pipelines.detect_config import read_detect_settings
from pipelines.planning import detector_config
from pipelines.report import Progress
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.focus.chips import ChipConfig
from retinafocus.models import get_preset
from retinafocus.postprocessing import PostConfig
from retinafocus.weights import find_weights
from tune.focus import FocusJob, _check_words, choose, labels_digest, settings_file, tune_focus
from tune.focus_trials import (
    SPACE,
    FocusTrials,
    LookCosts,
    cascade_of,
    check_space,
    defaults_of,
    measure_costs,
    routes_of,
)
from tune.space import parse_space
from tune.sweep import Trial


def trial(number: int, ap: float, mpx: float, **settings: Any) -> Trial:
    results = {"ap": ap, "mpx": mpx, "core_seconds": 10 * mpx, "looks": 2.0}
    return Trial(number=number, settings=settings, results=results, seconds=1.0)


FRONT = [trial(3, 0.9, 4.0), trial(1, 0.8, 2.0), trial(2, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("words", "number"),
    [
        pytest.param({}, 1, id="not worse than the default"),
        pytest.param({"max_cost": 3.0}, 1, id="the best at a cost"),
        pytest.param({"max_cost": 1.0}, 2, id="just that cost"),
        pytest.param({"max_cost": 30.0, "cost": "core-seconds"}, 1, id="in core-seconds"),
        pytest.param({"min_ap": 0.85}, 3, id="the cheapest with an AP"),
        pytest.param({"min_ap": 0.5}, 2, id="just that AP"),
    ],
)
def test_point_of_the_front_that_is_chosen(words: dict[str, Any], number: int) -> None:
    assert choose(FRONT, FocusJob(folder="a", output="b", **words), trial(0, 0.75, 2.5)).number == number


def test_wish_that_no_trial_fulfils_is_answered_with_the_nearest() -> None:
    with pytest.raises(RunError, match=r"no trial costs 0\.5 mpx or less; the cheapest costs 1"):
        choose(FRONT, FocusJob(folder="a", output="b", max_cost=0.5), FRONT[0])
    with pytest.raises(RunError, match=r"no trial has an AP of 0\.95 or more; the best has 0\.9000"):
        choose(FRONT, FocusJob(folder="a", output="b", min_ap=0.95), FRONT[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param({"cost": "euros"}, "cost is 'euros'; choose one of mpx, core-seconds", id="cost"),
        pytest.param({"max_cost": 1.0, "min_ap": 0.5}, "two ways to choose", id="both"),
        pytest.param({"max_cost": 0.0}, "max-cost is 0", id="free"),
        pytest.param({"min_ap": 50.0}, "min-ap is 50; choose a share", id="percent"),
        pytest.param({"report_folders": ["x", "./a"]}, "report-folder a is the one that", id="report"),
    ],
)
def test_job_that_makes_no_sense_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FocusJob(folder="a", output="b", **words)


def test_trials_that_are_not_what_the_cascade_does_are_warned_of() -> None:
    def row(ap: float, mpx: float) -> dict[str, float]:
        return {"trial": 4, "ap": ap, "ap_cascade": 0.9, "ap_low": 0.8, "ap_high": 0.95, "mpx": mpx, "mpx_cascade": 2.0}

    near = [row(0.9, 2.0), row(0.9029, 2.0), row(0.8971, 2.0)]
    assert not any("warning" in line for line in _check_words(near))
    for far in (row(0.9031, 2.0), row(0.8969, 2.0), row(0.9, 2.001)):
        assert _check_words([*near, far])[-1].startswith("warning  1 of these 4 are more than 0.3 points of AP from")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param({"trials": 0}, "trials is 0; choose at least 1", id="trials"),
        pytest.param({"search": "grid"}, "search is 'grid'", id="search"),
        pytest.param(
            {"detector": DetectorConfig(min_face=300.0, engine="torch")},
            "labelled.*: no photo has a labelled face of 300 px or more; there is nothing to measure", id="faces",
        ),
    ],
)  # fmt: skip
def test_search_that_cannot_be_is_refused_before_its_long_pass(
    labels_alone: Path, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    """The pictures are not even there."""
    pytest.importorskip("matplotlib")
    job = FocusJob(folder=str(labels_alone), output=str(tmp_path / "out"), **words)
    with pytest.raises(SettingsError, match=message):
        tune_focus(job, Progress(finds=False))
    assert not (tmp_path / "out").exists()


def test_labels_decide_whether_a_search_goes_on() -> None:
    def photo(face: float, region: float) -> LabelledPhoto:
        faces, regions = (np.array([[1, 2, end, 4]], np.float32) for end in (face, region))
        return LabelledPhoto(
            path=Path("a.jpg"), size=(9, 9), boxes=faces, landmarks=np.full((1, 5, 2), np.nan, np.float32),
            ignore=regions, source="test", kinds=("human",),
        )  # fmt: skip

    digests = [labels_digest([photo(*ends)]) for ends in ((3, 5), (3, 5), (4, 5), (3, 6))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert labels_digest([photo(3, 5), photo(4, 5)]) != labels_digest([photo(4, 5), photo(3, 5)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('"cascade.bordr" = [1.0]', r"cascade\.bordr: there is no such setting; did you mean", id="typo"),
        pytest.param('"cascade.zoom" = [2, 3]', r"cascade\.zoom is 3", id="choice"),
        pytest.param('"cascade.whole_above" = { from = 0.5, to = 2.0 }', "whole_above is 2.0", id="end of a range"),
        pytest.param('"min_face" = [10.0, 20.0]', "min_face cannot be searched", id="not searched"),
        pytest.param('"post.score_floor" = [0.001]', r"scores below 0\.02 are not kept", id="score"),
    ],
)
def test_space_is_checked_before_anything_is_computed(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_space(parse_space(text, "test"))


def test_default_space_holds_the_default_settings() -> None:
    space = parse_space(SPACE, "default")
    check_space(space)
    preset = get_preset("mobile025")
    defaults = defaults_of(space, preset)
    assert list(defaults) == list(space.searched)
    assert defaults["cascade.chips.0.threshold"] == 0.07
    assert defaults["cascade.chips.1.threshold"] == 0.2
    assert defaults["cascade.zoom"] == 2
    cascade, post = cascade_of(defaults)
    assert cascade == CascadeConfig(chips=(ChipConfig(threshold=0.07), ChipConfig(threshold=0.2)), zoom=2)
    assert post == PostConfig(score_floor=0.02)
    assert routes_of(space) == [CascadeConfig(zoom=2), CascadeConfig(zoom=4)]


def test_scores_may_be_searched() -> None:
    assert cascade_of({"score_threshold": 0.3})[1].score_floor == 0.3
    assert cascade_of({"post.score_floor": 0.1})[1].score_floor == 0.1
    space = parse_space('"score_threshold" = [0.1, 0.3]\n"post.nms_iou" = 0.3', "test")
    check_space(space)
    assert defaults_of(space, get_preset("mobile025")) == {"post.nms_iou": 0.4}


def test_chosen_settings_change_what_detect_does(tmp_path: Path) -> None:
    settings = {"cascade.chips.0.threshold": 0.31, "cascade.chips.1.dilation": 7, "cascade.chips.0.min_chip": 48.0}
    settings = {**settings, "cascade.zoom": 4, "cascade.border": 5.5, "post.nms_iou": 0.33}
    path = tmp_path / "settings.toml"
    path.write_text(settings_file(FocusJob(folder="a", output="b"), trial(7, 0.9, 1.0, **settings), FRONT[0]))
    words = ["detect", "photos", "-o", "out", "--config", str(path)]
    found = detector_config(cli._parser().parse_args(words))
    cascade, post = cascade_of(settings)
    assert found.cascade == cascade
    assert found.cascade.chips == (ChipConfig(threshold=0.31, min_chip=48), ChipConfig(dilation=7))
    assert found.post.nms_iou == post.nms_iou == 0.33
    assert found.score_threshold == 0.3  # what is measured down to 0.02 is not what tables keep
    assert "# Trial 7: AP 90.00 %" in path.read_text()
    others = FocusJob(folder="a", output="b", weights="w.safetensors")
    path.write_text(settings_file(others, trial(7, 0.9, 1.0, **settings), FRONT[0]))
    assert "# For --weights w.safetensors, with which it was searched." in path.read_text()
    assert detector_config(cli._parser().parse_args(words)) == found


def test_detections_with_settings_of_trials_cost_what_these_say(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (480, 480, 3), np.uint8)
    pixels = []
    for settings in ({"cascade.chips.0.threshold": 1.0, "cascade.zoom": 4}, {"cascade.mode": "exhaustive"}):
        path = tmp_path / "settings.toml"
        path.write_text(settings_file(FocusJob(folder="a", output="b"), trial(7, 0.9, 1.0, **settings), FRONT[0]))
        config = detector_config(cli._parser().parse_args(["detect", "photos", "-o", "out", "--config", str(path)]))
        detector = Detector.from_pretrained(None, dataclasses.replace(config, engine="torch", device="cpu", threads=1))
        pixels.append(detector.look(detector.prepare(photo)).pixels_processed)
    assert 2 * pixels[0] < pixels[1], "no chip: the coarsest level alone"


def test_costs_of_looks_are_measured() -> None:
    from retinafocus import Detector, DetectorConfig

    detector = Detector.from_pretrained(None, DetectorConfig(device="cpu", engine="torch", threads=1))
    costs = measure_costs(detector.engine, PostConfig(), repeats=1)
    assert costs.per_pixel > 0
    assert math.isfinite(costs.per_look)
    assert LookCosts(per_look=2.0, per_pixel=0.5).of([]) == 0


def test_examples_of_the_documents_can_be_read(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    (space,) = re.findall(r"```toml\n(\"cascade.*?)```", (docs / "tuning.md").read_text(), re.S)
    check_space(parse_space(space, "docs"))
    (settings,) = re.findall(r"```toml\n(min_face.*?)```", (docs / "cascade.md").read_text(), re.S)
    (tmp_path / "settings.toml").write_text(settings)
    found = read_detect_settings(tmp_path / "settings.toml")
    assert found.cascade.chips == (ChipConfig(threshold=0.1), ChipConfig(threshold=0.3, dilation=1))


def test_search_that_was_stopped_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def search() -> str:
        raise KeyboardInterrupt

    assert run_search(search) == 4
    assert "finished trials are kept, the same command with --resume goes on" in capsys.readouterr().err
    assert run_search(lambda: "found") == 0
    assert capsys.readouterr().out == "found\n"


def test_photo_to_report_on_that_cannot_be_looked_at_is_named(tmp_path: Path) -> None:
    engine = Detector.from_pretrained(find_weights(None), DetectorConfig(engine="torch", device="cpu")).engine
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))

    def found(name: str, size: tuple[int, int]) -> int:
        nobody = np.zeros((0, 4), np.float32)
        photo = LabelledPhoto(
            path=tmp_path / name, size=size, boxes=nobody, landmarks=np.zeros((0, 5, 2), np.float32), ignore=nobody,
            source="a", kinds=(),
        )  # fmt: skip
        trials = FocusTrials(
            cache=tmp_path, photos=[photo], weights=tmp_path, detector=DetectorConfig(),
            costs=LookCosts(per_look=0, per_pixel=0), look_at_chips=True,
        )  # fmt: skip
        return len(trials.really_found({}, engine))

    assert found("a.png", (48, 64)) == 1
    with pytest.raises(RunError, match=r"a\.png is \(48, 64\) px, its labels say \(64, 48\); mend them"):
        found("a.png", (64, 48))
    with pytest.raises(RunError, match=r"b\.png: .*; mend it or take it from the labels"):
        found("b.png", (48, 64))
