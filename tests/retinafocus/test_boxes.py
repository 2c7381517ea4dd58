"""Box arithmetic against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinafocus.boxes import box_sides, clip_boxes, decode_boxes, decode_landmarks, encode_boxes, encode_landmarks

VARIANCES = (0.1, 0.2)

# One anchor of 20 x 40 pixels around (100, 50), and a box of 10 x 80 around (104, 42).
ANCHOR = torch.tensor([[100.0, 50.0, 20.0, 40.0]])
BOX = torch.tensor([[99.0, 2.0, 109.0, 82.0]])
# dx = 4 / (0.1 * 20), dy = -8 / (0.1 * 40), dw = ln(10 / 20) / 0.2, dh = ln(80 / 40) / 0.2
DELTA = torch.tensor([[2.0, -2.0, -5 * math.log(2), 5 * math.log(2)]])

POINTS = torch.tensor([[[100.0, 50.0], [104.0, 50.0], [100.0, 42.0], [90.0, 70.0], [110.0, 30.0]]])
POINT_DELTA = torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.0, -2.0, -5.0, 5.0, 5.0, -5.0]])

coordinate = st.floats(-1e4, 1e4, width=32)
side = st.floats(1, 4096, width=32)


def test_box_is_encoded_by_hand() -> None:
    torch.testing.assert_close(encode_boxes(BOX, ANCHOR, VARIANCES), DELTA)


def test_box_is_decoded_by_hand() -> None:
    torch.testing.assert_close(decode_boxes(DELTA, ANCHOR, VARIANCES), BOX)


def test_no_offset_decodes_to_the_anchor() -> None:
    assert decode_boxes(torch.zeros(1, 4), ANCHOR, VARIANCES).tolist() == [[90, 30, 110, 70]]


def test_landmarks_are_encoded_by_hand() -> None:
    torch.testing.assert_close(encode_landmarks(POINTS, ANCHOR, VARIANCES), POINT_DELTA)


def test_landmarks_are_decoded_by_hand() -> None:
    torch.testing.assert_close(decode_landmarks(POINT_DELTA, ANCHOR, VARIANCES), POINTS)


@settings(deadline=None)  # a busy machine is no failure
@given(box=st.tuples(coordinate, coordinate, side, side), anchor=st.tuples(coordinate, coordinate, side, side))
def test_decoding_undoes_encoding_of_boxes(box: tuple[float, ...], anchor: tuple[float, ...]) -> None:
    left, top, width, height = box
    boxes = torch.tensor([[left, top, left + width, top + height]])
    anchors = torch.tensor([anchor])
    again = decode_boxes(encode_boxes(boxes, anchors, VARIANCES), anchors, VARIANCES)
    # float32 keeps about 1e-7 of the largest number that takes part.
    torch.testing.assert_close(again, boxes, rtol=1e-5, atol=0.02)


@settings(deadline=None)  # a busy machine is no failure
@given(
    points=st.lists(st.tuples(coordinate, coordinate), min_size=5, max_size=5),
    anchor=st.tuples(coordinate, coordinate, side, side),
)
def test_decoding_undoes_encoding_of_landmarks(points: list[tuple[float, float]], anchor: tuple[float, ...]) -> None:
    landmarks, anchors = torch.tensor([points]), torch.tensor([anchor])
    again = decode_landmarks(encode_landmarks(landmarks, anchors, VARIANCES), anchors, VARIANCES)
    torch.testing.assert_close(again, landmarks, rtol=1e-5, atol=0.02)


def test_decoding_is_that_of_the_published_code_in_pixels() -> None:
    """Theirs works in units of the picture's sides and subtracts half of the sides; the boxes are the same."""
    height, width = 480, 640
    deltas = torch.tensor([[0.3, -0.7, 1.1, -0.4]])
    scale = torch.tensor([width, height, width, height])
    priors = ANCHOR / scale
    centres = priors[:, :2] + deltas[:, :2] * 0.1 * priors[:, 2:]
    sides = priors[:, 2:] * torch.exp(deltas[:, 2:] * 0.2)
    corner = centres - sides / 2
    published = torch.cat((corner, corner + sides), dim=1) * scale
    torch.testing.assert_close(decode_boxes(deltas, ANCHOR, VARIANCES), published)


def test_no_boxes_give_none() -> None:
    none = torch.zeros(0, 4)
    assert encode_boxes(none, none, VARIANCES).shape == (0, 4)
    assert decode_boxes(none, none, VARIANCES).shape == (0, 4)
    assert encode_landmarks(torch.zeros(0, 5, 2), none, VARIANCES).shape == (0, 10)
    assert decode_landmarks(torch.zeros(0, 10), none, VARIANCES).shape == (0, 5, 2)
    assert clip_boxes(none, (10, 10)).shape == (0, 4)
    assert box_sides(none).shape == (0,)


def test_a_batch_is_decoded_like_its_pictures() -> None:
    deltas = torch.stack((DELTA, torch.zeros(1, 4)))
    assert decode_boxes(deltas, ANCHOR, VARIANCES).shape == (2, 1, 4)
    assert torch.equal(decode_boxes(deltas, ANCHOR, VARIANCES)[1], decode_boxes(deltas[1], ANCHOR, VARIANCES))
    points = torch.stack((POINT_DELTA, torch.zeros(1, 10)))
    assert decode_landmarks(points, ANCHOR, VARIANCES).shape == (2, 1, 5, 2)


def test_half_precision_is_decoded_in_float32() -> None:
    halves = DELTA.half()
    assert decode_boxes(halves, ANCHOR, VARIANCES).dtype == torch.float32
    assert torch.equal(decode_boxes(halves, ANCHOR, VARIANCES), decode_boxes(halves.float(), ANCHOR, VARIANCES))
    assert decode_landmarks(POINT_DELTA.half(), ANCHOR, VARIANCES).dtype == torch.float32


def test_a_growth_beyond_float32_is_infinite_and_clips_to_the_picture() -> None:
    boxes = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), ANCHOR, VARIANCES)
    assert boxes.tolist() == [[-math.inf, -math.inf, math.inf, math.inf]]
    assert clip_boxes(boxes, (30, 40)).tolist() == [[0, 0, 40, 30]]


def test_a_box_without_area_encodes_to_minus_infinity() -> None:
    assert encode_boxes(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), ANCHOR, VARIANCES)[0, 2:].tolist() == [-math.inf] * 2


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        pytest.param([1, 2, 3, 4], [1, 2, 3, 4], id="inside"),
        pytest.param([-5, -6, 50, 60], [0, 0, 40, 30], id="around"),
        pytest.param([35, 25, 45, 35], [35, 25, 40, 30], id="bottom right corner"),
        pytest.param([50, 60, 70, 80], [40, 30, 40, 30], id="outside"),
    ],
)
def test_boxes_are_clipped_to_height_and_width(box: list[float], clipped: list[float]) -> None:
    boxes = torch.tensor([box], dtype=torch.float32)
    assert clip_boxes(boxes, (30, 40)).tolist() == [clipped]
    assert boxes.tolist() == [box]


@pytest.mark.parametrize(
    ("box", "side"),
    [
        pytest.param([0, 0, 4, 9], 6, id="root of the area"),
        pytest.param([7, 7, 8, 8], 1, id="one pixel"),
        pytest.param([5, 5, 5, 9], 0, id="no width"),
        pytest.param([5, 5, 1, 1], 0, id="turned over"),
    ],
)
def test_face_size_is_the_root_of_the_area(box: list[float], side: float) -> None:
    assert box_sides(torch.tensor([box], dtype=torch.float32)).tolist() == [side]
