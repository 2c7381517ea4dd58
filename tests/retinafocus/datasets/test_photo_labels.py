"""From rows to the record that training takes: what is cut, ignored, dropped and refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.photo_labels import (
    NO_AREA,
    OUTSIDE,
    DroppedRow,
    LabelRow,
    PhotoLabels,
    check_names,
    face_kinds,
    labelled_photo,
    marked_points,
)
from retinafocus.errors import LabelError, SettingsError

POINTS = tuple(float(value) for value in range(10))


def photo(*rows: LabelRow, name: str = "a.jpg", place: str = "labels.txt:1") -> PhotoLabels:
    return PhotoLabels(name, place, rows)


def test_boxes_are_cut_and_doubtful_ones_ignored() -> None:
    rows = (
        LabelRow("l:2", (-5, 70, 120, 85), POINTS),
        LabelRow("l:3", (1, 2, 3, 4), doubtful=True),
        LabelRow("l:4", (90, 70, 101, 81), doubtful=True),
        LabelRow("l:5", (10, 10, 10.5, 12)),
    )
    record, dropped = labelled_photo(photo(*rows), Path("p/a.jpg"), (80, 100), source="holiday")
    assert (record.path, record.size, record.source, record.kinds) == (
        Path("p/a.jpg"), (80, 100), "holiday", ("human", "human"),
    )  # fmt: skip
    assert record.boxes.tolist() == [[0, 70, 100, 80], [10, 10, 10.5, 12]]
    assert record.ignore.tolist() == [[1, 2, 3, 4], [90, 70, 100, 80]]
    assert record.landmarks[0].ravel().tolist() == list(POINTS)
    assert np.isnan(record.landmarks[1]).all()
    assert (record.boxes.dtype, record.landmarks.dtype, record.ignore.dtype) == (np.float32,) * 3
    assert dropped == []


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        pytest.param((0, 0, 0, 0), NO_AREA, id="zeros"),
        pytest.param((1026, 3, 1024, 9), NO_AREA, id="negative width"),
        pytest.param((100, 3, 110, 9), OUTSIDE, id="right of the photo"),
        pytest.param((3, -9, 9, 0), OUTSIDE, id="above the photo"),
        pytest.param((5.0, 5.0, 5.0 + 1e-9, 6.0), OUTSIDE, id="nothing left in float32"),
    ],
)
def test_rows_without_area_in_the_photo_are_dropped_with_their_place(box: tuple[float, ...], reason: str) -> None:
    record, dropped = labelled_photo(photo(LabelRow("l:2", box)), Path("a"), (80, 100), source="s")  # type: ignore[arg-type]
    assert (record.boxes.shape, record.ignore.shape, record.landmarks.shape) == ((0, 4), (0, 4), (0, 5, 2))
    assert dropped == [DroppedRow("l:2", reason)]


def test_rows_of_other_classes_are_neither_faces_nor_dropped() -> None:
    rows = (LabelRow("l:2", (1, 1, 5, 5), kind="face"), LabelRow("l:3", (0, 0, 0, 0), kind="person"))
    record, dropped = labelled_photo(photo(*rows), Path("a"), (80, 100), source="s", kinds=frozenset({"face"}))
    assert (len(record.boxes), dropped) == (1, [])


def test_a_photo_of_one_pixel_and_thousands_of_faces() -> None:
    rows = [LabelRow(f"l:{number}", (0, 0, 1, 1)) for number in range(5000)]
    record, _ = labelled_photo(photo(*rows), Path("a"), (1, 1), source="s")
    assert record.boxes.shape == (5000, 4)


def test_classes_are_named_unless_there_is_one() -> None:
    face, person = LabelRow("l:2", (1, 1, 5, 5), kind="face"), LabelRow("l:3", (1, 1, 5, 5), kind="person")
    assert face_kinds([photo(face), photo()], None) is None
    assert face_kinds([], None) is None
    assert face_kinds([photo(face, person)], ["face"]) == {"face"}
    with pytest.raises(SettingsError, match=r"face \(2 boxes\), person \(1 boxes\); name those that are faces"):
        face_kinds([photo(face, person, face)], None)
    with pytest.raises(SettingsError, match=r"no boxes of head; the labels have face \(1 boxes\)"):
        face_kinds([photo(face)], ["head", "face"])


@pytest.mark.parametrize("name", ["", "/etc/a.jpg", "../a.jpg", "a/../../b.jpg"])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(LabelError, match=r"^labels\.txt:1: .* is no path below the folder of pictures"):
        check_names([photo(name=name)])


@pytest.mark.parametrize("name", ["day/a.jpg", "day//a.jpg", "./day/a.jpg"])
def test_a_photo_listed_twice_is_refused_also_in_another_spelling(name: str) -> None:
    check_names([photo(name="day/a.jpg"), photo(name="a.jpg")])
    with pytest.raises(LabelError, match=r"l:9: .*day/+a\.jpg is listed already at labels\.txt:1"):
        check_names([photo(name="day/a.jpg"), photo(name=name, place="l:9")])


def test_marks_are_missing_by_the_whole_triple_only() -> None:
    assert marked_points([-1, -1, -1] * 5) is None
    points = marked_points([-1, -1, 0, -1, -1, -1, -1, 3, -1, 5, 6, 1, 7, 8, 0])
    assert points is not None
    assert points[:2] + points[4:] == (-1, -1, -1, 3, 5, 6, 7, 8)
    assert all(map(math.isnan, points[2:4]))
