"""Pictures for people: where frames, points and scores go, and that files are whole and in the right colours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from retinafocus import draw
from retinafocus.draw import FRAME_COLOUR, LANDMARK_COLOURS, SHEET_COLOUR, contact_sheet, draw_faces, save_picture
from retinafocus.errors import RunError, SettingsError


@dataclass
class FakeFaces:
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]


def faces(*boxes: tuple[float, ...]) -> FakeFaces:
    """Faces with falling scores and landmarks at fixed parts of their boxes."""
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    parts = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], dtype=np.float32)
    points = array[:, None, :2] + parts * (array[:, None, 2:] - array[:, None, :2])
    return FakeFaces(array, np.linspace(0.95, 0.5, len(array), dtype=np.float32), points)


def black(height: int, width: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), dtype=np.uint8)


def is_frame(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    matches: NDArray[np.bool_] = (pixels == FRAME_COLOUR).all(axis=2)
    return matches


def test_frame_lies_just_outside_the_box() -> None:
    # 100 px picture and 40 px face: a line of one pixel. x2 and y2 are exclusive, so it starts at 70.
    drawn = draw_faces(black(100, 100), faces((30, 40, 70, 80)), landmarks=False, scores=False)
    expected = np.zeros((100, 100), dtype=np.bool_)
    expected[39:81, 29:71] = True
    expected[40:80, 30:70] = False
    np.testing.assert_array_equal(is_frame(drawn), expected)


def test_frame_of_a_box_with_fractions_covers_none_of_its_pixels() -> None:
    drawn = draw_faces(black(50, 50), faces((10.6, 10.6, 20.2, 20.2)), landmarks=False, scores=False)
    assert not is_frame(drawn)[10:21, 10:21].any()
    assert is_frame(drawn)[9, 9:22].all()
    assert is_frame(drawn)[21, 9:22].all()


def test_frame_at_the_border_stays_inside_the_picture() -> None:
    drawn = draw_faces(black(60, 80), faces((-15, -15, 95, 75)), landmarks=False, scores=False)
    expected = np.ones((60, 80), dtype=np.bool_)
    expected[1:-1, 1:-1] = False
    np.testing.assert_array_equal(is_frame(drawn), expected)


def line_width(side: int, face: int) -> int:
    drawn = draw_faces(black(side, side), faces((side / 2, side / 2, side / 2 + face, side / 2 + face)), scores=False)
    return int(is_frame(drawn)[side // 2 + face // 2, : side // 2 + 1].sum())


def test_lines_grow_with_the_picture_and_never_bury_a_small_face() -> None:
    # 300 / 500 and 2500 / 500 px; an eighth of 16 px.
    assert line_width(300, 100) == 1
    assert line_width(2500, 400) == 5
    assert line_width(2500, 16) == 2


def test_landmarks_are_drawn_in_their_own_colours() -> None:
    found = faces((20, 20, 80, 80))
    drawn = draw_faces(black(100, 100), found, scores=False)
    for (x, y), colour in zip(found.landmarks[0].astype(int), LANDMARK_COLOURS, strict=True):
        assert tuple(drawn[y, x]) == colour
    without = draw_faces(black(100, 100), found, landmarks=False, scores=False)
    assert not without[30:70, 30:70].any()


def label_edges(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what the scores changed."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def drawn_label(height: int, width: int, box: tuple[float, ...]) -> tuple[int, int, int, int]:
    found = faces(box)
    # A grey that is not in the label, so that the whole label shows as a change.
    grey = np.full((height, width, 3), 77, dtype=np.uint8)
    return label_edges(draw_faces(grey, found, landmarks=False, scores=False), draw_faces(grey, found, landmarks=False))


PLACES = [
    pytest.param((100, 150, 180, 220), "above", id="above_where_there_is_room"),
    pytest.param((100, 0, 180, 80), "below", id="below_at_the_upper_border"),
    pytest.param((100, 2, 180, 298), "inside", id="inside_a_face_as_tall_as_the_picture"),
    pytest.param((390, 150, 400, 160), "above", id="pushed_left_at_the_right_border"),
]


@pytest.mark.parametrize(("box", "place"), PLACES)
def test_score_is_written_at_its_frame_and_inside_the_picture(box: tuple[float, ...], place: str) -> None:
    left, top, right, bottom = drawn_label(300, 400, box)
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 300
    if place == "above":
        assert bottom == box[1] - 1
    elif place == "below":
        assert top == box[3] + 1
    else:
        # In the frame's own colour, so its first changed pixel is a digit, or the ground below the frame's line.
        assert 0 < top < 30
    if right < 400:
        assert abs(left - (box[0] - 1)) <= 1


@pytest.mark.parametrize(
    ("height", "width", "face"),
    [
        pytest.param(300, 400, 12, id="300_px_tiny_face"),
        pytest.param(300, 400, 120, id="300_px_large_face"),
        pytest.param(2160, 3840, 12, id="4k_tiny_face"),
        pytest.param(2160, 3840, 900, id="4k_large_face"),
    ],
)
def test_text_is_readable_and_small_against_the_picture(height: int, width: int, face: int) -> None:
    _, top, _, bottom = drawn_label(height, width, (width / 2, height / 2, width / 2 + face, height / 2 + face))
    assert bottom - top >= max(10, height / 90)
    assert bottom - top <= height / 15


def test_score_that_would_cover_a_better_one_is_left_out() -> None:
    # Twenty faces in the same place: three labels fit (above, below, inside), the rest is left out.
    found = faces(*[(100, 100, 140, 140)] * 20)
    three = faces(*[(100, 100, 140, 140)] * 3)
    three.scores = found.scores[:3]
    np.testing.assert_array_equal(
        draw_faces(black(300, 300), found, landmarks=False), draw_faces(black(300, 300), three, landmarks=False)
    )


def test_score_avoids_the_face_above() -> None:
    above, lower = (100, 100, 140, 140), (100, 142, 140, 182)
    pair = draw_faces(black(300, 300), faces(above, lower), landmarks=False)
    assert not is_frame(pair)[105:135, 105:135].any()


def test_input_is_not_changed_and_the_result_is_a_new_picture() -> None:
    pixels = black(64, 64)
    drawn = draw_faces(pixels, faces((10, 10, 50, 50)))
    assert not pixels.any()
    assert drawn.shape == pixels.shape
    assert drawn.dtype == np.uint8


def test_no_faces_give_a_copy() -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    drawn = draw_faces(pixels, faces())
    np.testing.assert_array_equal(drawn, pixels)
    assert not np.shares_memory(drawn, pixels)


def test_read_only_and_flipped_pixels_can_be_drawn_on() -> None:
    pixels = black(64, 64)[:, ::-1]
    pixels.setflags(write=False)
    assert is_frame(draw_faces(pixels, faces((10, 10, 50, 50)))).any()


ODD_BOXES = [
    pytest.param((float("nan"), 0, 5, 5), id="nan"),
    pytest.param((0, 0, float("inf"), 5), id="infinite"),
    pytest.param((200, 200, 210, 210), id="outside"),
    pytest.param((8, 8, 4, 4), id="swapped_corners"),
    pytest.param((5, 5, 5, 9), id="without_area"),
]


@pytest.mark.parametrize("box", ODD_BOXES)
def test_boxes_with_nothing_in_the_picture_are_left_out(box: tuple[float, ...]) -> None:
    odd = faces((2, 2, 8, 8))
    odd.boxes[0] = box
    assert not draw_faces(black(20, 20), odd).any()


def test_enormous_box_is_drawn_along_the_border() -> None:
    drawn = draw_faces(black(20, 20), faces((-1e30, -1e30, 1e30, 1e30)), landmarks=False)
    assert is_frame(drawn)[0].all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (6, 6)])
def test_picture_too_small_for_text_is_still_drawn(size: tuple[int, int]) -> None:
    assert is_frame(draw_faces(black(*size), faces((0, 0, 1, 1)), landmarks=False)).any()


def test_thousands_of_faces_can_be_drawn() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 1900, (3000, 2))
    found = faces(*np.hstack([corners, corners + 10]).tolist())
    assert is_frame(draw_faces(black(1080, 1920), found)).any()


WRONG_PIXELS = [
    pytest.param(np.zeros((4, 4), np.uint8), r"pixels are \(4, 4\) uint8", id="grey"),
    pytest.param(np.zeros((4, 4, 4), np.uint8), r"pixels are \(4, 4, 4\) uint8", id="with_alpha"),
    pytest.param(np.zeros((4, 4, 3), np.float32), r"pixels are \(4, 4, 3\) float32", id="float"),
    pytest.param(np.zeros((0, 4, 3), np.uint8), r"pixels are \(0, 4, 3\) uint8", id="empty"),
]


@pytest.mark.parametrize(("pixels", "message"), WRONG_PIXELS)
def test_what_is_no_rgb_picture_is_refused(pixels: NDArray[np.uint8], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        draw_faces(pixels, faces())
    with pytest.raises(SettingsError, match=message):
        contact_sheet([pixels], 1, (10, 10))
    with pytest.raises(SettingsError, match=message):
        save_picture(tmp_path / "a.png", pixels)


# ---- contact sheets ----


def test_pictures_are_laid_out_in_rows_with_gaps() -> None:
    colours = [(10 * n, 0, 0) for n in range(1, 6)]
    pictures = [np.full((20, 20, 3), colour, dtype=np.uint8) for colour in colours]
    sheet = contact_sheet(pictures, 3, (20, 20))
    # Two rows of three cells of 20 px, gaps of 4 px around and between.
    assert sheet.shape == (2 * 24 + 4, 3 * 24 + 4, 3)
    for number, colour in enumerate(colours):
        row, column = divmod(number, 3)
        cell = sheet[4 + 24 * row : 24 + 24 * row, 4 + 24 * column : 24 + 24 * column]
        assert (cell == colour).all()
    assert (sheet[28:48, 52:72] == SHEET_COLOUR).all()
    assert (sheet[:, 24:28] == SHEET_COLOUR).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((100, 50), (20, 10), id="tall_is_made_smaller"),
        pytest.param((50, 100), (10, 20), id="wide_is_made_smaller"),
        pytest.param((5, 5), (20, 20), id="small_is_made_larger"),
        pytest.param((1, 2000), (1, 20), id="a_line_keeps_a_pixel"),
    ],
)
def test_picture_keeps_its_proportions_in_the_middle_of_its_cell(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    sheet = contact_sheet([np.full((*size, 3), 255, dtype=np.uint8)], 1, (20, 20))
    rows, columns = np.nonzero((sheet == 255).all(axis=2))
    assert (len(set(rows)), len(set(columns))) == expected
    assert rows.min() == 4 + (20 - expected[0]) // 2
    assert columns.min() == 4 + (20 - expected[1]) // 2


def test_sheet_is_no_wider_than_its_pictures_and_without_any_is_one_empty_cell() -> None:
    assert contact_sheet([black(5, 5)] * 2, 8, (10, 10)).shape == (18, 32, 3)
    empty = contact_sheet([], 8, (10, 20))
    assert empty.shape == (18, 28, 3)
    assert (empty == SHEET_COLOUR).all()


@pytest.mark.parametrize(("columns", "cell"), [(0, (10, 10)), (2, (0, 10))])
def test_sheet_without_room_is_refused(columns: int, cell: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=f"columns is {columns} and cell"):
        contact_sheet([], columns, cell)


# ---- files ----


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG")])
def test_saved_picture_has_the_kind_of_its_suffix_and_its_colours(tmp_path: Path, name: str, kind: str) -> None:
    red = np.full((16, 24, 3), (200, 30, 10), dtype=np.uint8)
    save_picture(tmp_path / name, red)
    with Image.open(tmp_path / name) as saved:
        assert saved.format == kind
        assert saved.size == (24, 16)
        assert np.abs(np.asarray(saved, dtype=int) - red).max() <= (0 if kind == "PNG" else 4)
    assert os.listdir(tmp_path) == [name]


def test_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    save_picture(str(path), black(4, 4))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.part"])
def test_unknown_suffix_is_named_with_the_ones_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: pictures are written as \.png, \.jpg, \.jpeg"):
        save_picture(tmp_path / name, black(4, 4))


def test_picture_too_long_for_jpeg_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"65501 x 1 px, and \.jpg ends at 65,500 px a side"):
        save_picture(tmp_path / "a.jpg", black(1, 65_501))


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        pytest.param("missing", "No such file or directory", id="missing_folder"),
        pytest.param("file", "Not a directory", id="a_file_in_its_place"),
    ],
)
def test_folder_that_cannot_be_written_is_named(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match=rf"a\.png: the picture cannot be written: {reason}; choose another folder"):
        save_picture(tmp_path / folder / "a.png", black(4, 4))


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def no_space(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draw.os, "replace", no_space)
    with pytest.raises(RunError, match="No space left on device"):
        save_picture(path, black(4, 4))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]
