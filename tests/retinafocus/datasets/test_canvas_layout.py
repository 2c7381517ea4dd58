"""Photos on canvases: each at one place, apart from the others, and the same place every time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinafocus.datasets.canvas_layout import ORDERS, Item, LayoutConfig, Place, lay_out
from retinafocus.errors import SettingsError


def items(*sizes: tuple[int, int], loads: tuple[float, ...] = ()) -> list[Item]:
    """Photos of those (height, width), named by number; those past the end of `loads` have none."""
    padded = (*loads, *[0.0] * (len(sizes) - len(loads)))
    return [Item(f"{number}", size, load) for number, (size, load) in enumerate(zip(sizes, padded, strict=True))]


def rectangles(canvas: list[Place], photos: list[Item]) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each photo."""
    return [
        (place.left, place.top, place.left + photos[place.item].size[1], place.top + photos[place.item].size[0])
        for place in canvas
    ]


LAYOUTS = st.builds(
    LayoutConfig,
    width=st.integers(90, 300),
    height=st.integers(90, 200),
    gutter=st.integers(0, 9),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 3),
)
PHOTOS = st.lists(
    st.builds(
        Item,
        name=st.just(""),
        size=st.tuples(st.integers(1, 72), st.integers(1, 72)),
        load=st.floats(0, 9),
    ),
    max_size=40,
)


@given(PHOTOS, LAYOUTS)
def test_every_photo_has_one_place_inside_its_canvas_a_gutter_away_from_all_others(
    unnamed: list[Item], config: LayoutConfig
) -> None:
    photos = [Item(f"photo {number}", item.size, item.load) for number, item in enumerate(unnamed)]
    canvases = lay_out(photos, config)
    assert sorted(place.item for canvas in canvases for place in canvas) == list(range(len(photos)))
    for canvas in canvases:
        assert canvas
        boxes = rectangles(canvas, photos)
        for left, top, right, bottom in boxes:
            assert min(left, top, config.width - right, config.height - bottom) >= config.gutter
        for one, other in itertools.combinations(boxes, 2):
            gaps = (other[0] - one[2], one[0] - other[2], other[1] - one[3], one[1] - other[3])
            assert max(gaps) >= config.gutter
    assert lay_out(photos, config) == canvases


def test_photos_of_one_width_stand_in_columns_and_of_one_height_in_rows() -> None:
    config = LayoutConfig(width=100, height=100, gutter=0)
    wide = items((30, 50), (60, 50), (70, 50), (40, 50))
    assert lay_out(wide, config) == [[Place(0, 0, 0), Place(1, 50, 0), Place(2, 0, 30), Place(3, 50, 60)]]
    high = items((50, 30), (50, 70), (50, 40), (50, 60))
    assert lay_out(high, config) == [[Place(0, 0, 0), Place(1, 30, 0), Place(2, 0, 50), Place(3, 40, 50)]]


def test_three_photos_of_1024_px_fit_beside_each_other_with_their_gutters() -> None:
    photos = items(*[(683, 1024)] * 10)
    (first, second) = lay_out(photos, LayoutConfig())
    assert rectangles(first, photos)[:4] == [
        (16, 16, 1040, 699),
        (1056, 16, 2080, 699),
        (2096, 16, 3120, 699),
        (16, 715, 1040, 1398),
    ]
    assert (len(first), len(second)) == (9, 1)


def test_a_photo_as_large_as_the_canvas_admits_is_alone_and_a_larger_one_is_refused() -> None:
    config = LayoutConfig(width=100, height=80, gutter=5)
    assert lay_out(items((70, 90), (1, 1)), config) == [[Place(0, 5, 5)], [Place(1, 5, 5)]]
    assert not config.holds((71, 90))
    with pytest.raises(SettingsError, match=r"1: 91 x 70 px do not fit on a canvas of 100 x 80 px"):
        lay_out(items((1, 1), (70, 91)), config)


def test_no_photos_need_no_canvas() -> None:
    assert all(lay_out([], LayoutConfig(order=order)) == [] for order in ORDERS)


def test_a_later_photo_may_fill_a_gap_but_not_one_long_past() -> None:
    config = LayoutConfig(width=10, height=10, gutter=0)
    full = [(10, 10)] * 6
    assert Place(8, 5, 0) in lay_out(items((10, 5), *full, (10, 10), (10, 5)), config)[0]
    assert lay_out(items((10, 5), *full, (10, 10), (10, 10), (10, 5)), config)[-1] == [Place(9, 0, 0)]


def test_the_draw_depends_on_names_and_seed_alone() -> None:
    photos = items(*[(9, 9)] * 30)
    config = LayoutConfig(width=10, height=10, gutter=0, order="shuffled")
    drawn = [photos[canvas[0].item].name for canvas in lay_out(photos, config)]
    assert drawn != [photo.name for photo in photos]
    backwards = photos[::-1]
    assert [backwards[canvas[0].item].name for canvas in lay_out(backwards, config)] == drawn
    other = LayoutConfig(width=10, height=10, gutter=0, order="shuffled", seed=1)
    assert [photos[canvas[0].item].name for canvas in lay_out(photos, other)] != drawn


def test_balanced_spreads_the_load_where_the_list_has_it_together() -> None:
    # Four canvases of four photos; the four crowds come first in the list.
    photos = items(*[(50, 50)] * 16, loads=(80, 70, 60, 50))
    loads = {}
    for order in ORDERS:
        canvases = lay_out(photos, LayoutConfig(width=100, height=100, gutter=0, order=order))
        assert [len(canvas) for canvas in canvases] == [4] * 4
        loads[order] = [sum(photos[place.item].load for place in canvas) for canvas in canvases]
    assert loads["listed"] == [260, 0, 0, 0]
    assert loads["balanced"] == [80, 70, 60, 50]


def test_balanced_spreads_photos_without_load_over_the_emptiest_canvases() -> None:
    photos = items(*[(50, 50)] * 6)
    canvases = lay_out(photos, LayoutConfig(width=100, height=100, gutter=0, order="balanced"))
    assert [len(canvas) for canvas in canvases] == [3, 3]


def test_balanced_leaves_no_canvas_to_the_photos_that_came_too_late() -> None:
    # The draw fills five canvases; by load the photos need a sixth, which would be left with the 7 that come last.
    heights = (70, 70, 30, 60, 70, 70, 60, 70, 60, 40, 40, 60)
    loads = (4.0, 24.0, 3.0, 19.0, 25.0, 8.0, 29.0, 17.0, 22.0, 25.0, 19.0, 28.0)
    photos = items(*((height, 50) for height in heights), loads=loads)
    canvases = lay_out(photos, LayoutConfig(width=100, height=100, gutter=0, order="balanced"))
    shares = [sum(photos[place.item].load for place in canvas) for canvas in canvases]
    assert len(shares) == 6
    assert min(shares) >= 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"order": "random"}, r"order: random is not known; choose listed, shuffled, balanced", id="order"),
        pytest.param({"width": 0}, r"size: 0x2160 is no canvas; choose 1 px or more a side", id="width"),
        pytest.param({"gutter": -1}, r"gutter is -1 px; choose 0..1079 for 3840x2160", id="negative gutter"),
        pytest.param({"gutter": 1080}, r"gutter is 1080 px; choose 0..1079 for 3840x2160", id="nothing but gutter"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LayoutConfig(**settings)  # type: ignore[arg-type]


def test_balanced_is_evener_than_listed_on_many_photos() -> None:
    random = np.random.default_rng(3)
    # Long stretches without a face, then crowds, as in a list by event.
    loads = np.where(np.arange(200) % 50 < 35, 0, random.pareto(1.5, 200))
    photos = [
        Item(f"{number}", (int(height), int(width)), float(load))
        for number, (height, width, load) in enumerate(
            zip(random.integers(20, 60, 200), random.integers(20, 60, 200), loads, strict=True)
        )
    ]
    spread = {}
    for order in ORDERS:
        canvases = lay_out(photos, LayoutConfig(width=240, height=135, gutter=1, order=order))
        spread[order] = np.std([sum(photos[place.item].load for place in canvas) for canvas in canvases])
    assert spread["balanced"] < 0.5 * spread["listed"]
