"""RetinaFace's label.txt and SCRFD's labelv2.txt: landmarks, missing marks, and the short forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.labelled import read_parquet_folder
from retinafocus.datasets.photo_labels import PhotoLabels
from retinafocus.datasets.retinaface import has_sizes, read_label_txt, read_labelv2_txt
from retinafocus.errors import LabelError

# The line that public descriptions of the format show.
MARKED = (
    "449 330 122 149 488.906 373.643 0.0 542.089 376.442 0.0 515.031 412.83 0.0 "
    "485.174 425.893 0.0 538.357 431.491 0.0 0.82"
)
POINTS = (488.906, 373.643, 542.089, 376.442, 515.031, 412.83, 485.174, 425.893, 538.357, 431.491)
UNMARKED = "10 20 30 40 " + "-1 -1 -1 " * 5 + "0.3"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "label.txt"


def test_landmarks_and_blur_are_read_in_their_order(labels: Path) -> None:
    labels.write_text(f"# 0--Parade/a.jpg\n{MARKED}\n")
    (photo,) = read_label_txt(labels)
    (row,) = photo.rows
    assert (photo.name, row.place, row.box) == ("0--Parade/a.jpg", f"{labels}:2", (449, 330, 571, 479))
    assert row.points == POINTS
    assert row.attributes == (0.82,)


def test_a_triple_of_minus_one_is_a_missing_landmark(labels: Path) -> None:
    labels.write_text(f"# a.jpg\n{UNMARKED}\n10 20 30 40 -1 -1 -1 " + "12 25 1 " * 4 + "-1\n")
    (photo,) = read_label_txt(labels)
    assert photo.rows[0].points is None
    assert photo.rows[1].points is not None
    assert all(map(math.isnan, photo.rows[1].points[:2]))
    assert photo.rows[1].points[2:4] == (12, 25), "hidden (flag 1) is there all the same"


def test_a_face_cut_by_the_border_keeps_its_negative_landmark(labels: Path) -> None:
    labels.write_text("# a.jpg\n0 20 30 40 -1 25 0 " + "12 25 0 " * 4 + "0\n")
    (photo,) = read_label_txt(labels)
    assert photo.rows[0].points is not None
    assert photo.rows[0].points[:2] == (-1, 25)


def test_rows_of_the_validation_form_are_boxes_only(labels: Path) -> None:
    labels.write_text("# a.jpg\n345 211 4 4\n331 126 3 3 \n")
    (photo,) = read_label_txt(labels)
    assert [(row.box, row.points) for row in photo.rows] == [((345, 211, 349, 215), None), ((331, 126, 334, 129), None)]


def test_the_test_form_is_names_only(labels: Path) -> None:
    labels.write_text("# a.jpg\n# b.jpg\n")
    assert [(photo.name, photo.rows) for photo in read_label_txt(labels)] == [("a.jpg", ()), ("b.jpg", ())]
    labels.write_text("")
    assert read_label_txt(labels) == []


def test_labelv2_has_corners_sizes_and_landmarks(labels: Path) -> None:
    labels.write_text(
        "# 0--Parade/a b.jpg 1024 768\n1.5 2 30 40 " + "3 4 1 " * 4 + "-1 -1 -1\n5 6 7 8 " + "-1 -1 -1 " * 5 + "\n"
    )
    (photo,) = read_labelv2_txt(labels)
    assert (photo.name, photo.size) == ("0--Parade/a b.jpg", (768, 1024))
    assert photo.rows[0].box == (1.5, 2, 30, 40)
    assert photo.rows[0].points is not None
    assert photo.rows[0].points[:8] == (3, 4) * 4
    assert all(map(math.isnan, photo.rows[0].points[8:]))
    assert photo.rows[1].points is None


def test_labelv2_rows_may_be_boxes_with_or_without_an_ignore_flag(labels: Path) -> None:
    labels.write_text("# a.jpg 10 10\n1 2 3 4\n1 2 3 4 0\n1 2 3 4 1\n")
    (photo,) = read_labelv2_txt(labels)
    assert [row.doubtful for row in photo.rows] == [False, False, True]


@pytest.mark.parametrize(
    ("header", "sized"),
    [("# a.jpg", False), ("# a.jpg 640 480", True), ("#a.jpg 640 480", True), ("# a 12.jpg", False), ("# 1 2", False)],
)
def test_the_two_are_told_apart_by_the_sizes(header: str, sized: bool) -> None:
    assert has_sizes(header) is sized


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        pytest.param(read_label_txt, "1 2 3 4\n", r"txt:1: a face before the first picture", id="no header"),
        pytest.param(read_label_txt, "# a.jpg\n\n1 2 3\n", r"txt:3: 3 values where 4 or 20 are needed", id="three"),
        pytest.param(read_label_txt, f"# a.jpg\n{MARKED[:-5]}\n", r"txt:2: 19 values where 4 or 20", id="no blur"),
        pytest.param(read_label_txt, "# a.jpg\n1 2 3 four\n", r"txt:2: 'four' is no finite number", id="word"),
        pytest.param(read_label_txt, "# a.jpg\n1 2 3 inf\n", r"txt:2: 'inf' is no finite number", id="infinite"),
        pytest.param(read_labelv2_txt, "# a.jpg\n", r"txt:1: a line `# event/name.jpg width height`", id="no size"),
        pytest.param(read_labelv2_txt, "# a.jpg 0 9\n", r"txt:1: .* with a size above 0", id="zero size"),
        pytest.param(read_labelv2_txt, "# a.jpg 9 9\n1 2 3 4 5 6\n", r"txt:2: 6 values where 4 or 5 or 19", id="six"),
    ],
)
def test_a_malformed_line_is_named(
    labels: Path, read: Callable[[Path], list[PhotoLabels]], text: str, message: str
) -> None:
    labels.write_text(text)
    with pytest.raises(LabelError, match=message):
        read(labels)


@pytest.mark.shared
def test_the_research_packs_text_says_what_its_tables_say(shared_data: Path) -> None:
    folder = shared_data / "faces" / "val"
    text = {photo.name: photo for photo in read_label_txt(folder / "label.txt")}
    tables = read_parquet_folder(folder)
    assert len(text) == len(tables) == 344
    for photo in tables:
        rows = text[photo.path.relative_to(folder / "images").as_posix()].rows
        # The text has one decimal of left, top, width and height.
        np.testing.assert_allclose(
            np.array([row.box for row in rows]).reshape(-1, 4), photo.boxes, atol=0.11, err_msg=str(photo.path)
        )
        marked = [row.points is not None for row in rows]
        assert marked == np.isfinite(photo.landmarks).any(axis=(1, 2)).tolist()
