"""`tune thresholds` without a cluster: halves, the choice against numbers worked out by hand, the report, the file."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.detect_config import DetectSettings, read_detect_settings
from pipelines.planning import detector_config
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LANDMARK_COLUMNS, LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.operating_points import Goal
from retinafocus.postprocessing import PostConfig
from tune.photo_parts import write_parts
from tune.raw_detections import RAW_SCHEMA, RawDetections
from tune.space import parse_space
from tune.sweep import LEDGER_FILE, Prepare, SweepJob, SweepPlan, Trial, read_ledger
from tune.threshold_report import Comparison, compare, write_report
from tune.threshold_trials import SPACE, RawSet, check_space, results_of
from tune.thresholds import ThresholdsJob, check_found, choose, halves, settings_file

DEFAULT = {"post.nms_iou": 0.4, "score_threshold": 0.8}


def photo(name: str, *lefts: float, side: float = 40) -> LabelledPhoto:
    boxes = np.array([(left, 0, left + side, side) for left in lefts], np.float32).reshape(-1, 4)
    return LabelledPhoto(
        path=Path("set/images") / name, size=(100, 2000), boxes=boxes, ignore=np.zeros((0, 4), np.float32),
        landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32), source="test", kinds=("human",) * len(boxes),
    )  # fmt: skip


def raw(*found: tuple[float, float]) -> RawDetections:
    """(left, score) of squares of 40 px, best first."""
    boxes = np.array([(left, 0, left + 40, 40) for left, _ in found], np.float32).reshape(-1, 4)
    return RawDetections(boxes, np.array([score for _, score in found], np.float32))


# Faces at 0 and 15 overlap by 25/55 = 0.45; the second box at 100 overlaps the first by 30/50 = 0.6.
# Duplicates go from 0.4 on: right 0.9 (0), right 0.7 (100), false 0.5: the face at 15 is lost with its box.
# From 0.5 on: right 0.9, right 0.85 (15), right 0.7, false 0.5. From 0.65 on: the double 0.6 is false, too.
CROWD = RawSet([photo("a.jpg", 0, 15, 100)], [raw((0, 0.9), (15, 0.85), (100, 0.7), (110, 0.6), (500, 0.5))], 20, None)


@pytest.mark.parametrize(
    ("nms_iou", "f1", "ap"),
    [
        pytest.param(0.4, 2 * 2 / (2 + 3), 2 / 3, id="a neighbour is lost"),
        pytest.param(0.5, 1.0, 1.0, id="just right"),
        pytest.param(0.65, 1.0, 1.0, id="the double is below the threshold"),
    ],
)
def test_trial_has_the_best_threshold_of_its_overlap(nms_iou: float, f1: float, ap: float) -> None:
    results = results_of(CROWD.curve(nms_iou), Goal())
    assert results["f1"] == results["goal"] == pytest.approx(f1)
    assert results["ap"] == pytest.approx(ap)
    # Between 0.7 and the next score, which is 0.5 or, with the double, 0.6.
    assert results["score_threshold"] == {0.4: 0.6, 0.5: 0.6, 0.65: 0.65}[nms_iou]
    assert results["precision"] == 1


def test_trial_with_a_goal() -> None:
    results = results_of(CROWD.curve(0.65), Goal(recall=0.3))
    assert (results["goal"], results["precision"], results["recall"]) == (1, 1, 1)
    missed = results_of(CROWD.curve(0.4), Goal(recall=0.9))
    assert missed["goal"] == pytest.approx(2 / 3 - 0.9)


def test_nothing_found_is_an_error_in_words() -> None:
    nothing = RawSet([photo("a.jpg", 0)], [raw()], 20, None)
    with pytest.raises(RunError, match=r"nothing was found with a score of 0\.02 or more"):
        results_of(nothing.curve(0.4), Goal())


def test_photos_that_nothing_can_be_chosen_on_are_refused_before_the_search() -> None:
    job = ThresholdsJob(folder="a", output="b")
    check_found(job, CROWD)
    small = RawSet([photo("a.jpg", 0, side=10)], [raw((0, 0.9))], 20, None)
    with pytest.raises(SettingsError, match="a: no face of 20 px or more is in the 1 photos to choose on"):
        check_found(job, small)
    with pytest.raises(RunError, match="a: nothing was found in the photos to choose on"):
        check_found(job, RawSet([photo("a.jpg", 0)], [raw()], 20, None))


def trial(number: int, goal: float, nms_iou: float, error: str = "") -> Trial:
    results = {"goal": goal, "precision": 0.9, "recall": 0.8, "f1": 0.85, "score_threshold": 0.7}
    return Trial(
        number=number, settings={"post.nms_iou": nms_iou}, results={} if error else results, seconds=0.1, error=error
    )


def test_best_trial_is_chosen_and_of_equal_ones_the_nearest_to_the_default() -> None:
    tried = [trial(0, 0.5, 0.4), trial(1, 0.7, 0.2), trial(2, 0.7, 0.5), trial(3, 0.0, 0.4, "lost"), trial(4, 0.7, 0.7)]
    assert choose(tried, Goal(), 0.4).number == 2


def test_search_without_time_for_a_trial_is_an_error_in_words() -> None:
    with pytest.raises(RunError, match="no overlap was tried in the time given; give more, and --resume"):
        choose([], Goal(), 0.4)


def test_goal_that_no_threshold_reaches_names_the_best() -> None:
    tried = [trial(0, -0.2, 0.4), trial(1, -0.05, 0.3)]
    message = (
        r"no threshold has a precision of 0\.95 or more .* has 0\.9000 with a recall of 0\.8000 \(scores from 0\.7 on"
    )
    with pytest.raises(RunError, match=message):
        choose(tried, Goal(precision=0.95), 0.4)
    with pytest.raises(RunError, match=r"no threshold has a recall of 0\.85 or more .* the best has 0\.8000"):
        choose(tried, Goal(recall=0.85), 0.4)


def test_halves_depend_on_names_and_seed_alone() -> None:
    photos = [photo(f"{number}.jpg", 0) for number in range(41)]
    one, other = halves(photos, Path("set"), 0)
    assert (len(one), len(other)) == (20, 21)
    assert sorted(one + other) == list(range(41))
    names = {photos[number].path.name for number in one}
    backwards = photos[::-1]
    assert {backwards[number].path.name for number in halves(backwards, Path("set"), 0)[0]} == names
    moved = [photo(f"/elsewhere/images/{number}.jpg", 0) for number in range(41)]
    assert halves(moved, Path("/elsewhere"), 0)[0] == one
    assert halves(photos, Path.cwd() / "set", 0)[0] == one
    assert halves(photos, Path("set"), 1)[0] != one
    assert halves(photos[:1], Path("set"), 0) == ([], [0])
    # Without one photo at most one other changes sides.
    less = photos[:40]
    assert len({less[number].path.name for number in halves(less, Path("set"), 0)[0]} ^ names) <= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('"score_threshold" = [0.1, 0.3]', "score_threshold is found exactly in each trial", id="score"),
        pytest.param(
            '"cascade.border" = [1.0, 2.0]', r"cascade\.border cannot be searched here, only post", id="other"
        ),
        pytest.param('"post.nms_iou" = { from = 0.5, to = 2.0 }', r"post\.nms_iou is 2\.0; choose 0\.\.1", id="range"),
        pytest.param('"post.nms_iou" = [0.5, "a"]', r"post\.nms_iou is 'a'; choose 0\.\.1", id="text"),
    ],
)
def test_space_is_checked_before_anything_is_computed(text: str, message: str) -> None:
    check_space(parse_space(SPACE, "default"))
    with pytest.raises(SettingsError, match=message):
        check_space(parse_space(text, "test"))


def test_photos_cannot_be_chosen_and_reported_on() -> None:
    with pytest.raises(SettingsError, match=r"a/\.\./b is to be chosen and reported on"):
        ThresholdsJob(folder="a/../b", output="c", report_folder="b")


def compared(reported_on: RawSet) -> Comparison:
    chosen = {"post.nms_iou": 0.5, "score_threshold": 0.6}
    return compare(CROWD, reported_on, DEFAULT, chosen, Goal(), seed=0)


REPORTED_ON = RawSet(
    [photo("b.jpg", 0, 15), photo("c.jpg", 0)], [raw((0, 0.95), (15, 0.75)), raw((0, 0.65), (300, 0.62))], 20, None
)


def test_report_has_both_settings_on_both_sets(tmp_path: Path) -> None:
    comparison = compared(REPORTED_ON)
    # The default, from 0.8 on: 1 of 3. The chosen, from 0.6 on, neighbours kept: 3 of 3 and a false one.
    assert comparison.row("reported on", "default").point.f1.value == pytest.approx(2 * 1 / (1 + 3))
    assert comparison.row("reported on", "chosen").point.f1.value == pytest.approx(2 * 3 / (4 + 3))
    assert comparison.gain.value == pytest.approx(6 / 7 - 1 / 2)
    assert comparison.row("chosen on", "chosen").point.f1.value == 1
    said = write_report(tmp_path, [trial(0, 0.5, 0.4), trial(1, 0, 0.5, "lost")], comparison)
    assert "chosen on 1 with 3 faces >=20 px, reported on 2 with 3 faces" in said
    assert "trials   1, 1 failed; for the best F1" in said
    rows = pq.read_table(tmp_path / "report.parquet").to_pylist()
    # All sizes, 20 to 32, 32 to 96 and above, by two settings and two sets.
    assert len(rows) == 16
    assert [row["faces"] for row in rows if row["photos"] == "chosen on" and row["settings"] == "chosen"] == [
        3,
        0,
        3,
        0,
    ]
    assert (rows[0]["size_low"], rows[2]["size_low"], rows[2]["size_high"]) == (20, 20, 32)
    table = (tmp_path / "report.md").read_text()
    assert "| >=20 px | chosen | 3 | 3 | 1 | 75.0 [50.0, 100.0] | 100.0 [100.0, 100.0] |" in table
    assert (tmp_path / "thresholds.png").stat().st_size > 1000


def test_report_on_photos_without_faces_or_detections(tmp_path: Path) -> None:
    comparison = compared(RawSet([photo("b.jpg"), photo("c.jpg")], [raw(), raw()], 20, None))
    said = write_report(tmp_path, [trial(0, 0.5, 0.4)], comparison)
    assert "gain     F1 - points" in said
    assert math.isnan(comparison.gain.value)


def test_report_on_large_faces_of_one_photo(tmp_path: Path) -> None:
    part = RawSet([photo("a.jpg", 0, side=200)], [raw((0, 0.9))], 100, None)
    settings = {"post.nms_iou": 0.5, "score_threshold": 1 - 2.0**-26}
    comparison = compare(part, part, DEFAULT, settings, Goal(), seed=0)
    assert len(comparison.rows) == 4  # all sizes are those of the last bucket: two settings on two sets
    said = write_report(tmp_path, [trial(0, 0.5, 0.4)], comparison)
    # No resamples of one photo; and a threshold below 1 is not said to be 1.
    assert "chosen   scores from 0.999999985 on, NMS IoU 0.5\n" in said


def test_chosen_settings_change_what_detect_does(tmp_path: Path) -> None:
    settings = DetectSettings(cascade=CascadeConfig(border=5.5), post=PostConfig(keep_top_k=99), min_face=12)
    path = tmp_path / "settings.toml"
    path.write_text(settings_file(ThresholdsJob(folder="a", output="b", settings=settings), compared(REPORTED_ON)))
    found = detector_config(cli._parser().parse_args(["detect", "photos", "-o", "out", "--config", str(path)]))
    assert (found.score_threshold, found.post) == (0.6, PostConfig(nms_iou=0.5, keep_top_k=99))
    assert (found.cascade.border, found.min_face) == (5.5, 12)  # what was given stays
    assert re.search(r"#   chosen: precision 75\.0 .*, recall 100\.0 .*, F1 85\.7", path.read_text())
    # A floor above the threshold would be the threshold.
    high = ThresholdsJob(folder="a", output="b", settings=DetectSettings(post=PostConfig(score_floor=0.7)))
    path.write_text(settings_file(high, compared(REPORTED_ON)))
    assert read_detect_settings(path).post.score_floor == 0.6


def write_labels(folder: Path, faces: dict[str, list[float]]) -> None:
    """Squares of 40 px, by the name of the photo; without the pictures."""
    folder.mkdir()
    images = [{"image": name, "width": 600, "height": 400, "source": "test"} for name in faces]
    columns = {name: pa.float32() for name in ("x1", "y1", "x2", "y2", *LANDMARK_COLUMNS)}
    labels = [
        {"image": name, "kind": "human", "x1": left, "y1": 0, "x2": left + 40, "y2": 40}
        for name, lefts in faces.items()
        for left in lefts
    ]
    schema = pa.schema({"image": pa.string(), "kind": pa.string(), **columns})
    pq.write_table(pa.Table.from_pylist(images), folder / "images.parquet")
    pq.write_table(pa.Table.from_pylist(labels, schema=schema), folder / "labels.parquet")


# To choose on, the overlap of 0.6 being a duplicate: right 0.9, right 0.7, false 0.6, right 0.5, false 0.4. The best
# F1, 2 * 3 / (4 + 3), is from 0.5 on; with the duplicate it would be 2 * 2 / (2 + 3), from 0.7 on.
# To report on, from 0.8 on: 1 of 2. From 0.45 on: 2 of 2 and a false one.
FACES = {"choose": {"1.png": [0.0, 100.0], "2.png": [0.0]}, "report": {"9.png": [0.0, 100.0], "10.png": []}}
SEEN = {
    "1.png": raw((0, 0.9), (100, 0.7), (110, 0.65), (300, 0.6)),
    "2.png": raw((0, 0.5), (300, 0.4)),
    "9.png": raw((0, 0.8), (100, 0.5)),
    "10.png": raw((300, 0.46)),
}
CONFIG = "min_face = 12.0\n[post]\nnms_iou = 0.5\nkeep_top_k = {}\n[cascade]\nborder = 5.5\n"


@pytest.fixture
def two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder at work, with two labelled ones. Nothing is looked at, and trials run here, as if elsewhere."""

    def write_raw(folder: Path, photos: Any, detector: Any, record: Any, done: Any) -> None:
        def rows(photo: LabelledPhoto) -> Any:
            seen = SEEN[photo.path.name]
            yield {"photo": photo.path.as_posix(), "scores": seen.scores, "boxes": seen.boxes.ravel()}

        write_parts(folder, photos, RAW_SCHEMA, record, rows, done)

    def search(job: SweepJob, plan: SweepPlan, prepare: Prepare) -> None:
        home = Path.cwd()
        os.chdir("/")  # processes are at work in folders of their own
        evaluate = pickle.loads(pickle.dumps(prepare))()
        os.chdir(home)
        while batch := plan.next_batch():
            for number, settings in batch:
                (results,) = evaluate(number, settings)
                plan.finish(number, results, 0.0)

    monkeypatch.setattr("tune.thresholds.write_raw", write_raw)
    monkeypatch.setitem(sys.modules, "tune.search_on_ray", SimpleNamespace(search_on_ray=search))
    monkeypatch.chdir(tmp_path)
    for name, faces in FACES.items():
        write_labels(tmp_path / name, faces)
    (tmp_path / "space.toml").write_text('"post.nms_iou" = [0.5, 0.7]\n')
    (tmp_path / "config.toml").write_text(CONFIG.format(99))
    return tmp_path


WORDS = ["tune", "thresholds", "choose", "-o", "out", "--config", "config.toml", "--space", "space.toml"]
WORDS += ["--search", "sobol", "--trials", "6", "--engine", "torch"]


def test_thresholds_of_soft_nms_are_refused(two_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two_folders / "config.toml").write_text("[post]\nsoft_sigma = 0.5\n")
    assert cli.main(WORDS) == 2
    assert "post.soft_sigma is 0.5; thresholds are searched for hard NMS; set it to 0" in capsys.readouterr().err


def test_chosen_on_one_folder_and_reported_on_another(two_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main([*WORDS, "--report-folder", "report"]) == 0
    assert "chosen on 2 with 3 faces >=12 px, reported on 2 with 2 faces >=12 px" in capsys.readouterr().out
    chosen = read_detect_settings(two_folders / "out/settings.toml")
    assert (chosen.score_threshold, chosen.post) == (0.45, PostConfig(nms_iou=0.5, keep_top_k=99))
    assert (chosen.min_face, chosen.cascade.border) == (12, 5.5)
    rows = [row for row in pq.read_table("out/report.parquet").to_pylist() if row["size_low"] == 12]
    counts = {(row["photos"], row["settings"]): (row["found"], row["false"]) for row in rows if row["size_high"] > 99}
    assert counts == {
        ("chosen on", "default"): (1, 0), ("chosen on", "chosen"): (3, 1),
        ("reported on", "default"): (1, 0), ("reported on", "chosen"): (2, 1),
    }  # fmt: skip
    tried = read_ledger(two_folders / "out" / LEDGER_FILE)
    assert tried[0].settings == {"post.nms_iou": 0.5}  # the file's
    f1 = {0.5: 6 / 7, 0.7: 4 / 5}
    assert {trial.settings["post.nms_iou"]: trial.results["f1"] for trial in tried} == pytest.approx(f1)
    looked_at = json.loads(Path("out/raw/report/cache.json").read_text())
    assert (looked_at["engine"], looked_at["device"], looked_at["score_floor"]) == ("torch", "cpu", 0.02)
    # Another search reports on other photos in the same folder of raw detections: refused, not mixed.
    swapped = ["tune", "thresholds", "report", "-o", "other", "--report-folder", "choose", "--raw", "out/raw"]
    assert cli.main([*swapped, "--config", "config.toml", "--engine", "torch"]) == 2
    assert "the cache was made otherwise (photos was" in capsys.readouterr().err


def test_search_of_other_settings_is_not_resumed(two_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main([*WORDS, "--report-folder", "report"]) == 0
    (two_folders / "config.toml").write_text(CONFIG.format(98))
    assert cli.main([*WORDS, "--report-folder", "report", "--resume"]) == 2
    assert "keep_top_k was 99, is 98" in capsys.readouterr().err


def test_search_that_makes_no_sense_is_refused_before_photos_are_looked_at(
    two_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main([*WORDS, "--workers", "0"]) == 2
    assert "workers is 0; choose at least 1" in capsys.readouterr().err
    assert not (two_folders / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--min-precision", "0.9", "--min-recall", "0.9"], "not allowed with", id="two goals"),
        pytest.param(["--min-precision", "95"], "the least precision is 95; choose a share", id="percent"),
        pytest.param([], "no such folder of labelled photos", id="folder"),
    ],
)
def test_command_that_makes_no_sense_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    try:
        code: Any = cli.main(["tune", "thresholds", str(tmp_path / "none"), "-o", str(tmp_path / "out"), *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
