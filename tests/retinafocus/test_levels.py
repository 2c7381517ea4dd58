"""Which scales a photo is looked at, and the way back to its pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retinafocus.errors import SettingsError
from retinafocus.levels import Level, plan_levels

SIDES = st.integers(1, 60_000)


def level_of(photo_size: tuple[int, int], scale: float) -> Level:
    size = (math.ceil(photo_size[0] * scale), math.ceil(photo_size[1] * scale))
    covered = (0, 0, photo_size[1], photo_size[0])
    return Level(index=0, scale=scale, size=size, photo_size=photo_size, covered=covered, face_range=(0, math.inf))


@pytest.mark.parametrize(
    ("photo_size", "min_face", "scales"),
    [
        # The band is 16..256 px in all cases. 16 / 20 = 0.8 -> scale 1; 2160 > 256 -> 1/4: 540 -> 1/16: 135.
        pytest.param((2160, 3840), 20, [1 / 16, 1 / 4, 1], id="4K"),
        # 16 / 32 is exactly 1/2; 1080 -> 1/8: 270 > 256 -> 1/32: 67.5.
        pytest.param((2160, 3840), 32, [1 / 32, 1 / 8, 1 / 2], id="power of two exactly"),
        pytest.param((256, 4000), 20, [1], id="short side just fits"),
        pytest.param((257, 4000), 20, [1 / 4, 1], id="short side just does not fit"),
        pytest.param((400, 600), 10, [1 / 2, 2], id="enlarged"),
        pytest.param((400, 600), 3, [1 / 2, 2], id="never more than twice"),
        pytest.param((1, 1), 20, [1], id="one pixel"),
        pytest.param((1, 60_000), 20, [1], id="one row"),
        pytest.param((60_000, 1), 20, [1], id="one column"),
        pytest.param((100, 100), 1600, [1 / 64], id="smallest face larger than the photo"),
    ],
)
def test_scales_follow_the_rule(photo_size: tuple[int, int], min_face: float, scales: list[float]) -> None:
    plan = plan_levels(photo_size, min_face=min_face, face_range=(16, 256))
    assert [level.scale for level in plan.levels] == scales
    assert [level.index for level in plan.levels] == list(range(len(scales)))
    assert plan.finest.scale == scales[-1]


def test_kept_ranges_and_cost_of_a_4k_photo() -> None:
    coarse, middle, fine = plan_levels((2160, 3840), min_face=20, face_range=(16, 256)).levels
    assert coarse.face_range == (0.8 * 16 * 16, math.inf)
    assert middle.face_range == (0.8 * 16 * 4, 256 * 4)
    assert fine.face_range == (0, 256)
    assert (coarse.size, middle.size, fine.size) == ((135, 240), (540, 960), (2160, 3840))
    assert plan_levels((2160, 3840), min_face=20, face_range=(16, 256)).pixels == 32_400 + 518_400 + 8_294_400


@given(
    height=SIDES,
    width=SIDES,
    min_face=st.floats(1, 500),
    low=st.floats(4, 40),
    band=st.floats(4, 64),
    share=st.floats(0, 1),
)
@example(height=60_000, width=60_000, min_face=8.0, low=16.0, band=4.0, share=0.0)
@example(height=1, width=60_000, min_face=1.0, low=8.0, band=4.0, share=1.0)
def test_every_face_size_is_within_the_band_and_the_kept_range_of_a_level(
    height: int, width: int, min_face: float, low: float, band: float, share: float
) -> None:
    face_range = (low, low * band)
    plan = plan_levels((height, width), min_face=min_face, face_range=face_range)
    smallest = max(min_face, low / 2)
    largest = max(smallest, min(height, width))
    face = smallest * (largest / smallest) ** share
    kept = [level for level in plan.levels if level.face_range[0] < face <= level.face_range[1]]
    assert kept
    if face <= min(height, width):
        slack = 1 + 1e-9
        assert any(low <= face * level.scale * slack and face * level.scale <= face_range[1] * slack for level in kept)


@given(height=SIDES, width=SIDES, min_face=st.floats(1, 500), low=st.floats(4, 40), band=st.floats(4, 64))
def test_ranges_overlap_and_cover_everything_and_sizes_are_rounded_up(
    height: int, width: int, min_face: float, low: float, band: float
) -> None:
    plan = plan_levels((height, width), min_face=min_face, face_range=(low, low * band))
    assert plan.levels[0].face_range[1] == math.inf
    assert plan.finest.face_range[0] == 0
    for coarser, finer in zip(plan.levels, plan.levels[1:], strict=False):
        assert coarser.face_range[0] < finer.face_range[1]
        assert finer.scale == 4 * coarser.scale
    for level in plan.levels:
        assert level.size == (math.ceil(height * level.scale), math.ceil(width * level.scale))
        assert math.log2(level.scale).is_integer()
    assert plan.finest.scale <= 2
    assert plan.pixels == sum(level.size[0] * level.size[1] for level in plan.levels)


@given(height=SIDES, width=SIDES, power=st.integers(-8, 1))
def test_the_level_border_is_the_photo_border(height: int, width: int, power: int) -> None:
    level = level_of((height, width), 2.0**power)
    whole = np.array([[0, 0, level.size[1], level.size[0]]], np.float32)
    assert level.to_photo(whole) == pytest.approx(np.array([[0, 0, width, height]]), rel=1e-6)


@given(SIDES, SIDES, st.floats(0.5, 500), st.sampled_from([2.0, 3.0, 5.0, 16.0]), st.sampled_from([2, 4]))
def test_smallest_face_is_large_enough_for_the_focus_map_of_every_photo(
    height: int, width: int, min_face: float, focus_from: float, zoom: int
) -> None:
    plan = plan_levels((height, width), min_face=min_face, face_range=(16, 256), focus_from=focus_from, zoom=zoom)
    assert 1 <= plan.whole <= len(plan.levels)
    if plan.whole < len(plan.levels):
        assert min_face * plan.focus_level.scale >= focus_from
    # The levels themselves do not depend on it, and no level is looked at whole that need not be.
    assert plan.levels == plan_levels((height, width), min_face=min_face, face_range=(16, 256), zoom=zoom).levels
    assert all(min_face * level.scale < focus_from for level in plan.levels[: plan.whole - 1])


def test_without_a_focus_map_every_level_is_looked_at_whole() -> None:
    plan = plan_levels((2160, 3840), min_face=20, face_range=(16, 256))
    assert (plan.whole, plan.focus_level) == (3, plan.finest)
    assert plan_levels((2160, 3840), min_face=20, face_range=(16, 256), focus_from=5).focus_level.scale == 1 / 4


def test_odd_width_uses_the_true_ratio_of_each_axis() -> None:
    level = level_of((4000, 6001), 1 / 2)
    assert level.size == (2000, 3001)
    assert level.ratio == (2.0, 6001 / 3001)
    box = level.to_photo(np.array([[0, 100, 3001, 2000]], np.float32))
    assert box.tolist() == [[0, 200, 6001, 4000]]
    assert box.dtype == np.float32


def test_level_that_shows_more_than_the_photo_maps_by_what_it_shows() -> None:
    # A 90 x 10 px photo in blocks of 8 px, turned by 180 degrees: 6 px too many on the left, 6 on the top.
    plan = plan_levels((10, 90), min_face=160, face_range=(16, 256)).covering({1 / 8: (-6, -6, 90, 10)})
    assert plan.finest.size == (2, 12)
    assert plan.finest.ratio == (8, 8)
    assert plan.finest.to_photo(np.array([[0, 0, 1, 2]], np.float32)).tolist() == [[-6, -6, 2, 10]]


def test_landmarks_go_the_same_way_as_boxes() -> None:
    level = level_of((4000, 6001), 1 / 2)
    landmarks = np.tile(np.array([3001, 100], np.float32), (1, 5, 1))
    assert level.to_photo(landmarks).tolist() == [[[6001, 200]] * 5]


@pytest.mark.parametrize("shape", [(0, 4), (0, 5, 2)], ids=["boxes", "landmarks"])
def test_nothing_stays_nothing(shape: tuple[int, ...]) -> None:
    assert level_of((10, 10), 1).to_photo(np.zeros(shape, np.float32)).shape == shape


@pytest.mark.parametrize(
    ("min_face", "text"),
    [
        pytest.param(
            20, "faces under 20 px (min_face) are not looked for; those that are found anyway are kept", id="usual"
        ),
        pytest.param(
            8, "faces under 8 px (min_face) are not looked for; those that are found anyway are kept", id="just"
        ),
        pytest.param(
            5,
            "faces under 8 px are found unreliably although min_face is 5 px: they would need more than the 2x "
            "enlargement, which adds no detail",
            id="too small",
        ),
    ],
)
def test_what_will_not_be_found_is_said_in_words(min_face: float, text: str) -> None:
    assert plan_levels((1000, 1000), min_face=min_face, face_range=(16, 256)).not_found == text


def test_nothing_is_missed_when_every_pixel_may_be_a_face() -> None:
    assert plan_levels((1000, 1000), min_face=1, face_range=(2, 256)).not_found == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(
            {"photo_size": (0, 5)}, r"photo_size is \(0, 5\); height and width must be at least 1", id="empty"
        ),
        pytest.param({"min_face": 0}, "min_face is 0 px; choose a size above 0", id="zero face"),
        pytest.param({"min_face": math.nan}, "min_face is nan px", id="no number"),
        pytest.param({"zoom": 3}, "zoom is 3; choose a power of two", id="zoom 3"),
        pytest.param({"zoom": 1}, "zoom is 1; choose a power of two of at least 2", id="zoom 1"),
        pytest.param({"face_range": (16, 60)}, r"face_range is \(16, 60\) px; .* at least 4 x low", id="narrow"),
        pytest.param({"face_range": (0, 60)}, r"face_range is \(0, 60\) px; choose a low above 0", id="no low end"),
    ],
)
def test_wrong_arguments_say_the_rule_and_the_value(change: dict[str, object], text: str) -> None:
    arguments = {"photo_size": (100, 100), "min_face": 20, "face_range": (16, 256)} | change
    size = arguments.pop("photo_size")
    with pytest.raises(SettingsError, match=text):
        plan_levels(size, **arguments)
