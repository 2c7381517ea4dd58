"""Reading: the bytes of a photo from a path, a file address or an object store, or an error that says why not."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from retinafocus.errors import PhotoError
from retinafocus.photos import read_bytes


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


class ObjectStore(http.server.BaseHTTPRequestHandler):
    """As much of S3 as a reader needs."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key = unquote(self.path.split("?")[0])
        code, body = {"/archive/day 2/a#1.jpg": (200, b"photo"), "/archive/secret.jpg": (403, b"")}.get(key, (404, b""))
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *values: object) -> None:
        pass


@pytest.fixture
def store_options(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ObjectStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_object_store_is_read_by_percent_encoded_address(store_options: str) -> None:
    assert read_bytes(f"s3://user:key@archive/day%202/a%231.jpg{store_options}") == b"photo"


@pytest.mark.parametrize(
    ("key", "status", "reason"),
    [
        pytest.param(
            "absent.jpg",
            "not_found",
            "there is no file of that name; check the path, or that its storage is mounted",
            id="absent",
        ),
        pytest.param("secret.jpg", "permission", "the store denies access", id="denied"),
        pytest.param("", "read_error", "the storage failed (OSError)", id="bucket"),
    ],
)
def test_object_store_errors_keep_their_kind(store_options: str, key: str, status: str, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        read_bytes(f"s3://user:key@archive/{key}{store_options}")
    assert caught.value.status == status
    assert reason in caught.value.reason
