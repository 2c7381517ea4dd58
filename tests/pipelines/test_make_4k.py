"""`retinafocus make-4k`: pixels of the photos at their own size, labels of theirs, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.data_check import check_folder
from pipelines.make_4k import CanvasJob, make_canvases
from pipelines.report import Progress
from retinafocus.datasets.canvas_layout import ORDERS, LayoutConfig
from retinafocus.datasets.canvas_set import FILL, read_canvas_set
from retinafocus.datasets.labelled import LANDMARK_COLUMNS, read_parquet_folder
from retinafocus.datasets.wider_ground_truth import read_ground_truth
from retinafocus.errors import LabelError, RunError, SettingsError
from retinafocus.photos import decode

ROOT = Path(__file__).parents[2]
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")

# Name: (width, height), rows x y w h, which of them are easy, medium, hard (from 1), which are invalid.
WIDER = {
    "0--Parade/a_1": ((120, 90), [(10, 10, 30, 60), (60, 20, 8, 12), (90, 50, 6, 6)], [[2], [2], [1, 2]], [3]),
    "0--Parade/b.2": ((60, 100), [(0, 0, 0, 0)], [[], [], []], []),
    "1--Riot/c": ((100, 80), [(50, 40, 20, 40), (102, 3, -2, 9)], [[], [1], [1, 2]], []),
    "1--Riot/high": ((40, 300), [(5, 200, 20, 55)], [[1], [1], [1]], []),
}


def cells(values: list[object]) -> np.ndarray:
    """MATLAB's (n, 1) cell array."""
    column = np.empty((len(values), 1), object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


def picture(path: Path, width: int, height: int) -> np.ndarray:
    """Write noise, and return it as it is decoded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return decode(path.read_bytes())


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    """Four photos as WIDER FACE unpacks, one of them too high for the canvases here, and their ground truth."""
    scipy_io = pytest.importorskip("scipy.io")
    root = tmp_path / "WIDER"
    for name, ((width, height), *_) in WIDER.items():
        picture(root / "WIDER_val" / "images" / f"{name}.jpg", width, height)
    events = list(dict.fromkeys(name.split("/")[0] for name in WIDER))
    groups = [[name for name in WIDER if name.startswith(f"{event}/")] for event in events]

    def field(value: Callable[[str], object]) -> np.ndarray:
        return cells([cells([value(name) for name in group]) for group in groups])

    content = {
        "event_list": cells(list(events)),
        "file_list": field(lambda name: name.split("/")[1]),
        "face_bbx_list": field(lambda name: np.array(WIDER[name][1], np.int32)),
    }
    for attribute in ATTRIBUTES:
        content[f"{attribute}_label_list"] = field(
            lambda name, attribute=attribute: np.array(
                [[attribute == "invalid" and row in WIDER[name][3]] for row in range(1, len(WIDER[name][1]) + 1)],
                np.uint8,
            )
        )
    (root / "ground_truth").mkdir()
    scipy_io.savemat(root / "ground_truth" / "wider_face_val.mat", content)
    for number, setting in enumerate(("easy", "medium", "hard")):
        gt_list = field(lambda name, number=number: np.array(WIDER[name][2][number], np.uint8).reshape(-1, 1))
        scipy_io.savemat(root / "ground_truth" / f"wider_{setting}_val.mat", {**content, "gt_list": gt_list})
    return root


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two photos in the Parquet form, with faces of 55 and 12 px, a landmark and an ignore region."""
    root = tmp_path / "labelled"
    picture(root / "images" / "day 1" / "a.png", 90, 70)
    picture(root / "images" / "b.png", 60, 40)
    box = {"image": "day 1/a.png", "x1": 10.0, "y1": 5.0, "x2": 50.0, "y2": 60.0, "kind": "human"}
    labels = [
        box | dict.fromkeys(LANDMARK_COLUMNS) | {"nose_x": 30.0, "nose_y": 40.0},
        box | dict.fromkeys(LANDMARK_COLUMNS) | {"image": "b.png", "y2": 17.0, "kind": "pseudo"},
        box | dict.fromkeys(LANDMARK_COLUMNS) | {"image": "b.png", "x1": 20.5, "kind": "ignore", "y2": 30.0},
    ]
    images = [
        {"image": "day 1/a.png", "width": 90, "height": 70, "source": "one"},
        {"image": "b.png", "width": 60, "height": 40, "source": "other"},
    ]
    pq.write_table(pa.Table.from_pylist(images), root / "images.parquet")
    schema = pa.schema(
        [
            ("image", pa.string()),
            *((name, pa.float32()) for name in (*["x1", "y1", "x2", "y2"], *LANDMARK_COLUMNS)),
            ("kind", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(labels, schema=schema), root / "labels.parquet")
    return root


def make(path: Path, output: Path, **settings: object) -> str:
    """Canvases of 260 x 210 px with a gutter of 10, unless the settings of the layout or the job say otherwise."""
    names = {field.name for field in fields(LayoutConfig)}
    layout = {"width": 260, "height": 210, "gutter": 10} | {name: settings[name] for name in settings if name in names}
    others = {name: settings[name] for name in settings if name not in names}
    job = CanvasJob(path=str(path), output=str(output), **{"layouts": [LayoutConfig(**layout)], **others})
    return make_canvases(job, Progress(io.StringIO()))


def test_every_photo_of_wider_face_lies_on_a_canvas_as_it_is(wider: Path, tmp_path: Path) -> None:
    make(wider, tmp_path / "out")
    canvases = read_canvas_set(tmp_path / "out")
    assert [tile.photo.name for tile in canvases.tiles] == ["0--Parade/a_1", "0--Parade/b.2", "1--Riot/c"]
    (path,) = canvases.pictures.values()
    pixels = decode(path.read_bytes())
    assert pixels.shape == (210, 260, 3)
    ground = np.ones((210, 260), np.bool_)
    for tile in canvases.tiles:
        left, top, width, height = tile.place
        data = (wider / "WIDER_val" / "images" / f"{tile.photo.name}.jpg").read_bytes()
        assert tile.sha256 == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(pixels[top : top + height, left : left + width], decode(data))
        ground[top : top + height, left : left + width] = False
    assert (pixels[ground] == FILL).all()


def test_the_official_lists_are_carried_over_row_by_row(wider: Path, tmp_path: Path) -> None:
    make(wider, tmp_path / "out")
    official = {photo.name: photo for photo in read_ground_truth(wider / "ground_truth")}
    tiles = read_canvas_set(tmp_path / "out").tiles
    for tile in tiles:
        np.testing.assert_array_equal(tile.photo.boxes, official[tile.photo.name].boxes)
        for setting, rows in official[tile.photo.name].kept.items():
            np.testing.assert_array_equal(tile.photo.kept[setting], rows)
    # The face of 12 px is easy here and that of 60 px is not: what the lists say, whatever rule they mostly follow.
    assert tiles[0].photo.kept["easy"].tolist() == [False, True, False]
    assert [tile.photo.kept["hard"].tolist() for tile in tiles] == [[True, True, False], [False], [True, True]]
    assert [tile.ignored.tolist() for tile in tiles] == [[False, False, True], [False], [False, False]]


def test_photos_left_out_are_told_with_their_faces(wider: Path, tmp_path: Path) -> None:
    (wider / "WIDER_val" / "images" / "1--Riot" / "c.jpg").write_bytes(b"no picture" * 99)
    text = make(wider, tmp_path / "out")
    assert "photos   2 placed, 2 left out" in text
    assert "left out 1 unsupported_format, 1 too_large, with faces 1 easy, 2 medium, 3 hard; first" in text
    excluded = pq.read_table(tmp_path / "out" / "excluded.parquet").to_pylist()
    assert [(row["name"], row["status"], row["hard"]) for row in excluded] == [
        ("1--Riot/c", "unsupported_format", 2),
        ("1--Riot/high", "too_large", 1),
    ]
    assert excluded[1]["reason"] == "40 x 300 px do not fit on 260 x 210 px with a gutter of 10"
    assert "* 1--Riot/high: too_large, 40 x 300 px" in (tmp_path / "out" / "summary.md").read_text()


def test_the_parquet_form_keeps_faces_landmarks_and_ignore_regions(labelled: Path, tmp_path: Path) -> None:
    make(labelled, tmp_path / "out")
    first, second = read_canvas_set(tmp_path / "out").tiles
    assert (first.place, second.place) == ((10, 10, 90, 70), (110, 10, 60, 40))
    assert (first.photo.name, second.photo.name) == ("day 1/a", "b")
    assert [rows.tolist() for rows in first.photo.kept.values()] == [[True], [True], [True]]
    assert [rows.tolist() for rows in second.photo.kept.values()] == [[False, False], [False, False], [True, False]]
    assert second.ignored.tolist() == [False, True]
    (canvas,) = read_parquet_folder(tmp_path / "out")
    assert canvas.size == (210, 260)
    assert canvas.boxes.tolist() == [[20, 15, 60, 70], [120, 15, 160, 27]]
    assert canvas.ignore.tolist() == [[130.5, 15, 160, 40]]
    assert (canvas.kinds, canvas.source) == (("human", "pseudo"), "canvas")
    assert canvas.landmarks[0, 2].tolist() == [40, 50]
    assert np.isnan(np.delete(canvas.landmarks.reshape(-1, 2), 2, axis=0)).all()
    assert not check_folder(str(tmp_path / "out"), None, None, None).has_problems


def test_the_summary_counts_canvas_by_canvas(labelled: Path, tmp_path: Path) -> None:
    text = make(labelled, tmp_path / "out")
    # Of 260 x 210 px photos cover 90 x 70 + 60 x 40; the face of 40 x 12 px is the one under 32 px.
    row = "| 2 | 3 | 1 | 1 | 2 | 1 | 15.9% | 0.879% |"
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert f"| canvas-0000 {row}\n| all {row}\n" in summary
    assert f"Definition `{read_canvas_set(tmp_path / 'out').definition()}`" in summary
    assert "16% of them under photos\nphotos   2 placed, 0 left out\nfaces    1 easy, 1 medium, 2 hard; 3 rows" in text
    assert "focus    faces under 32 px cover 0.879% to 0.879% of a canvas, 0.879% of the one in the middle" in text


def test_wider_face_becomes_the_parquet_form_without_rows_that_are_no_box(wider: Path, tmp_path: Path) -> None:
    make(wider, tmp_path / "out")
    (canvas,) = read_parquet_folder(tmp_path / "out")
    # Two faces of a_1 at (10, 10), one of c; the invalid row is ignored, the two without area are gone.
    assert canvas.boxes[:2].tolist() == [[20, 20, 50, 80], [70, 30, 78, 42]]
    assert (len(canvas.boxes), canvas.ignore.tolist()) == (3, [[100, 60, 106, 66]])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("picture_format", ["png", "jpeg"])
def test_the_same_arguments_give_the_same_bytes(wider: Path, tmp_path: Path, order: str, picture_format: str) -> None:
    texts = [
        make(wider, tmp_path / name, order=order, seed=3, format=picture_format, width=160) for name in ("one", "two")
    ]
    assert texts[0].replace(str(tmp_path / "one"), str(tmp_path / "two")) == texts[1]
    contents = [
        {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    ]
    assert contents[0] == contents[1]
    suffix = "png" if picture_format == "png" else "jpg"
    assert [name for name in contents[0] if "/" not in name] == [
        "canvases.parquet", "excluded.parquet", "faces.parquet", "images.parquet", "labels.parquet", "summary.md",
    ]  # fmt: skip
    assert f"images/canvas-0001.{suffix}" in contents[0]


def test_jpeg_stays_close_to_the_photos(labelled: Path, tmp_path: Path) -> None:
    for picture_format in ("png", "jpeg"):
        make(labelled, tmp_path / picture_format, format=picture_format)
    lossless = decode((tmp_path / "png" / "images" / "canvas-0000.png").read_bytes()).astype(float)
    jpeg = decode((tmp_path / "jpeg" / "images" / "canvas-0000.jpg").read_bytes()).astype(float)
    assert np.abs(jpeg - lossless).mean() < 2  # of noise, the hardest there is


def test_both_sizes_get_a_folder_each(labelled: Path, tmp_path: Path) -> None:
    layouts = [LayoutConfig(width=120, height=90, gutter=10), LayoutConfig(width=240, height=180, gutter=10)]
    text = make(labelled, tmp_path / "out", layouts=layouts)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["120x90", "240x180"]
    small, large = (read_canvas_set(tmp_path / "out" / name) for name in ("120x90", "240x180"))
    assert (len(small.pictures), len(large.pictures)) == (2, 1)
    assert f"hash     {small.definition()}" in text
    assert f"hash     {large.definition()}" in text


def test_the_expected_set_is_made_and_no_other(labelled: Path, tmp_path: Path) -> None:
    make(labelled, tmp_path / "first")
    definition = read_canvas_set(tmp_path / "first").definition()
    make(labelled, tmp_path / "again", expect=[definition])
    with pytest.raises(SettingsError, match=rf"the set of 260x210 would be [0-9a-f]{{64}}, not {definition}"):
        make(labelled, tmp_path / "other", expect=[definition], gutter=9)
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".unfinished*"))


def test_a_set_that_fails_half_way_leaves_nothing(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def placed(*arguments: object) -> object:
        (labelled / "images" / "b.png").write_bytes((labelled / "images" / "day 1" / "a.png").read_bytes())
        return place_photos(*arguments)  # type: ignore[arg-type]

    from pipelines import make_4k
    from retinafocus.datasets.canvas_writer import place_photos

    monkeypatch.setattr(make_4k, "place_photos", placed)
    with pytest.raises(RunError, match=r"b.png: it was changed since its place was chosen; make the set again"):
        make(labelled, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".unfinished*"))


def test_damaged_labels_are_not_mistaken_for_a_folder_that_cannot_be_written(labelled: Path, tmp_path: Path) -> None:
    damage(labelled / "labels.parquet")
    with pytest.raises(LabelError, match=r"labels.parquet: this is no Parquet file, or a damaged one \(.*\); copy"):
        make(labelled, tmp_path / "out")


def damage(path: Path) -> None:
    """Change bytes of a Parquet file's footer, which leaves it its length and its marks."""
    data = bytearray(path.read_bytes())
    data[-60:-8] = bytes(byte ^ 0x5A for byte in data[-60:-8])
    path.write_bytes(data)


def test_a_folder_with_something_in_it_is_left_alone(labelled: Path) -> None:
    with pytest.raises(RunError, match=r"labelled: there is something already; choose a new folder"):
        make(labelled, labelled)


def test_photos_of_another_size_than_their_labels_are_left_out(labelled: Path, tmp_path: Path) -> None:
    picture(labelled / "images" / "b.png", 61, 40)
    make(labelled, tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "excluded.parquet").to_pylist()
    reason = "the labels were made for 60 x 40 px, the upright photo has 61 x 40 px"
    assert (row["name"], row["status"], row["reason"]) == ("b", "wrong_size", reason)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"format": "webp"}, r"format: webp is not known; choose png, jpeg", id="format"),
        pytest.param({"expect": ["a", "b"]}, r"expect: 2 definitions for 1 sets; name one for each", id="expect"),
        pytest.param({"ground_truth": "."}, r"ground_truth: .* has labels of its own", id="ground truth"),
        pytest.param({"width": 9, "height": 9, "gutter": 0}, r"none of the 2 photos can be placed", id="all too large"),
        pytest.param({"width": 20_000, "height": 20_000}, r"size: 20000x20000 is more than the decoder", id="size"),
        pytest.param(
            {"width": 65_501, "format": "jpeg"}, r"size: a side of 65,501 px is more than JPEG has, 65,500", id="jpeg"
        ),
        pytest.param({"expect": [""]}, r"expect: '' is no definition; write the 64 digits", id="empty variable"),
        pytest.param({"expect": ["1f0c"]}, r"expect: '1f0c' is no definition; write the 64 digits", id="short hash"),
        pytest.param({"layouts": [LayoutConfig()] * 2}, r"layouts: one or more are needed, each of an", id="twice"),
        pytest.param({"layouts": []}, r"layouts: one or more are needed, each of another size", id="no layout"),
    ],
)
def test_impossible_settings_are_refused(
    labelled: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make(labelled, tmp_path / "out", **settings)


def test_a_folder_that_is_neither_form_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere: there is no such folder"):
        make(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(SettingsError, match=r"there is no images.parquet in it, nor wider_hard_val.mat"):
        make(tmp_path, tmp_path / "out")


def test_the_ground_truth_is_found_below_the_folder_or_named(wider: Path, tmp_path: Path) -> None:
    # As in the release: the folder of labels has all boxes too, but not the lists.
    (wider / "wider_face_split").mkdir()
    shutil.copy(wider / "ground_truth" / "wider_face_val.mat", wider / "wider_face_split")
    make(wider, tmp_path / "found")
    (wider / "ground_truth").rename(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match=r"name the folder ground_truth .* with --ground-truth"):
        make(wider, tmp_path / "out")
    make(wider, tmp_path / "named", ground_truth=str(tmp_path / "elsewhere"))
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "elsewhere", wider / name)
    with pytest.raises(SettingsError, match=r"wider_hard_val.mat lies in .*/one, .*/two; name the folder"):
        make(wider, tmp_path / "out")


def test_a_part_of_wider_face_does_not_pass_for_the_whole(wider: Path, tmp_path: Path) -> None:
    (wider / "WIDER_val" / "images" / "0--Parade" / "b.2.jpg").unlink()
    with pytest.raises(LabelError, match=r"1 of the 4 pictures .* are not there \(the first is 0--Parade/b.2.jpg\)"):
        make(wider, tmp_path / "out")


def test_two_photos_of_one_name_are_refused(labelled: Path, tmp_path: Path) -> None:
    images = pq.read_table(labelled / "images.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*images, images[1] | {"image": "b.jpg"}]), labelled / "images.parquet")
    with pytest.raises(SettingsError, match=r"b.jpg: b.png has the same name but for the ending; rename one"):
        make(labelled, tmp_path / "out")


def test_the_command_makes_the_set_of_the_paper(
    wider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["make-4k", str(wider), "-o", str(tmp_path / "out"), "--size", "both", "--format", "jpeg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("canvases 1 of 3840 x 2160 px in ")
    assert lines[1] == "photos   4 placed, 0 left out"
    assert lines[2] == "faces    2 easy, 3 medium, 5 hard; 7 rows in all, 1 of them ignored"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["3840x2160", "7680x4320"]


def test_the_example_of_the_documentation_runs(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "make_4k.md").read_text(), re.S)
    make(labelled, tmp_path / "val-4k" / "3840x2160")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    for result in ("on_canvases", "on_photos"):
        assert [one.num_faces for one in names[result].values()] == [1, 1, 2]  # type: ignore[attr-defined]


def test_a_seed_for_the_listed_order_is_refused(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["make-4k", str(labelled), "-o", str(tmp_path / "out"), "--seed", "1"]) == 2
    assert "seed: the listed order draws nothing" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["4k", "3840", "3840x2160x3", "-1x5"])
def test_sizes_that_are_none_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["make-4k", "in", "-o", "out", f"--size={text}"])
    assert "write 3840x2160, 7680x4320 or both" in capsys.readouterr().err
