"""Every candidate of a hand-made result has its outcome, its words and its colour."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from retinafocus.cascade import CascadeConfig, PhotoResult, Trace
from retinafocus.errors import SettingsError
from retinafocus.explain import Explanation, Outcome
from retinafocus.explain_pictures import (
    CLOSE_UP,
    COLOURS,
    LEGEND,
    UNSEEN,
    VIEW,
    draw_close_up,
    draw_level,
    draw_overview,
)
from retinafocus.focus.stacking import Look, stack
from retinafocus.levels import Level
from retinafocus.models import FocusConfig, Preset, get_preset
from retinafocus.postprocessing import Candidates
from retinafocus.sources import GivenPixels

PRESET = dataclasses.replace(
    get_preset("mobile025"), face_range=(20.0, 160.0), display_threshold=0.8, focus=FocusConfig(thresholds=(0.5,))
)
SIZE = (256, 384)
GREY = 100

# The finer level's only chip, in its pixels, which are the photo's.
CHIP = (128, 0, 256, 128)

# On the level of scale 1/4, in its pixels: box and score.
COARSE = [
    ((10, 10, 30, 30), 0.95),  # 80 px in the photo: kept
    ((50, 10, 55, 15), 0.5),  # 20 px, and the finer level looked there: of a size it sees better
    ((70, 40, 76, 46), 0.1),  # 24 px where no finer level looked: only its score is too low
]
# On the level of scale 1, in pixels of the chip.
FINE = [
    ((72, 40, 92, 60), 0.9),  # kept
    ((0.5, 60, 20, 80), 0.7),  # cut at the left side of the chip
    ((73, 41, 93, 61), 0.6),  # overlaps the first
    ((100, 108, 120, 127), 0.05),  # cut at the bottom, and too low a score
    ((20, 90, 40, 110), 0.35),  # kept, but below what pictures show
]
OUTCOMES = [
    Outcome.KEPT, Outcome.SIZE, Outcome.SCORE,
    Outcome.KEPT, Outcome.CUT, Outcome.DUPLICATE, Outcome.WEAK, Outcome.KEPT,
]  # fmt: skip


def candidates(rows: list[tuple[tuple[float, ...], float]]) -> Candidates:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in rows], np.float32)
    return Candidates(boxes, scores, np.zeros((len(rows), 5, 2), np.float32))


def explanation(threshold: float = 0.3, preset: Preset = PRESET) -> Explanation:
    cascade = CascadeConfig(zoom=4)
    plan = cascade.plan(SIZE, 20, preset)
    coarse, fine = plan.levels
    looks = (Look(coarse, (0, 0, 96, 64), candidates(COARSE)), Look(fine, CHIP, candidates(FINE)))
    focus_map = np.zeros((8, 12), np.float32)
    focus_map[1, 6] = 0.8
    focus_map[5, 9] = 0.15
    focus_map[6, 10] = 0.25
    stacked = stack(looks, border=3, nms_iou=0.4, keep_top_k=None)
    times = ({"decode": 1.0, "network": 2.0, "other": 3.0}, {"decode": 4.0, "network": 5.0, "other": 6.0})
    return Explanation(
        PhotoResult(
            faces=stacked.faces, header=None, plan=plan, pixels_processed=96 * 64 + 128 * 128, chips=1,
            focus_share=1 / 6, chip_pixels=128 * 128, chip_pixels_asked=0,
            ms_decode=15.0, ms_network=7.0, ms_other=19.0,
            trace=Trace(stack=stacked, looks=looks, focus_maps={0: focus_map}, times=times),
        ),
        preset, cascade, threshold,
    )  # fmt: skip


def nothing_in(size: tuple[int, int]) -> Explanation:
    """Of a photo of one level that was looked at whole, without a candidate."""
    cascade = CascadeConfig(mode="exhaustive")
    plan = cascade.plan(size, 20, PRESET)
    (level,) = plan.levels
    looks = (Look(level, (0, 0, *level.size[::-1]), candidates([])),)
    stacked = stack(looks, border=3, nms_iou=0.4, keep_top_k=None)
    trace = Trace(stack=stacked, looks=looks, focus_maps={}, times=())
    result = dataclasses.replace(explanation().result, plan=plan, trace=trace, faces=stacked.faces)
    return Explanation(result, PRESET, cascade, 0.3)


def source() -> GivenPixels:
    return GivenPixels(np.full((*SIZE, 3), GREY, np.uint8))


class TestOutcomes:
    def test_every_candidate_has_the_outcome_worked_out_by_hand(self) -> None:
        assert list(map(Outcome, explanation().outcomes.tolist())) == OUTCOMES
        coarse, fine = explanation().levels
        assert explanation().counts(coarse) == Counter(OUTCOMES[:3])
        assert explanation().counts(fine) == Counter(OUTCOMES[3:])

    def test_faces_are_those_at_the_threshold_or_above(self) -> None:
        assert explanation().faces.scores.tolist() == pytest.approx([0.95, 0.9, 0.35])
        assert explanation(0.92).faces.scores.tolist() == pytest.approx([0.95])

    def test_lower_threshold_makes_a_face_of_what_only_the_score_dropped(self) -> None:
        assert Outcome(int(explanation(0.1).outcomes[2])) == Outcome.KEPT

    def test_rows_say_how_much_of_each_level_was_looked_at_and_what_it_took(self) -> None:
        coarse, fine = explanation().rows()
        assert (coarse.how, coarse.share, coarse.network_pixels) == ("whole", 1.0, 96 * 64)
        # 4 x 4 of 8 x 12 cells.
        assert (fine.how, fine.share, fine.network_pixels) == ("in 1 chip", pytest.approx(1 / 6), 128 * 128)
        assert fine.milliseconds == {"decode": 4.0, "network": 5.0, "other": 6.0}


class TestWords:
    def test_kept_face_is_found_and_what_was_dropped_there_is_named(self) -> None:
        words = explanation().words_at(210, 50)
        assert words[0] == "at 210,50: found: a face of score 0.90 and 20 px, on level 1."
        assert "  score 0.50, 20 px (5 px here), 200,40 to 220,60: of a size another level sees better" in words
        assert "  score 0.60, 20 px, 201,41 to 221,61: overlapped by a better one" in words

    def test_face_below_the_display_threshold_is_found_but_not_drawn(self) -> None:
        assert "only the tables have it" in explanation().words_at(158, 100)[0]

    def test_face_beside_the_point_is_named_and_hides_what_it_overlaps(self) -> None:
        # The face ends at 220, the one it overlaps at 221.
        (first, *_) = explanation().words_at(220.5, 50)
        assert first.startswith(
            "at 220.5,50: not found, but beside it a face of score 0.90 and 20 px, on level 1. Level 0"
        )
        assert "overlapped" not in first

    def test_face_beside_the_point_does_not_hide_that_nothing_else_was_seen(self) -> None:
        # 80 px, from 40 to 120; the finer look saw the point too.
        (first, *_) = explanation().words_at(130, 30)
        assert first == (
            "at 130,30: not found, but beside it a face of score 0.95 and 80 px, on level 0. Every level looked there: "
            "the network sees no other face."
        )

    def test_point_nobody_looked_at_closely_is_explained_by_the_focus_map(self) -> None:
        first, coarse, candidate, fine = explanation().words_at(292, 172)
        assert first.startswith(
            "at 292,172: not found. Level 0 saw a candidate of 24 px, score 0.10, but below the score threshold. "
            "Level 1 did not look there: the focus map says 0.25, and chips begin at 0.5"
        )
        assert "focus probability 0.15 (0.25 with the cells around), which asks for none (from 0.5 on)" in coarse
        assert candidate == "  score 0.10, 24 px (6 px here), 280,160 to 304,184: below the score threshold"
        assert fine == "level 1 (scale 1, 384 x 256 px): not looked at there"

    def test_face_cut_by_its_chip_says_so(self) -> None:
        (first, *_) = explanation().words_at(138, 75)
        assert "Level 1 saw a candidate of 20 px, score 0.70, but cut by the border of its chip or tile." in first

    def test_candidates_dropped_for_two_reasons_are_only_counted(self) -> None:
        words = explanation().words_at(238, 118)
        assert "  1 below the score threshold, and dropped for another reason as well, the best of score 0.05" in words
        assert words[0] == "at 238,118: not found. Every level looked there: the network sees no face."

    @pytest.mark.parametrize("point", [(-1, 0), (384, 0), (0, 256), (float("nan"), 0)])
    def test_point_outside_the_photo_is_refused(self, point: tuple[float, float]) -> None:
        with pytest.raises(SettingsError, match="outside the photo of 384 x 256 px"):
            explanation().words_at(*point)


class TestPictures:
    def test_level_is_dark_where_nobody_looked_and_its_boxes_have_their_colours(self) -> None:
        drawn = draw_level(explanation(), source(), explanation().levels[1])
        assert drawn.shape[1] == 5 * 384
        assert drawn.shape[0] > 5 * 256  # and the legend
        assert (drawn[5 * 200, 5 * 300] == int(GREY * UNSEEN)).all()
        assert (drawn[5 * 20, 5 * 140] == GREY).all()
        # The left edges of the face at x 200 and of the one cut at x 128.5, half-way down.
        assert tuple(drawn[5 * 50, 5 * 200 - 1]) == COLOURS[Outcome.KEPT]
        assert tuple(drawn[5 * 70, round(5 * 128.5) - 1]) == COLOURS[Outcome.CUT]

    def test_focus_map_colours_the_cells_it_speaks_of(self) -> None:
        drawn = draw_level(explanation(), source(), explanation().levels[0])
        # 20 picture pixels for each level pixel, 160 for each cell; the box at (50, 10) lies in the cell (6, 1).
        hot, cold = drawn[160 + 140, 960 + 20], drawn[2 * 160 + 80, 11 * 160 + 80]
        assert (cold == GREY).all()
        assert hot[0] > GREY > hot[1]

    def test_close_up_shows_every_level_at_one_size(self) -> None:
        drawn = draw_close_up(explanation(), source(), 210, 50)
        assert drawn.shape[1] == 2 * CLOSE_UP + 3 * 4
        assert drawn.shape[0] > CLOSE_UP

    def test_overview_has_the_photo_enlarged_by_a_whole_number_and_a_cross(self) -> None:
        drawn = draw_overview(explanation(), source(), (292, 172))
        assert drawn.shape[1] == 5 * 384
        assert tuple(drawn[5 * 172, 5 * 292 + 20]) == (0, 255, 255)
        assert tuple(drawn[5 * 172, 5 * 292]) == (GREY,) * 3

    def test_photo_of_one_pixel_is_drawn(self) -> None:
        nothing = nothing_in((1, 1))
        pixel = GivenPixels(np.zeros((1, 1, 3), np.uint8))
        assert draw_level(nothing, pixel, nothing.levels[0]).shape[1] == VIEW
        assert draw_close_up(nothing, pixel, 0, 0).shape[1] > 0
        assert draw_overview(nothing, pixel).shape[1] == VIEW
        assert nothing.words_at(0, 0)[0] == "at 0,0: not found. Every level looked there: the network sees no face."

    def test_legend_of_a_thread_of_a_photo_can_be_read(self) -> None:
        thread = nothing_in((1000, 2))
        pixels = GivenPixels(np.zeros((1000, 2, 3), np.uint8))
        assert draw_level(thread, pixels, thread.levels[0]).shape[1] == LEGEND
        assert draw_overview(thread, pixels).shape[1] == CLOSE_UP


def test_points_go_to_a_level_and_back() -> None:
    # 1001 x 803 px at 1/8, of blocks that show 1008 x 808 px, the last ones on the left.
    level = Level(
        index=0, scale=1 / 8, size=(101, 126), photo_size=(803, 1001), covered=(-7, 0, 1001, 808), face_range=(0, 1)
    )
    points = np.array([[-7, 0], [1001, 808], [497, 404]], np.float32)
    assert level.from_photo(points).tolist() == [[0, 0], [126, 101], [63, 50.5]]
    assert level.to_photo(level.from_photo(points)) == pytest.approx(points)
