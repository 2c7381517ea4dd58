"""Careful mode: what a photo does to the process that looks at it is its row, and the others are looked at as ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.careful import CarefulLook, LookConfig, Stopped
from pipelines.limits import Limits
from pipelines.looking import Looker, Row
from retinafocus import Detector, DetectorConfig
from retinafocus.errors import SettingsError, WeightsError

from .conftest import add_fault

pytestmark = pytest.mark.timeout(300)  # each process takes seconds of a free processor to start

DETECTOR = DetectorConfig(device="cpu", engine="torch", threads=1)


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Row]:
    """Rows of a manifest, by the fault of each photo."""
    random = np.random.default_rng(2)
    rows = {}
    for fault in ("none", "segfault", "exit", "memory", "hang", "last"):
        path = tmp_path / f"{fault}.jpg"
        small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))
        if fault not in ("none", "last"):
            add_fault(path, fault)
        rows[fault] = photo_row(path)
    return rows


def photo_row(path: Path, **told: Any) -> Row:
    """What a manifest says of a photo that was listed without being looked for."""
    unknown = dict.fromkeys(("bytes", "modified", "etag", "checksum"))
    return {"uri": str(path), "image_id": path.stem, **unknown, "vanished": False, **told}


@pytest.fixture
def faulty(faulty_decoder: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of this process have the faulty decoder."""
    monkeypatch.setenv("PYTHONPATH", faulty_decoder["PYTHONPATH"])


def look_config(weights: Path, **limits: Any) -> LookConfig:
    return LookConfig(weights=str(weights), detector=DETECTOR, storage=None, limits=Limits(**limits))


@pytest.mark.usefixtures("faulty")
def test_every_death_is_its_photos_row_and_the_others_are_those_of_a_worker(
    rows: dict[str, Row], tiny_weights: Path
) -> None:
    config = look_config(tiny_weights, photo_seconds=15, photo_bytes=1 << 30)
    with CarefulLook(config, threading.Event()) as child:
        looked = {fault: child.look(row) for fault, row in rows.items()}
    assert {fault: (photo.status, photo.error) for fault, photo in looked.items()} == {
        "none": ("ok", None),
        "segfault": ("crashed", "the process that looked at it ended with SIGSEGV; please report it with the photo"),
        "exit": ("crashed", "the process that looked at it ended with exit code 7; please report it with the photo"),
        "memory": ("out_of_memory", "the decoded picture did not fit into memory; lower max_pixels"),
        "hang": ("timeout", "not done after 15 s; raise the limit with --photo-timeout"),
        "last": ("ok", None),
    }
    detector = Detector.from_pretrained(tiny_weights, DETECTOR)
    for fault in ("none", "last"):
        expected = Looker(detector).prepare(rows[fault])
        Looker(detector).look([expected])
        found = looked[fault]
        assert (found.header, found.pixels, found.counts) == (expected.header, expected.pixels, expected.counts)
        assert found.faces is not None
        assert expected.faces is not None
        assert len(found.faces) > 0
        np.testing.assert_array_equal(found.faces.boxes, expected.faces.boxes)
        np.testing.assert_array_equal(found.faces.scores, expected.faces.scores)
        np.testing.assert_array_equal(found.faces.landmarks, expected.faces.landmarks)


@pytest.mark.usefixtures("faulty")
def test_stop_does_not_wait_for_a_photo_that_hangs(rows: dict[str, Row], tiny_weights: Path) -> None:
    stop = threading.Event()
    with CarefulLook(look_config(tiny_weights, photo_seconds=300), stop) as child:
        child.look(rows["none"])
        threading.Timer(0.5, stop.set).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            child.look(rows["hang"])
    assert time.monotonic() - started < 60


def test_wrong_weights_are_an_error_of_the_job_and_of_no_photo(rows: dict[str, Row], tmp_path: Path) -> None:
    with (
        CarefulLook(look_config(tmp_path / "none.safetensors"), threading.Event()) as child,
        pytest.raises(WeightsError),
    ):
        child.look(rows["none"])


def test_large_photos_get_more_time_up_to_a_bound() -> None:
    limits = Limits(photo_seconds=10)
    assert [limits.seconds_for(pixels, 100) for pixels in (0, 1, 100, 101, 1000, 10**9)] == [10, 10, 10, 20, 100, 160]


def test_memory_of_a_photo_follows_from_the_most_pixels() -> None:
    assert Limits().bytes_for(2**27) == 6 << 30
    assert Limits(photo_bytes=5).bytes_for(2**27) == 5


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("photo_seconds", 0.0, "photo-timeout is 0 s; choose more than 0"),
        ("photo_bytes", 0, "photo-memory is 0 bytes; choose at least 1"),
        ("read_ahead_bytes", -1, "read-ahead-bytes is -1; choose 0"),
    ],
)
def test_limits_that_admit_nothing_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Limits(**{setting: value})  # type: ignore[arg-type]
