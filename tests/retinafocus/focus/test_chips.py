"""Chips: every region of focus pixels whole in one, at the least price, whatever the map looks like."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from retinafocus.errors import SettingsError
from retinafocus.focus import chips
from retinafocus.focus.chips import ChipConfig, chips_around, sides_from, tile_side, tiles_of

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


def regions_of(mask: np.ndarray) -> list[np.ndarray]:
    """A mask for each connected region."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return [labels == number for number in range(1, count)]


def painted(boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """How many of the rectangles cover each cell."""
    count = np.zeros(size, int)
    for left, top, right, bottom in boxes:
        count[top:bottom, left:right] += 1
    return count


def chips_of(mask: np.ndarray, min_side: int, dilation: int = 1) -> np.ndarray:
    return chips_around(mask.astype(np.float32), threshold=0.5, dilation=dilation, min_side=min_side)


class TestChipsAround:
    def test_threshold_itself_counts(self) -> None:
        probabilities = np.zeros((1, 30), np.float32)
        probabilities[0, [2, 14, 26]] = 0.19, 0.2, 0.21
        chips = chips_around(probabilities, threshold=float(np.float32(0.2)), dilation=1, min_side=1)
        assert chips.tolist() == [[14, 0, 15, 1], [26, 0, 27, 1]]

    def test_dilation_leaves_room_around_the_focus_pixels(self) -> None:
        mask = mask_of((20, 20), (5, 7), (5, 8))
        assert chips_of(mask, 1, dilation=3).tolist() == [[6, 4, 10, 7]]
        assert chips_of(mask_of((20, 20), (0, 19)), 1, dilation=5).tolist() == [[17, 0, 20, 3]]

    def test_lone_cell_is_in_the_middle_of_the_smallest_chip(self) -> None:
        assert chips_of(mask_of((40, 60), (10, 30)), 5).tolist() == [[28, 8, 33, 13]]

    @pytest.mark.parametrize(
        ("cell", "chip"),
        [
            pytest.param((0, 0), [0, 0, 8, 8], id="left top corner"),
            pytest.param((39, 59), [52, 32, 60, 40], id="right bottom corner"),
            pytest.param((20, 59), [52, 17, 60, 25], id="right border"),
        ],
    )
    def test_chip_at_the_border_is_shifted_inside(self, cell: tuple[int, int], chip: list[int]) -> None:
        assert chips_of(mask_of((40, 60), cell), 8).tolist() == [chip]

    def test_sides_grow_to_the_next_allowed_one(self) -> None:
        mask = np.zeros((64, 64), bool)
        mask[10, 10:23] = True  # 13 cells wide: 16 is next of 8, 12, 16, 24, ...; 1 high: 8
        assert chips_of(mask, 8).tolist() == [[9, 7, 25, 15]]

    @pytest.mark.parametrize(
        ("columns", "widths"),
        [
            # Single cells in one row, chips of 8 x 8. Of two, one of 12 x 8 or 16 x 8 costs no more than 2 * 64.
            pytest.param((10, 13), [12], id="overlap"),
            pytest.param((10, 18), [16], id="touch: the same price, one call less"),
            pytest.param((10, 19), [8, 8], id="apart"),
            # The first two become 12 x 8, then 16 x 8 with the third costs less than 12 x 8 and 8 x 8.
            pytest.param((10, 13, 17), [16], id="three"),
        ],
    )
    def test_two_chips_become_one_where_that_costs_nothing(self, columns: tuple[int, ...], widths: list[int]) -> None:
        chips = chips_of(mask_of((64, 64), *((10, column) for column in columns)), 8)
        assert (chips[:, 2] - chips[:, 0]).tolist() == widths

    def test_diagonal_neighbours_stay_two_though_they_overlap(self) -> None:
        # 8 x 8 each, sharing one cell; together they would be 15 x 15, grown to 16 x 16.
        assert len(chips_of(mask_of((64, 64), (10, 10), (17, 17)), 8)) == 2

    def test_chip_inside_another_is_no_chip(self) -> None:
        mask = np.zeros((40, 40), bool)
        mask[5:30, 5:30] = True
        mask[12:20, 12:20] = False
        mask[15, 15] = True
        assert len(chips_of(mask, 4)) == 1

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
        assert chips_of(mask, 8, dilation=3).tolist() == chips

    def test_thousands_of_regions_are_all_covered(self) -> None:
        mask = np.random.default_rng(3).random((540, 960)) > 0.998
        assert mask.sum() > 900
        assert (painted(chips_of(mask, 4, dilation=3), mask.shape)[mask] >= 1).all()

    @given(MASKS, st.integers(1, 9), st.sampled_from([1, 3, 5]))
    def test_every_region_lies_whole_in_a_chip_with_room_around_it(
        self, mask: np.ndarray, min_side: int, dilation: int
    ) -> None:
        boxes, (height, width), room = chips_of(mask, min_side, dilation), mask.shape, dilation // 2
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        for x, y, w, h, _ in stats[1:]:
            needed = max(0, x - room), max(0, y - room), min(width, x + w + room), min(height, y + h + room)
            assert ((boxes[:, :2] <= needed[:2]).all(1) & (boxes[:, 2:] >= needed[2:]).all(1)).any()

    @given(MASKS, st.integers(1, 9))
    def test_chips_lie_inside_the_map_and_have_allowed_sides(self, mask: np.ndarray, min_side: int) -> None:
        chips = chips_of(mask, min_side)
        assert (chips[:, :2] >= 0).all()
        assert (chips[:, 2:] <= mask.shape[::-1]).all()
        for axis, limit in ((0, mask.shape[1]), (1, mask.shape[0])):
            assert set(chips[:, axis + 2] - chips[:, axis]) <= set(sides_from(min_side, limit).tolist())

    @given(MASKS, st.integers(1, 9))
    def test_merging_never_costs_and_leaves_no_pair_worth_it(self, mask: np.ndarray, min_side: int) -> None:
        def cells(boxes: np.ndarray) -> int:
            return int((boxes[:, 2:] - boxes[:, :2]).prod(1).sum())

        chips = chips_of(mask, min_side)
        apart = np.concatenate([np.empty((0, 4), int), *(chips_of(one, min_side) for one in regions_of(mask))])
        assert cells(chips) <= cells(apart)
        for first, second in itertools.combinations(chips, 2):
            sides = [
                sides_from(min_side, limit)[np.searchsorted(sides_from(min_side, limit), high - low)]
                for low, high, limit in zip(
                    np.minimum(first[:2], second[:2]), np.maximum(first[2:], second[2:]), mask.shape[::-1], strict=True
                )
            ]
            assert sides[0] * sides[1] > cells(np.array([first, second]))

    @given(MASKS, st.integers(1, 9), st.randoms(use_true_random=False))
    def test_result_does_not_depend_on_the_order_in_which_regions_are_met(
        self, mask: np.ndarray, min_side: int, random: Random
    ) -> None:
        found = chips._regions

        def shuffled(*arguments: Any) -> np.ndarray:
            boxes = list(found(*arguments))
            random.shuffle(boxes)
            return np.array(boxes, np.int32).reshape(-1, 4)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chips, "_regions", shuffled)
            again = chips_of(mask, min_side)
        assert again.tolist() == chips_of(mask, min_side).tolist()


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
