"""Listing an archive: what is found, what is passed over, and how it is cut into shards."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inventory import (
    MANIFEST_SCHEMA,
    SHARD_BYTES,
    SHARD_PHOTOS,
    cut_shards,
    image_id,
    list_photos,
    manifest_table,
    shard_rows,
)
from retinafocus.errors import SettingsError
from retinafocus.photos import read_bytes


def test_folder_is_searched_to_any_depth_and_the_rest_is_counted(archive: Path) -> None:
    inventory = list_photos([str(archive)])
    assert len(inventory.photos) == 24
    assert inventory.root == str(archive)
    assert inventory.skipped == {"other (.txt)": 1, "hidden": 1, "thumbnail or system folder": 1}
    assert all(photo.bytes and photo.modified for photo in inventory.photos)


def test_tables_of_a_run_inside_the_archive_are_passed_over_and_photos_beside_them_are_not(tmp_path: Path) -> None:
    for name in ("out/run.json", "out/_ledger/0.json", "out/images/photo.jpg", "out/mine.jpg", "out/mine/photo.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    inventory = list_photos([str(tmp_path)])
    assert [photo.uri for photo in inventory.photos] == [
        str(tmp_path / "out" / n) for n in ("mine.jpg", "mine/photo.jpg")
    ]
    assert inventory.skipped == {"table of a run": 2, "other (.json)": 1}


def test_linked_folder_is_counted_and_a_linked_photo_is_listed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "loop").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "photo.jpg")
    inventory = list_photos([str(tmp_path / "archive")])
    assert [photo.uri for photo in inventory.photos] == [str(tmp_path / "archive" / "link.jpg")]
    assert inventory.skipped == {"linked folder": 1}


def test_glob_passes_over_what_a_folder_passes_over(archive: Path) -> None:
    inventory = list_photos([str(archive / "**" / "*.jpg")])
    assert len(inventory.photos) == 24
    assert inventory.skipped == {"in a thumbnail or system folder": 1}


@pytest.mark.parametrize(
    ("entries", "root", "paths"),
    [
        pytest.param(["/a/b/1.jpg", "/a/b/c/2.jpg"], "/a/b", ["1.jpg", "c/2.jpg"], id="deepest common folder"),
        pytest.param(["/a/bc/1.jpg", "/a/bd/1.jpg"], "/a", ["bc/1.jpg", "bd/1.jpg"], id="names that begin alike"),
        pytest.param(["/1.jpg", "/a/2.jpg"], "", ["1.jpg", "a/2.jpg"], id="the whole machine"),
        pytest.param(["s3://b/d/1.jpg", "s3://b/e/2.jpg"], "s3://b", ["d/1.jpg", "e/2.jpg"], id="one bucket"),
        pytest.param(["s3://a/1.jpg", "s3://b/1.jpg"], "", ["s3://a/1.jpg", "s3://b/1.jpg"], id="two buckets"),
        pytest.param(["/a/1.jpg", "s3://b/1.jpg"], "", ["a/1.jpg", "s3://b/1.jpg"], id="here and there"),
        pytest.param(["file:///a/b%20c/1.jpg"], "/a/b c", ["1.jpg"], id="file URI is a path"),
    ],
)
def test_root_of_a_list(tmp_path: Path, entries: list[str], root: str, paths: list[str]) -> None:
    (tmp_path / "list.txt").write_text("\n".join(entries))
    inventory = list_photos([str(tmp_path / "list.txt")])
    assert inventory.root == root
    assert manifest_table(inventory).column("path").to_pylist() == paths


def test_same_photo_by_path_and_by_uri_is_one(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("/x/1.jpg\nfile:///x/1.jpg\n/x/./1.jpg\n")
    inventory = list_photos([str(tmp_path / "list.txt")])
    assert [photo.uri for photo in inventory.photos] == ["/x/1.jpg"]
    assert inventory.skipped == {"named twice": 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("l.csv", b"path\n" + b"x" * 200_000, "is not a list of photos .*field larger", id="endless field"),
        pytest.param("l.parquet", b"not parquet", "is not a Parquet file with a text column", id="no Parquet"),
        pytest.param("l.txt", b"caf\xe9.jpg", "is not UTF-8 text", id="Latin-1"),
    ],
)
def test_odd_lists_are_refused_with_their_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=rf"{name}: {message}"):
        list_photos([str(tmp_path / name)])


def test_parquet_list_of_something_else_than_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [[1], [2]]}), tmp_path / "l.parquet")
    with pytest.raises(SettingsError, match="is not a Parquet file with a text column"):
        list_photos([str(tmp_path / "l.parquet")])


def test_identity_survives_a_move_of_the_root_and_differs_between_photos(tmp_path: Path) -> None:
    identities = []
    for root in ("here", "elsewhere/deeper"):
        for name in ("a/1.jpg", "b/1.jpg"):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x")
        identities.append(manifest_table(list_photos([str(tmp_path / root)])).column("image_id").to_pylist())
    assert identities[0] == identities[1] == [image_id("a/1.jpg"), image_id("b/1.jpg")]
    assert identities[0][0] != identities[0][1]


def test_identity_is_the_stated_hash() -> None:
    import hashlib

    assert image_id("day2/IMG_1.jpg") == hashlib.blake2b(b"day2/IMG_1.jpg", digest_size=12).hexdigest()


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_list_names_photos_relative_to_its_own_folder(archive: Path, suffix: str) -> None:
    names = ["day2/photo-00.jpg", "day2/missing.jpg"]
    path = archive.parent / f"list{suffix}"
    names = [f"{archive.name}/{name}" for name in names]
    if suffix == ".parquet":
        pq.write_table(pa.table({"number": [1, 2], "path": names}), path)
    else:
        path.write_text("\n".join([*(["path"] if suffix == ".csv" else []), *names, ""]))
    photos = {Path(photo.uri).name: photo for photo in list_photos([str(path)]).photos}
    assert photos["photo-00.jpg"].bytes
    assert photos["missing.jpg"].bytes is None


def test_glob_and_single_file_and_repeats(archive: Path) -> None:
    one = str(archive / "day2" / "photo-00.jpg")
    inventory = list_photos([str(archive / "*" / "*0.jpg"), one])
    assert [Path(photo.uri).name for photo in inventory.photos] == ["photo-00.jpg", "photo-10.jpg", "photo-20.jpg"]
    assert inventory.skipped == {"named twice": 1}


def test_photo_named_one_by_one_may_be_called_anything(tmp_path: Path) -> None:
    path = tmp_path / "scan.dat"
    path.write_bytes(b"x")
    assert [photo.uri for photo in list_photos([str(path)]).photos] == [str(path)]


def test_name_that_is_not_utf8_is_listed_by_its_uri(tmp_path: Path) -> None:
    for name in (b"/caf\xe9.jpg", b"/caf%E9.jpg"):
        with open(os.fsencode(tmp_path) + name, "wb") as file:
            file.write(name)
    table = manifest_table(list_photos([str(tmp_path)]))
    uris = table.column("uri").to_pylist()
    assert uris == [f"{tmp_path}/caf%E9.jpg", f"{tmp_path.as_uri()}/caf%E9.jpg"]
    assert [read_bytes(uri) for uri in uris] == [b"/caf%E9.jpg", b"/caf\xe9.jpg"]
    assert len(set(table.column("image_id").to_pylist())) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: folder / "nowhere", "no such file or folder", id="missing"),
        pytest.param(lambda folder: folder, "no photos here", id="empty folder"),
        pytest.param(lambda folder: "s3://bucket/folder", "cannot be listed yet", id="object store folder"),
    ],
)
def test_inputs_without_photos_are_refused(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        list_photos([str(make(tmp_path))])  # type: ignore[operator]


def test_list_without_a_column_of_paths_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name,size\na.jpg,3\n")
    with pytest.raises(SettingsError, match=r"has the columns name, size; name the one of the photos uri or path"):
        list_photos([str(tmp_path / "list.csv")])


def test_photo_outside_the_root_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lies outside the root"):
        manifest_table(list_photos([str(archive)], root=str(tmp_path)))


def test_manifest_has_its_schema_and_the_limit_keeps_the_first(archive: Path) -> None:
    table = manifest_table(list_photos([str(archive)], limit=3))
    assert table.schema == MANIFEST_SCHEMA
    assert table.column("path").to_pylist() == ["day one/photo-01.jpg", "day one/photo-03.jpg", "day one/photo-05.jpg"]


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        pytest.param([], [], id="none"),
        pytest.param([5], [0], id="one"),
        pytest.param([1] * 4, [0, 1, 2, 3], id="few photos give one each"),
        pytest.param([SHARD_BYTES, 1, SHARD_BYTES], [0, 1, 2], id="full by bytes"),
        pytest.param([None, None], [0, 1], id="unknown sizes"),
        pytest.param([2 * SHARD_BYTES], [0], id="one photo larger than a shard"),
    ],
)
def test_shards_are_cut_where_they_are_full(sizes: list[int | None], shards: list[int]) -> None:
    assert cut_shards(sizes) == shards


@given(st.lists(st.one_of(st.none(), st.integers(0, SHARD_BYTES)), max_size=2000))
def test_shards_are_numbered_without_gaps_and_within_limits(sizes: list[int | None]) -> None:
    shards = cut_shards(sizes)
    assert shards == sorted(shards)
    assert set(shards) == set(range(len(set(shards))))
    for shard in set(shards):
        members = [size or 0 for size, number in zip(sizes, shards, strict=True) if number == shard]
        assert len(members) <= SHARD_PHOTOS
        assert len(members) == 1 or sum(members) <= SHARD_BYTES


def test_large_shards_come_first() -> None:
    table = pa.table({"image_id": ["a", "b", "c"], "bytes": [1, 9, 2], "shard": pa.array([0, 1, 2], pa.int32())})
    assert [row["shard"] for row in shard_rows(table)] == [1, 2, 0]
