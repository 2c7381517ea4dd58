"""Chips: every focus pixel covered, nothing overlapping, whatever the map looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from retinafocus.errors import SettingsError
from retinafocus.focus.chips import ChipConfig, chips_around, focus_pixels, sides_from, tile_side, tiles_of

MASKS = arrays.arrays(
    np.bool_,
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    elements=st.sampled_from([False] * 12 + [True]),
)


def mask_of(size: tuple[int, int], *cells: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for row, column in cells:
        mask[row, column] = True
    return mask


def painted(boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """How many of the rectangles cover each cell."""
    count = np.zeros(size, int)
    for left, top, right, bottom in boxes:
        count[top:bottom, left:right] += 1
    return count


class TestFocusPixels:
    def test_threshold_itself_counts(self) -> None:
        probabilities = np.array([[0.19, 0.2, 0.21]], np.float32)
        assert focus_pixels(probabilities, float(np.float32(0.2)), 1).tolist() == [[False, True, True]]

    def test_dilation_is_a_square_of_that_side(self) -> None:
        probabilities = np.zeros((7, 7), np.float32)
        probabilities[3, 3] = 1
        assert (focus_pixels(probabilities, 0.5, 3) == painted(np.array([[2, 2, 5, 5]]), (7, 7)).astype(bool)).all()
        assert focus_pixels(probabilities, 0.5, 5).sum() == 25


class TestChipsAround:
    def test_lone_cell_is_in_the_middle_of_the_smallest_chip(self) -> None:
        assert chips_around(mask_of((40, 60), (10, 30)), 5).tolist() == [[28, 8, 33, 13]]

    @pytest.mark.parametrize(
        ("cell", "chip"),
        [
            pytest.param((0, 0), [0, 0, 8, 8], id="left top corner"),
            pytest.param((39, 59), [52, 32, 60, 40], id="right bottom corner"),
            pytest.param((20, 59), [52, 17, 60, 25], id="right border"),
        ],
    )
    def test_chip_at_the_border_is_shifted_inside(self, cell: tuple[int, int], chip: list[int]) -> None:
        assert chips_around(mask_of((40, 60), cell), 8).tolist() == [chip]

    def test_sides_grow_to_the_next_allowed_one(self) -> None:
        mask = np.zeros((64, 64), bool)
        mask[10, 10:23] = True  # 13 cells wide: 16 is next of 8, 12, 16, 24, ...; 1 high: 8
        assert chips_around(mask, 8).tolist() == [[9, 7, 25, 15]]

    def test_overlapping_chips_become_one_until_nothing_changes(self) -> None:
        # The first two chips overlap; their union, grown, reaches the third.
        assert len(chips_around(mask_of((64, 64), (10, 10), (10, 15)), 8)) == 1
        assert len(chips_around(mask_of((64, 64), (10, 10), (10, 26)), 8)) == 2
        assert len(chips_around(mask_of((64, 64), (10, 10), (10, 17), (10, 26)), 8)) == 1

    def test_hole_makes_no_chip_of_its_own(self) -> None:
        mask = np.zeros((40, 40), bool)
        mask[5:30, 5:30] = True
        mask[12:20, 12:20] = False
        assert len(chips_around(mask, 4)) == 1

    @pytest.mark.parametrize(
        ("mask", "chips"),
        [
            pytest.param(np.zeros((30, 40), bool), [], id="nothing"),
            pytest.param(np.ones((30, 40), bool), [[0, 0, 40, 30]], id="everything"),
            pytest.param(np.ones((1, 1), bool), [[0, 0, 1, 1]], id="one cell"),
            pytest.param(mask_of((3, 4), (1, 1)), [[0, 0, 4, 3]], id="map smaller than the smallest chip"),
            pytest.param(mask_of((1, 100), (0, 50)), [[47, 0, 55, 1]], id="thread"),
        ],
    )
    def test_degenerate_map(self, mask: np.ndarray, chips: list[list[int]]) -> None:
        assert chips_around(mask, 8).tolist() == chips

    def test_thousands_of_focus_pixels(self) -> None:
        mask = np.random.default_rng(3).random((540, 960)) > 0.99
        boxes = chips_around(mask, 2)
        assert len(boxes) > 100
        assert (painted(boxes, mask.shape)[mask] == 1).all()

    @given(MASKS, st.integers(1, 9))
    def test_every_focus_pixel_is_covered_and_no_two_chips_overlap(self, mask: np.ndarray, min_side: int) -> None:
        boxes = chips_around(mask, min_side)
        count = painted(boxes, mask.shape)
        assert (count[mask] == 1).all()
        assert count.max() <= 1
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= mask.shape[::-1]).all()
        for axis, limit in ((0, mask.shape[1]), (1, mask.shape[0])):
            assert set(boxes[:, axis + 2] - boxes[:, axis]) <= set(sides_from(min_side, limit).tolist())

    @given(MASKS, st.integers(1, 9))
    def test_chips_of_the_chips_are_the_chips(self, mask: np.ndarray, min_side: int) -> None:
        boxes = chips_around(mask, min_side)
        again = chips_around(painted(boxes, mask.shape).astype(bool), min_side)
        assert again.tolist() == boxes.tolist()

    @given(MASKS, st.integers(1, 9))
    def test_scanning_by_columns_gives_the_same_chips(self, mask: np.ndarray, min_side: int) -> None:
        turned = chips_around(np.ascontiguousarray(mask.T), min_side)[:, [1, 0, 3, 2]]
        assert sorted(turned.tolist()) == sorted(chips_around(mask, min_side).tolist())


@pytest.mark.parametrize(
    ("smallest", "largest", "sides"),
    [
        pytest.param(8, 100, [8, 12, 16, 24, 32, 48, 64, 96, 100], id="usual"),
        pytest.param(8, 8, [8], id="equal"),
        pytest.param(8, 3, [3], id="map smaller"),
        pytest.param(5, 33, [5, 8, 10, 15, 20, 30, 33], id="odd"),
        pytest.param(1, 1, [1], id="one"),
    ],
)
def test_sides_are_few_and_end_with_the_whole(smallest: int, largest: int, sides: list[int]) -> None:
    assert sides_from(smallest, largest).tolist() == sides


class TestTiles:
    def test_small_rectangle_is_its_own_tile(self) -> None:
        assert tiles_of((10, 20, 3850, 2180), 2**23, 166).tolist() == [[10, 20, 3850, 2180]]

    def test_8k_is_six_tiles(self) -> None:
        tiles = tiles_of((0, 0, 7680, 4320), 2**23, 166)
        assert len(tiles) == 6
        assert (tiles[:, 2:].max(0) == (7680, 4320)).all()
        assert ((tiles[:, 2:] - tiles[:, :2]).prod(1) <= 2**23).all()

    @given(
        st.integers(0, 50), st.integers(0, 50), st.integers(1, 900), st.integers(1, 900),
        st.integers(1, 60), st.integers(128, 300),
    )  # fmt: skip
    def test_whatever_is_smaller_than_the_overlap_lies_whole_in_a_tile(
        self, left: int, top: int, width: int, height: int, overlap: int, side: int
    ) -> None:
        tiles = tiles_of((left, top, left + width, top + height), side * side, overlap)
        sizes = tiles[:, 2:] - tiles[:, :2]
        assert (sizes.prod(1) <= side * side).all()
        assert len(np.unique(sizes, axis=0)) == 1
        assert tiles.min(0)[:2].tolist() == [left, top]
        assert tiles.max(0)[2:].tolist() == [left + width, top + height]
        for axis in (0, 1):
            starts = np.unique(tiles[:, axis])
            assert (starts[1:] <= starts[:-1] + sizes[0, axis] - overlap).all()

    def test_tiles_too_small_to_overlap_are_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"network_pixels is 65536.*choose at least 132496"):
            tile_side(2**16, 166)
        assert tile_side(132_496, 166) >= 332


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 0.0), ("threshold", 1.5), ("dilation", 2), ("dilation", 0), ("min_chip", 0.0)],
)
def test_wrong_settings_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"cascade\.chips\.{field} is {value}"):
        ChipConfig(**{field: value})
