from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.evaluation.focus_study import (
    FACES_SCHEMA,
    FALSE_POSITIVES_SCHEMA,
    SIZE_EDGES,
    bins_table,
    false_positives_by_size,
    size_bins,
    study_photo,
    wilson_interval,
)


def labelled(boxes: list[list[float]], ignore: list[list[float]] | None = None) -> LabelledPhoto:
    return LabelledPhoto(
        path=Path("a.jpg"),
        size=(400, 400),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
        ignore=np.array(ignore or [], np.float32).reshape(-1, 4),
        source="own",
        kinds=("human",) * len(boxes),
    )


def detections(*found: tuple[list[float], float]) -> PhotoDetections:
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return PhotoDetections(boxes, np.array([score for _, score in found], np.float32))


def rows(*faces: tuple[str, int, float, float, float]) -> pa.Table:
    """image, number of the face, factor, size, score."""
    return pa.Table.from_pylist(
        [
            {"image": image, "face": face, "source": "own", "kind": "human", "factor": factor, "q_net": size,
             "ratio": 1.0, "score": score, "iou": 0.75 if score else None}
            for image, face, factor, size, score in faces
        ],
        schema=FACES_SCHEMA,
    )  # fmt: skip


def bin_from(bins, low: float):
    (one,) = (one for one in bins if one.low == low)
    return one


def test_every_face_has_a_row_with_the_size_and_shape_the_network_was_shown() -> None:
    photo = labelled([[0, 0, 20, 80], [100, 100, 110, 110]])
    faces, _ = study_photo("day/a.jpg", photo, detections(([0, 0, 20, 60], 0.75)), 0.5)
    assert faces.schema == FACES_SCHEMA
    assert faces.to_pylist() == [
        # sqrt(20 * 80) * 0.5; the detection shares 1200 of 1600 px
        {"image": "day/a.jpg", "face": 0, "source": "own", "kind": "human", "factor": 0.5, "q_net": 20.0, "ratio": 4.0,
         "score": 0.75, "iou": 0.75},
        {"image": "day/a.jpg", "face": 1, "source": "own", "kind": "human", "factor": 0.5, "q_net": 5.0, "ratio": 1.0,
         "score": 0.0, "iou": None},
    ]  # fmt: skip


def test_the_best_score_takes_the_face_and_the_second_is_false() -> None:
    photo = labelled([[0, 0, 10, 10]])
    found = detections(([0, 0, 10, 10], 0.5), ([0, 0, 10, 8], 0.75))
    faces, false = study_photo("a", photo, found, 2.0)
    (face,) = faces.to_pylist()
    assert (face["score"], face["iou"]) == (0.75, pytest.approx(0.8))
    assert false.schema == FALSE_POSITIVES_SCHEMA
    assert false.to_pylist() == [{"image": "a", "source": "own", "factor": 2.0, "q_net": 20.0, "score": 0.5}]


def test_ignore_regions_have_no_row_and_make_no_detection_false() -> None:
    photo = labelled([], ignore=[[0, 0, 100, 100]])
    faces, false = study_photo("a", photo, detections(([10, 10, 30, 30], 0.9), ([200, 200, 209, 204], 0.3)), 1.0)
    assert faces.num_rows == 0
    assert [row["q_net"] for row in false.to_pylist()] == [6.0]


def test_a_photo_without_anything_gives_empty_tables() -> None:
    for table, schema in zip(
        study_photo("a", labelled([]), detections(), 1.0), (FACES_SCHEMA, FALSE_POSITIVES_SCHEMA), strict=True
    ):
        assert table.num_rows == 0
        assert table.schema == schema


def test_bins_hold_their_low_edge_and_count_scores_from_the_floor_on() -> None:
    faces = rows(
        ("a", 0, 1, 16, 0.9), ("a", 1, 1, 17, 0.8), ("b", 0, 1, 19.9, 0.5), ("b", 1, 1, 18, 0.02), ("b", 2, 1, 20, 0.0)
    )  # fmt: skip
    bins = size_bins(faces, 4)
    one = bin_from(bins, 16)
    assert (one.high, one.faces, one.recalls) == (20, 4, (1.0, 0.75, 0.75, 0.5))
    assert one.recall == 0.75
    assert (one.mean_score, one.mean_iou) == (pytest.approx((0.9 + 0.8 + 0.5 + 0.02) / 4), 0.75)
    assert (bin_from(bins, 20).faces, bin_from(bins, 20).recall) == (1, 0)
    assert math.isnan(bin_from(bins, 20).mean_iou)
    assert sum(one.faces for one in bins) == 5


def test_a_gain_compares_the_same_face_one_zoom_larger() -> None:
    faces = rows(
        ("a", 0, 0.25, 10, 0.2), ("a", 0, 1, 40, 0.9),  # gained
        ("a", 1, 0.25, 11, 0.9), ("a", 1, 1, 44, 0.9),  # found before
        ("b", 0, 0.25, 10, 0.6), ("b", 0, 1, 40, 0.1),  # lost
        ("b", 1, 0.25, 10, 0.0), ("b", 1, 1, 40, 0.5),  # gained
        ("c", 0, 0.33, 10, 0.0), ("c", 0, 1, 30, 0.9),  # no zoom of 4 apart
    )  # fmt: skip
    one = bin_from(size_bins(faces, 4), 10)
    assert (one.faces, one.pairs, one.gain) == (5, 4, 0.25)  # 3 of 4 after, 2 of 4 before
    assert bin_from(size_bins(faces, 4), 40).pairs == 0
    assert math.isnan(bin_from(size_bins(faces, 4), 40).gain)
    assert sum(one.pairs for one in size_bins(faces, 2)) == 0


def test_no_faces_give_empty_bins_that_can_be_written() -> None:
    bins = size_bins(FACES_SCHEMA.empty_table(), 4)
    assert len(bins) == len(SIZE_EDGES) - 1
    assert all(one.faces == one.pairs == 0 and math.isnan(one.recall) and math.isnan(one.gain) for one in bins)
    table = bins_table(bins)
    assert table.num_rows == len(bins)
    assert {"low", "high", "faces", "recall_0.02", "recall_0.3", "recall_0.5", "recall_0.8"} <= set(table.column_names)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        pytest.param(81, 263, 0.2553, 0.3662, id="81 of 263"),
        pytest.param(15, 148, 0.0624, 0.1605, id="15 of 148"),
        pytest.param(0, 20, 0.0, 0.1611, id="none of 20"),
        pytest.param(1, 29, 0.0061, 0.1718, id="1 of 29"),
        pytest.param(20, 20, 0.8389, 1.0, id="all of 20, none of 20 mirrored"),
    ],
)
def test_wilson_interval_is_that_of_the_literature(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_no_faces_have_no_interval() -> None:
    assert all(math.isnan(end) for end in wilson_interval(0, 0))


def test_false_positives_are_counted_by_size_and_by_the_lowest_score() -> None:
    table = pa.Table.from_pylist(
        [
            {"image": "a", "source": "own", "factor": 1.0, "q_net": size, "score": score}
            for size, score in ((3.0, 0.02), (3.9, 0.3), (4.0, 0.8), (1000.0, 0.5))
        ],
        schema=FALSE_POSITIVES_SCHEMA,
    )
    counts = false_positives_by_size(table)
    assert counts.shape == (len(SIZE_EDGES) - 1, 4)
    assert counts[0].tolist() == [2, 1, 0, 0]
    assert counts[1].tolist() == [1, 1, 1, 1]
    assert counts[-1].tolist() == [1, 1, 1, 0]
    assert counts.sum() == 10
    assert not false_positives_by_size(FALSE_POSITIVES_SCHEMA.empty_table()).any()
