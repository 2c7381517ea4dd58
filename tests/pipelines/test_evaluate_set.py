"""`retinafocus eval --dataset`: the job of `detect`, then the scorers, with the same bytes every time."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli, evaluate_set
from pipelines.report import Progress
from retinafocus import open_run
from retinafocus.datasets.labelled import BOX_COLUMNS, LANDMARK_COLUMNS, read_parquet_folder
from retinafocus.datasets.wider_predictions import read_predictions
from retinafocus.evaluation.average_precision import PhotoDetections, PhotoTruth, score
from retinafocus.evaluation.wider_protocol import evaluate_protocol, protocol_photos
from retinafocus.storage import open_storage

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
TABLES = ("protocol", "curves", "sizes", "landmarks")


@pytest.fixture(scope="module")
def labelled(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled photos in folders by their source, as WIDER FACE has them by event."""
    root = tmp_path_factory.mktemp("evaluated")
    images = pq.read_table(labelled_folder / "images.parquet").to_pylist()
    sources = {row["image"]: row["source"] for row in images}
    for name, source in sources.items():
        (root / "images" / source).mkdir(parents=True, exist_ok=True)
        shutil.copy(labelled_folder / "images" / name, root / "images" / source / name)
    for table in ("images", "labels"):
        content = pq.read_table(labelled_folder / f"{table}.parquet")
        names = [f"{sources[name]}/{name}" for name in content.column("image").to_pylist()]
        place = content.column_names.index("image")
        pq.write_table(content.set_column(place, "image", [names]), root / f"{table}.parquet")
    return root


@pytest.fixture(scope="module")
def wider(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos as WIDER FACE unpacks, with the official files: a list holds the faces its rule says."""
    scipy_io = pytest.importorskip("scipy.io")
    root = tmp_path_factory.mktemp("WIDER")
    photos = protocol_photos(read_parquet_folder(labelled), labelled / "images")
    for split in ("val", "test"):
        for photo in photos:
            path = root / f"WIDER_{split}" / "images" / f"{photo.name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), cv2.imread(str(labelled / "images" / f"{photo.name}.png")))
    events = sorted({photo.name.split("/")[0] for photo in photos})
    groups = [[photo for photo in photos if photo.name.startswith(f"{event}/")] for event in events]

    def field(value: Callable[..., object]) -> np.ndarray:
        return cells([cells([value(photo) for photo in group]) for group in groups])

    content = {
        "event_list": cells(list(events)),
        "file_list": field(lambda photo: photo.name.split("/")[1]),
        "face_bbx_list": field(lambda photo: photo.boxes.astype(np.int32)),
        **{f"{name}_label_list": field(lambda photo: np.zeros((len(photo.boxes), 1), np.uint8)) for name in ATTRIBUTES},
    }
    (root / "ground_truth").mkdir()
    scipy_io.savemat(root / "ground_truth" / "wider_face_val.mat", content)
    for setting in ("easy", "medium", "hard"):
        lists = field(lambda photo, setting=setting: np.flatnonzero(photo.kept[setting])[:, None].astype(np.uint8) + 1)
        scipy_io.savemat(root / "ground_truth" / f"wider_{setting}_val.mat", {**content, "gt_list": lists})
    return root


def cells(values: list[object]) -> np.ndarray:
    """MATLAB's (n, 1) cell array."""
    column = np.empty((len(values), 1), object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


@pytest.fixture
def evaluate(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function that runs the verb with results in a folder of that name; without pictures, which take half the
    time."""
    monkeypatch.setattr(evaluate_set, "find_spec", lambda name: None)

    def run(path: Path, dataset: str, out: str, *options: str) -> int:
        fixed = ["--runner", "local", "--device", "cpu", "--weights", str(tiny_weights)]
        names = [option for option in options if option.startswith("--")]
        kept = [word for pair in zip(fixed[::2], fixed[1::2], strict=True) if pair[0] not in names for word in pair]
        return cli.main(["eval", str(path), "--dataset", dataset, "-o", str(tmp_path / out), *kept, *options])

    return run


def results(out: Path) -> dict[str, bytes]:
    """Every file of the results by its place."""
    folders = ("evaluation", "predictions")
    files = [path for folder in folders for path in sorted((out / folder).rglob("*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_results_are_those_of_the_scorers(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(labelled, "labelled", "out", "--mode", "flip") == 0
    out = tmp_path / "out"
    words = capsys.readouterr().out
    report = (out / "evaluation" / "report.md").read_text()
    assert report in words
    assert "8 photos, 0.03 Mpx through the network for each" in report  # 128 x 128 px, twice
    assert {name for name in results(out) if name.endswith(".parquet")} == {
        f"evaluation/{name}.parquet" for name in TABLES
    }
    found = read_predictions(out / "predictions")
    assert sorted(found) == [f"{'odd' if number % 2 else 'even'}/{number}" for number in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert sum(len(each.scores) for each in found.values()) == open_run(out).faces().num_rows
    truth = protocol_photos(read_parquet_folder(labelled), labelled / "images")
    protocol = pq.read_table(out / "evaluation" / "protocol.parquet").to_pylist()
    # The files have two decimals, which is all that these may differ by.
    expected = evaluate_protocol(truth, found)
    assert [row["ap"] for row in protocol] == pytest.approx([expected[row["setting"]].ap for row in protocol], abs=0.02)
    assert [row["num_faces"] for row in protocol] == [each.num_faces for each in expected.values()]
    assert pq.read_table(out / "evaluation" / "sizes.parquet").to_pylist()[0]["num_faces"] == 12
    assert pq.read_table(out / "evaluation" / "landmarks.parquet").to_pylist()[0]["num_labelled"] == 12
    settings = json.loads((out / "evaluation" / "settings.json").read_text())
    assert settings["detector"]["score_threshold"] == 0.02
    assert settings["detector"]["whole_looks"] == {"sides": [], "mirrored": True, "voting": None}


def test_faces_found_are_held_against_the_labels_of_their_own_photo(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    """The labels are some of the boxes that were found, of other ranks in each photo."""
    folder, out = tmp_path / "relabelled", tmp_path / "out"
    shutil.copytree(labelled, folder)
    assert evaluate(folder, "labelled", "out", "--mode", "original") == 0
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in open_run(out).faces().to_pylist():
        rows.setdefault("/".join(Path(row["uri"]).parts[-2:]), []).append(row)
    labels = [
        {"image": name, "kind": "human"}
        | {column: row[column] for column in BOX_COLUMNS}
        | dict(zip(LANDMARK_COLUMNS, row["landmarks"], strict=True))
        for number, (name, of_photo) in enumerate(sorted(rows.items()))
        for row in of_photo[2 * number : 2 * number + 3]
    ]
    pq.write_table(pa.Table.from_pylist(labels), folder / "labels.parquet")
    assert evaluate(folder, "labelled", "out", "--mode", "original") == 0

    photos = read_parquet_folder(folder)
    truth = protocol_photos(photos, folder / "images")
    found = {
        name.removesuffix(".png"): PhotoDetections(
            np.array([[row[column] for column in BOX_COLUMNS] for row in of_photo]),
            np.array([row["score"] for row in of_photo]),
        )
        for name, of_photo in rows.items()
    }
    wanted = {setting: result.ap for setting, result in evaluate_protocol(truth, found).items()}
    protocol = pq.read_table(out / "evaluation" / "protocol.parquet").to_pylist()
    assert {row["setting"]: row["ap"] for row in protocol} == wanted
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    scores = score(truths, [found[photo.name] for photo in truth], bootstrap=0)
    sizes = pq.read_table(out / "evaluation" / "sizes.parquet").to_pylist()[0]
    assert (sizes["num_faces"], sizes["ap50"]) == (24, scores.rows[0].ap50.ap)
    (points,) = pq.read_table(out / "evaluation" / "landmarks.parquet").to_pylist()
    assert (points["num_labelled"], points["num_matched"], points["failure_rate"]) == (24, 24, 0)
    assert points["nme"] == pytest.approx(0, abs=1e-6)
    # Those of the next photo would give something else.
    moved = dict(zip(found, [*list(found.values())[1:], found[next(iter(found))]], strict=True))
    assert evaluate_protocol(truth, moved)["hard"].ap < 0.9 * wanted["hard"]


def test_other_numbers_of_workers_leave_the_same_bytes(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_set, "find_spec", importlib.util.find_spec)
    for out, workers in (("one", "1"), ("three", "3")):
        assert evaluate(labelled, "labelled", out, "--mode", "flip", "--workers", workers) == 0
    assert results(tmp_path / "one") == results(tmp_path / "three")
    pictures = {"evaluation/precision_recall.png", "evaluation/landmarks.png"}
    assert pictures < results(tmp_path / "one").keys()
    assert len(results(tmp_path / "one")) == 8 + len(TABLES) + len(pictures) + 2  # report and settings


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_leaves_the_same_bytes(
    labelled: Path, evaluate: Callable[..., int], ray_cluster: str, tmp_path: Path
) -> None:
    assert evaluate(labelled, "labelled", "local", "--mode", "flip") == 0
    assert evaluate(labelled, "labelled", "ray", "--mode", "flip", "--runner", "ray", "--workers", "2") == 0
    assert json.loads((tmp_path / "ray" / "run.json").read_text())["runner"] == "ray"
    assert results(tmp_path / "local") == results(tmp_path / "ray")


def test_stopped_evaluation_goes_on_with_the_same_command(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(labelled, "labelled", "whole", "--mode", "original") == 0
    photos: list[int | None] = []

    def stop(progress: Progress, faces: int | None) -> None:
        photos.append(faces)
        if len(photos) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "photo", stop)
        assert evaluate(labelled, "labelled", "out", "--mode", "original", "--workers", "1") == 4
    assert not results(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_set, "_curves", _interrupted)
        assert evaluate(labelled, "labelled", "out", "--mode", "original") == 4
    looked_at = open_run(tmp_path / "out").info["totals"]["photos_this_time"]
    assert 4 <= looked_at < 8
    assert evaluate(labelled, "labelled", "out", "--mode", "original") == 0
    assert open_run(tmp_path / "out").info["totals"]["photos_this_time"] == looked_at  # of the command before
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_run_of_another_mode_is_not_continued(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(labelled, "labelled", "out", "--mode", "original") == 0
    before = results(tmp_path / "out")
    assert evaluate(labelled, "labelled", "out", "--mode", "flip") == 1
    assert "detector.whole_looks.mirrored was False, is True" in capsys.readouterr().err
    assert evaluate(labelled, "labelled", "out") == 1
    assert results(tmp_path / "out") == before


def test_run_of_an_earlier_version_is_continued_only_by_the_cascade_with_the_defaults_of_what_came_later(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(labelled, "labelled", "out") == 0
    before = results(tmp_path / "out")
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info["settings"]["detector"].pop("whole_looks") is None
    for later in ("overlap", "left_to_finer"):
        del info["settings"]["detector"]["cascade"][later]
    (tmp_path / "out" / "run.json").write_text(json.dumps(info))
    assert evaluate(labelled, "labelled", "out", "--mode", "original") == 1
    assert "detector.whole_looks.mirrored was None, is False" in capsys.readouterr().err
    assert evaluate(labelled, "labelled", "out") == 0
    after = results(tmp_path / "out")
    del before["evaluation/settings.json"], after["evaluation/settings.json"]
    assert after == before


def test_photo_that_would_not_be_looked_at_stops_it_before_the_first_one(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "linked", tmp_path / "out"
    shutil.copytree(labelled, folder)
    (folder / "images" / "odd").rename(tmp_path / "elsewhere")
    (folder / "images" / "odd").symlink_to(tmp_path / "elsewhere")
    assert evaluate(folder, "labelled", "out", "--mode", "original") == 1
    message = capsys.readouterr().err
    assert "4 of the 8 photos of the set are not among those that are looked at (the first is odd/1.png)" in message
    assert not (out / "run.json").exists()
    assert evaluate(folder, "labelled", "out", "--mode", "original", "--sources", "even") == 0
    there = results(out)
    assert evaluate(folder, "labelled", "out", "--mode", "original") == 1
    assert results(out) == there


@pytest.mark.parametrize("name", ["protocol.parquet", "report.md"])
def test_report_is_there_only_once_all_is(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert evaluate(labelled, "labelled", "out", "--mode", "original") == 0
    whole = results(tmp_path / "out")
    write, write_table = Path.write_text, pq.write_table

    def text(path: Path, content: str, **settings: str) -> int:
        if not path.name.startswith(name):
            return write(path, content, **settings)
        write(path, content[:100], **settings)
        raise OSError("no space left")

    def table(content: pa.Table, path: Path) -> None:
        if path.name == name:
            raise OSError("no space left")
        write_table(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", text)
        patch.setattr(pq, "write_table", table)
        assert evaluate(labelled, "labelled", "out", "--mode", "original") == 1
    assert not (tmp_path / "out" / "evaluation" / "report.md").exists()
    assert evaluate(labelled, "labelled", "out", "--mode", "original") == 0
    assert results(tmp_path / "out") == whole


def test_sources_choose_the_photos_that_count(labelled: Path, evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(labelled, "labelled", "out", "--mode", "original", "--sources", "odd") == 0
    report = (tmp_path / "out" / "evaluation" / "report.md").read_text()
    assert "4 photos of odd" in report
    assert "4 more photos of the run do not count here." in report
    assert {path.parent.name for path in (tmp_path / "out" / "predictions").rglob("*.txt")} == {"odd"}
    assert pq.read_table(tmp_path / "out" / "evaluation" / "sizes.parquet").to_pylist()[0]["num_faces"] == 8
    # The run is there: other sources are only scored, and nothing of the ones before stays.
    assert evaluate(labelled, "labelled", "out", "--mode", "original", "--sources", "even") == 0
    assert {path.parent.name for path in (tmp_path / "out" / "predictions").rglob("*.txt")} == {"even"}


def test_widerface_is_scored_by_its_own_files(
    wider: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(wider, "widerface", "out", "--mode", "original") == 0
    rows = pq.read_table(tmp_path / "out" / "evaluation" / "protocol.parquet").to_pylist()
    assert [(row["setting"], row["num_photos"]) for row in rows] == [("easy", 8), ("medium", 8), ("hard", 8)]
    assert rows[2]["num_faces"] == 12
    assert not (tmp_path / "out" / "evaluation" / "landmarks.parquet").exists()
    before, named = results(tmp_path / "out"), ("--ground-truth", str(wider / "ground_truth"))
    (wider / "images.parquet").touch()  # labels in another form beside it are not taken for them
    assert evaluate(wider, "widerface", "out", "--mode", "original", *named) == 0
    assert results(tmp_path / "out") == before
    (wider / "images.parquet").unlink()
    capsys.readouterr()
    assert evaluate(wider / "WIDER_val", "widerface", "no") == 1
    assert "give the one that WIDER_val.zip was unpacked into" in capsys.readouterr().err
    assert evaluate(wider, "widerface", "no", "--ground-truth", str(tmp_path)) == 1
    assert "wider_face_val.mat" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_test_photos_get_files_to_send_in_and_no_scores(
    wider: Path, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    assert evaluate(wider, "widerface", "out", "--mode", "original", "--split", "test") == 0
    assert len(read_predictions(tmp_path / "out" / "predictions")) == 8
    assert {name.partition("/")[2] for name in results(tmp_path / "out") if name.startswith("evaluation")} == {
        "report.md", "settings.json",
    }  # fmt: skip
    assert "There is no ground truth for the test photos" in (tmp_path / "out" / "evaluation" / "report.md").read_text()


def test_canvases_are_scored_whole_and_carried_back(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    canvases = tmp_path / "canvases"
    assert cli.main(["make-4k", str(labelled), "-o", str(canvases), "--size", "320x320", "--gutter", "8"]) == 0
    assert evaluate(canvases, "4k", "out", "--mode", "original") == 0
    rows = pq.read_table(tmp_path / "out" / "evaluation" / "protocol.parquet").to_pylist()
    assert [row["part"] for row in rows] == ["original, canvases"] * 3 + ["original, carried back"] * 3
    assert [row["num_faces"] for row in rows[:3]] == [row["num_faces"] for row in rows[3:]]
    assert rows[2]["num_photos"] < rows[5]["num_photos"] == 8
    assert "| canvases - carried back |" in (tmp_path / "out" / "evaluation" / "report.md").read_text()
    assert len(read_predictions(tmp_path / "out" / "predictions")) == 8


def test_command_that_finds_another_at_work_leaves_its_results(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(labelled, "labelled", "out") == 0
    with open_storage(tmp_path / "out").locked():
        before = results(tmp_path / "out")
        assert evaluate(labelled, "labelled", "out") == 1
    assert "another command is at work" in capsys.readouterr().err
    assert results(tmp_path / "out") == before


def test_folders_of_somebody_else_are_left_alone(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "out" / "predictions" / "event" / "mine.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    assert evaluate(labelled, "labelled", "out") == 1
    assert "predictions: was not written by `retinafocus eval`" in capsys.readouterr().err
    assert theirs.read_text() == "precious"
    assert not (tmp_path / "out" / "run.json").exists()


def test_failed_photos_count_as_missed_and_names_without_an_event_have_no_prediction_files(
    labelled_folder: Path, evaluate: Callable[..., int], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(labelled_folder, broken)
    (broken / "images" / "1.png").write_bytes(b"no picture")
    assert evaluate(broken, "labelled", "out", "--mode", "original") == 0
    report = (tmp_path / "out" / "evaluation" / "report.md").read_text()
    assert "1 photos could not be looked at; their faces count as missed." in report
    assert pq.read_table(tmp_path / "out" / "evaluation" / "sizes.parquet").to_pylist()[0]["num_faces"] == 12
    assert "named EVENT/NAME; some of these are not, so there are none" in report
    assert not (tmp_path / "out" / "predictions").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["P"], "--labels DIR for a run, --dataset NAME for photos", id="neither"),
        pytest.param(["P", "--dataset", "labelled"], "name the folder of the run with -o OUT", id="no output"),
        pytest.param(["P", "--dataset", "labelled", "-o", "O", "--labels", "L"], "leave them out", id="both"),
        pytest.param(["P", "--labels", "L", "--mode", "flip"], "--mode is for --dataset", id="mode of a run"),
        pytest.param(["P", "--labels", "L", "--workers", "2"], "--workers is for --dataset", id="workers of a run"),
        pytest.param(
            ["P", "--dataset", "labelled", "-o", "O", "--mode", "single", "--min-face", "9"],
            "no effect with --mode single",
            id="smallest face of a size",
        ),
        pytest.param(
            ["P", "--dataset", "labelled", "-o", "O", "--split", "test"], "are for --dataset widerface", id="split"
        ),
        pytest.param(
            ["P", "--dataset", "4k", "-o", "O", "--sources", "one"], "are for --dataset labelled", id="sources"
        ),
        pytest.param(["P", "--dataset", "labelled", "-o", "s3://bucket/o"], "choose a folder for -o", id="store"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_dry_run_writes_nothing(
    labelled: Path, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(labelled, "labelled", "out", "--mode", "original", "--dry-run") == 0
    assert "whole photos at their own size, scores from 0.02" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
