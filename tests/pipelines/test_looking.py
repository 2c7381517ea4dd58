"""One photo in a job: is it the file that was listed, and what is told of one that is not."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pipelines.looking import Looked, Looker
from retinafocus import Detector, DetectorConfig
from retinafocus.reading import PhotoFile


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine="torch"))


@pytest.fixture
def photo(archive: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes((archive / "day2" / "photo-00.jpg").read_bytes())
    os.utime(path, ns=(0, 1_600_000_000_123_456_789))
    return path


WRITTEN = datetime(2020, 9, 13, 12, 26, 40, 123456, timezone.utc)
"""1,600,000,000 seconds and 123,456 microseconds after 1970 began; tables keep microseconds."""


def _prepared(detector: Detector, path: Path, **told: Any) -> Looked:
    unknown = dict.fromkeys(("bytes", "modified", "etag", "checksum"))
    return Looker(detector).prepare({"uri": str(path), "image_id": "a", **unknown, "vanished": False, **told})


def test_photo_that_is_as_it_was_listed_is_looked_at(detector: Detector, photo: Path) -> None:
    data = photo.read_bytes()
    told = {"bytes": len(data), "modified": WRITTEN}
    sums = [f"sha256:{hashlib.sha256(data).hexdigest()}", f"md5:{hashlib.md5(data).hexdigest().upper()}"]
    for checksum in (*sums, None):
        looked = _prepared(detector, photo, **told, checksum=checksum)
        assert (looked.status, looked.error) == ("ok", None)
        assert looked.prepared is not None


def test_photo_of_which_nothing_was_known_gets_its_size(detector: Detector, photo: Path) -> None:
    looked = _prepared(detector, photo)
    assert (looked.status, looked.row["bytes"]) == ("ok", photo.stat().st_size)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        pytest.param({"bytes": 5}, r"\d+ bytes now, 5 when it was listed", id="size"),
        pytest.param({"modified": WRITTEN - timedelta(microseconds=1)}, "written to since it was listed", id="time"),
        pytest.param({"checksum": "sha256:" + "0" * 64}, "its sha256 is not the one in the list", id="checksum"),
    ],
)
def test_photo_that_is_not_the_one_listed_is_changed(
    detector: Detector, photo: Path, told: dict[str, Any], reason: str
) -> None:
    looked = _prepared(detector, photo, **told)
    assert looked.status == "changed"
    assert looked.prepared is None
    assert re.search(reason, looked.error or "")


@pytest.mark.parametrize(("etag", "status"), [("one", "ok"), ("other", "changed")])
def test_entity_tag_of_a_store_decides(
    detector: Detector, photo: Path, monkeypatch: pytest.MonkeyPatch, etag: str, status: str
) -> None:
    monkeypatch.setattr("pipelines.looking.read_photo", lambda uri, storage: PhotoFile(photo.read_bytes(), None, "one"))
    assert _prepared(detector, photo, etag=etag, modified=WRITTEN + timedelta(days=1)).status == status


def test_vanished_photo_is_not_read(detector: Detector, tmp_path: Path) -> None:
    looked = _prepared(detector, tmp_path / "gone.jpg", bytes=7, vanished=True)
    assert (looked.status, looked.row["bytes"]) == ("vanished", 7)
