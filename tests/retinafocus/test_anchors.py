"""Anchors against numbers worked out by hand and against the plain loops of their definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinafocus.anchors import CACHED_PIXELS, AnchorConfig, anchor_boxes, map_sizes
from retinafocus.errors import SettingsError


def looped_anchors(config: AnchorConfig, size: tuple[int, int]) -> list[list[float]]:
    """The definition: level, row, column, size."""
    return [
        [(column + 0.5) * stride, (row + 0.5) * stride, side / config.ratio**0.5, side * config.ratio**0.5]
        for stride, sides in zip(config.strides, config.sizes, strict=True)
        for row in range(math.ceil(size[0] / stride))
        for column in range(math.ceil(size[1] / stride))
        for side in sides
    ]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        # 2 * (80 * 80 + 40 * 40 + 20 * 20)
        pytest.param((640, 640), 16_800, id="640"),
        # 2 * (270 * 480 + 135 * 240 + 68 * 120): 2160 / 32 = 67.5 is rounded up
        pytest.param((2160, 3840), 340_320, id="4K"),
        pytest.param((1, 1), 6, id="one pixel"),
        # 2 * (1 * 5 + 1 * 3 + 1 * 2)
        pytest.param((1, 33), 20, id="one row"),
        # 2 * (2 * 1 + 1 * 1 + 1 * 1)
        pytest.param((9, 8), 8, id="one pixel over a cell"),
    ],
)
def test_number_of_anchors(size: tuple[int, int], count: int) -> None:
    assert anchor_boxes(AnchorConfig(), size).shape == (count, 4)


def test_maps_of_a_4k_photo_are_height_by_width() -> None:
    assert map_sizes(AnchorConfig(), (2160, 3840)) == ((270, 480), (135, 240), (68, 120))


def test_first_rows_and_level_starts_at_640() -> None:
    anchors = anchor_boxes(AnchorConfig(), (640, 640))
    assert anchors.dtype == torch.float32
    assert anchors[:4].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16], [12, 4, 32, 32]]
    # Second row of the first level: after 80 cells of two anchors.
    assert anchors[160].tolist() == [4, 12, 16, 16]
    # The second level starts after 80 * 80 * 2, the third after 40 * 40 * 2 more.
    assert anchors[12_800].tolist() == [8, 8, 64, 64]
    assert anchors[16_000].tolist() == [16, 16, 256, 256]
    assert anchors[-1].tolist() == [624, 624, 512, 512]


def test_order_is_level_row_column_size() -> None:
    config = AnchorConfig(strides=(8, 16), sizes=((10, 20), (32, 64)))
    assert anchor_boxes(config, (16, 24)).tolist() == [
        *([x, 4, side, side] for x in (4, 12, 20) for side in (10, 20)),
        *([x, 12, side, side] for x in (4, 12, 20) for side in (10, 20)),
        *([x, 8, side, side] for x in (8, 24) for side in (32, 64)),
    ]


def test_ratio_is_height_over_width_and_keeps_the_area() -> None:
    config = AnchorConfig(strides=(8,), sizes=((16,),), ratio=4.0)
    assert anchor_boxes(config, (8, 8)).tolist() == [[4, 4, 8, 32]]


@settings(deadline=None)  # a busy machine is no failure
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    ratio=st.sampled_from([1.0, 1.25]),
    sizes=st.sampled_from([((10, 20), (32, 64), (128, 256)), ((9,), (30,), (100,)), ((1, 2, 3), (4, 5, 6), (7, 8, 9))]),
)
def test_anchors_are_those_of_the_plain_loops(
    size: tuple[int, int], ratio: float, sizes: tuple[tuple[float, ...], ...]
) -> None:
    config = AnchorConfig(sizes=sizes, ratio=ratio)
    torch.testing.assert_close(anchor_boxes(config, size), torch.tensor(looped_anchors(config, size)))


def test_a_shape_is_built_once_and_equal_configurations_share_it() -> None:
    assert anchor_boxes(AnchorConfig(), (96, 64)) is anchor_boxes(AnchorConfig(), (96, 64))
    assert anchor_boxes(AnchorConfig(), (96, 64)) is not anchor_boxes(AnchorConfig(), (64, 96))


def test_huge_inputs_are_not_remembered() -> None:
    config = AnchorConfig(strides=(4096,), sizes=((512,),))
    size = (256, CACHED_PIXELS // 256 + 1)
    assert anchor_boxes(config, size) is not anchor_boxes(config, size)
    assert anchor_boxes(config, size).tolist() == [[2048, 2048, 512, 512], [6144, 2048, 512, 512]]


def test_anchors_first_built_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        anchor_boxes(AnchorConfig(), (17, 19))
    deltas = torch.ones(1, requires_grad=True)
    (deltas * anchor_boxes(AnchorConfig(), (17, 19))).sum().backward()
    assert deltas.grad is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"strides": ()}, "anchors.strides is", id="no level"),
        pytest.param({"strides": (0, 16, 32)}, "anchors.strides is", id="zero stride"),
        pytest.param({"strides": (8, 16)}, "anchors.sizes has 3 levels and anchors.strides 2", id="level missing"),
        pytest.param({"sizes": ((16, 32), (64,), (256, 512))}, "equally many sizes", id="uneven"),
        pytest.param({"sizes": ((), (), ())}, "equally many sizes", id="no size"),
        pytest.param({"sizes": ((16,), (0,), (256,))}, "positive number of pixels", id="zero size"),
        pytest.param({"sizes": ((16,), (math.nan,), (256,))}, "positive number of pixels", id="no number"),
        pytest.param({"ratio": -1.0}, "anchors.ratio is -1.0", id="negative ratio"),
    ],
)
def test_configurations_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AnchorConfig(**fields)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (-1, 8)], ids=str)
def test_an_input_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="both sides must be at least 1"):
        anchor_boxes(AnchorConfig(), size)
