"""The scorer against numbers worked out by hand, against slow loops that follow its rules, and its promises."""

from __future__ import annotations

import dataclasses
import math
import time
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinafocus.errors import SettingsError
from retinafocus.evaluation import curves, matching
from retinafocus.evaluation.average_precision import (
    MEAN_IOU_THRESHOLDS,
    SCORES_SCHEMA,
    SIZE_BUCKETS,
    ApResult,
    PhotoDetections,
    PhotoTruth,
    average_precision,
    score,
)
from retinafocus.evaluation.curves import areas_under_curve, photo_draws

Box = Sequence[float]
ALL_SIZES = (0.0, math.inf)

# Ten pixels a side, far apart.
A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NOWHERE = [200, 200, 210, 210]


def array(boxes: Sequence[Box]) -> NDArray[np.float32]:
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def truth(*faces: Box, ignore: Sequence[Box] = ()) -> PhotoTruth:
    return PhotoTruth(array(faces), array(ignore))


def found(*scored: tuple[Box, float]) -> PhotoDetections:
    return PhotoDetections(array([box for box, _ in scored]), np.array([value for _, value in scored], np.float32))


def ap(truths: PhotoTruth | list[PhotoTruth], detections: PhotoDetections | list[PhotoDetections]) -> float:
    """AP50 over all sizes, without an interval, of one photo or of several."""
    truths = truths if isinstance(truths, list) else [truths]
    detections = detections if isinstance(detections, list) else [detections]
    return average_precision(truths, detections, bootstrap=0).ap


HAND_CASES = [
    pytest.param([A], [(A, 0.9)], 1, id="the_only_face_is_found"),
    pytest.param([A, B], [(A, 0.9)], 1 / 2, id="one_of_two_is_found"),
    # Recall 1/2 at precision 1, recall 1 at precision 2/3: 1/2 x 1 + 1/2 x 2/3.
    pytest.param([A, B], [(A, 0.9), (NOWHERE, 0.8), (B, 0.7)], 5 / 6, id="a_false_one_between"),
    pytest.param([A, B], [(A, 0.9), (A, 0.8), (B, 0.7)], 5 / 6, id="a_duplicate_is_false"),
    # Precision 1/2 then 2/3; the envelope lifts the first to 2/3.
    pytest.param([A, B], [(NOWHERE, 0.9), (A, 0.8), (B, 0.7)], 2 / 3, id="envelope_lifts_the_earlier_point"),
    pytest.param([A], [(A, 0.9), (NOWHERE, 0.8)], 1, id="a_false_one_after_the_last_hit_costs_nothing"),
    pytest.param([A], [(NOWHERE, 0.9)], 0, id="nothing_found"),
    # Equal scores are one point: precision 1/2 whichever is listed first.
    pytest.param([A], [(A, 0.9), (NOWHERE, 0.9)], 1 / 2, id="tie_hit_first"),
    pytest.param([A], [(NOWHERE, 0.9), (A, 0.9)], 1 / 2, id="tie_false_first"),
    pytest.param([A], [([0, 0, 10, 5], 0.9)], 1, id="iou_of_exactly_half_is_enough"),
    pytest.param([A], [([0, 0, 10, 4.9], 0.9)], 0, id="iou_below_half_is_not"),
    # IoU 9/11 with each of two faces: the first goes to the better box, the second choice is still free.
    pytest.param([A, [2, 0, 12, 10]], [(A, 0.9), ([1, 0, 11, 10], 0.8)], 1, id="second_choice_when_the_best_is_taken"),
    pytest.param([A], [([10, 10, 0, 0], 0.9)], 0, id="swapped_corners_find_nothing"),
    pytest.param([A], [([5, 5, 5, 5], 0.9), (A, 0.8)], 1 / 2, id="box_without_area_is_false"),
]


@pytest.mark.parametrize(("faces", "scored", "expected"), HAND_CASES)
def test_ap_of_one_photo_is_the_one_worked_out_by_hand(
    faces: list[Box], scored: list[tuple[Box, float]], expected: float
) -> None:
    assert ap(truth(*faces), found(*scored)) == pytest.approx(expected, abs=1e-12)


def test_better_score_takes_the_face_even_with_less_overlap() -> None:
    # The 0.9 (IoU 0.6) takes the face, so the exact box at 0.8 is a duplicate: 1 found, then 1 false.
    result = average_precision([truth(A)], [found((A, 0.8), ([0, 0, 10, 6], 0.9))], bootstrap=0, at_score=0.85)
    assert result.ap == 1
    assert result.recall == 1
    assert result.false_positives_per_photo == 0


def test_curve_is_over_all_photos_while_matching_is_per_photo() -> None:
    # Order over the set: A 0.9 (hit), NOWHERE 0.8 (false, second photo), A 0.7 (hit): 1/2 x 1 + 1/2 x 2/3.
    truths = [truth(A), truth(A)]
    detections = [found((A, 0.9)), found((NOWHERE, 0.8), (A, 0.7))]
    assert ap(truths, detections) == pytest.approx(5 / 6)


def test_photo_without_faces_counts_through_its_false_positives() -> None:
    assert ap([truth(A), truth()], [found((A, 0.5)), found((NOWHERE, 0.9))]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("truths", "detections", "expected"),
    [
        pytest.param([], [], math.nan, id="no_photos"),
        pytest.param([truth()], [found()], math.nan, id="no_faces_nothing_found"),
        pytest.param([truth()], [found((A, 0.9))], math.nan, id="no_faces_something_found"),
        pytest.param([truth(A)], [found()], 0.0, id="nothing_found"),
    ],
)
def test_empty_sets_give_nan_or_zero_never_an_error(
    truths: list[PhotoTruth], detections: list[PhotoDetections], expected: float
) -> None:
    scores = score(truths, detections, bootstrap=20)
    for result in (average_precision(truths, detections, bootstrap=20), scores["all"].ap50, scores["all"].mean):
        assert result.ap == pytest.approx(expected, nan_ok=True)
        assert result.num_photos == len(truths)
    assert scores.to_table().num_rows == 5
    assert scores.to_markdown().count("\n") == 7


IGNORE_CASES = [
    pytest.param([[200, 200, 205, 210]], 1, id="exactly_half_inside_is_dropped"),
    pytest.param([[200, 200, 204.9, 210]], 1 / 2, id="less_than_half_counts"),
    pytest.param([[200, 200, 203, 210], [203, 200, 205, 210]], 1, id="regions_that_tile_add_up"),
    pytest.param([[200, 200, 203, 210], [200, 200, 203, 210]], 1 / 2, id="regions_that_overlap_do_not"),
    pytest.param([[200, 200, 204, 210], [202, 200, 205, 210]], 1, id="union_of_overlapping_regions"),
    pytest.param([[0, 0, 1000, 1000]], 1, id="a_region_over_everything"),
    pytest.param([[202, 202, 204, 204]], 1 / 2, id="a_region_inside_the_box_is_too_small"),
]


@pytest.mark.parametrize(("regions", "expected"), IGNORE_CASES)
def test_false_detection_mostly_inside_ignore_regions_is_dropped(regions: list[Box], expected: float) -> None:
    # The false box of 10 x 10 comes first: AP is 1/2 where it counts and 1 where it is dropped.
    assert ap(truth(A, ignore=regions), found((NOWHERE, 0.9), (A, 0.8))) == pytest.approx(expected)


def test_face_inside_an_ignore_region_can_still_be_found() -> None:
    assert ap(truth(A, ignore=[[0, 0, 100, 100]]), found((A, 0.9))) == 1


SMALL, LARGE = [0, 0, 10, 10], [100, 100, 140, 140]


def bucket_ap(size_range: tuple[float, float], *scored: tuple[Box, float]) -> ApResult:
    return average_precision([truth(SMALL, LARGE)], [found(*scored)], size_range=size_range, bootstrap=0)


def test_faces_of_other_sizes_and_what_found_them_are_dropped() -> None:
    # For 32-96 px the hit on the small face (0.9) must not be a false positive before the large one.
    result = bucket_ap((32, 96), (SMALL, 0.9), (LARGE, 0.8))
    assert (result.ap, result.num_faces) == (1, 1)
    assert result.false_positives_per_photo == 0


def test_false_detections_of_other_sizes_are_dropped() -> None:
    tiny_false, large_false = ([300, 300, 310, 310], 0.95), ([300, 300, 340, 340], 0.95)
    assert bucket_ap((32, 96), tiny_false, (LARGE, 0.8)).ap == 1
    assert bucket_ap((32, 96), large_false, (LARGE, 0.8)).ap == 1 / 2


def test_detection_of_another_size_that_finds_the_face_counts() -> None:
    # 31 x 40 px of a face of 40 x 40: size 35.2, IoU 0.775. In the bucket of the face, whatever its own.
    assert bucket_ap((38, 96), ([100, 100, 131, 140], 0.8)).ap == 1


def test_size_is_low_inclusive_high_exclusive() -> None:
    square = truth([0, 0, 16, 16])
    counts = [average_precision([square], [found()], size_range=r, bootstrap=0).num_faces for r in SIZE_BUCKETS]
    assert counts == [0, 1, 0, 0]


def test_size_is_the_root_of_the_area() -> None:
    # 8 x 50 px: sqrt(400) = 20, neither its width nor its height.
    tall = truth([0, 0, 8, 50])
    assert average_precision([tall], [found()], size_range=(16, 32), bootstrap=0).num_faces == 1


def test_mean_ap_averages_ten_thresholds() -> None:
    # IoU 0.7: found at 0.50, 0.55, 0.60, 0.65 and 0.70, which is five of ten.
    scores = score([truth(A)], [found(([0, 0, 10, 7], 0.9))], bootstrap=0)
    assert MEAN_IOU_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert scores["all"].ap50.ap == 1
    assert scores["all"].mean.ap == pytest.approx(0.5)


def test_recall_and_false_positives_are_told_at_the_score() -> None:
    detections = [found((A, 0.9), (NOWHERE, 0.7), (B, 0.6)), found((NOWHERE, 0.7), (A, 0.2))]
    result = average_precision([truth(A, B), truth(A)], detections, at_score=0.7, bootstrap=0)
    # float32 0.7 lies below the double 0.7 and still reaches it. One of three faces; two false in two photos.
    assert result.recall == pytest.approx(1 / 3)
    assert result.false_positives_per_photo == 1


def test_counts_say_how_many_photos_hold_faces() -> None:
    result = average_precision([truth(A, B), truth(), truth(C)], [found(), found(), found()], bootstrap=0)
    assert (result.num_faces, result.num_photos, result.photos_with_faces) == (3, 3, 2)


def test_interval_of_two_opposite_photos_reaches_from_zero_to_one() -> None:
    # A resample holds the good photo twice (AP 1), once (1/2) or never (0), with chances 1/4, 1/2, 1/4.
    result = average_precision([truth(A), truth(A)], [found((A, 0.9)), found()])
    assert (result.ap, result.low, result.high) == (0.5, 0, 1)


@pytest.mark.parametrize(("photos", "bootstrap"), [pytest.param(1, 100, id="one_photo"), pytest.param(2, 0, id="off")])
def test_interval_is_nan_where_it_would_say_nothing(photos: int, bootstrap: int) -> None:
    result = average_precision([truth(A)] * photos, [found((A, 0.9))] * photos, bootstrap=bootstrap)
    assert result.ap == 1
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    truths, detections = random_set(np.random.default_rng(5), photos=30)
    first, again, other = (average_precision(truths, detections, bootstrap=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.ap == other.ap
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.ap < first.high


# ---- the oracle: the rules again, in loops without arrays ----


def area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def overlap(one: Box, two: Box) -> float:
    return area([max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])])


def share_inside(box: Box, regions: Sequence[Box]) -> float:
    """Share of a box of half-pixel corners inside the regions, counted in squares of half a pixel."""
    inside = total = 0
    for x in range(round(2 * box[0]), round(2 * box[2])):
        for y in range(round(2 * box[1]), round(2 * box[3])):
            total += 1
            inside += any(r[0] <= x / 2 < r[2] and r[1] <= y / 2 < r[3] for r in regions)
    return inside / total if total else 0


def slow_outcomes(
    truth: PhotoTruth, detections: PhotoDetections, iou_threshold: float, size_range: tuple[float, float]
) -> list[tuple[float, bool]]:
    """(score, found a face) of each detection that counts."""
    faces, boxes = truth.boxes.tolist(), detections.boxes.tolist()
    scores = detections.scores.tolist()
    free = set(range(len(faces)))
    outcomes = []
    for place in sorted(range(len(boxes)), key=lambda place: (-scores[place], place)):
        best, best_iou = -1, -1.0
        for index in sorted(free):
            common = overlap(boxes[place], faces[index])
            iou = common / (area(boxes[place]) + area(faces[index]) - common)
            if iou >= iou_threshold and iou > best_iou:
                best, best_iou = index, iou
        sized = boxes[place] if best < 0 else faces[best]
        free.discard(best)
        if not size_range[0] <= math.sqrt(area(sized)) < size_range[1]:
            continue
        if best < 0 and share_inside(boxes[place], truth.ignore.tolist()) >= 0.5:
            continue
        outcomes.append((scores[place], best >= 0))
    return outcomes


def slow_ap(
    truths: list[PhotoTruth], detections: list[PhotoDetections], iou_threshold: float, size_range: tuple[float, float]
) -> float:
    outcomes = []
    for photo_truth, photo_detections in zip(truths, detections, strict=True):
        outcomes += slow_outcomes(photo_truth, photo_detections, iou_threshold, size_range)
    faces = [face for photo in truths for face in photo.boxes.tolist()]
    num_faces = sum(size_range[0] <= math.sqrt(area(face)) < size_range[1] for face in faces)
    if not num_faces:
        return math.nan
    points = []
    for threshold in sorted({value for value, _ in outcomes}, reverse=True):
        taken = [hit for value, hit in outcomes if value >= threshold]
        points.append((sum(taken) / num_faces, sum(taken) / len(taken)))
    total, before = 0.0, 0.0
    for recall, _ in points:
        total += (recall - before) * max(precision for other, precision in points if other >= recall)
        before = recall
    return total


def random_boxes(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Boxes with corners on half pixels, crowded enough that many overlap."""
    sides = random.choice([2, 3, 4, 6, 9, 20], (count, 2))
    corners = random.integers(0, 60, (count, 2)) / 2
    return np.hstack([corners, corners + sides]).astype(np.float32)


def random_photo(random: np.random.Generator) -> tuple[PhotoTruth, PhotoDetections]:
    faces = random_boxes(random, int(random.integers(0, 6)))
    near = faces[random.random(len(faces)) < 0.8]
    moved = near + random.choice([-0.5, 0, 0, 0.5], near.shape).astype(np.float32)
    boxes = np.vstack([moved, moved[:1], random_boxes(random, int(random.integers(0, 6)))])
    scores = random.choice([0.1, 0.3, 0.5, 0.6, 0.8, 0.9], len(boxes)).astype(np.float32)
    return PhotoTruth(faces, random_boxes(random, int(random.integers(0, 4)))), PhotoDetections(boxes, scores)


def random_set(random: np.random.Generator, photos: int) -> tuple[list[PhotoTruth], list[PhotoDetections]]:
    pairs = [random_photo(random) for _ in range(photos)]
    return [photo for photo, _ in pairs], [detections for _, detections in pairs]


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 8), st.sampled_from([0.3, 0.5, 0.75]), st.sampled_from([ALL_SIZES, (0, 5), (5, 10)]))
def test_ap_equals_the_slow_loops(
    seed: int, photos: int, iou_threshold: float, size_range: tuple[float, float]
) -> None:
    truths, detections = random_set(np.random.default_rng(seed), photos)
    result = average_precision(truths, detections, iou_threshold=iou_threshold, size_range=size_range, bootstrap=0)
    expected = slow_ap(truths, detections, iou_threshold, size_range)
    assert result.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_each_resample_equals_the_slow_loops_over_the_photos_drawn() -> None:
    truths, detections = random_set(np.random.default_rng(11), photos=6)
    draws = photo_draws(6, 20, seed=3)
    expected = []
    for counts in draws:
        drawn = np.repeat(np.arange(6), counts)
        expected.append(slow_ap([truths[i] for i in drawn], [detections[i] for i in drawn], 0.5, ALL_SIZES))
    result = average_precision(truths, detections, bootstrap=20, seed=3)
    assert result.ap == pytest.approx(expected[0])
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(expected[1:], (2.5, 97.5))))


def test_score_holds_the_results_of_average_precision() -> None:
    truths, detections = random_set(np.random.default_rng(2), photos=12)
    scores = score(truths, detections, bootstrap=50, seed=4)
    assert [row.name for row in scores.rows] == ["all", "<16 px", "16-32 px", "32-96 px", ">=96 px"]
    for row in scores.rows[:2]:
        singles = [
            average_precision(truths, detections, iou_threshold=iou, size_range=row.size_range, bootstrap=50, seed=4)
            for iou in MEAN_IOU_THRESHOLDS
        ]
        assert row.ap50 == singles[0]
        assert row.mean.ap == pytest.approx(np.mean([single.ap for single in singles]))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_only_the_order_of_scores_matters(seed: int) -> None:
    truths, detections = random_set(np.random.default_rng(seed), 5)
    squashed = [dataclasses.replace(photo, scores=photo.scores**3 / 7 - 2) for photo in detections]
    before = average_precision(truths, detections, bootstrap=30)
    after = average_precision(truths, squashed, bootstrap=30)
    np.testing.assert_equal((before.ap, before.low, before.high), (after.ap, after.low, after.high))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_a_false_positive_below_or_among_the_others_never_raises_ap(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths, detections = random_set(random, 4)
    value = np.float32(random.choice([0.01, 0.01, 0.5, 0.55, 0.95]))
    more = [
        PhotoDetections(np.vstack([detections[0].boxes, array([NOWHERE])]), np.append(detections[0].scores, value)),
        *detections[1:],
    ]
    before, after = ap(truths, detections), ap(truths, more)
    assert math.isnan(before) or after <= before + 1e-12


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_order_of_photos_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths, detections = random_set(random, 7)
    order = random.permutation(7)
    before = score(truths, detections, bootstrap=0)
    after = score([truths[i] for i in order], [detections[i] for i in order], bootstrap=0)
    np.testing.assert_equal(before.to_table().to_pylist(), after.to_table().to_pylist())


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_order_of_detections_with_different_scores_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths, detections = random_set(random, 4)
    shuffled = []
    distinct = []
    for photo in detections:
        count = len(photo.scores)
        photo = dataclasses.replace(photo, scores=random.permutation(count).astype(np.float32))
        order = random.permutation(count)
        distinct.append(photo)
        shuffled.append(PhotoDetections(photo.boxes[order], photo.scores[order]))
    np.testing.assert_equal(ap(truths, distinct), ap(truths, shuffled))


def test_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truths, detections = random_set(np.random.default_rng(8), photos=9)
    before = score(truths, detections, bootstrap=40)
    monkeypatch.setattr(matching, "CELLS_AT_A_TIME", 3)
    monkeypatch.setattr(curves, "CELLS_AT_A_TIME", 100)
    np.testing.assert_equal(
        score(truths, detections, bootstrap=40).to_table().to_pylist(), before.to_table().to_pylist()
    )


def test_perfect_detections_score_one_in_every_bucket() -> None:
    # Faces of 8, 20, 50 and 200 px in a row: one per bucket.
    faces = array([[0, 0, 8, 8], [20, 0, 40, 20], [50, 0, 100, 50], [200, 0, 400, 200]])
    photo = PhotoTruth(faces)
    detections = PhotoDetections(faces, np.linspace(0.9, 0.6, 4).astype(np.float32))
    scores = score([photo, photo], [detections, detections], bootstrap=50)
    for row in scores.rows:
        for result in (row.ap50, row.mean):
            assert (result.ap, result.low, result.high, result.recall) == (1, 1, 1, 1)
    assert [row.ap50.num_faces for row in scores.rows] == [8, 2, 2, 2, 2]


def test_table_has_the_declared_columns_and_the_markdown_reads() -> None:
    scores = score([truth(A, B), truth()], [found((A, 0.9), (NOWHERE, 0.8)), found()], bootstrap=0)
    table = scores.to_table()
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.slice(0, 1).to_pylist()[0] == {
        "name": "all",
        "size_low": 0.0,
        "size_high": math.inf,
        "num_faces": 2,
        "num_photos": 2,
        "photos_with_faces": 1,
        "ap50": 0.5,
        "ap50_low": pytest.approx(math.nan, nan_ok=True),
        "ap50_high": pytest.approx(math.nan, nan_ok=True),
        "map": 0.5,
        "map_low": pytest.approx(math.nan, nan_ok=True),
        "map_high": pytest.approx(math.nan, nan_ok=True),
        "at_score": 0.5,
        "recall": 0.5,
        "false_positives_per_photo": 0.5,
    }
    assert table.column("ap50").null_count == 0
    assert pa.types.is_float64(table.schema.field("map").type)
    lines = scores.to_markdown().splitlines()
    assert lines[2] == "| all | 2 | 2 (1) | 50.0 | 50.0 | 50.0 % | 0.5 |"
    assert lines[4] == "| 16-32 px | 0 | 2 (0) | - | - | - | 0 |"


def test_unknown_row_is_named() -> None:
    with pytest.raises(KeyError, match="no row 'tiny'; there are all, <16 px"):
        score([truth(A)], [found()], bootstrap=0)["tiny"]


def test_detections_may_be_anything_with_boxes_and_scores() -> None:
    @dataclasses.dataclass
    class Answer:
        boxes: NDArray[np.float32]
        scores: NDArray[np.float32]
        landmarks: None = None

    assert average_precision([truth(A)], [Answer(array([A]), np.ones(1, np.float32))], bootstrap=0).ap == 1


NAN = float("nan")
WRONG = [
    pytest.param([truth(A)], [], {}, "1 photos with truth and 0 with detections", id="lengths_differ"),
    pytest.param([truth([0, 0, 0, 9])], [found()], {}, "photo 0: truth box 0 is .* no area", id="face_without_area"),
    pytest.param([truth(A, [9, 0, 3, 9])], [found()], {}, "photo 0: truth box 1 is", id="face_with_swapped_corners"),
    pytest.param([truth(A)], [found(([NAN, 0, 1, 1], 1))], {}, "photo 0: detection boxes", id="box_nan"),
    pytest.param(
        [truth(A, ignore=[[0, 0, math.inf, 1]])], [found()], {}, "photo 0: ignore boxes", id="region_infinite"
    ),
    pytest.param([truth(A)], [found((A, NAN))], {}, r"photo 0: scores are \(1,\) for 1", id="score_nan"),
    pytest.param(
        [truth(A)],
        [PhotoDetections(array([A]), np.ones(2, np.float32))],
        {},
        r"scores are \(2,\)",
        id="scores_too_many",
    ),
    pytest.param([truth(A)], [found()], {"iou_threshold": 0}, "iou_threshold is 0", id="iou_zero"),
    pytest.param([truth(A)], [found()], {"size_range": (16, 16)}, r"size_range is 16\.\.16 px", id="range_empty"),
    pytest.param([truth(A)], [found()], {"bootstrap": -1}, "bootstrap is -1", id="bootstrap_negative"),
]


@pytest.mark.parametrize(("truths", "detections", "options", "message"), WRONG)
def test_wrong_input_is_named(
    truths: list[PhotoTruth], detections: list[PhotoDetections], options: dict[str, float], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        average_precision(truths, detections, **options)  # type: ignore[arg-type]


def test_thousands_of_detections_on_thousands_of_faces_never_stand_in_one_matrix() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 8000, (4000, 2))
    faces = np.hstack([corners, corners + 20]).astype(np.float32)
    detections = PhotoDetections(faces + np.float32(1), random.random(4000).astype(np.float32))
    regions = np.hstack([corners[:500] + 100, corners[:500] + 300]).astype(np.float32)
    tracemalloc.start()
    result = average_precision([PhotoTruth(faces, regions)], [detections], bootstrap=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.ap > 0.99
    # One matrix of float64 would be 128 MB, and its making takes several.
    assert peak < 40e6


@pytest.mark.slow
def test_thousand_resamples_of_forty_thousand_detections_take_seconds() -> None:
    random = np.random.default_rng(0)
    hit = random.random(40_000) < 0.2
    start = time.process_time()
    areas = areas_under_curve(
        hit, np.linspace(1, 0, 40_000), random.integers(0, 350, 40_000), np.full(350, 30), photo_draws(350, 1000, 0)
    )
    assert len(areas) == 1001
    assert time.process_time() - start < 5
