"""YOLO folders: which label belongs to which picture, parts of the size, landmarks, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from retinafocus.datasets.photo_labels import PhotoLabels
from retinafocus.datasets.yolo import read_yolo
from retinafocus.errors import LabelError


def read(folder: Path) -> list[PhotoLabels]:
    """Every picture is 200 wide and 100 high."""
    return read_yolo(folder, {".jpg", ".png"}, lambda path: (100, 200))


def put(folder: Path, **files: str) -> Path:
    """Files named a__b_jpg for a/b.jpg; pictures are empty here, nobody opens them."""
    for name, text in files.items():
        path = folder / Path(*name.replace("_jpg", ".jpg").replace("_png", ".png").replace("_txt", ".txt").split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("picture", "label", "folder"),
    [
        pytest.param("images__train__a_jpg", "labels__train__a_txt", ".", id="labels mirrors images"),
        pytest.param("images__train__a_jpg", "labels__train__a_txt", "images/train", id="one split of it"),
        pytest.param("train__images__a_jpg", "train__labels__a_txt", ".", id="images and labels in each split"),
        pytest.param("train__a_jpg", "train__a_txt", ".", id="side by side"),
        pytest.param("images__a_jpg", "images__a_txt", ".", id="side by side in images"),
    ],
)
def test_the_label_is_found_in_every_usual_layout(tmp_path: Path, picture: str, label: str, folder: str) -> None:
    put(tmp_path, **{picture: "", label: "0 0.5 0.5 0.1 0.2\n"})
    (photo,) = read(tmp_path / folder)
    assert photo.name.endswith("a.jpg")
    assert (tmp_path / folder / photo.name).is_file()
    assert [row.box for row in photo.rows] == [pytest.approx((90, 40, 110, 60))]


def test_rows_are_parts_of_the_upright_size(tmp_path: Path) -> None:
    put(tmp_path, a_jpg="", a_txt="0 0.25 0.5 0.5 1\n2 1 0 0.1 0.1 \n")
    (photo,) = read(tmp_path)
    assert photo.size == (100, 200)
    assert photo.rows[0].box == (0, 0, 100, 100)
    assert photo.rows[1].box == pytest.approx((190, -5, 210, 5)), "over the border, as it is"
    assert [row.kind for row in photo.rows] == ["0", "2"]
    assert photo.rows[1].place == f"{tmp_path / 'a.txt'}:2"


@pytest.mark.parametrize(
    ("rest", "points"),
    [
        pytest.param("0.1 0.2 " * 5, (20, 20) * 5, id="two values"),
        pytest.param("-1 -1 " + "0.1 0.2 " * 4, (math.nan,) * 2 + (20, 20) * 4, id="two values, one missing"),
        pytest.param("-1.0 -1.0 " * 5, None, id="two values, all missing"),
        pytest.param("0.1 0.2 2 " * 5, (20, 20) * 5, id="three values"),
        pytest.param("0 0 0 " + "0.1 0.2 1 " * 4, (math.nan,) * 2 + (20, 20) * 4, id="three values, one missing"),
        pytest.param("0 0 0 " * 5, None, id="three values, all missing"),
    ],
)
def test_landmarks_with_and_without_visibility(tmp_path: Path, rest: str, points: tuple[float, ...] | None) -> None:
    put(tmp_path, a_jpg="", a_txt=f"0 0.5 0.5 0.1 0.1 {rest}\n")
    (photo,) = read(tmp_path)
    assert photo.rows[0].points == (None if points is None else pytest.approx(points, nan_ok=True))


def test_a_picture_without_a_label_or_with_an_empty_one_has_no_faces(tmp_path: Path) -> None:
    put(tmp_path, images__a_jpg="", images__b_png="", labels__b_txt="\n")
    assert [(photo.name, photo.rows) for photo in read(tmp_path)] == [("images/a.jpg", ()), ("images/b.png", ())]


def test_a_label_without_its_picture_is_listed_so_that_it_is_missed(tmp_path: Path) -> None:
    put(
        tmp_path,
        images__t__a_jpg="",
        labels__t__a_txt="",
        labels__t__lost_txt="0 .5 .5 .1 .1\n",
        labels__classes_txt="face",
    )
    assert [photo.name for photo in read(tmp_path)] == ["images/t/a.jpg", "images/t/lost.jpg"]
    assert [photo.name for photo in read(tmp_path / "images" / "t")] == ["a.jpg", "lost.jpg"]


def test_labels_of_a_picture_that_cannot_be_read_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path, a_jpg="", a_txt="0 0.5 0.5 0.1 0.1\n")
    (photo,) = read_yolo(tmp_path, {".jpg"}, lambda path: None)
    assert (photo.size, photo.rows) == (None, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("0 0.5 0.5 0.1\n", r"a\.txt:1: 4 values where 5 or 15 or 20 are needed", id="four"),
        pytest.param("0 .5 .5 .1 .1\n0 .1 .1 .2 .2 .3 .3\n", r"a\.txt:2: 7 values where", id="polygon"),
        pytest.param("0 .5 .5 .1 .1 0.97\n", r"a\.txt:1: 6 values where", id="with a score"),
        pytest.param("\n0 50 40 20 10\n", r"a\.txt:2: the box is not in parts of the picture's size", id="pixels"),
        pytest.param("face .5 .5 .1 .1\n", r"a\.txt:1: 'face' is no finite number", id="class by name"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, a_jpg="", a_txt=text)
    with pytest.raises(LabelError, match=message):
        read(tmp_path)


def test_two_pictures_with_one_label_and_no_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path, a_jpg="", a_png="", a_txt="")
    with pytest.raises(LabelError, match=r"a\.txt: a\.jpg and a\.png share these labels"):
        read(tmp_path)
    with pytest.raises(LabelError, match="there is no such folder"):
        read(tmp_path / "nowhere")
