"""Sets of canvases: the truth survives the way there and back, on disk too, and so do detections."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinafocus.datasets.canvas_layout import ORDERS, LayoutConfig
from retinafocus.datasets.canvas_set import (
    CanvasSet,
    CanvasSettings,
    Tile,
    focus_area,
    read_canvas_set,
    write_canvas_tables,
)
from retinafocus.datasets.canvas_sources import list_photos
from retinafocus.datasets.canvas_writer import SourcePhoto, count_faces, place_photos
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.wider_ground_truth import read_ground_truth
from retinafocus.errors import LabelError, SettingsError
from retinafocus.evaluation.average_precision import PhotoDetections
from retinafocus.evaluation.wider_protocol import SETTINGS, ProtocolPhoto, evaluate_protocol


def truth(name: str, boxes: list[tuple[float, float, float, float]], easy: int = 0, hard: int = 0) -> ProtocolPhoto:
    """The first rows are of the lists: `easy` of all, `hard` of medium and hard."""
    numbers = np.arange(len(boxes))
    kept = {"easy": numbers < easy, "medium": numbers < hard, "hard": numbers < hard}
    return ProtocolPhoto(name, np.array(boxes, np.float64).reshape(-1, 4), kept)


def source(photo: ProtocolPhoto, size: tuple[int, int], ignored: NDArray[np.bool_] | None = None) -> SourcePhoto:
    none = np.zeros((0, 4), np.float32)
    labelled = LabelledPhoto(Path(photo.name), size, none, np.zeros((0, 5, 2), np.float32), none, "made", ())
    ignored = np.zeros(len(photo.boxes), np.bool_) if ignored is None else ignored
    return SourcePhoto(photo, ignored, labelled, f"{photo.name:0>64}")


def two_tiles() -> CanvasSet:
    """A canvas of 100 x 60 px: `left` at (10, 10), 30 x 40 px, and `right` at (50, 10), 40 x 40 px."""
    made_with = CanvasSettings(width=100, height=60, format="png", gutter=10, order="listed", seed=0)
    left = truth("left", [(1, 2, 5, 6), (28, 0, -2, 9)], easy=1, hard=2)
    right = truth("right", [(0, 0, 20.5, 30.25)], easy=0, hard=1)
    tiles = (
        Tile("c", 0, left, np.array([False, True]), (10, 10, 30, 40), "aa"),
        Tile("c", 1, right, np.array([False]), (50, 10, 40, 40), "bb"),
    )
    return CanvasSet(made_with, tiles, {"c": Path("images/c.png")})


def found(*boxes: tuple[float, float, float, float]) -> PhotoDetections:
    return PhotoDetections(
        np.array(boxes, np.float32).reshape(-1, 4), np.linspace(0.9, 0.1, len(boxes), dtype=np.float32)
    )


def test_the_truth_of_a_canvas_is_that_of_its_tiles_moved_rows_one_after_the_other() -> None:
    (canvas,) = two_tiles().canvas_truth()
    assert canvas.name == "c"
    assert canvas.boxes.tolist() == [[11, 12, 5, 6], [38, 10, -2, 9], [50, 10, 20.5, 30.25]]
    assert {name: rows.tolist() for name, rows in canvas.kept.items()} == {
        "easy": [True, False, False],
        "medium": [True, True, True],
        "hard": [True, True, True],
    }


def test_the_truth_of_the_tiles_is_that_of_the_photos() -> None:
    left, right = two_tiles().tile_truth()
    assert (left.name, right.name) == ("left", "right")
    assert left.boxes.tolist() == [[1, 2, 5, 6], [28, 0, -2, 9]]
    assert right.kept["hard"].tolist() == [True]


def test_a_detection_goes_to_the_tile_with_its_centre_and_is_cut_there() -> None:
    carried = two_tiles().carry_back({"c": found((12, 12, 20, 22), (45, 5, 70, 30), (60, 40, 95, 58))})
    assert carried["left"].boxes.tolist() == [[2, 2, 10, 12]]
    assert carried["left"].scores.tolist() == pytest.approx([0.9])
    assert carried["right"].boxes.tolist() == [[0, 0, 20, 20], [10, 30, 40, 40]]
    assert carried["right"].scores.tolist() == pytest.approx([0.5, 0.1])
    assert carried["right"].boxes.dtype == np.float32


@pytest.mark.parametrize(
    ("box", "name", "point"),
    [
        pytest.param((40, 20, 44, 24), "left", (30, 12), id="gutter, nearer to the left"),
        pytest.param((36, 20, 44, 24), "left", (30, 12), id="the far edge is not part of a tile"),
        pytest.param((44, 20, 50, 24), "right", (0, 12), id="gutter, nearer to the right"),
        pytest.param((43, 20, 47, 24), "left", (30, 12), id="in the middle: the first"),
        pytest.param((0, 0, 4, 4), "left", (0, 0), id="corner"),
        pytest.param((94, 54, 100, 60), "right", (40, 40), id="beyond the last"),
    ],
)
def test_a_detection_on_empty_ground_is_an_empty_box_of_the_nearest_tile(
    box: tuple[float, float, float, float], name: str, point: tuple[float, float]
) -> None:
    carried = two_tiles().carry_back({"c": found(box)})
    assert carried[name].boxes.tolist() == [[*point, *point]]
    assert sum(len(one.boxes) for one in carried.values()) == 1


def test_a_detection_on_empty_ground_is_false_even_where_its_cut_would_fit_a_face() -> None:
    made_with = CanvasSettings(width=100, height=60, format="png", gutter=10, order="listed", seed=0)
    face = truth("photo", [(20, 10, 10, 20)], easy=1, hard=1)
    tile = Tile("c", 0, face, np.array([False]), (10, 10, 30, 40), "aa")
    canvases = CanvasSet(made_with, (tile,), {"c": Path("c.png")})
    on_the_face, beside_it = found((30, 20, 40, 40)), found((30, 20, 52, 40))
    results = [
        evaluate_protocol(canvases.tile_truth(), canvases.carry_back({"c": detections}))["hard"].ap
        for detections in (on_the_face, beside_it)
    ]
    assert results == [1, 0]


def test_canvases_without_detections_still_name_their_photos() -> None:
    carried = two_tiles().carry_back({})
    assert {name: (one.boxes.shape, one.scores.shape) for name, one in carried.items()} == {
        "left": ((0, 4), (0,)),
        "right": ((0, 4), (0,)),
    }


def test_detections_of_another_set_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"d: there is no such canvas; the set has 1 others"):
        two_tiles().carry_back({"d": found()})


def test_focus_area_counts_faces_under_32_px_that_are_not_ignored() -> None:
    # 31 x 32 is under 32 px by its root, 32 x 32 and 20 x 60 are not; a box of negative width has no area.
    photo = truth("a", [(0, 0, 31, 32), (0, 0, 32, 32), (0, 0, 20, 60), (0, 0, -2, 9), (0, 0, 10, 10)])
    assert focus_area(photo, np.array([False] * 4 + [True])) == 31 * 32
    assert focus_area(truth("b", []), np.zeros(0, np.bool_)) == 0


def test_focus_area_is_rounded_once_in_whatever_order_it_is_added() -> None:
    # Added one after the other, the many small areas would be lost beside the first.
    photo = truth("a", [(0, 0, 31, 32), *[(0, 0, 2.0**-24, 2.0**-24)] * 4096])
    assert focus_area(photo, np.zeros(4097, np.bool_)) == 31 * 32 + 2.0**-36


# In steps of 1/1024 px: the way to a canvas and back is exact down to 1e-12 px, not to the smallest of all numbers.
STARTS, SIDES = (st.integers(low, high).map(lambda step: step / 1024) for low, high in ((0, 70_000), (-2000, 30_000)))
ROWS = st.lists(st.tuples(STARTS, STARTS, SIDES, SIDES), max_size=5)


@st.composite
def sources(draw: st.DrawFn) -> list[SourcePhoto]:
    """Photos with any rows; some are too large for the canvases of 90 x 80 px that they come to."""
    made = []
    for number in range(draw(st.integers(0, 9))):
        rows = draw(ROWS)
        photo = truth(f"event/{number}", rows, easy=draw(st.integers(0, 2)), hard=draw(st.integers(2, 4)))
        ignored = np.array([draw(st.booleans()) for _ in rows], np.bool_)
        made.append(source(photo, (draw(st.integers(1, 82)), draw(st.integers(1, 92))), ignored))
    return made


@settings(max_examples=40)
@given(sources(), st.sampled_from(ORDERS), st.integers(0, 4))
def test_no_photo_and_no_face_is_lost_on_the_way_to_the_disk_and_back(
    photos: list[SourcePhoto], order: str, gutter: int
) -> None:
    config = LayoutConfig(width=90, height=80, gutter=gutter, order=order)
    canvases, excluded = place_photos(photos, config, "png")
    left_out = {photo.truth.name for photo in excluded}
    assert left_out == {
        photo.truth.name
        for photo in photos
        if photo.labelled.size[0] > 80 - 2 * gutter or photo.labelled.size[1] > 90 - 2 * gutter
    }
    with TemporaryDirectory() as folder:
        for path in canvases.pictures.values():
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).touch()
        write_canvas_tables(canvases, Path(folder))
        again = read_canvas_set(Path(folder))
    assert (again.settings, again.definition()) == (canvases.settings, canvases.definition())
    expected = {photo.truth.name: photo for photo in photos if photo.truth.name not in left_out}
    assert sorted(photo.name for photo in again.tile_truth()) == sorted(expected)
    for tile in again.tiles:
        original = expected[tile.photo.name]
        np.testing.assert_array_equal(tile.photo.boxes, original.truth.boxes)
        np.testing.assert_array_equal(tile.ignored, original.ignored)
        assert (tile.sha256, tile.place[2:]) == (original.sha256, original.labelled.size[::-1])
        for setting in SETTINGS:
            np.testing.assert_array_equal(tile.photo.kept[setting], original.truth.kept[setting])
    kept = [photo.truth for photo in expected.values()]
    assert count_faces(again.canvas_truth()) == count_faces(again.tile_truth()) == count_faces(kept)


@settings(max_examples=40)
@given(sources(), st.integers(0, 4))
def test_the_truth_given_as_detections_comes_back_as_the_truth_of_the_photos(
    photos: list[SourcePhoto], gutter: int
) -> None:
    canvases, _ = place_photos(photos, LayoutConfig(width=90, height=80, gutter=gutter), "png")
    sizes = {tile.photo.name: np.array(tile.place[2:]) for tile in canvases.tiles}
    found = {}
    for canvas in canvases.canvas_truth():
        corners = np.concatenate([canvas.boxes[:, :2], canvas.boxes[:, :2] + canvas.boxes[:, 2:]], axis=1)
        found[canvas.name] = PhotoDetections(corners.astype(np.float32), np.ones(len(corners), np.float32))
    carried = canvases.carry_back(found)
    assert list(carried) == [tile.photo.name for tile in canvases.tiles]
    for photo in canvases.tile_truth():
        corners = np.concatenate([photo.boxes[:, :2], photo.boxes[:, :2] + photo.boxes[:, 2:]], axis=1)
        inside = (photo.boxes[:, 2:] > 0).all(axis=1) & (corners <= sizes[photo.name].tolist() * 2).all(axis=1)
        for box in corners[inside]:
            # Canvas coordinates are float32, of two hundredths of a thousandth of a pixel here.
            assert np.abs(carried[photo.name].boxes - box).max(axis=1).min() < 1e-4
    assert sum(len(one.boxes) for one in carried.values()) == sum(len(one.boxes) for one in found.values())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "c.png").touch()
    write_canvas_tables(two_tiles(), tmp_path)
    return tmp_path


def test_what_is_read_is_what_was_written(written: Path) -> None:
    canvases = read_canvas_set(written)
    assert canvases.settings == two_tiles().settings
    assert canvases.pictures == {"c": written / "images" / "c.png"}
    assert [tile.place for tile in canvases.tiles] == [(10, 10, 30, 40), (50, 10, 40, 40)]
    faces = pq.read_table(written / "faces.parquet").to_pylist()
    assert faces[1] == {
        "canvas": "c", "tile": 0, "name": "left", "row": 1, "x": 38.0, "y": 10.0, "w": -2.0, "h": 9.0,
        "easy": False, "medium": True, "hard": True, "ignore": True,
    }  # fmt: skip


def test_any_change_of_the_tables_is_noticed(written: Path) -> None:
    faces = pq.read_table(written / "faces.parquet")
    column = faces.column("hard").to_pylist()
    column[0] = not column[0]
    index = faces.schema.get_field_index("hard")
    pq.write_table(faces.set_column(index, faces.schema.field("hard"), [column]), written / "faces.parquet")
    with pytest.raises(LabelError, match=r"the tables are not those that were written; make the set again"):
        read_canvas_set(written)


def test_a_folder_that_is_no_set_is_refused_in_words(written: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"canvases.parquet: there is no such file; make a set with"):
        read_canvas_set(tmp_path / "nowhere")
    (written / "images" / "c.png").unlink()
    with pytest.raises(LabelError, match=r"c.png: 1 pictures of the set are missing; copy the folder again"):
        read_canvas_set(written)
    table = pq.read_table(written / "canvases.parquet")
    pq.write_table(table.replace_schema_metadata({}), written / "canvases.parquet")
    with pytest.raises(LabelError, match=r"it does not say how it was made"):
        read_canvas_set(written)
    written_settings = json.loads(table.schema.metadata[b"retinafocus_canvas_set"]) | {"version": 9}
    metadata = {b"retinafocus_canvas_set": json.dumps(written_settings)}
    pq.write_table(table.replace_schema_metadata(metadata), written / "canvases.parquet")
    with pytest.raises(LabelError, match=r"written by another version of this program"):
        read_canvas_set(written)
    pq.write_table(table.drop_columns(["x"]), written / "canvases.parquet")
    with pytest.raises(LabelError, match=r"the columns are not those of a set of canvases"):
        read_canvas_set(written)
    damaged = bytearray((written / "faces.parquet").read_bytes())
    damaged[-60:-8] = bytes(byte ^ 0x5A for byte in damaged[-60:-8])
    (written / "faces.parquet").write_bytes(damaged)
    pq.write_table(table, written / "canvases.parquet")
    with pytest.raises(LabelError, match=r"faces.parquet: this is no Parquet file, or a damaged one"):
        read_canvas_set(written)
    (written / "canvases.parquet").write_bytes(b"text")
    with pytest.raises(LabelError, match=r"canvases.parquet: this is no Parquet file"):
        read_canvas_set(written)


def test_the_definition_is_about_photos_places_and_labels_not_about_how_they_were_chosen() -> None:
    photos = [source(truth(f"{number}", [(1, 2, 3, 4)], hard=1), (20, 20)) for number in range(3)]

    def definition(changed: list[SourcePhoto], picture_format: str = "png", **layout: object) -> str:
        config = LayoutConfig(**{"width": 90, "height": 80, **layout})  # type: ignore[arg-type]
        return place_photos(changed, config, picture_format)[0].definition()

    same = definition(photos)
    assert len(same) == 64
    assert definition(photos, seed=5) == same
    other_label = source(truth("0", [(1, 2, 3, 5)], hard=1), (20, 20))
    other_list = source(truth("0", [(1, 2, 3, 4)], hard=0), (20, 20))
    assert same not in {
        definition(photos[::-1]),
        definition(photos, gutter=3),
        definition(photos, width=91),
        definition(photos, "jpeg"),
        definition([other_label, *photos[1:]]),
        definition([other_list, *photos[1:]]),
    }


@pytest.mark.shared
def test_real_photos_lie_on_canvases_with_all_their_rows(shared_data: Path) -> None:
    listed = list_photos(shared_data / "faces" / "val", None)
    sources = [
        SourcePhoto(photo.truth, photo.ignored, photo.labelled((0, 0)), photo.truth.name[-64:]) for photo in listed
    ]
    for order in ORDERS:
        canvases, excluded = place_photos(sources, LayoutConfig(order=order), "png")
        assert not excluded
        assert count_faces(canvases.canvas_truth()) == count_faces([photo.truth for photo in listed])
        assert sum(len(photo.boxes) for photo in canvases.canvas_truth()) == sum(len(one.truth.boxes) for one in listed)


@pytest.mark.shared
def test_the_official_lists_are_on_the_canvases_but_for_what_is_left_out(shared_data: Path) -> None:
    pytest.importorskip("scipy")
    # The pictures are not here: every photo is taken to be 1024 px wide and to end 300 px below its lowest box.
    sources = [
        source(photo, (int((photo.boxes[:, 1] + photo.boxes[:, 3]).max()) + 300, 1024))
        for photo in read_ground_truth(shared_data / "widerface")
    ]
    for width, height in ((3840, 2160), (7680, 4320)):
        canvases, excluded = place_photos(sources, LayoutConfig(width=width, height=height, order="balanced"), "png")
        assert len(canvases.tiles) + len(excluded) == 3226
        lost = count_faces([photo.truth for photo in excluded])
        there = count_faces(canvases.canvas_truth())
        assert [there[setting] + lost[setting] for setting in SETTINGS] == [7211, 13_319, 31_958]
        assert len(canvases.carry_back({})) == len(canvases.tiles)
