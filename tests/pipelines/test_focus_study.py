from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import cli
from pipelines.focus_plots import write_plots
from pipelines.focus_study import StudyJob, chosen_photos, look_at_factors, look_whole, run_study
from pipelines.focus_words import describe_answer, describe_bins, describe_settings
from pipelines.report import Progress
from pipelines.settings import read_settings
from pipelines.train_config import TrainConfig
from retinafocus.anchors import anchor_boxes
from retinafocus.datasets.labelled import read_parquet_folder
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.evaluation.focus_limits import Limit, Recommendation
from retinafocus.evaluation.focus_study import FACES_SCHEMA, FALSE_POSITIVES_SCHEMA, SIZE_EDGES, size_bins
from retinafocus.models import Outputs, get_preset
from retinafocus.training.targets import FocusLabelConfig


class OneAnchor:
    """An engine that is sure of one anchor, and a little less of it again one cell to the right."""

    name, device, precision, batch = "fake", "cpu", "float32", 1
    preset = get_preset("mobilenet025-1mb")

    def __init__(self, anchor: int) -> None:
        self.anchor = anchor

    def run(self, pixels: np.ndarray) -> Outputs:
        self.shown = pixels.shape
        count = len(anchor_boxes(self.preset.anchors, pixels.shape[1:3]))
        logits = torch.tensor([4.0, 0.0]).repeat(1, count, 1)  # 0.018, below the floor
        logits[0, self.anchor] = torch.tensor([0.0, 3.0])
        return Outputs(logits, torch.zeros(1, count, 4), torch.zeros(1, count, 10), None)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_what_is_found_in_a_resized_photo_is_told_in_photo_pixels(factor: float) -> None:
    engine = OneAnchor(anchor=100)
    found = look_whole(np.zeros((256, 320, 3), np.uint8), factor, engine)
    height, width = round(256 * factor), round(320 * factor)
    assert engine.shown == (1, height, width, 3)
    x, y, w, h = anchor_boxes(engine.preset.anchors, (height, width))[100].tolist()
    inside = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [width, height] * 2)
    assert found.boxes == pytest.approx(inside[None] / factor)
    assert found.scores == pytest.approx([1 / (1 + math.exp(-3))])


@pytest.fixture
def folder(labelled_folder: Path, tmp_path: Path) -> Path:
    """The labelled photos, of which one is cut short and one is of another size than its labels say."""
    copy = tmp_path / "labelled"
    shutil.copytree(labelled_folder, copy)
    cut = copy / "images" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert cv2.imwrite(str(copy / "images" / "3.png"), np.zeros((64, 128, 3), np.uint8))
    return copy


def test_a_study_leaves_tables_plots_and_an_answer(
    folder: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    words = ["data", "focus-study", str(folder), "--weights", str(tiny_weights), "-o", str(output), "--device", "cpu"]
    assert cli.main([*words, "--factors", "0.5", "1"]) == 0
    said = capsys.readouterr().out
    assert "photos   6 of 8 looked at: even 4, odd 2\n" in said
    assert "failed   2 photos\n  1.png: truncated: " in said
    assert "  3.png: changed: it is 128 x 64 px and its labels are for 128 x 128 px\n" in said
    faces = pq.read_table(output / "faces.parquet")
    assert faces.schema.equals(FACES_SCHEMA)
    assert faces.num_rows == 2 * (4 * 1 + 2 * 2)  # even photos have one face, odd ones two
    assert pq.read_table(output / "false_positives.parquet").schema.equals(FALSE_POSITIVES_SCHEMA)
    assert pq.read_table(output / "bins.parquet").num_rows == len(SIZE_EDGES) - 1
    record = json.loads((output / "recommendation.json").read_text())
    assert (record["photos"], record["recommendation"]["labels"]) == (6, None)
    assert [one["status"] for one in record["unreadable"]] == ["truncated", "changed"]
    assert record["recommendation"]["small"]["reason"].startswith("fewer than 100 faces are of 64 to 256 px")
    assert "settings none: a rule has no answer" in said
    assert {path.name for path in output.glob("*.png")} == {"recall.png", "scores.png", "false_positives.png"}
    assert cli.main(words) == 2
    assert "there is a study in it already; choose another -o folder" in capsys.readouterr().err


def test_a_limit_draws_the_same_photos_again_and_others_with_another_seed(labelled_folder: Path) -> None:
    photos = read_parquet_folder(labelled_folder)

    def drawn(**settings: object) -> list[str]:
        job = StudyJob(folder="labelled", output="out", **settings)  # type: ignore[arg-type]
        return [photo.path.name for photo in chosen_photos(photos, job)]

    assert drawn(limit=3) == drawn(limit=3) == sorted(drawn(limit=3))
    assert len(drawn(limit=3)) == 3
    assert drawn(limit=3) != drawn(limit=3, seed=1)
    assert drawn(limit=9) == [photo.path.name for photo in photos]
    assert drawn(sources=["odd"]) == ["1.png", "3.png", "5.png", "7.png"]


def test_a_photo_too_large_at_one_factor_is_looked_at_at_none(labelled_folder: Path) -> None:
    with pytest.raises(PhotoError, match="at 60 of its size it has 58982400 pixels; give smaller factors") as caught:
        look_at_factors(read_parquet_folder(labelled_folder)[0], (0.25, 60.0), OneAnchor(0))
    assert caught.value.status == "too_large"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": ()}, "factors are (); give numbers above 0"),
        ({"factors": (1.0, 0.0)}, "factors are (1.0, 0.0); give numbers above 0"),
        ({"limit": 0}, "limit is 0; choose at least 1"),
        ({"zoom": 1.0}, "zoom is 1.0; choose above 1"),
        ({"sources": ("even", "none")}, "sources: none not among the labels; choose even, odd"),
    ],
)
def test_wrong_settings_are_refused(
    labelled_folder: Path, tiny_weights: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        run_study(StudyJob(folder=str(labelled_folder), output=str(tmp_path / "out"), weights=str(tiny_weights),
                           device="cpu", **settings), Progress())  # type: ignore[arg-type]  # fmt: skip
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_named(labelled_folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    job = StudyJob(folder=str(labelled_folder), output=str(tmp_path / "file"), weights=str(tiny_weights), limit=1)
    with pytest.raises(RunError, match=r"file: cannot be written .*choose another -o folder"):
        run_study(job, Progress())


def test_without_matplotlib_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"pip install 'retinafocus\[plots\]'"):
        run_study(StudyJob(folder="nowhere", output=str(tmp_path / "out")), Progress())


ANSWER = Recommendation(
    zoom=4, plateau=0.9, smallest=Limit(2.5, "why a"), small=Limit(32.0, "why b"), large=Limit(25.0, "why c")
)


def test_the_answer_can_be_pasted_and_says_that_c_was_raised() -> None:
    assert describe_settings(ANSWER, largest_face=160) == [
        "settings --set sample.focus.smallest=2.5 --set sample.focus.small=32 --set sample.focus.large=32",
        "note     c is raised to b: its rule says 25 px",
    ]


def test_a_size_that_a_zoom_takes_beyond_the_detector_is_noted() -> None:
    (_, _, note) = describe_settings(ANSWER, largest_face=120)
    assert note.startswith("note     b above 30 px buys nothing in a cascade: 4 times larger, such a face is")


def test_the_pasted_settings_are_settings_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("")
    overrides = [words.strip() for words in describe_settings(ANSWER, 160)[0].split("--set ")[1:]]
    config = read_settings(TrainConfig, tmp_path / "train.toml", overrides)
    assert config.sample.focus == FocusLabelConfig(smallest=2.5, small=32, large=32)


def test_each_limit_is_told_beside_what_the_halves_say() -> None:
    none = Limit(None, "")
    half = Recommendation(zoom=4, plateau=None, smallest=Limit(2.0, ""), small=none, large=none)
    assert describe_answer(ANSWER, [half, ANSWER])[:2] == [
        "a        2.5 px: why a. Halves of the photos: 2 px and 2.5 px",
        "b        32 px: why b. Halves of the photos: no answer and 32 px",
    ]


def faces_everywhere(score: float) -> pa.Table:
    """A hundred faces in each bin, at two factors that are a zoom of 4 apart."""
    rows = [
        {"image": f"{low:g}-{number}", "face": 0, "source": "own", "kind": "human", "factor": factor,
         "q_net": factor * (low + 1), "ratio": 1.0, "score": score, "iou": 0.75 if score else None}
        for low in SIZE_EDGES[:-1] for number in range(100) for factor in (0.25, 1.0)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=FACES_SCHEMA)


@pytest.mark.parametrize("faces", [FACES_SCHEMA.empty_table(), faces_everywhere(0.9)], ids=["no faces", "all found"])
def test_plots_and_table_come_of_any_faces(faces: pa.Table, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bins = size_bins(faces, 4)
    for path in write_plots(faces, FALSE_POSITIVES_SCHEMA.empty_table(), bins, ANSWER, 0, tmp_path):
        assert cv2.imread(str(path)).shape[1] == 1000
    text = describe_bins(bins)
    assert len(text.splitlines()) == 2 + len(bins)
    assert "nan" not in text
