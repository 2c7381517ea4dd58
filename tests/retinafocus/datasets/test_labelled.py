"""The Parquet reader: what it reads, what it refuses, and that it says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinafocus.datasets.labelled import LANDMARK_COLUMNS, Fault, LabelledPhoto, read_parquet_folder
from retinafocus.errors import LabelError

Rows = list[dict[str, Any]]
Writer = Callable[[Rows, Rows], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write_folder(images: Rows, labels: Rows) -> Path:
        box = [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", *LANDMARK_COLUMNS)]
        label_schema = pa.schema([("image", pa.string()), *box, ("kind", pa.string())])
        image_schema = pa.schema(
            [("image", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("source", pa.string())]
        )
        pq.write_table(pa.Table.from_pylist(images, schema=image_schema), tmp_path / "images.parquet")
        pq.write_table(pa.Table.from_pylist(labels, schema=label_schema), tmp_path / "labels.parquet")
        return tmp_path

    return write_folder


def image(name: str, width: int = 100, height: int = 80) -> dict[str, Any]:
    return {"image": name, "width": width, "height": height, "source": name.split("/")[0]}


def region(name: str, box: tuple[float | None, ...], kind: str = "human", **points: float) -> dict[str, Any]:
    return {"image": name, "kind": kind, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)), **points}


def test_faces_and_ignore_regions_go_to_their_photo(write: Writer) -> None:
    points = {name: float(number) for number, name in enumerate(LANDMARK_COLUMNS)}
    del points["nose_y"]
    folder = write(
        [image("b/1.jpg"), image("a/2.jpg"), image("b/3.jpg")],
        [
            region("b/3.jpg", (1, 2, 30, 40), "pseudo", **points),
            region("b/1.jpg", (5, 5, 6, 6), "ignore"),
            region("b/3.jpg", (50, 60, 70, 75), "human"),
        ],
    )
    first, second, third = read_parquet_folder(folder)
    assert first.path == folder / "images" / "b" / "1.jpg"
    assert first.size == (80, 100)
    assert (first.boxes.shape, first.landmarks.shape, first.ignore.tolist()) == ((0, 4), (0, 5, 2), [[5, 5, 6, 6]])
    assert (second.source, len(second.boxes), len(second.ignore)) == ("a", 0, 0)
    assert third.boxes.tolist() == [[1, 2, 30, 40], [50, 60, 70, 75]]
    assert third.boxes.dtype == np.float32
    assert third.kinds == ("pseudo", "human")
    assert third.landmarks[0, 1].tolist() == [2, 3]
    assert np.isnan(third.landmarks[0, 2]).all(), "a point with one coordinate is a missing point"
    assert np.isnan(third.landmarks[1]).all()


def test_boxes_are_cut_at_the_border(write: Writer) -> None:
    (photo,) = read_parquet_folder(write([image("a/1.jpg")], [region("a/1.jpg", (-5, 70, 120, 85))]))
    assert photo.boxes.tolist() == [[0, 70, 100, 80]]


def test_a_folder_of_negatives_has_no_regions(write: Writer) -> None:
    (photo,) = read_parquet_folder(write([image("a/1.jpg")], []))
    assert isinstance(photo, LabelledPhoto)
    assert photo.boxes.shape == photo.ignore.shape == (0, 4)
    assert read_parquet_folder(write([], [])) == []


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        pytest.param(
            [image("a/1.jpg")],
            [region("a/1.jpg", (1, 1, 2, 2)), region("a/9.jpg", (1, 1, 2, 2))],
            r"labels\.parquet: row 1: the image is not listed in images\.parquet; mend",
            id="label of an unknown image",
        ),
        pytest.param(
            [image("a/1.jpg"), image("a/2.jpg"), image("a/1.jpg")],
            [],
            r"images\.parquet: row 0: the image is listed again",
            id="image twice",
        ),
        pytest.param([image("a/1.jpg", width=0)], [], r"images\.parquet: row 0: width or height", id="no width"),
        pytest.param(
            [image("a/1.jpg")],
            [region("a/1.jpg", (4, 1, 4, 2)), region("a/1.jpg", (3, 1, 2, 2))],
            r"labels\.parquet: row 0: the box has no area inside the photo .*and 1 more rows",
            id="empty boxes",
        ),
        pytest.param(
            [image("a/1.jpg")], [region("a/1.jpg", (100, 1, 110, 2))], "row 0: the box has no area", id="outside"
        ),
        pytest.param(
            [image("a/1.jpg")], [region("a/1.jpg", (None, 1, 110, 2))], "row 0: a box coordinate", id="null box"
        ),
        pytest.param(
            [image("a/1.jpg")], [region("a/1.jpg", (0, 1, 110, 2), "dog")], "row 0: kind is none of", id="kind"
        ),
    ],
)
def test_malformed_rows_are_named(write: Writer, images: Rows, labels: Rows, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_parquet_folder(write(images, labels))


def test_malformed_rows_are_told_and_left_out_on_request(write: Writer) -> None:
    folder = write(
        [image("a/1.jpg"), image("a/2.jpg", width=0), image("a/3.jpg")],
        [
            region("a/9.jpg", (1, 1, 2, 2)),
            region("a/2.jpg", (1, 1, 2, 2)),
            region("a/3.jpg", (5, 1, 5, 2)),
            region("a/3.jpg", (5, 1, 6, 2)),
            region("a/1.jpg", (9, 1, 6, 2), "ignore"),
        ],
    )
    faults: list[Fault] = []
    first, third = read_parquet_folder(folder, faults)
    assert (len(first.boxes), len(first.ignore), third.boxes.tolist()) == (0, 0, [[5, 1, 6, 2]])
    assert [(fault.path.name, fault.rows, fault.images) for fault in faults] == [
        ("images.parquet", (1,), ("a/2.jpg",)),
        ("labels.parquet", (0, 1), ("a/9.jpg", "a/2.jpg")),
        ("labels.parquet", (2, 4), ("a/3.jpg", "a/1.jpg")),
    ]
    assert "row 2: the box has no area inside the photo" in str(faults[2])


def test_missing_and_foreign_files_are_named(write: Writer) -> None:
    folder = write([image("a/1.jpg")], [])
    pq.write_table(pa.table({"image": ["a/1.jpg"]}), folder / "labels.parquet")
    with pytest.raises(LabelError, match=r"labels\.parquet: the columns x1, y1, .* are missing"):
        read_parquet_folder(folder)
    (folder / "labels.parquet").write_bytes(b"no table")
    with pytest.raises(LabelError, match=r"labels\.parquet: this is no Parquet file"):
        read_parquet_folder(folder)
    (folder / "labels.parquet").unlink()
    with pytest.raises(LabelError, match=r"labels\.parquet: there is no such file"):
        read_parquet_folder(folder)


@pytest.mark.shared
def test_the_research_pack_reads_whole(shared_data: Path) -> None:
    photos = read_parquet_folder(shared_data / "faces" / "train")
    assert len(photos) == 3837
    assert sum(len(photo.boxes) for photo in photos) == 7747 + 33630
    assert sum(len(photo.ignore) for photo in photos) == 62659
    assert sum(photo.kinds.count("human") for photo in photos) == 7747
    assert all(photo.path.is_file() for photo in photos[::100])
