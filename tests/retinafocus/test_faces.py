"""The result type and the schemas of the tables."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinafocus.faces import (
    FACES_SCHEMA,
    FIELD_MEANINGS,
    IMAGES_SCHEMA,
    LANDMARK_NAMES,
    SCHEMA_VERSION,
    TIMING_SCHEMA,
    Faces,
)

SCHEMAS = {"faces": FACES_SCHEMA, "images": IMAGES_SCHEMA, "timing": TIMING_SCHEMA}


@pytest.fixture
def two_faces() -> Faces:
    return Faces(
        boxes=np.array([[10, 20, 30, 50], [0, 0, 5, 6]]),
        scores=np.array([0.75, 0.5]),
        landmarks=np.arange(20).reshape(2, 5, 2),
        levels=np.array([1, 0]),
    )


def test_every_column_of_every_table_has_its_meaning_and_no_meaning_is_left_over() -> None:
    assert set(FIELD_MEANINGS) == {name for schema in SCHEMAS.values() for name in schema.names}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_schema_carries_its_version_and_survives_parquet(schema: pa.Schema) -> None:
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    back = pq.read_schema(io.BytesIO(file.getvalue()))
    assert back.equals(schema)
    assert back.metadata[b"retinafocus.schema_version"] == str(SCHEMA_VERSION).encode()


def test_columns_that_may_be_null_are_declared() -> None:
    nullable = {name for schema in SCHEMAS.values() for name in schema.names if schema.field(name).nullable}
    assert nullable == {"error", "width", "height", "orientation", "taken_at", "bytes", "modified", "faces"}


def test_types_of_the_faces_table_are_as_promised() -> None:
    assert FACES_SCHEMA.field("landmarks").type == pa.list_(pa.float32(), 10)
    assert {str(FACES_SCHEMA.field(name).type) for name in ("score", "x1", "y1", "x2", "y2")} == {"float"}
    assert FACES_SCHEMA.field("level").type == pa.int16()


def test_arrays_become_float32_and_int16(two_faces: Faces) -> None:
    assert (two_faces.boxes.dtype, two_faces.scores.dtype, two_faces.landmarks.dtype) == (np.dtype("f4"),) * 3
    assert two_faces.levels.dtype == np.int16


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes, scores, landmarks, levels are \(\(2, 4\), \(1,\)"):
        Faces(np.zeros((2, 4)), np.zeros(1), np.zeros((1, 5, 2)), np.zeros(1))


@pytest.mark.parametrize(
    ("chosen", "scores"),
    [
        pytest.param(0, [0.75], id="first"),
        pytest.param(-1, [0.5], id="last"),
        pytest.param(np.int64(1), [0.5], id="numpy number"),
        pytest.param(slice(0, 1), [0.75], id="slice"),
        pytest.param(slice(0, 0), [], id="empty slice"),
        pytest.param(np.array([False, True]), [0.5], id="mask"),
        pytest.param(np.array([1, 0]), [0.5, 0.75], id="numbers"),
    ],
)
def test_indexing_gives_faces(two_faces: Faces, chosen: int | slice | np.ndarray, scores: list[float]) -> None:
    assert two_faces[chosen].scores.tolist() == scores
    assert two_faces[chosen].landmarks.shape == (len(scores), 5, 2)


def test_a_face_that_is_not_there_is_an_index_error(two_faces: Faces) -> None:
    with pytest.raises(IndexError):
        two_faces[2]
    with pytest.raises(IndexError):
        Faces.empty()[0]


def test_iteration_gives_plain_numbers_by_name(two_faces: Faces) -> None:
    first, second = two_faces
    assert first["box"] == [10.0, 20.0, 30.0, 50.0]
    assert first["landmarks"]["nose"] == [4.0, 5.0]
    assert tuple(second["landmarks"]) == LANDMARK_NAMES
    assert json.loads(json.dumps(two_faces.to_dict())) == {"faces": [first, second]}


def test_above_keeps_the_threshold_itself(two_faces: Faces) -> None:
    assert len(two_faces.above(0.75)) == 1
    assert len(two_faces.above(0.5)) == 2
    assert len(two_faces.above(0.76)) == 0


def test_table_has_one_row_per_face_in_the_schema(two_faces: Faces) -> None:
    table = two_faces.to_arrow(image_id="ab", uri="a.jpg", shard=3)
    assert table.schema.equals(FACES_SCHEMA, check_metadata=True)
    assert table.to_pylist()[1] == {
        "image_id": "ab",
        "uri": "a.jpg",
        "face": 1,
        "score": 0.5,
        "x1": 0.0,
        "y1": 0.0,
        "x2": 5.0,
        "y2": 6.0,
        "landmarks": [float(value) for value in range(10, 20)],
        "level": 0,
        "shard": 3,
    }


def test_no_faces_is_an_empty_table_with_the_same_schema() -> None:
    empty = Faces.empty()
    assert (len(empty), list(empty), repr(empty)) == (0, [], "Faces(0)")
    assert empty.to_arrow().schema.equals(FACES_SCHEMA, check_metadata=True)
    assert empty.to_arrow().num_rows == 0
    assert len(empty.above(0.0)) == 0


def test_rows_of_one_photo_come_back_as_the_same_faces(two_faces: Faces) -> None:
    file = io.BytesIO()
    pq.write_table(pa.concat_tables([two_faces.to_arrow(image_id="a"), two_faces[1].to_arrow(image_id="b")]), file)
    table = pq.read_table(io.BytesIO(file.getvalue()))
    assert Faces.from_arrow(table.slice(0, 2)) == two_faces
    assert Faces.from_arrow(table.slice(2, 1)) == two_faces[1]
    assert Faces.from_arrow(table.slice(3)) == Faces.empty()
    assert Faces.from_arrow(FACES_SCHEMA.empty_table()) == Faces.empty()


def test_thirty_thousand_faces_become_a_table() -> None:
    count = 30_000
    faces = Faces(np.zeros((count, 4)), np.zeros(count), np.zeros((count, 5, 2)), np.zeros(count))
    assert faces.to_arrow().num_rows == count


def test_equality_is_bit_for_bit(two_faces: Faces) -> None:
    moved = Faces(two_faces.boxes + np.float32(1e-6), two_faces.scores, two_faces.landmarks, two_faces.levels)
    assert two_faces == two_faces[:]
    assert two_faces != moved
    assert two_faces != two_faces[:1]
    assert two_faces != "faces"
