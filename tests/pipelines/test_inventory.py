"""Listing an archive: what is found, what is passed over, and how it is cut into shards."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.folders import FOUND_SCHEMA, MOST_KINDS, PassedOver
from pipelines.inventory import InventoryConfig, list_photos, manifest_table, plan_table
from pipelines.manifest import MANIFEST_SCHEMA, image_id
from retinafocus.errors import RunError, SettingsError
from retinafocus.photos import read_bytes


def test_folder_is_searched_to_any_depth_and_the_rest_is_counted(archive: Path) -> None:
    inventory = list_photos([str(archive)])
    assert inventory.photos.schema == FOUND_SCHEMA
    assert inventory.found == [24]
    assert inventory.root == str(archive)
    assert inventory.skipped == {"other (.txt)": 1, "hidden": 1, "thumbnail or system folder": 1}
    names = inventory.photos.column("name").to_pylist()
    assert names == sorted(names)
    for row in inventory.photos.to_pylist():
        status = os.stat(row["name"])
        assert row["bytes"] == status.st_size
        assert row["modified"].timestamp() == pytest.approx(status.st_mtime, abs=1e-5)


def test_tables_of_a_run_inside_the_archive_are_passed_over_and_photos_beside_them_are_not(tmp_path: Path) -> None:
    for name in ("out/run.json", "out/_ledger/0.json", "out/images/photo.jpg", "out/mine.jpg", "out/mine/photo.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    inventory = list_photos([str(tmp_path)])
    assert inventory.uris() == [str(tmp_path / "out" / n) for n in ("mine.jpg", "mine/photo.jpg")]
    assert inventory.skipped == {"table of a run": 2, "other (.json)": 1}


def test_linked_folder_is_counted_and_a_linked_photo_is_listed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "loop").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "photo.jpg")
    inventory = list_photos([str(tmp_path / "archive")])
    assert inventory.uris() == [str(tmp_path / "archive" / "link.jpg")]
    assert inventory.skipped == {"linked folder": 1}


def test_glob_passes_over_what_a_folder_passes_over(archive: Path) -> None:
    inventory = list_photos([str(archive / "**" / "*.jpg")])
    assert inventory.photos.num_rows == 24
    assert inventory.skipped == {"hidden": 1, "thumbnail or system folder": 1}


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
    assert inventory.uris() == ["/x/1.jpg"]
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
    photos = {Path(os.fsdecode(row["name"])).name: row for row in list_photos([str(path)]).photos.to_pylist()}
    assert photos["photo-00.jpg"]["bytes"]
    assert not photos["photo-00.jpg"]["missing"]
    assert photos["missing.jpg"]["bytes"] is None
    assert photos["missing.jpg"]["missing"]


def test_glob_and_single_file_and_repeats(archive: Path) -> None:
    one = str(archive / "day2" / "photo-00.jpg")
    inventory = list_photos([str(archive / "*" / "*0.jpg"), one])
    assert [Path(uri).name for uri in inventory.uris()] == ["photo-00.jpg", "photo-10.jpg", "photo-20.jpg"]
    assert inventory.skipped == {"named twice": 1, "thumbnail or system folder": 1}


def test_photo_named_one_by_one_may_be_called_anything(tmp_path: Path) -> None:
    path = tmp_path / "scan.dat"
    path.write_bytes(b"x")
    assert list_photos([str(path)]).uris() == [str(path)]


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
        pytest.param(lambda folder: f"{folder}/*.jpg", "no photos here", id="glob that names nothing"),
        pytest.param(lambda folder: "http://host/folder", "no storage for http://", id="unknown store"),
        pytest.param(lambda folder: "s3://key:secret@bucket/a", "has a user name or a key in it", id="secrets"),
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
        manifest_table(list_photos([str(archive)], InventoryConfig(root=str(tmp_path))))


def test_manifest_has_its_schema_and_the_limit_keeps_the_first(archive: Path) -> None:
    table = manifest_table(list_photos([str(archive)], InventoryConfig(limit=3)))
    assert table.schema == MANIFEST_SCHEMA
    assert table.column("version").to_pylist() == [0, 0, 0]
    assert table.column("vanished").to_pylist() == [False] * 3
    assert table.column("path").to_pylist() == ["day one/photo-01.jpg", "day one/photo-03.jpg", "day one/photo-05.jpg"]


def test_plan_table_has_the_columns_of_the_manifest(archive: Path) -> None:
    with open(os.fsencode(archive.parent) + b"/caf\xe9.jpg", "wb"):
        pass
    inventory = list_photos([str(archive), str(archive.parent / "*.jpg")])
    manifest, light = manifest_table(inventory), plan_table(inventory)
    for name in light.column_names:
        assert light.column(name).to_pylist() == manifest.column(name).to_pylist(), name
    os.remove(os.fsencode(archive.parent) + b"/caf\xe9.jpg")


ODD_NAMES = {
    "a newline": b"one\ntwo.jpg",
    "not UTF-8": b"caf\xe9.jpg",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd.jpg".encode(),
    "255 bytes": b"x" * 251 + b".jpg",
    "what a glob or URI would read": b"[a]*?#%41 &.jpg",
    "backslash and quotes": b"\\'\".jpg",
}


@pytest.mark.parametrize("name", [pytest.param(value, id=key) for key, value in ODD_NAMES.items()])
@pytest.mark.parametrize("way", ["folder", "glob", "list"])
def test_odd_names_are_listed_and_read(tmp_path: Path, name: bytes, way: str) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(name)
    text = str(tmp_path)
    if way == "glob":
        text = str(tmp_path / "*.jpg")
    elif way == "list":
        (tmp_path / "list.txt").write_text(Path(os.fsdecode(path)).as_uri())
        text = str(tmp_path / "list.txt")
    (row,) = manifest_table(list_photos([text])).to_pylist()
    assert row["bytes"] == len(name)
    assert row["image_id"] == image_id(name)
    assert read_bytes(row["uri"]) == name


def test_order_is_that_of_whole_names_so_that_one_folder_needs_no_sorting(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a.jpg", "a-b/1.jpg", "a0.jpg", "B.jpg", "a/b/2.jpg", "a/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    paths = manifest_table(list_photos([str(tmp_path)])).column("path").to_pylist()
    assert paths == ["B.jpg", "a-b/1.jpg", "a.jpg", "a/1.jpg", "a/b.jpg", "a/b/2.jpg", "a0.jpg"]


def test_links_in_loops_end_and_a_photo_that_is_a_loop_is_listed_without_a_size(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number in range(3):  # through three of them there are as many ways as there are atoms
        (tmp_path / "a" / "b" / f"up{number}").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "1.jpg").write_bytes(b"x")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    for text in (str(tmp_path), str(tmp_path / "**" / "*.jpg")):
        rows = manifest_table(list_photos([text])).to_pylist()
        assert [(row["path"], row["bytes"]) for row in rows] == [("a/b/1.jpg", 1), ("self.jpg", None)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        pytest.param("*.jpg", ["1.jpg"], id="one folder"),
        pytest.param("a/*.jpg", ["a/2.jpg"], id="another"),
        pytest.param("*/*.jpg", ["a/2.jpg"], id="one deep"),
        pytest.param("**/*.jpg", ["1.jpg", "a/2.jpg", "a/b/3.jpg"], id="any depth"),
        pytest.param("**", ["1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/4.png"], id="everything"),
        pytest.param("a/**/b/*", ["a/b/3.jpg", "a/b/4.png"], id="folders that may be none"),
        pytest.param("a/**/[3-4].*", ["a/b/3.jpg", "a/b/4.png"], id="choice"),
        pytest.param("?.jpg", ["1.jpg"], id="one letter"),
    ],
)
def test_globs_name_what_the_shell_would(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_photos([str(tmp_path / pattern)]).uris() == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("pattern", ["", "**", "*/*.jpg"])
@pytest.mark.parametrize("reason", [PermissionError, FileNotFoundError, OSError])
def test_folder_that_cannot_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, reason: type[OSError]
) -> None:
    for name in ("closed/1.jpg", "open/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    scan = os.scandir

    def refuse(path: bytes) -> object:  # root may read everything
        if path.endswith(b"/closed"):
            raise reason
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    inventory = list_photos([str(tmp_path / pattern)])
    assert inventory.uris() == [str(tmp_path / "open" / "1.jpg")]
    assert inventory.unreadable == [str(tmp_path / "closed")]
    assert inventory.skipped == {"unreadable folder": 1}


def test_kinds_of_what_is_passed_over_are_told_apart_up_to_a_limit() -> None:
    passed = PassedOver()
    for number in range(10 * MOST_KINDS):
        passed.count(f"other (.{number})")
    assert len(passed.skipped) == MOST_KINDS + 1
    assert passed.skipped["other (further kinds)"] == 9 * MOST_KINDS


def test_time_that_no_calendar_has_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    os.utime(tmp_path / "1.jpg", (0, 10**10 + 0.5))
    (row,) = list_photos([str(tmp_path)]).photos.to_pylist()
    assert row["modified"].year == 2286
    try:
        os.utime(tmp_path / "1.jpg", (0, 10**12))
    except OSError:
        return  # this file system has no such times
    (row,) = list_photos([str(tmp_path)]).photos.to_pylist()
    assert row["modified"] is None or row["modified"].year <= 9999


def test_photo_seen_twice_keeps_what_either_knows(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text(f"path,md5\n1.jpg,{'0' * 32}\n")
    inventory = list_photos([str(tmp_path), str(tmp_path / "list.csv")])
    (row,) = inventory.photos.to_pylist()
    assert (row["bytes"], row["checksum"]) == (1, f"md5:{'0' * 32}")
    assert inventory.skipped["named twice"] == 1


@pytest.fixture
def photos_in_s3(s3_server: Any) -> Any:
    """A bucket with two photos in a folder and one beside it."""
    for name in ("2024/day0/0 é.jpg", "2024/day0/1.jpg", "2025/1.jpg"):
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=name, Body=name.encode())
    return s3_server


def test_prefix_of_an_object_store_is_listed_like_a_folder(photos_in_s3: Any) -> None:
    more = [f"2024/day1/{number:03d}.jpg" for number in range(50)]  # a page of the listing holds 50
    more += ["2024/notes.txt", "2024/@eaDir/1.jpg", "2024/.hidden/1.jpg", "2024x/1.jpg", "2024/images/1.jpg"]
    more += [f"2024/run/{name}" for name in ("_ledger/0.json", "images/1.jpg", "mine.jpg", "run.json")]
    for name in more:
        photos_in_s3.client.put_object(Bucket=photos_in_s3.bucket, Key=name, Body=b"x")
    inventory = list_photos([f"{photos_in_s3.location}/2024/"])
    assert inventory.root == f"{photos_in_s3.location}/2024"
    assert inventory.skipped == {
        "in a table of a run": 2,
        "in a thumbnail or system folder": 1,
        "in a hidden folder": 1,
        "other (.txt)": 1,
        "other (.json)": 1,
    }
    rows = manifest_table(inventory).to_pylist()
    assert [row["path"] for row in rows] == [
        "day0/0 é.jpg", "day0/1.jpg", *(name.removeprefix("2024/") for name in more[:50]), "images/1.jpg",
        "run/mine.jpg",
    ]  # fmt: skip
    head = photos_in_s3.client.head_object(Bucket=photos_in_s3.bucket, Key="2024/day0/0 é.jpg")
    assert (rows[0]["bytes"], rows[0]["modified"]) == (head["ContentLength"], head["LastModified"])
    assert rows[0]["etag"] == head["ETag"]
    assert read_bytes(rows[0]["uri"]) == "2024/day0/0 é.jpg".encode()


def test_photo_of_an_object_store_is_the_same_in_a_listing_and_in_a_list(photos_in_s3: Any, tmp_path: Path) -> None:
    names = ["2024/day0/0 é.jpg", "2024/day0/0%20%C3%A9.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(f"{photos_in_s3.location}/{name}" for name in names))
    listed = list_photos([f"{photos_in_s3.location}/2024", str(tmp_path / "list.txt")])
    assert listed.photos.num_rows == 2
    assert listed.skipped["named twice"] == 2


def test_list_in_an_object_store_names_photos_beside_it(photos_in_s3: Any) -> None:
    lines = f"path,checksum\nday0/0 é.jpg,md5:{'a' * 32}\n../2025/1.jpg,\n"
    photos_in_s3.client.put_object(Bucket=photos_in_s3.bucket, Key="2024/list.csv", Body=lines.encode())
    rows = list_photos([f"{photos_in_s3.location}/2024/list.csv"]).photos.to_pylist()
    assert [(row["name"].decode(), row["checksum"]) for row in rows] == [
        (f"{photos_in_s3.location}/2024/day0/0%20%C3%A9.jpg", f"md5:{'a' * 32}"),
        (f"{photos_in_s3.location}/2025/1.jpg", None),
    ]


def test_object_store_that_cannot_be_listed_is_an_error(s3_server: Any) -> None:
    with pytest.raises(RunError, match=r"s3://no-such-bucket/a: cannot be listed \(there is no such bucket"):
        list_photos(["s3://no-such-bucket/a"])


def test_slow_storage_is_asked_for_several_things_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(16):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.jpg").write_bytes(b"x")
    scan, together = os.scandir, threading.Barrier(4)

    def slowly(path: bytes) -> object:
        if path != os.fsencode(tmp_path):
            together.wait(timeout=30)  # nobody goes on before four are under way
        return scan(path)

    monkeypatch.setattr(os, "scandir", slowly)
    assert list_photos([str(tmp_path)]).photos.num_rows == 16
