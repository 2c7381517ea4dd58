"""Lists of photos: their forms, their checksums, and the border they may not cross."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inventory import absolute_inputs
from pipelines.photo_lists import leads_outside, read_list
from retinafocus.errors import SettingsError
from retinafocus.storage import StorageConfig

SHA256 = hashlib.sha256(b"x").hexdigest()
MD5 = hashlib.md5(b"x").hexdigest()


def _read(path: Path, root: Path | None = None) -> list[tuple[str, str | None]]:
    return [(os.fsdecode(name), said) for name, said in read_list(str(path), StorageConfig(), root and str(root))]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        pytest.param("sha256", SHA256, f"sha256:{SHA256}", id="sha256"),
        pytest.param("md5", MD5.upper(), f"md5:{MD5}", id="capitals"),
        pytest.param("checksum", f"sha256:{SHA256}", f"sha256:{SHA256}", id="kind in the value"),
        pytest.param("checksum", "", None, id="none for this one"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_checksums_of_a_column(tmp_path: Path, suffix: str, column: str, value: str, said: str | None) -> None:
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        path.write_text(f"image,{column}\n1.jpg,{value}\n")
    else:
        pq.write_table(pa.table({"image": ["1.jpg"], column: [value or None]}), path)
    assert _read(path) == [(str(tmp_path / "1.jpg"), said)]


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("https://me:hush@host/a.jpg", id="password"),
        pytest.param("https://host/a.jpg?X-Amz-Signature=hush", id="signed address"),
        pytest.param("s3://bucket/a.jpg?token=hush", id="token"),
    ],
)
def test_address_with_a_secret_in_it_never_gets_into_a_manifest(tmp_path: Path, uri: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{uri}\n")
    for name in (lambda: _read(path), lambda: absolute_inputs([uri])):
        with pytest.raises(SettingsError, match=r"has a (user name|query)") as caught:
            name()
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("program", ["sha256sum", "md5sum"])
def test_output_of_the_usual_programs_is_a_list(tmp_path: Path, program: str) -> None:
    names = ["1.jpg", "two words.jpg", "new\nline.jpg", "back\\slash.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    written = subprocess.run([program, *names], cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / "sums.txt").write_bytes(written)
    said = f"sha256:{SHA256}" if program == "sha256sum" else f"md5:{MD5}"
    assert _read(tmp_path / "sums.txt") == [(str(tmp_path / name), said) for name in names]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("sha256:abc", "photo 2: the checksum is 'sha256:abc'; write sha256:DIGITS", id="too short"),
        pytest.param(f"sha512:{SHA256}", "photo 2: the checksum is 'sha512:", id="unknown kind"),
        pytest.param("g" * 64, "photo 2: the checksum is 'gggg", id="no kind"),
        pytest.param("md5:" + "g" * 32, "photo 2: the checksum is 'md5:ggg", id="no digits"),
    ],
)
def test_checksum_that_is_none_is_refused(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(f"path,checksum\n1.jpg,\n2.jpg,{value}\n")
    with pytest.raises(SettingsError, match=message):
        _read(tmp_path / "l.csv")


def test_names_in_quotes_may_hold_newlines(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('path\n"one\ntwo.jpg"\n"a,""b"".jpg"\n')
    assert _read(tmp_path / "l.csv") == [(str(tmp_path / "one\ntwo.jpg"), None), (str(tmp_path / 'a,"b".jpg'), None)]


def test_keys_in_a_list_are_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("s3://key:secret@bucket/1.jpg")
    with pytest.raises(SettingsError, match="has a user name or a key in it") as caught:
        _read(tmp_path / "l.txt")
    assert "secret" not in str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a photo, links that lead out of it, and links that stay inside."""
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for path in (root / "in" / "1.jpg", tmp_path / "out" / "1.jpg", tmp_path / "root.jpg"):
        path.write_bytes(b"x")
    (root / "away").symlink_to(tmp_path / "out")
    (root / "away.jpg").symlink_to(tmp_path / "out" / "1.jpg")
    (root / "twice.jpg").symlink_to(root / "away.jpg")
    (root / "near").symlink_to(root / "in")
    (root / "near.jpg").symlink_to(root / "in" / "1.jpg")
    (tmp_path / "back").symlink_to(root)
    return root


@pytest.mark.parametrize(
    ("entry", "outside"),
    [
        pytest.param("in/1.jpg", False, id="inside"),
        pytest.param("in/../in/1.jpg", False, id="inside after dots"),
        pytest.param("near/1.jpg", False, id="linked folder inside"),
        pytest.param("near.jpg", False, id="linked photo inside"),
        pytest.param("missing.jpg", False, id="not there"),
        pytest.param("../out/1.jpg", True, id="dots"),
        pytest.param("in/../../out/1.jpg", True, id="dots later"),
        pytest.param("../root.jpg", True, id="a name that begins alike"),
        pytest.param("/etc/passwd", True, id="absolute"),
        pytest.param("file:///etc/passwd", True, id="file URI"),
        pytest.param("file://ROOT/%2e%2e/out/1.jpg", True, id="dots in a file URI"),
        pytest.param("away/1.jpg", True, id="linked folder"),
        pytest.param("away.jpg", True, id="linked photo"),
        pytest.param("twice.jpg", True, id="link to a link"),
        pytest.param("../back/in/1.jpg", True, id="back inside through a link beside the root"),
        pytest.param("s3://bucket/1.jpg", True, id="object store"),
        pytest.param("~/1.jpg", True, id="home"),
    ],
)
def test_entries_may_not_lead_outside_a_stated_root(root: Path, entry: str, outside: bool) -> None:
    (root / "list.txt").write_text(entry.replace("ROOT", str(root)))
    assert len(_read(root / "list.txt")) == 1
    if outside:
        with pytest.raises(SettingsError, match=r"list\.txt: photo 1: .* leads outside the root .*--allow-outside"):
            _read(root / "list.txt", root)
    else:
        assert len(_read(root / "list.txt", root)) == 1


def test_root_may_be_a_link_itself(root: Path) -> None:
    link = root.parent / "back"
    (link / "list.txt").write_text("in/1.jpg\n")
    assert len(_read(link / "list.txt", link)) == 1


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("s3://bucket/a/1.jpg", False),
        ("s3://bucket/a/b/1.jpg", False),
        ("s3://bucket/ab/1.jpg", True),
        ("s3://other/a/1.jpg", True),
        ("s3://bucket/a/../b/1.jpg", True),
        ("s3://bucket/a/%2E%2e/b/1.jpg", True),
        ("/s3://bucket/a/1.jpg", True),
    ],
)
def test_border_in_an_object_store(name: str, outside: bool) -> None:
    assert leads_outside(name.encode(), "s3://bucket/a") is outside
