"""What survives of several looks at one photo, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pytest

from retinafocus.faces import Faces
from retinafocus.focus.stacking import Look, Stack, Verdict, left_to_finer, stack
from retinafocus.levels import Level
from retinafocus.postprocessing import Candidates

Box: TypeAlias = tuple[float, float, float, float]


def level_of(
    photo_size: tuple[int, int], scale: float = 1, index: int = 0, face_range: tuple[float, float] = (0, math.inf)
) -> Level:
    size = (math.ceil(photo_size[0] * scale), math.ceil(photo_size[1] * scale))
    covered = (0, 0, photo_size[1], photo_size[0])
    return Level(index=index, scale=scale, size=size, photo_size=photo_size, covered=covered, face_range=face_range)


def candidates_of(*rows: tuple[float, float, float, float, float]) -> Candidates:
    """x1, y1, x2, y2, score each; all landmarks at the box's left top corner."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    landmarks = np.repeat(table[:, None, :2], 5, axis=1)
    return Candidates(np.ascontiguousarray(table[:, :4]), np.ascontiguousarray(table[:, 4]), landmarks)


def stack_of(*looks: Look, border: float = 3, nms_iou: float = 0.4, keep_top_k: int | None = None) -> Stack:
    return stack(looks, border=border, nms_iou=nms_iou, keep_top_k=keep_top_k)


def whole(level: Level, candidates: Candidates) -> Look:
    return Look(level, (0, 0, level.size[1], level.size[0]), candidates)


def faces_of(found: Sequence[tuple[Level, Candidates]], keep_top_k: int | None = None) -> Faces:
    return stack_of(*(whole(*one) for one in found), keep_top_k=keep_top_k).faces


class TestSoftNms:
    def test_overlap_with_a_face_of_another_level_costs_score(self) -> None:
        one, other = level_of((100, 100)), level_of((100, 100), scale=0.5, index=1)
        # 20 x 20 each, 10 apart: IoU 1/3.
        looks = [whole(one, candidates_of((10, 10, 30, 30, 0.9), (60, 60, 80, 80, 0.7)))]
        looks.append(whole(other, candidates_of((5, 10, 15, 20, 0.8))))
        stacked = stack(looks, border=3, nms_iou=0.1, keep_top_k=None, soft_sigma=0.5, score_floor=0.02)
        left = 0.8 * math.exp(-(1 / 9) / 0.5)
        assert stacked.faces.scores == pytest.approx([0.9, 0.7, left])
        assert stacked.faces.boxes.tolist() == [[10, 10, 30, 30], [60, 60, 80, 80], [10, 20, 30, 40]]
        assert stacked.faces.levels.tolist() == [0, 0, 1]
        assert stacked.scores == pytest.approx([0.9, 0.7, left])
        assert (stacked.verdicts == Verdict.KEPT).all()

    def test_what_falls_below_the_floor_is_a_duplicate_and_the_limit_counts_faces(self) -> None:
        level = level_of((100, 100))
        found = candidates_of((10, 10, 30, 30, 0.9), (10, 10, 30, 30, 0.5), (60, 60, 80, 80, 0.7))
        stacked = stack([whole(level, found)], border=3, nms_iou=0.4, keep_top_k=1, soft_sigma=0.5, score_floor=0.1)
        assert stacked.faces.scores == pytest.approx([0.9])
        assert stacked.verdicts.tolist() == [Verdict.KEPT, Verdict.DUPLICATE, Verdict.LIMIT]


class TestStack:
    def test_no_levels_and_no_candidates_are_no_faces(self) -> None:
        assert len(faces_of([])) == 0
        assert len(faces_of([(level_of((10, 10)), candidates_of())])) == 0

    @pytest.mark.parametrize(
        ("finer_high", "left"),
        [
            pytest.param(math.inf, 20, id="twice the lower end"),
            pytest.param(15, 15, id="what the finer level keeps"),
            pytest.param(5, 10, id="the lower end"),
        ],
    )
    def test_size_that_is_left_to_a_finer_look(self, finer_high: float, left: float) -> None:
        assert left_to_finer(level_of((100, 100), face_range=(10, 40)), finer_high) == left

    def test_boxes_and_landmarks_are_carried_to_the_photo(self) -> None:
        level = level_of((100, 61), scale=0.5, index=3)  # 31 px wide
        faces = faces_of([(level, candidates_of((0, 10, 31, 40, 0.9)))])
        assert faces.boxes.tolist() == [[0, 20, 61, 80]]
        assert faces.landmarks.tolist() == [[[0, 20]] * 5]
        assert faces.levels.tolist() == [3]

    def test_face_seen_at_two_levels_is_one_face_with_the_better_score(self) -> None:
        coarse, fine = level_of((100, 100), 0.25, 0), level_of((100, 100), 1, 1)
        found = [(coarse, candidates_of((5, 5, 15, 15, 0.8))), (fine, candidates_of((21, 20, 60, 60, 0.9)))]
        faces = faces_of(found)
        assert faces.boxes.tolist() == [[21, 20, 60, 60]]
        assert faces.levels.tolist() == [1]

    @pytest.mark.parametrize(
        ("side", "finer_high", "kept"),
        [
            pytest.param(20, math.inf, False, id="at twice the lower end"),
            pytest.param(20.5, math.inf, True, id="above twice the lower end"),
            pytest.param(15, 15, False, id="at the finer level's upper end"),
            pytest.param(15.5, 15, True, id="above the finer level's upper end"),
            pytest.param(10, 5, False, id="at the lower end"),
            pytest.param(10.5, 5, True, id="above the lower end, which the finer level does not reach"),
            pytest.param(40, math.inf, True, id="at the upper end"),
            pytest.param(40.5, math.inf, False, id="above the upper end"),
        ],
    )
    def test_small_faces_of_a_level_are_left_to_a_finer_one(self, side: float, finer_high: float, kept: bool) -> None:
        level = level_of((100, 100), face_range=(10, 40))
        finer = (level_of((100, 100), 1, 1, face_range=(0, finer_high)), candidates_of())
        faces = faces_of([(level, candidates_of((5, 5, 5 + side, 5 + side, 0.9))), finer])
        assert len(faces) == kept

    def test_size_is_the_geometric_mean_of_the_sides(self) -> None:
        level = level_of((100, 100), face_range=(0, 20))  # 10 x 40 px is a face of 20 px
        assert len(faces_of([(level, candidates_of((5, 5, 15, 45, 0.9)))])) == 1

    def test_size_is_measured_before_the_border_cuts_the_box(self) -> None:
        level = level_of((100, 100), face_range=(0, 20))
        assert len(faces_of([(level, candidates_of((-20, 0, 10, 30, 0.9)))])) == 0

    def test_boxes_are_cut_at_the_photo_and_landmarks_are_not(self) -> None:
        faces = faces_of([(level_of((50, 80)), candidates_of((-5, -6, 100, 70, 0.9)))])
        assert faces.boxes.tolist() == [[0, 0, 80, 50]]
        assert faces.landmarks[0, 0].tolist() == [-5, -6]

    @pytest.mark.parametrize(
        "box",
        [
            pytest.param((-20, 10, -5, 30), id="left of the photo"),
            pytest.param((80, 10, 100, 30), id="right of the photo"),
            pytest.param((10, 10, 10, 30), id="no width"),
            pytest.param((10, 30, 20, 10), id="upside down"),
        ],
    )
    def test_boxes_without_visible_area_are_dropped(self, box: tuple[float, float, float, float]) -> None:
        assert len(faces_of([(level_of((50, 80)), candidates_of((*box, 0.9)))])) == 0

    def test_endless_box_fills_the_photo(self) -> None:
        candidates = candidates_of((-3e38, -3e38, 3e38, 3e38, 0.9))
        faces = faces_of([(level_of((50, 80), 1 / 4), candidates)])
        assert faces.boxes.tolist() == [[0, 0, 80, 50]]

    @pytest.mark.parametrize(
        ("overlap_right", "count"),
        [
            # 10 x 10 px boxes that share w x 10 px: IoU = w / (20 - w); 0.4 at w = 5.71.
            pytest.param(5.5, 2, id="IoU 0.38"),
            pytest.param(6.0, 1, id="IoU 0.43"),
        ],
    )
    def test_duplicates_are_dropped_above_the_overlap(self, overlap_right: float, count: int) -> None:
        left = 10 + 10 - overlap_right
        candidates = candidates_of((10, 10, 20, 20, 0.8), (left, 10, left + 10, 20, 0.9))
        faces = faces_of([(level_of((50, 80)), candidates)])
        assert len(faces) == count
        assert faces.scores[0] == np.float32(0.9)

    def test_answer_does_not_depend_on_the_order_of_arrival(self) -> None:
        generator = np.random.default_rng(7)
        corners = generator.integers(0, 30, (200, 2))
        scores = generator.integers(1, 4, (200, 1)) / 4  # many ties
        rows = np.concatenate([corners, corners + generator.integers(4, 9, (200, 2)), scores], axis=1)
        levels = [level_of((40, 40), 1, 0), level_of((40, 40), 1, 1)]
        found = [(levels[0], candidates_of(*rows[:100])), (levels[1], candidates_of(*rows[100:]))]
        shuffled = [(levels[1], candidates_of(*rows[199:99:-1])), (levels[0], candidates_of(*rows[99::-1]))]
        assert 0 < len(faces_of(found)) < 200
        assert faces_of(found) == faces_of(shuffled)

    def test_equal_scores_run_from_top_to_bottom_then_left_to_right(self) -> None:
        candidates = candidates_of(
            (40, 30, 50, 40, 0.5), (60, 0, 70, 10, 0.5), (10, 0, 20, 10, 0.5), (0, 40, 9, 49, 0.6)
        )
        faces = faces_of([(level_of((50, 80)), candidates)])
        assert faces.boxes[:, :2].tolist() == [[0, 40], [10, 0], [60, 0], [40, 30]]

    def test_limit_keeps_the_best(self) -> None:
        candidates = candidates_of((0, 0, 5, 5, 0.5), (10, 0, 15, 5, 0.7), (20, 0, 25, 5, 0.6))
        faces = faces_of([(level_of((50, 80)), candidates)], keep_top_k=2)
        assert faces.scores == pytest.approx([0.7, 0.6])

    def test_twenty_five_thousand_faces_are_kept_when_there_is_no_limit(self) -> None:
        rows = [(10 * x, 10 * y, 10 * x + 9, 10 * y + 9, 0.5) for y in range(125) for x in range(200)]
        found = [(level_of((2000, 2000)), candidates_of(*rows))]
        assert len(faces_of(found, keep_top_k=None)) == 25_000
        assert len(faces_of(found, keep_top_k=20_000)) == 20_000


class TestCutFaces:
    """A chip of 100 x 60 px at (200, 40) of a level of 400 x 300 px."""

    LEVEL = level_of((300, 400))
    CHIP = (200, 40, 300, 100)

    @pytest.mark.parametrize(
        ("box", "verdict"),
        [
            pytest.param((3, 3, 97, 57), Verdict.KEPT, id="three pixels from every side"),
            pytest.param((2.9, 10, 30, 40), Verdict.CUT, id="left"),
            pytest.param((10, 2.9, 30, 40), Verdict.CUT, id="top"),
            pytest.param((60, 10, 97.1, 40), Verdict.CUT, id="right"),
            pytest.param((60, 10, 90, 57.1), Verdict.CUT, id="bottom"),
            pytest.param((-20, 10, 30, 40), Verdict.CUT, id="beyond"),
        ],
    )
    def test_box_near_an_inner_side_is_cut(self, box: Box, verdict: Verdict) -> None:
        result = stack_of(Look(self.LEVEL, self.CHIP, candidates_of((*box, 0.9))))
        assert result.verdicts.tolist() == [verdict]
        assert len(result.faces) == (verdict == Verdict.KEPT)

    @pytest.mark.parametrize(
        ("chip", "box"),
        [
            pytest.param((0, 40, 100, 100), (0, 10, 30, 40), id="left"),
            pytest.param((200, 0, 300, 60), (10, -5, 30, 20), id="top"),
            pytest.param((300, 40, 400, 100), (70, 10, 100, 40), id="right"),
            pytest.param((200, 240, 300, 300), (10, 30, 40, 60), id="bottom"),
        ],
    )
    def test_border_of_the_photo_cuts_nothing(self, chip: tuple[int, int, int, int], box: Box) -> None:
        assert stack_of(Look(self.LEVEL, chip, candidates_of((*box, 0.9)))).verdicts.tolist() == [Verdict.KEPT]

    def test_candidates_are_carried_from_the_chip_to_the_photo(self) -> None:
        level = level_of((1200, 1600), scale=1 / 4)
        faces = stack_of(Look(level, self.CHIP, candidates_of((10, 20, 30, 50, 0.9)))).faces
        assert faces.boxes.tolist() == [[840, 240, 920, 360]]
        assert faces.landmarks.tolist() == [[[840, 240]] * 5]

    def test_face_in_the_overlap_of_two_chips_is_one_face(self) -> None:
        looks = [
            Look(self.LEVEL, (0, 0, 200, 100), candidates_of((150, 20, 180, 50, 0.8))),
            Look(self.LEVEL, (100, 0, 300, 100), candidates_of((50, 20, 80, 50, 0.8))),
        ]
        assert stack_of(*looks).faces.boxes.tolist() == [[150, 20, 180, 50]]


class TestSmallFaceOfACoarseLevel:
    """The coarse level vouches for faces above 80 px; this one has 40."""

    COARSE = level_of((400, 400), 1 / 4, 0, (80, math.inf))
    FINE = level_of((400, 400), 1, 1, (0, 160))
    FOUND = candidates_of((25, 25, 35, 35, 0.9))  # 100..140 px in the photo

    def test_is_dropped_where_a_finer_level_looked(self) -> None:
        result = stack_of(whole(self.COARSE, self.FOUND), Look(self.FINE, (90, 90, 200, 200), candidates_of()))
        assert result.verdicts.tolist() == [Verdict.SIZE]

    def test_is_kept_where_a_finer_look_cut_it(self) -> None:
        # Its centre, 120, lies in the chip, but the chip sees only half of it and drops that half as cut.
        chip = Look(self.FINE, (115, 50, 300, 200), candidates_of((-14, 50, 26, 90, 0.8)))
        result = stack_of(whole(self.COARSE, self.FOUND), chip)
        assert result.verdicts.tolist() == [Verdict.KEPT, Verdict.CUT]
        assert result.faces.boxes.tolist() == [[100, 100, 140, 140]]

    def test_is_kept_where_none_did(self) -> None:
        result = stack_of(whole(self.COARSE, self.FOUND), Look(self.FINE, (200, 90, 300, 200), candidates_of()))
        assert result.faces.boxes.tolist() == [[100, 100, 140, 140]]


def test_every_candidate_has_a_verdict() -> None:
    level = level_of((100, 100), face_range=(0, 50))
    rows = [
        (10, 10, 30, 30, 0.9),
        (11, 10, 31, 30, 0.8),
        (5, 5, 95, 95, 0.7),
        (-9, -9, -1, -1, 0.6),
        (60, 60, 80, 80, 0.5),
    ]
    result = stack_of(whole(level, candidates_of(*rows)), keep_top_k=1)
    wanted = [Verdict.KEPT, Verdict.DUPLICATE, Verdict.SIZE, Verdict.OUTSIDE, Verdict.LIMIT]
    assert result.verdicts.tolist() == wanted
    assert result.boxes.shape == (5, 4)
