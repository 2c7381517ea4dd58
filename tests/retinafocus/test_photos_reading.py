"""Reading: the bytes of a photo from a path, a file address or an object store, or an error that says why not."""

from __future__ import annotations

import errno
import http.server
import os
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from benchmarks.faults import FaultyProxy
from retinafocus import reading
from retinafocus.errors import PhotoError
from retinafocus.photos import read_bytes, read_photo
from retinafocus.storage import StorageConfig, open_storage


def test_bytes_pass_through() -> None:
    data = b"anything"
    assert read_bytes(data) is data


@pytest.mark.parametrize("name", ["plain.jpg", "with space #1 100%.jpg", "äöü 写真.jpg"])
def test_paths_and_file_addresses_read_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"photo")
    assert read_bytes(path) == read_bytes(str(path)) == read_bytes(f"file://{quote(str(path))}") == b"photo"


@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        pytest.param("/nowhere/IMG_1.jpg", "not_found", "there is no file of that name", id="absent"),
        pytest.param("file:///nowhere/IMG_1.jpg", "not_found", "there is no file of that name", id="absent address"),
        pytest.param("/", "read_error", "it is a folder, not a file", id="folder"),
        pytest.param("file:///", "read_error", "it is a folder, not a file", id="folder address"),
        pytest.param("/tmp/a\0b.jpg", "read_error", "the storage failed (ValueError)", id="zero byte in the name"),
        pytest.param("/" + "a" * 999, "read_error", "the storage failed (File name too long)", id="endless name"),
        pytest.param("ftp://host/IMG_1.jpg", "read_error", "no reader for ftp://", id="unknown scheme"),
    ],
)
def test_what_cannot_be_read_says_why_without_the_name(source: str, status: str, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        read_bytes(source)
    assert caught.value.status == status
    assert reason in caught.value.reason
    assert "IMG_1" not in caught.value.reason


def test_unreadable_file_is_a_permission_error(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"photo")
    path.chmod(0)
    program = """
import os, sys
from retinafocus.errors import PhotoError
from retinafocus.photos import read_bytes
if os.geteuid() == 0:
    os.setuid(65534)  # the administrator may read everything
try:
    read_bytes(sys.argv[1])
except PhotoError as error:
    print(error.status, error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "permission the file may not be read; grant this user read access"


def test_object_store_is_read_by_percent_encoded_address(s3_server: Any) -> None:
    s3_server.client.put_object(Bucket=s3_server.bucket, Key="day 2/a#1 é.jpg", Body=b"photo")
    assert read_bytes(f"{s3_server.location}/day%202/a%231%20%C3%A9.jpg") == b"photo"


def test_entity_tag_of_a_photo_is_that_of_the_listing(s3_server: Any) -> None:
    s3_server.client.put_object(Bucket=s3_server.bucket, Key="a.jpg", Body=b"photo")
    (entry,) = open_storage(s3_server.location).entries()
    found = read_photo(f"{s3_server.location}/a.jpg")
    assert (found.data, found.etag, found.modified) == (b"photo", entry.etag, None)


def test_time_of_a_file_is_that_of_the_listing_to_the_microsecond(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    os.utime(tmp_path / "a.jpg", ns=(0, 1_700_000_000_123_456_789))
    (entry,) = open_storage(tmp_path).entries()
    found = read_photo(tmp_path / "a.jpg")
    expected = datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=timezone.utc)
    assert (found.data, found.etag, found.modified) == (b"photo", None, expected)
    assert entry.modified == expected


@pytest.mark.parametrize(
    ("key", "status", "reason"),
    [
        pytest.param(
            "absent.jpg",
            "not_found",
            "there is no file of that name; check the path, or that its storage is mounted",
            id="absent",
        ),
        pytest.param("", "read_error", "it is a folder, not a file", id="bucket"),
        pytest.param("day%202/", "read_error", "it is a folder, not a file", id="folder"),
        pytest.param("a.jpg?versionId=1", "read_error", "its address has no bucket, or has keys, a query", id="query"),
        pytest.param("%FF.jpg", "read_error", "its address has no bucket", id="no text"),
    ],
)
def test_object_store_errors_keep_their_kind(s3_server: Any, key: str, status: str, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        read_bytes(f"{s3_server.location}/{key}")
    assert caught.value.status == status
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        pytest.param(403, "permission", "the store denies access; grant these credentials read access", id="denied"),
        pytest.param(400, "read_error", "the storage failed (400 Bad Request)", id="refused"),
        pytest.param(
            301, "read_error", "the storage failed (the bucket is in another region; set --region)", id="moved"
        ),
    ],
)
def test_what_a_store_refuses_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, s3_server: Any, answer: int, status: str, reason: str
) -> None:
    asked = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *values: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = StorageConfig(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(PhotoError) as caught:
            read_bytes("s3://archive/a.jpg", config)
        server.shutdown()
    assert (caught.value.status, caught.value.reason, len(asked)) == (status, reason, 1)


@pytest.mark.parametrize("fault", ["slow_down", "reset", "cut", "stall"])
def test_photo_is_read_through_faults_or_says_which(s3_server: Any, fault: str) -> None:
    photo = os.urandom(50_000)
    s3_server.client.put_object(Bucket=s3_server.bucket, Key="a.jpg", Body=photo)
    faults: list[str | None] = [fault, None]
    with FaultyProxy(s3_server.endpoint, lambda method, path: faults.pop(0), stall_seconds=2) as proxy:
        config = StorageConfig(endpoint=proxy.endpoint, timeout_seconds=0.5, attempts=2)
        assert read_bytes(f"{s3_server.location}/a.jpg", config) == photo
    with FaultyProxy(s3_server.endpoint, lambda method, path: fault, stall_seconds=2) as proxy:
        config = StorageConfig(endpoint=proxy.endpoint, timeout_seconds=0.2, attempts=2, retry_seconds=2)
        with pytest.raises(PhotoError, match=r"the storage failed \(") as caught:
            read_bytes(f"{s3_server.location}/a.jpg", config)
    assert caught.value.status == "read_error"
    assert proxy.endpoint not in caught.value.reason


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_file_server_that_was_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    errors = [OSError(number, os.strerror(number))] * 2
    look = os.stat

    def away(path: str) -> os.stat_result:
        if errors:
            raise errors.pop()
        return look(path)

    monkeypatch.setattr(reading, "os", SimpleNamespace(**{**vars(os), "stat": away}))
    assert read_bytes(tmp_path / "a.jpg") == b"photo"
    errors += [OSError(number, os.strerror(number))] * 3
    with pytest.raises(PhotoError, match=os.strerror(number)) as caught:
        read_bytes(tmp_path / "a.jpg", StorageConfig(attempts=3))
    assert (caught.value.status, errors) == ("read_error", [])


def test_short_read_of_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")

    def longer(descriptor: int) -> SimpleNamespace:
        return SimpleNamespace(st_size=6)

    monkeypatch.setattr(reading, "os", SimpleNamespace(**{**vars(os), "fstat": longer}))
    with pytest.raises(PhotoError, match=r"the storage failed \(fewer bytes came than the file has\)"):
        read_bytes(tmp_path / "a.jpg", StorageConfig(attempts=2))
