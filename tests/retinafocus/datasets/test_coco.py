"""COCO json: categories, crowds, keypoints, and entries that contradict each other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from retinafocus.datasets.coco import read_coco
from retinafocus.errors import LabelError

FACE, PERSON = {"id": 3, "name": "face"}, {"id": 1, "name": "person"}
IMAGE = {"id": 7, "file_name": "day/a.jpg", "width": 640, "height": 480}


def write(folder: Path, **lists: Any) -> Path:
    content = {"images": [IMAGE], "annotations": [], "categories": [FACE, PERSON], **lists}
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return path


def box(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10.5, 20, 30, 40], **fields}


def test_boxes_sizes_and_categories(tmp_path: Path) -> None:
    path = write(tmp_path, annotations=[box(), box(id=2, category_id=1)])
    (photo,) = read_coco(path)
    assert (photo.name, photo.size) == ("day/a.jpg", (480, 640))
    assert [(row.box, row.kind, row.doubtful) for row in photo.rows] == [
        ((10.5, 20, 40.5, 60), "face", False),
        ((10.5, 20, 40.5, 60), "person", False),
    ]
    assert photo.rows[1].place == f"{path}: annotations[1] (id 2)"


def test_photos_without_faces_stay(tmp_path: Path) -> None:
    path = write(tmp_path, images=[{"id": 9, "file_name": "b.jpg"}, IMAGE], annotations=[box()])
    assert [(photo.name, photo.size, len(photo.rows)) for photo in read_coco(path)] == [
        ("b.jpg", None, 0),
        ("day/a.jpg", (480, 640), 1),
    ]


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_crowds_and_ignored_boxes_are_doubtful(tmp_path: Path, flag: str) -> None:
    (photo,) = read_coco(write(tmp_path, annotations=[box(**{flag: 1}), box(id=2, **{flag: 0})]))
    assert [row.doubtful for row in photo.rows] == [True, False]


def test_five_keypoints_are_landmarks_and_visibility_zero_is_missing(tmp_path: Path) -> None:
    five = [11, 21, 2, 12, 22, 1, 0, 0, 0, 14, 24, 2, 15, 25, 2]
    keypoints = [five, [0] * 15, [0] * 51, []]
    (photo,) = read_coco(
        write(tmp_path, annotations=[box(id=number, keypoints=points) for number, points in enumerate(keypoints)])
    )
    first, *others = (row.points for row in photo.rows)
    assert first is not None
    assert first[:4] + first[6:] == (11, 21, 12, 22, 14, 24, 15, 25)
    assert all(map(math.isnan, first[4:6]))
    assert others == [None, None, None], "none visible, a body's keypoints, none at all"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        pytest.param({"annotations": [box(image_id=8)]}, r"annotations\[0\] \(id 1\): image_id 8 is none", id="image"),
        pytest.param({"annotations": [box(category_id=9)]}, r"category_id 9 is none of the categories", id="category"),
        pytest.param(
            {"annotations": [box(), box(id=2, bbox=[1, 2, 3])]}, r"annotations\[1\] \(id 2\): bbox is", id="3"
        ),
        pytest.param({"annotations": [box(bbox=[1, 2, 3, "w"])]}, r"annotations\[0\].*'w' is no finite", id="word"),
        pytest.param({"annotations": [box(bbox=[1, 2, 3, None])]}, r"None is no finite number", id="null"),
        pytest.param({"annotations": [box(bbox=[1, 2, 3, True])]}, r"True is no finite number", id="truth value"),
        pytest.param({"annotations": [[1, 2]]}, r"annotations\[0\] is no COCO entry", id="no entry"),
        pytest.param({"images": [IMAGE, IMAGE]}, r"images\[1\] \(id 7\): this id stands for day/a\.jpg", id="id twice"),
        pytest.param({"images": [{"id": 1}]}, r"images\[0\] \(id 1\): file_name is missing", id="no name"),
        pytest.param({"categories": None}, r"there is no list `categories`", id="no categories"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, lists: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=rf"labels\.json: .*{message}"):
        read_coco(write(tmp_path, **lists))


def test_no_json_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"images": [],\n "annotations": [}\n')
    with pytest.raises(LabelError, match=r"labels\.json:2: this is no JSON"):
        read_coco(path)
    path.write_text("[]")
    with pytest.raises(LabelError, match=r"there is no list"):
        read_coco(path)
