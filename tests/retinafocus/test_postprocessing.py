"""From outputs to candidates to the faces of a photo, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from retinafocus.anchors import anchor_boxes
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.levels import Level, plan_levels
from retinafocus.models import Outputs, get_preset
from retinafocus.postprocessing import Candidates, PostConfig, find_candidates, merge_levels

PRESET = get_preset("mobilenet025-1mb")


def outputs_with(size: tuple[int, int], planted: dict[int, float]) -> Outputs:
    """Outputs that say "face, exactly the anchor" with the given probabilities at the given anchors, else nothing."""
    count = len(anchor_boxes(PRESET.anchors, size))
    logits = torch.zeros(1, count, 2)
    logits[..., 1] = -20
    for anchor, probability in planted.items():
        # Both logits are moved by 3: only their difference may count.
        logits[0, anchor] = torch.tensor([3.0, 3.0 + math.log(probability / (1 - probability))])
    return Outputs(logits, torch.zeros(1, count, 4), torch.zeros(1, count, 10), None)


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


class TestFindCandidates:
    def test_planted_anchors_come_out_as_boxes(self) -> None:
        # 16 x 24 px: stride 8 has 2 x 3 cells of two anchors (10, 20 px). Anchor 8 is row 1, column 1, size 10:
        # its centre is (12, 12).
        found = find_candidates(outputs_with((16, 24), {8: 0.75}), (16, 24), PRESET, PostConfig())
        assert found.boxes.tolist() == [[7, 7, 17, 17]]
        assert found.scores == pytest.approx([0.75], abs=1e-6)
        assert found.landmarks.tolist() == [[[12, 12]] * 5]
        assert {array.dtype for array in (found.boxes, found.scores, found.landmarks)} == {np.dtype(np.float32)}

    def test_offsets_are_decoded_with_the_variances(self) -> None:
        outputs = outputs_with((16, 24), {8: 0.5})
        # Centre moved by 0.1 * 10 px * (1, -2); width times e**(0.2 * 5) = e.
        outputs.box_deltas[0, 8] = torch.tensor([1.0, -2.0, 5.0, 0.0])
        outputs.landmark_deltas[0, 8, :2] = torch.tensor([-3.0, 4.0])
        found = find_candidates(outputs, (16, 24), PRESET, PostConfig())
        assert found.boxes == pytest.approx(np.array([[13 - 5 * math.e, 5, 13 + 5 * math.e, 15]]), rel=1e-6)
        assert found.landmarks[0, 0].tolist() == [9, 16]

    def test_nothing_above_the_floor_is_an_empty_answer_of_the_right_shapes(self) -> None:
        found = find_candidates(outputs_with((16, 24), {}), (16, 24), PRESET, PostConfig())
        assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))

    @pytest.mark.parametrize(("probability", "count"), [(0.0199, 0), (0.0201, 1)], ids=["below", "above"])
    def test_floor_is_a_probability(self, probability: float, count: int) -> None:
        found = find_candidates(
            outputs_with((16, 24), {0: probability}), (16, 24), PRESET, PostConfig(score_floor=0.02)
        )
        assert len(found) == count

    def test_probability_exactly_at_the_floor_is_kept(self) -> None:
        assert (
            len(find_candidates(outputs_with((16, 24), {0: 0.5}), (16, 24), PRESET, PostConfig(score_floor=0.5))) == 1
        )

    def test_floor_zero_keeps_every_anchor(self) -> None:
        found = find_candidates(outputs_with((16, 24), {}), (16, 24), PRESET, PostConfig(score_floor=0))
        assert len(found) == len(anchor_boxes(PRESET.anchors, (16, 24)))

    def test_limit_keeps_the_best_and_the_first_of_equals(self) -> None:
        outputs = outputs_with((16, 24), {0: 0.5, 2: 0.9, 4: 0.5, 6: 0.5})
        found = find_candidates(outputs, (16, 24), PRESET, PostConfig(top_k=2))
        assert found.scores == pytest.approx([0.9, 0.5])
        assert found.boxes[1].tolist() == [-1, -1, 9, 9]  # anchor 0, centre (4, 4)

    def test_a_4k_crowd_is_not_cut_at_the_published_limit(self) -> None:
        size = (2160, 3840)
        count = len(anchor_boxes(PRESET.anchors, size))
        outputs = outputs_with(size, {})
        outputs.class_logits[0, : count // 4, 1] = 2.0
        assert count == 340_320
        assert len(find_candidates(outputs, size, PRESET, PostConfig())) == 85_080

    @pytest.mark.parametrize(
        ("top_k", "pixels", "limit"),
        [
            pytest.param(5000, 1, 5000, id="one pixel"),
            pytest.param(5000, 640 * 640, 5000, id="published size"),
            pytest.param(5000, 1280 * 1280, 20_000, id="four times the pixels"),
            pytest.param(5000, 3840 * 2160, 101_250, id="4K"),
            pytest.param(None, 3840 * 2160, None, id="none"),
        ],
    )
    def test_limit_grows_with_the_pixels(self, top_k: int | None, pixels: int, limit: int | None) -> None:
        assert PostConfig(top_k=top_k).candidate_limit(pixels) == limit

    @pytest.mark.parametrize("field", ["class_logits", "box_deltas", "landmark_deltas"])
    @pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
    def test_numbers_that_are_not_finite_are_an_error_not_an_empty_photo(self, field: str, value: float) -> None:
        outputs = outputs_with((16, 24), {0: 0.9})
        getattr(outputs, field)[0, 0, 0] = value
        with pytest.raises(PhotoError, match="output is not finite; check the weights, or use precision") as caught:
            find_candidates(outputs, (16, 24), PRESET, PostConfig())
        assert caught.value.status == "model_error"

    def test_one_pixel_has_its_anchors(self) -> None:
        # One cell on each of three strides, two sizes each; anchor 5 is 256 px around (16, 16).
        found = find_candidates(outputs_with((1, 1), {5: 0.9}), (1, 1), PRESET, PostConfig())
        assert found.boxes.tolist() == [[-112, -112, 144, 144]]


class TestMergeLevels:
    def test_no_levels_and_no_candidates_are_no_faces(self) -> None:
        assert len(merge_levels([], PostConfig())) == 0
        assert len(merge_levels([(level_of((10, 10)), candidates_of())], PostConfig())) == 0

    def test_boxes_and_landmarks_are_carried_to_the_photo(self) -> None:
        level = level_of((100, 61), scale=0.5, index=3)  # 31 px wide
        faces = merge_levels([(level, candidates_of((0, 10, 31, 40, 0.9)))], PostConfig())
        assert faces.boxes.tolist() == [[0, 20, 61, 80]]
        assert faces.landmarks.tolist() == [[[0, 20]] * 5]
        assert faces.levels.tolist() == [3]

    def test_face_seen_at_two_levels_is_one_face_with_the_better_score(self) -> None:
        coarse, fine = level_of((100, 100), 0.25, 0), level_of((100, 100), 1, 1)
        found = [(coarse, candidates_of((5, 5, 15, 15, 0.8))), (fine, candidates_of((21, 20, 60, 60, 0.9)))]
        faces = merge_levels(found, PostConfig())
        assert faces.boxes.tolist() == [[21, 20, 60, 60]]
        assert faces.levels.tolist() == [1]

    @pytest.mark.parametrize(
        ("side", "kept"),
        [
            pytest.param(10, False, id="at the lower end"),
            pytest.param(10.5, True, id="above the lower end"),
            pytest.param(40, True, id="at the upper end"),
            pytest.param(40.5, False, id="above the upper end"),
        ],
    )
    def test_size_range_is_open_below_and_closed_above(self, side: float, kept: bool) -> None:
        level = level_of((100, 100), face_range=(10, 40))
        faces = merge_levels([(level, candidates_of((5, 5, 5 + side, 5 + side, 0.9)))], PostConfig())
        assert len(faces) == kept

    def test_size_is_the_geometric_mean_of_the_sides(self) -> None:
        level = level_of((100, 100), face_range=(0, 20))  # 10 x 40 px is a face of 20 px
        assert len(merge_levels([(level, candidates_of((5, 5, 15, 45, 0.9)))], PostConfig())) == 1

    def test_size_is_measured_before_the_border_cuts_the_box(self) -> None:
        level = level_of((100, 100), face_range=(0, 20))
        assert len(merge_levels([(level, candidates_of((-20, 0, 10, 30, 0.9)))], PostConfig())) == 0

    def test_boxes_are_cut_at_the_photo_and_landmarks_are_not(self) -> None:
        faces = merge_levels([(level_of((50, 80)), candidates_of((-5, -6, 100, 70, 0.9)))], PostConfig())
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
        assert len(merge_levels([(level_of((50, 80)), candidates_of((*box, 0.9)))], PostConfig())) == 0

    def test_endless_box_fills_the_photo(self) -> None:
        candidates = candidates_of((-3e38, -3e38, 3e38, 3e38, 0.9))
        faces = merge_levels([(level_of((50, 80), 1 / 4), candidates)], PostConfig())
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
        faces = merge_levels([(level_of((50, 80)), candidates)], PostConfig())
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
        assert 0 < len(merge_levels(found, PostConfig())) < 200
        assert merge_levels(found, PostConfig()) == merge_levels(shuffled, PostConfig())

    def test_equal_scores_run_from_top_to_bottom_then_left_to_right(self) -> None:
        candidates = candidates_of(
            (40, 30, 50, 40, 0.5), (60, 0, 70, 10, 0.5), (10, 0, 20, 10, 0.5), (0, 40, 9, 49, 0.6)
        )
        faces = merge_levels([(level_of((50, 80)), candidates)], PostConfig())
        assert faces.boxes[:, :2].tolist() == [[0, 40], [10, 0], [60, 0], [40, 30]]

    def test_limit_keeps_the_best(self) -> None:
        candidates = candidates_of((0, 0, 5, 5, 0.5), (10, 0, 15, 5, 0.7), (20, 0, 25, 5, 0.6))
        faces = merge_levels([(level_of((50, 80)), candidates)], PostConfig(keep_top_k=2))
        assert faces.scores == pytest.approx([0.7, 0.6])

    def test_twenty_five_thousand_faces_are_kept_when_there_is_no_limit(self) -> None:
        rows = [(10 * x, 10 * y, 10 * x + 9, 10 * y + 9, 0.5) for y in range(125) for x in range(200)]
        found = [(level_of((2000, 2000)), candidates_of(*rows))]
        assert len(merge_levels(found, PostConfig(keep_top_k=None))) == 25_000
        assert len(merge_levels(found, PostConfig())) == 20_000

    def test_raising_the_floor_only_removes_what_is_below_it(self) -> None:
        generator = np.random.default_rng(1)
        size = (400, 600)
        count = len(anchor_boxes(PRESET.anchors, size))
        logits = torch.from_numpy(generator.normal(0, 3, (1, count, 2)).astype(np.float32))
        deltas = torch.from_numpy(generator.normal(0, 1, (1, count, 14)).astype(np.float32))
        outputs = Outputs(logits, deltas[..., :4], deltas[..., 4:], None)
        levels = plan_levels(size, min_face=20, face_range=PRESET.face_range).levels
        answers = []
        for floor in (0.02, 0.3):
            config = PostConfig(score_floor=floor, top_k=None)
            answers.append(merge_levels([(levels[-1], find_candidates(outputs, size, PRESET, config))], config))
        assert len(answers[1]) > 100
        assert answers[0].above(0.3) == answers[1]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        pytest.param(
            "score_floor", 1.0, "post.score_floor is 1.0; choose a probability of 0 or more, below 1", id="floor"
        ),
        pytest.param("score_floor", math.nan, "post.score_floor is nan", id="floor nan"),
        pytest.param("nms_iou", 1.5, r"post.nms_iou is 1.5; choose 0\.\.1", id="overlap"),
        pytest.param("top_k", 0, "post.top_k is 0; choose at least 1, or None for no limit", id="top_k"),
        pytest.param("keep_top_k", -1, "post.keep_top_k is -1; choose at least 1, or None", id="keep_top_k"),
    ],
)
def test_wrong_settings_say_the_rule_and_the_value(field: str, value: float, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        PostConfig(**{field: value})
