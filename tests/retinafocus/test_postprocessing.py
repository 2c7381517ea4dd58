"""From outputs to candidates, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from retinafocus.anchors import anchor_boxes
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, get_preset
from retinafocus.postprocessing import PostConfig, find_all_candidates, find_candidates, sigmoid

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

    @pytest.mark.parametrize("floor", [0.99999, 0.9999999, 1 - 2.0**-26])
    def test_floor_just_below_one_keeps_every_score_from_it_on(self, floor: float) -> None:
        # A score of 1 in float32 may come from a difference of 16.7 as well as of 18.
        outputs = outputs_with((96, 96), {})
        outputs.class_logits[0, :, 1] = torch.linspace(11, 19, outputs.class_logits.shape[1])
        scores = find_candidates(outputs, (96, 96), PRESET, PostConfig(top_k=None)).scores
        found = find_candidates(outputs, (96, 96), PRESET, PostConfig(top_k=None, score_floor=floor))
        assert len(found) == (scores >= np.float32(floor)).sum() > 0

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

    def test_what_is_found_in_a_picture_does_not_depend_on_those_read_with_it(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = [(16, 24), (1, 1), (64, 40), (16, 24), (33, 7)]
        outputs = [outputs_with(size, {}) for size in sizes]
        for each in (*outputs[:1], *outputs[2:]):  # nothing is found in the second
            each.class_logits.normal_(generator=generator)
            each.box_deltas.normal_(generator=generator)
            each.landmark_deltas.normal_(generator=generator)
        config = PostConfig(score_floor=0.4, top_k=20)
        alone = [find_candidates(each, size, PRESET, config) for each, size in zip(outputs, sizes, strict=True)]
        assert [len(found) for found in alone][1:3] == [0, 20]
        for order in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3], [1, 1]):
            together = find_all_candidates([outputs[n] for n in order], [sizes[n] for n in order], PRESET, config)
            for number, found in zip(order, together, strict=True):
                for name in ("boxes", "scores", "landmarks"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(alone[number], name))

    def test_one_pixel_has_its_anchors(self) -> None:
        # One cell on each of three strides, two sizes each; anchor 5 is 256 px around (16, 16).
        found = find_candidates(outputs_with((1, 1), {5: 0.9}), (1, 1), PRESET, PostConfig())
        assert found.boxes.tolist() == [[-112, -112, 144, 144]]


def test_probability_does_not_depend_on_the_place_in_the_array() -> None:
    logits = np.linspace(-200, 200, 101, dtype=np.float32)
    whole = sigmoid(logits)
    assert whole.dtype == np.float32
    assert (whole[0], whole[50], whole[-1]) == (0, 0.5, 1)
    assert all((sigmoid(logits[start:]) == whole[start:]).all() for start in range(101))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        pytest.param(
            "score_floor", 1.0, "post.score_floor is 1.0; choose a probability of 0 or more, below 1", id="floor"
        ),
        pytest.param("score_floor", math.nan, "post.score_floor is nan", id="floor nan"),
        pytest.param("nms_iou", 1.5, r"post.nms_iou is 1.5; choose 0\.\.1", id="overlap"),
        pytest.param("soft_sigma", -0.5, "post.soft_sigma is -0.5; choose a number above 0, or 0 for hard", id="sigma"),
        pytest.param("soft_sigma", math.inf, "post.soft_sigma is inf", id="sigma without end"),
        pytest.param("top_k", 0, "post.top_k is 0; choose at least 1, or None for no limit", id="top_k"),
        pytest.param("keep_top_k", -1, "post.keep_top_k is -1; choose at least 1, or None", id="keep_top_k"),
    ],
)
def test_wrong_settings_say_the_rule_and_the_value(field: str, value: float, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        PostConfig(**{field: value})
