"""The official WIDER FACE ground truth: each of its quirks, and that the reader says where a file is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.widerface import read_wider_mat, read_wider_subset, read_wider_text
from retinafocus.errors import LabelError, SettingsError

TWO_FACES = "0--Parade/a.jpg\n2\n10 20 30 40 2 1 0 0 1 0 \n5 6 7 8 0 0 1 1 2 1 \n"
NO_FACE = "1--Riot/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "wider_face_train_bbx_gt.txt"


def test_rows_become_corners_with_their_attributes_and_lines(labels: Path) -> None:
    labels.write_text(TWO_FACES)
    (photo,) = read_wider_text(labels)
    assert (photo.name, photo.place, photo.size) == ("0--Parade/a.jpg", f"{labels}:1", None)
    first, second = photo.rows
    assert (first.box, first.attributes, first.place) == ((10, 20, 40, 60), (2, 1, 0, 0, 1, 0), f"{labels}:3")
    assert (second.box, second.points) == ((5, 6, 12, 14), None)


def test_invalid_faces_are_doubtful(labels: Path) -> None:
    labels.write_text(TWO_FACES)
    (photo,) = read_wider_text(labels)
    assert [row.doubtful for row in photo.rows] == [False, True]


def test_the_row_of_zeros_after_a_count_of_zero_is_no_face(labels: Path) -> None:
    labels.write_text(NO_FACE + TWO_FACES + NO_FACE)
    assert [(photo.name, len(photo.rows)) for photo in read_wider_text(labels)] == [
        ("1--Riot/none.jpg", 0),
        ("0--Parade/a.jpg", 2),
        ("1--Riot/none.jpg", 0),
    ]


def test_a_count_of_zero_may_also_stand_alone(labels: Path) -> None:
    labels.write_text("1--Riot/none.jpg\n0\n" + TWO_FACES)
    assert [len(photo.rows) for photo in read_wider_text(labels)] == [0, 2]


def test_boxes_without_area_stay_because_the_evaluation_counts_rows(labels: Path) -> None:
    labels.write_text("a.jpg\n2\n0 0 0 0 0 0 0 0 0 0\n1026 3 -2 9 0 0 0 0 0 0\n")
    (photo,) = read_wider_text(labels)
    assert [row.box for row in photo.rows] == [(0, 0, 0, 0), (1026, 3, 1024, 12)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_endings_blank_lines_and_a_byte_order_mark_do_not_matter(labels: Path, ending: str) -> None:
    text = "\ufeff" + TWO_FACES + "\n\n" + TWO_FACES.replace("a.jpg", "b c.jpg")
    labels.write_bytes(text.replace("\n", ending).encode())
    assert [(photo.name, len(photo.rows)) for photo in read_wider_text(labels)] == [
        ("0--Parade/a.jpg", 2),
        ("0--Parade/b c.jpg", 2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a.jpg\nb.jpg\n", r"gt\.txt:2: 'b\.jpg' where the number of faces of a\.jpg is due", id="no count"
        ),
        pytest.param("a.jpg\n-1\n", r"gt\.txt:2: '-1' where the number", id="negative count"),
        pytest.param("a.jpg\n", r"gt\.txt: the file ends after a\.jpg", id="ends before the count"),
        pytest.param("a.jpg\n3\n1 2 3 4 0 0 0 0 0 0\n", r"ends before the 3 faces of a\.jpg", id="ends in the faces"),
        pytest.param("a.jpg\n1\n1 2 3 4 0 0 0 0 0\n", r"gt\.txt:3: 9 values where 10 are needed: x y w", id="nine"),
        pytest.param("a.jpg\n1\n1 2 x 4 0 0 0 0 0 0\n", r"gt\.txt:3: 'x' is no finite number", id="word"),
        pytest.param("a.jpg\n1\n1 2 nan 4 0 0 0 0 0 0\n", r"gt\.txt:3: 'nan' is no finite number", id="nan"),
        pytest.param("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\nb.jpg\n", r"gt\.txt:4: 1 values where 10", id="count too large"),
        pytest.param(
            "a.jpg\n1\n" + "1 2 3 4 0 0 0 0 0 0\n" * 2, r"gt\.txt:4: a face where the path .* is too small", id="small"
        ),
        pytest.param(NO_FACE + "0 0 0 0 0 0 0 0 0 0\n", r"gt\.txt:4: a face where the path", id="zeros twice"),
    ],
)
def test_a_malformed_block_is_named_by_file_and_line(labels: Path, text: str, message: str) -> None:
    labels.write_text(text)
    with pytest.raises(LabelError, match=message):
        read_wider_text(labels)


def test_missing_and_binary_files_are_named(labels: Path) -> None:
    with pytest.raises(LabelError, match=r"gt\.txt: the labels cannot be read \(No such file"):
        read_wider_text(labels)
    labels.write_bytes(b"a\n\xff\xd8\xff")
    with pytest.raises(LabelError, match=r"gt\.txt: byte 2 is not UTF-8 text"):
        read_wider_text(labels)


def cells(*values: object) -> np.ndarray:
    """A MATLAB cell array (n, 1)."""
    column = np.empty((len(values), 1), dtype=object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


def ground_truth(rows: list[list[int]], kept: list[int]) -> dict[str, object]:
    """One event with a picture of these rows and one without any."""
    attributes = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
    table = np.array(rows, np.int32)
    nothing = np.zeros((0, 1), np.uint8)
    labels = {
        f"{name}_label_list": cells(cells(table[:, 4 + place, None].astype(np.uint8), nothing))
        for place, name in enumerate(attributes)
    }
    return {
        "event_list": cells("0--Parade"),
        "file_list": cells(cells("a", "none")),
        "face_bbx_list": cells(cells(table[:, :4], np.zeros((0, 4), np.int32))),
        "gt_list": cells(cells(np.array(kept, np.uint8)[:, None], np.zeros((0, 0), np.uint8))),
        **labels,
    }


def test_the_matlab_file_gives_the_same_rows_as_the_text(tmp_path: Path, labels: Path) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(
        tmp_path / "v.mat", ground_truth([[10, 20, 30, 40, 2, 1, 0, 0, 1, 0], [5, 6, 7, 8, 0, 0, 1, 1, 2, 1]], [1])
    )
    labels.write_text(TWO_FACES)
    (expected,) = read_wider_text(labels)
    photo, nothing = read_wider_mat(tmp_path / "v.mat")
    assert (photo.name, nothing.name, nothing.rows) == ("0--Parade/a.jpg", "0--Parade/none.jpg", ())
    assert [(row.box, row.doubtful, row.attributes) for row in photo.rows] == [
        (row.box, row.doubtful, row.attributes) for row in expected.rows
    ]
    assert photo.rows[1].place == f"{tmp_path / 'v.mat'}: 0--Parade/a.jpg, row 2"


def test_subset_numbers_count_from_zero_and_may_be_none(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(tmp_path / "easy.mat", ground_truth([[0, 0, 9, 9, 0, 0, 0, 0, 0, 0]] * 3, [1, 3]))
    subset = read_wider_subset(tmp_path / "easy.mat")
    assert {name: rows.tolist() for name, rows in subset.items()} == {
        "0--Parade/a.jpg": [0, 2],
        "0--Parade/none.jpg": [],
    }
    assert subset["0--Parade/none.jpg"].dtype == np.int64


def test_wrong_matlab_files_are_named(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    path = tmp_path / "v.mat"
    with pytest.raises(LabelError, match=r"v\.mat: the labels cannot be read \(No such file"):
        read_wider_mat(path)
    path.write_text("words, not MATLAB\n" * 20)
    with pytest.raises(LabelError, match=r"v\.mat: this is no MATLAB file"):
        read_wider_mat(path)
    content = ground_truth([[0, 0, 9, 9, 0, 0, 0, 0, 0, 0]], [1])
    io.savemat(path, {name: value for name, value in content.items() if name != "gt_list"})
    with pytest.raises(LabelError, match=r"v\.mat: the fields gt_list are missing"):
        read_wider_subset(path)
    io.savemat(path, {**content, "blur_label_list": cells(cells(np.zeros((2, 1)), np.zeros((0, 1))))})
    with pytest.raises(LabelError, match=r"v\.mat: 0--Parade/a\.jpg has not as many attributes as boxes"):
        read_wider_mat(path)


def test_without_scipy_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SettingsError, match=r"pip install 'retinafocus\[eval\]'"):
        read_wider_mat(tmp_path / "v.mat")


@pytest.mark.shared
def test_the_official_validation_files_have_the_counts_that_are_known_of_them(shared_data: Path) -> None:
    folder = shared_data / "widerface"
    photos = read_wider_text(folder / "wider_face_val_bbx_gt.txt")
    rows = [row for photo in photos for row in photo.rows]
    assert (len(photos), len(rows), len({photo.name.split("/")[0] for photo in photos})) == (3226, 39708, 61)
    boxes = np.array([row.box for row in rows])
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    assert (int(flat.sum()), int((boxes[:, :2] < 0).sum()), sum(row.doubtful for row in rows)) == (11, 0, 585)
    alone = [photo.name for photo in photos if [row.box for row in photo.rows] == [(0, 0, 0, 0)]]
    assert sorted(name.split("/")[1] for name in alone) == [
        "0_Parade_Parade_0_275.jpg",
        "37_Soccer_soccer_ball_37_281.jpg",
        "50_Celebration_Or_Party_houseparty_50_715.jpg",
        "7_Cheering_Cheering_7_426.jpg",
    ]
    attributes = np.array([row.attributes for row in rows]).astype(int)
    assert np.bincount(attributes[:, 0]).tolist() == [5686, 10381, 23641]
    assert np.bincount(attributes[:, 4]).tolist() == [23812, 7185, 8711]
    assert np.bincount(attributes[:, 5]).tolist() == [38053, 1655]


@pytest.mark.shared
def test_the_official_text_and_matlab_files_agree_row_by_row(shared_data: Path) -> None:
    pytest.importorskip("scipy")
    text = {photo.name: photo for photo in read_wider_text(shared_data / "widerface" / "wider_face_val_bbx_gt.txt")}
    matlab = {photo.name: photo for photo in read_wider_mat(shared_data / "widerface" / "wider_face_val.mat")}
    assert text.keys() == matlab.keys()
    for name, photo in matlab.items():
        ours = [(row.box, row.doubtful, row.attributes) for row in photo.rows]
        assert ours == [(row.box, row.doubtful, row.attributes) for row in text[name].rows], name


@pytest.mark.shared
def test_the_official_subsets_have_their_counts_and_lie_in_each_other(shared_data: Path) -> None:
    pytest.importorskip("scipy")
    folder = shared_data / "widerface"
    subsets = [read_wider_subset(folder / f"wider_{name}_val.mat") for name in ("easy", "medium", "hard")]
    assert [sum(map(len, subset.values())) for subset in subsets] == [7211, 13319, 31958]
    matlab = {photo.name: photo for photo in read_wider_mat(folder / "wider_face_val.mat")}
    for name, photo in matlab.items():
        easy, medium, hard = (set(subset[name].tolist()) for subset in subsets)
        assert easy <= medium <= hard <= set(range(len(photo.rows)))
        assert not any(photo.rows[row].doubtful for row in hard)
    flat = [
        (name, photo.rows[row].box)
        for name, photo in matlab.items()
        for row in subsets[2][name]
        if photo.rows[row].box[2] <= photo.rows[row].box[0]
    ]
    assert [(name.split("/")[1], box[0], box[2]) for name, box in flat] == [
        ("39_Ice_Skating_iceskiing_39_583.jpg", 1026, 1024)
    ]
