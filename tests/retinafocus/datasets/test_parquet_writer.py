"""The Parquet form, written: what is read back, linked and copied pictures, and nothing half done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.datasets.parquet_writer import Pictures, write_parquet_folder
from retinafocus.errors import RunError

NAN = float("nan")


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, LabelledPhoto]:
    """A photo with faces of both kinds and ignore regions, one with nothing, one with an ignore region only."""
    random = np.random.default_rng(5)
    corners = np.sort(random.uniform(0, 90, (7, 2, 2)), axis=1).reshape(7, 4).astype(np.float32)
    landmarks = random.uniform(-5, 99, (3, 5, 2)).astype(np.float32)
    landmarks[1], landmarks[2, 4] = NAN, NAN
    made = {}
    for name, faces, ignore, kinds in (
        ("day 1/b.jpg", corners[:3], corners[3:5], ("pseudo", "human", "pseudo")),
        ("a.jpg", corners[:0], corners[:0], ()),
        ("day 1/a.jpg", corners[:0], corners[6:], ()),
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        made[name] = LabelledPhoto(path, (91, 92), faces, landmarks[: len(faces)], ignore, "holiday", kinds)
    return made


@pytest.mark.parametrize("pictures", ["link", "copy"])
def test_what_is_read_back_is_what_was_written(
    tmp_path: Path, photos: dict[str, LabelledPhoto], pictures: Pictures
) -> None:
    folder = tmp_path / "new" / "out"
    write_parquet_folder(photos, folder, pictures=pictures)
    again = read_parquet_folder(folder)
    assert [photo.path for photo in again] == [folder / "images" / name for name in photos]
    for old, new in zip(photos.values(), again, strict=True):
        assert (new.size, new.source, new.kinds) == (old.size, old.source, old.kinds)
        for field in ("boxes", "landmarks", "ignore"):
            ours, theirs = getattr(new, field), getattr(old, field)
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)
        assert new.path.read_bytes() == old.path.read_bytes()
        assert new.path.is_symlink() == (pictures == "link")
    assert sorted(path.name for path in folder.iterdir()) == ["images", "images.parquet", "labels.parquet"]


def test_copies_outlive_their_originals_and_links_point_at_them(
    tmp_path: Path, photos: dict[str, LabelledPhoto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near = {name: replace(photo, path=photo.path.relative_to(tmp_path)) for name, photo in photos.items()}
    write_parquet_folder(near, Path("linked"), pictures="link")
    assert (tmp_path / "linked" / "images" / "a.jpg").resolve() == tmp_path / "photos" / "a.jpg"
    write_parquet_folder(near, Path("copied"), pictures="copy")
    (tmp_path / "photos" / "a.jpg").unlink()
    assert (tmp_path / "copied" / "images" / "a.jpg").read_bytes() == b"a.jpg"


def test_no_photos_at_all_are_a_folder_too(tmp_path: Path) -> None:
    write_parquet_folder({}, tmp_path / "out", pictures="link")
    assert read_parquet_folder(tmp_path / "out") == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, photos: dict[str, LabelledPhoto]) -> None:
    with pytest.raises(RunError, match=r"photos: there is something already; choose a new folder"):
        write_parquet_folder(photos, tmp_path / "photos", pictures="link")
    assert all(photo.path.is_file() and not photo.path.is_symlink() for photo in photos.values())
    (tmp_path / "empty").mkdir()
    write_parquet_folder(photos, tmp_path / "empty", pictures="link")
    assert len(read_parquet_folder(tmp_path / "empty")) == 3


def test_a_failure_leaves_nothing_behind(tmp_path: Path, photos: dict[str, LabelledPhoto]) -> None:
    photos["day 1/a.jpg"].path.unlink()
    with pytest.raises(RunError, match=r"out: cannot be written \(No such file or directory\)"):
        write_parquet_folder(photos, tmp_path / "out", pictures="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.shared
def test_the_research_pack_survives_the_round_trip(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "faces" / "val"
    photos = {photo.path.relative_to(folder / "images").as_posix(): photo for photo in read_parquet_folder(folder)}
    write_parquet_folder(photos, tmp_path / "out", pictures="link")
    for old, new in zip(photos.values(), read_parquet_folder(tmp_path / "out"), strict=True):
        assert (new.size, new.source, new.kinds) == (old.size, old.source, old.kinds)
        for field in ("boxes", "landmarks", "ignore"):
            np.testing.assert_array_equal(getattr(new, field), getattr(old, field))
