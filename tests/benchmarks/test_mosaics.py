"""Pictures made of pictures: labels where the pixels are, nothing enlarged, the same every time."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import mosaics
from benchmarks.mosaics import Pasted
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.datasets.parquet_writer import write_parquet_folder

SIZE = (400, 640)
RED, BLUE, GROUND = (220, 30, 30), (30, 30, 220), (90, 150, 90)


def _photo(path: Path, size: tuple[int, int], faces: list[tuple[int, int, int, int]], source: str) -> LabelledPhoto:
    """A green picture with red faces, each with a blue nose of a ninth of its sides in its middle."""
    pixels = np.full((*size, 3), GROUND, np.uint8)
    landmarks = np.full((len(faces), 5, 2), np.nan, np.float32)
    for number, (left, top, right, bottom) in enumerate(faces):
        pixels[top:bottom, left:right] = RED
        middle = (left + right) / 2, (top + bottom) / 2
        landmarks[number, 2] = middle
        reach = (right - left) // 9
        rows, columns = (slice(int(value) - reach, int(value) + reach) for value in (middle[1], middle[0]))
        pixels[rows, columns] = BLUE
    assert cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return LabelledPhoto(
        path=path,
        size=size,
        boxes=np.array(faces, np.float32).reshape(-1, 4),
        landmarks=landmarks,
        ignore=np.zeros((0, 4), np.float32),
        source=source,
        kinds=("human",) * len(faces),
    )


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledPhoto]:
    folder = tmp_path_factory.mktemp("faces")
    shapes = [
        ((200, 240), [(30, 40, 80, 100)]),
        ((180, 160), [(20, 20, 60, 60), (90, 60, 126, 108)]),
        ((160, 300), [(10, 10, 64, 64), (100, 20, 172, 92), (220, 80, 270, 130)]),
        ((380, 150), [(30, 60, 120, 180)]),
    ]
    return [_photo(folder / f"{n}.png", size, boxes, "people") for n, (size, boxes) in enumerate(shapes)]


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledPhoto]:
    folder = tmp_path_factory.mktemp("grounds")
    return [_photo(folder / f"{n}.png", size, [], "land") for n, size in enumerate([(130, 170), (110, 250)])]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setitem(mosaics.SIZES, "4k", SIZE)
    monkeypatch.setattr(mosaics, "MEDIUM_PHOTOS", (2, 4))
    return argparse.Namespace(
        faces=None,
        backgrounds=None,
        output=tmp_path / "out",
        photos=4,
        densities=mosaics.DENSITIES,
        size="4k",
        seed=0,
        quality=90,
    )


def _near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 60


@pytest.mark.parametrize("density", mosaics.DENSITIES)
def test_labels_land_where_the_faces_are(
    density: str, faces: list[LabelledPhoto], grounds: list[LabelledPhoto], options: argparse.Namespace
) -> None:
    seen = 0
    for pixels, known in mosaics.make_mosaics(density, faces, grounds, options):
        red = _near(pixels, RED) | _near(pixels, BLUE)
        inside = np.zeros(SIZE, bool)
        for left, top, right, bottom in known.boxes:
            assert red[int(np.ceil(top)) : int(bottom), int(np.ceil(left)) : int(right)].mean() > 0.85
            inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        assert not (red & ~inside).any()
        for x, y in known.landmarks[:, 2]:
            assert pixels[int(y), int(x)].argmax() == 2
        assert np.isnan(known.landmarks[:, [0, 1, 3, 4]]).all()
        seen += len(known.boxes)
    assert seen >= 6


@pytest.mark.parametrize("density", mosaics.DENSITIES)
@pytest.mark.parametrize("seed", range(5))
def test_photos_are_only_shrunk_stay_inside_and_keep_clear_of_each_other(
    density: str, seed: int, faces: list[LabelledPhoto]
) -> None:
    size = (1080, 1920)
    pasted = mosaics.lay_out(density, 0, faces, size, np.random.default_rng(seed))
    assert pasted
    covered = np.zeros(size, int)
    for item in pasted:
        left, top, width, height = item.place
        assert width <= item.photo.size[1]
        assert height <= item.photo.size[0]
        assert width / item.photo.size[1] == pytest.approx(height / item.photo.size[0], abs=1 / min(width, height))
        assert 0 <= left <= size[1] - width
        assert 0 <= top <= size[0] - height
        covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1


def test_ground_of_plain_pictures_is_a_soft_gradient_with_noise() -> None:
    pixels = mosaics.gradient((400, 600), np.random.default_rng(0)).astype(float)
    assert np.abs(np.diff(pixels.mean(axis=1), axis=0)).max() < 2
    assert pixels.std(axis=1).mean() == pytest.approx(mosaics.PLAIN_NOISE, rel=0.1)


def test_sparse_pictures_hold_one_to_five_faces_of_20_to_40_px_or_none(faces: list[LabelledPhoto]) -> None:
    for number in range(20):
        pasted = mosaics.lay_out("sparse", number, faces, (2160, 3840), np.random.default_rng(number))
        known = mosaics.united(pasted, (2160, 3840), "sparse", mosaics.SMALLEST_FACE)
        if number % 2:
            assert not pasted
        else:
            assert 1 <= len(known.boxes) <= 5
            sides = mosaics.face_sides(known.boxes)
            assert sides.min() >= 20
            assert sides.max() <= 40


def test_the_ground_is_photos_at_their_own_size(grounds: list[LabelledPhoto], tmp_path: Path) -> None:
    canvas = mosaics.paved(itertools.cycle(grounds), (200, 300))
    # Row by row: 170 + 250 px are wide enough, the lower photo is 110 high; then the same again, cut at the bottom.
    ground = cv2.cvtColor(cv2.imread(str(grounds[0].path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(canvas[:110, :170], ground[:110])
    np.testing.assert_array_equal(canvas[110:, :170], ground[:90])


def test_a_face_that_became_too_small_is_ignored(faces: list[LabelledPhoto]) -> None:
    # Sides 40 and sqrt(36 * 48) = 41.6 px, shrunk 5 times: 8.0 and 8.3. Shrunk 5.1 times: 7.8 and 8.1.
    kept = mosaics.moved(Pasted(faces[1], (10, 20, 32, 36)), 8.0)
    np.testing.assert_allclose(kept.boxes, [[14, 24, 22, 32], [28, 32, 35.2, 41.6]], rtol=1e-6)
    assert len(kept.ignore) == 0
    one = mosaics.moved(Pasted(faces[1], (0, 0, 31, 36)), 8.0)
    assert (len(one.boxes), len(one.ignore), len(one.landmarks), one.kinds) == (1, 1, 1, ("human",))


def test_the_same_arguments_give_the_same_bytes_and_are_made_once(
    faces: list[LabelledPhoto], grounds: list[LabelledPhoto], options: argparse.Namespace, tmp_path: Path
) -> None:
    options.faces = tmp_path / "labelled"
    write_parquet_folder(
        {photo.source + photo.path.name: photo for photo in (*faces, *grounds)}, options.faces, pictures="copy"
    )
    first = mosaics.made_sets(options)
    again = mosaics.made_sets(options)
    options.output = tmp_path / "other"
    other = mosaics.made_sets(options)
    assert list(first) == list(mosaics.DENSITIES)
    for density in mosaics.DENSITIES:
        assert [photo.path for photo in again[density]] == [photo.path for photo in first[density]]
        for one, two in zip(first[density], other[density], strict=True):
            assert one.path.read_bytes() == two.path.read_bytes()
            np.testing.assert_array_equal(one.boxes, two.boxes)
    # Beside the header there is one line for each set.
    assert len(mosaics.describe(first).strip().splitlines()) == 2 + len(mosaics.DENSITIES)


def test_only_photos_whose_every_face_people_labelled_are_pasted(faces: list[LabelledPhoto], tmp_path: Path) -> None:
    doubtful = LabelledPhoto(
        tmp_path, (9, 9), faces[1].boxes, faces[1].landmarks, faces[1].ignore, "people", ("human", "pseudo")
    )
    empty = _photo(tmp_path / "empty.png", (20, 20), [], "people")
    assert mosaics.labelled_by_people([faces[0], doubtful, empty]) == [faces[0]]
    # A photo without faces may be one nobody labelled, where others of its source have some.
    land = _photo(tmp_path / "land.png", (20, 20), [], "land")
    assert mosaics.without_faces([faces[0], empty, land]) == [land]


def test_without_photographs_the_demos_pictures_are_labelled_where_its_faces_are(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options.photos = 1
    options.faces = options.output / "nowhere"
    (photo,) = mosaics.made_sets(options)["demo"]
    assert photo.size == (2160, 3840)
    assert len(photo.boxes) == 10
    assert mosaics.face_sides(photo.boxes).min() == pytest.approx(20, rel=0.05)
    assert len(read_parquet_folder(options.output / "demo-1")) == 1
