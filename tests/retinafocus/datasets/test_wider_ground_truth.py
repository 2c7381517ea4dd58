"""The official lists are put together with the boxes, and files that do not belong together are named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinafocus.datasets.wider_ground_truth import read_ground_truth
from retinafocus.errors import LabelError, SettingsError

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


def cells(values: Sequence[object]) -> np.ndarray:
    """A MATLAB cell array (n, 1)."""
    column = np.empty((len(values), 1), dtype=object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


def numbers(values: Sequence[int]) -> np.ndarray:
    """A column of row numbers as MATLAB packs them; nothing is 0 x 0."""
    return np.array(values, np.uint16).reshape(-1, 1) if values else np.zeros((0, 0), np.uint8)


def save_all(folder: Path, lists: dict[str, list[list[int]]], events: Sequence[str] = ("0--Parade", "1--Riot")) -> None:
    """Two events of one photo each, of three rows and of none, with their lists, counted from 1."""
    io = pytest.importorskip("scipy.io")
    rows = [np.array([[10, 20, 30, 40], [5, 6, 7, 8], [1026, 5, -2, 9]], np.int32), np.zeros((0, 4), np.int32)]
    common = {"event_list": cells(list(events)), "file_list": cells([cells(["a.b_1"]), cells(["none"])])}
    attributes = {
        f"{name}_label_list": cells([cells([np.zeros((len(boxes), 1), np.uint8)]) for boxes in rows])
        for name in ATTRIBUTES
    }
    boxes = {"face_bbx_list": cells([cells([one]) for one in rows])}
    save(io, folder / "wider_face_val.mat", common | boxes | attributes)
    for setting, of_photos in lists.items():
        gt_list = {"gt_list": cells([cells([numbers(one)]) for one in of_photos])}
        save(io, folder / f"wider_{setting}_val.mat", common | gt_list)


def save(io: Any, path: Path, content: dict[str, object]) -> None:
    io.savemat(path, content)


LISTS = {"easy": [[1], []], "medium": [[1], []], "hard": [[3, 1], []]}


def test_every_row_stays_and_numbers_count_from_one(tmp_path: Path) -> None:
    save_all(tmp_path, LISTS)
    photo, nothing = read_ground_truth(tmp_path)
    assert (photo.name, nothing.name) == ("0--Parade/a.b_1", "1--Riot/none")
    assert photo.boxes.dtype == np.float64
    assert photo.boxes.tolist() == [[10, 20, 30, 40], [5, 6, 7, 8], [1026, 5, -2, 9]]
    assert {name: marks.tolist() for name, marks in photo.kept.items()} == {
        "easy": [True, False, False],
        "medium": [True, False, False],
        "hard": [True, False, True],
    }
    assert nothing.boxes.shape == (0, 4)
    assert all(marks.shape == (0,) for marks in nothing.kept.values())


def test_missing_files_are_named_with_all_that_are_needed(tmp_path: Path) -> None:
    save_all(tmp_path, {"easy": [[1], []]})
    with pytest.raises(LabelError, match=r"wider_medium_val\.mat, wider_hard_val\.mat not found; copy wider_face_val"):
        read_ground_truth(tmp_path)
    with pytest.raises(LabelError, match=r"nowhere: wider_face_val\.mat, .* from the folder ground_truth of the off"):
        read_ground_truth(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "hard", [[[4], []], [[0], []], [[1, 1], []], [[], [1]]], ids=["beyond", "zero", "twice", "of a photo without rows"]
)
def test_a_list_that_does_not_fit_the_boxes_is_named(tmp_path: Path, hard: list[list[int]]) -> None:
    save_all(tmp_path, LISTS | {"hard": hard})
    with pytest.raises(LabelError, match=r"wider_hard_val\.mat: \S+\.jpg: the list names rows \d+ to \d+, and the"):
        read_ground_truth(tmp_path)


def test_files_of_different_photos_are_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_all(tmp_path, LISTS)
    save_all(tmp_path / "other", LISTS, events=("0--Parade", "2--Rally"))
    (tmp_path / "other" / "wider_easy_val.mat").replace(tmp_path / "wider_easy_val.mat")
    with pytest.raises(LabelError, match=r"wider_easy_val\.mat: 2 photos .* such as 1--Riot/none\.jpg; copy both"):
        read_ground_truth(tmp_path)


def test_a_file_that_is_no_list_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    save_all(tmp_path, LISTS)
    (tmp_path / "wider_medium_val.mat").write_bytes((tmp_path / "wider_face_val.mat").read_bytes())
    with pytest.raises(LabelError, match=r"wider_medium_val\.mat: the fields gt_list are missing"):
        read_ground_truth(tmp_path)
    (tmp_path / "wider_medium_val.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(LabelError, match=r"wider_medium_val\.mat: this is no MATLAB file"):
        read_ground_truth(tmp_path)


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(tmp_path, LISTS)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SettingsError, match=r"pip install 'retinafocus\[eval\]'"):
        read_ground_truth(tmp_path)
