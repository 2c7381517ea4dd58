"""Prediction files: the official form, what other tools write, and nothing outside the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinafocus.datasets.wider_predictions import read_predictions, write_predictions
from retinafocus.errors import LabelError, RunError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections


def detections(*rows: tuple[float, ...]) -> PhotoDetections:
    """Rows x1 y1 x2 y2 score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return PhotoDetections(table[:, :4], table[:, 4])


NAME = "0--Parade/0_Parade_Parade_0_275"


def test_a_file_is_the_official_form_sorted_by_score(tmp_path: Path) -> None:
    found = detections((1, 2, 11.006, 22, 0.5), (0.25, 0, 10, 10, 0.99999994), (3, 3, 4, 4, 0.02))
    (path,) = write_predictions(tmp_path / "new", {NAME: found})
    assert path == tmp_path / "new" / "0--Parade" / "0_Parade_Parade_0_275.txt"
    assert path.read_text() == (
        "0_Parade_Parade_0_275\n3\n"
        "0.25 0.00 9.75 10.00 0.99999994\n"
        "1.00 2.00 10.01 20.00 0.50000000\n"
        "3.00 3.00 1.00 1.00 0.02000000\n"
    )


def test_a_photo_without_detections_has_a_file_that_says_so(tmp_path: Path) -> None:
    (path,) = write_predictions(tmp_path, {NAME: detections()})
    assert path.read_text() == "0_Parade_Parade_0_275\n0\n"
    read = read_predictions(tmp_path)[NAME]
    assert (read.boxes.shape, read.scores.shape) == ((0, 4), (0,))


COORDINATES = st.floats(0, 9000, width=32)


@given(st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES, st.floats(0.125, 1, width=32))))
def test_what_is_written_is_read_back_to_half_a_hundredth_and_in_the_detectors_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("predictions")
    found = detections(*rows)
    write_predictions(folder, {"e/a": found})
    read = read_predictions(folder)["e/a"]
    order = np.argsort(-found.scores, kind="stable")
    # Half a hundredth, and what single precision leaves of it at 9,000 pixels.
    np.testing.assert_allclose(read.boxes, found.boxes[order], atol=0.00501, rtol=0)
    # As float32 the very same scores: none is mistaken for its neighbour.
    np.testing.assert_array_equal(read.scores.astype(np.float32), found.scores[order])


def test_files_of_other_tools_are_read(tmp_path: Path) -> None:
    (tmp_path / "1--Handshaking").mkdir()
    # Pytorch_Retinaface: whole numbers, a space at the end of each row.
    (tmp_path / "1--Handshaking" / "a.txt").write_text("a\n2\n12 30 40 50 0.9987654 \n1 2 3 4 0.02 \n")
    # With the picture's path, carriage returns, tabs, exponents and blank lines at the end.
    (tmp_path / "1--Handshaking" / "b c.txt").write_bytes(b"1--Handshaking/b c.jpg\r\n1\r\n1.5\t2\t3\t4\t2e-1\r\n\r\n")
    (tmp_path / "readme.txt").write_text("not a prediction")
    read = read_predictions(tmp_path)
    assert list(read) == ["1--Handshaking/a", "1--Handshaking/b c"]
    assert read["1--Handshaking/a"].boxes.tolist() == [[12, 30, 52, 80], [1, 2, 4, 6]]
    assert read["1--Handshaking/a"].scores.tolist() == [0.9987654, 0.02]
    assert read["1--Handshaking/b c"].boxes.tolist() == [[1.5, 2, 4.5, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", r"a\.txt:2: the number of detections is due", id="empty"),
        pytest.param("a\n1 2 3 4 0.5\n", r"a\.txt:2: the number of detections is due", id="no count"),
        pytest.param("a\n-1\n", r"a\.txt:2: the number of detections is due", id="negative count"),
        pytest.param("a\n2\n1 2 3 4 0.5\n", r"a\.txt: line 2 says 2 detections and 1 follow", id="cut short"),
        pytest.param("a\n0\n1 2 3 4 0.5\n", r"a\.txt: line 2 says 0 detections and 1 follow", id="too many"),
        pytest.param("a\n2\n1 2 3 4 0.5\n1 2 3 0.5\n", r"a\.txt:4: 4 values where 5 are needed: x y width", id="four"),
        pytest.param("a\n1\n1 2 3 4 0.5 6\n", r"a\.txt:3: 6 values where 5 are needed", id="six"),
        pytest.param("a\n1\n1 2 3 x 0.5\n", r"a\.txt:3: 'x' is no finite number", id="word"),
        pytest.param("a\n1\n1 2 3 4 nan\n", r"a\.txt:3: 'nan' is no finite number", id="nan"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "a.txt").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_predictions(tmp_path)


def test_a_folder_without_prediction_files_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LabelError, match=r"there are no prediction files here; they are named EVENT/NAME\.txt"):
            read_predictions(folder)


@pytest.mark.parametrize(
    "name",
    ["a", "", "/", "e/", "/a", "../a", "e/..", "./a", "e/.", "a/b/c", "../../a", "/etc/a", " /a", "e\\..\\..\\a",
     "e/a\nb", "e/a\x00"],
)  # fmt: skip
def test_names_that_are_not_event_and_name_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inner" / "predictions"
    with pytest.raises(SettingsError, match="prediction files are for photos named event/name"):
        write_predictions(folder, {NAME: detections(), name: detections()})
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "unusable",
    [
        pytest.param(detections((0, 0, float("nan"), 1, 0.5)), id="nan"),
        pytest.param(detections((0, 0, 1, 1, float("inf"))), id="infinite score"),
        pytest.param(PhotoDetections(np.zeros((1, 4)), np.zeros(2)), id="another count"),
    ],
)
def test_detections_that_no_reader_would_take_are_refused_before_anything_is_written(
    tmp_path: Path, unusable: PhotoDetections
) -> None:
    with pytest.raises(SettingsError, match=r"e/b: (a box or score of the detections|detections are boxes)"):
        write_predictions(tmp_path / "new", {NAME: detections(), "e/b": unusable})
    assert list(tmp_path.rglob("*")) == []


def test_predictions_of_other_photos_in_the_folder_are_not_mixed_in(tmp_path: Path) -> None:
    write_predictions(tmp_path, {"e/old": detections(), "e/both": detections((1, 2, 3, 4, 0.5))})
    with pytest.raises(RunError, match=r"holds predictions of 1 photos that are not among these, such as e/old\.txt;"):
        write_predictions(tmp_path, {"e/both": detections()})
    assert len(read_predictions(tmp_path)["e/both"].scores) == 1
    write_predictions(tmp_path, {"e/old": detections(), "e/both": detections(), "e/new": detections()})
    assert [len(one.scores) for one in read_predictions(tmp_path).values()] == [0, 0, 0]


def test_what_ends_in_the_middle_of_a_file_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(tmp_path, {"e/a": detections((1, 2, 3, 4, 0.5))})
    write_text = Path.write_text

    def half(path: Path, text: str, encoding: str) -> int:
        # Ends within the last score: five numbers still, of which one is another.
        write_text(path, text[:-7], encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    for names in (("e/a", "e/b"), ("e/b", "e/a")):
        with pytest.raises(RunError, match=rf"{names[0]}\.txt: cannot be written \(No space left on device\)"):
            write_predictions(tmp_path, dict.fromkeys(names, detections((5, 6, 7, 8, 0.25))))
    assert {name: one.scores.tolist() for name, one in read_predictions(tmp_path).items()} == {"e/a": [0.5]}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("a file")
    with pytest.raises(RunError, match=r"e/a\.txt: cannot be written \(.*\); choose another folder"):
        write_predictions(tmp_path, {"e/a": detections()})
