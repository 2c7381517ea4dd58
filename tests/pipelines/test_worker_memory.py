"""The memory that a job's workers ask a cluster for, without making a detector."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines import forecast, planning, worker_memory
from pipelines.forecast import read_headers
from pipelines.worker_memory import PROGRAM_BYTES, expected_bytes, worker_bytes
from retinafocus import Detector, DetectorConfig


def _plan(archive: Path, output: Path, weights: Path, **settings: Any) -> planning.Plan:
    detector = DetectorConfig(engine="torch")
    settings = {"workers": "cpu=1", "detector": detector, **settings}
    return planning.plan(
        planning.DetectJob(inputs=[str(archive)], output=str(output), weights=str(weights), runner="ray", **settings)
    )


def test_worker_asks_for_the_program_and_what_plan_says(archive: Path, tiny_weights: Path, tmp_path: Path) -> None:
    planned = _plan(archive, tmp_path, tiny_weights)
    shards = planning.what_to_do(planned)[1]
    sample = read_headers(planned.manifest, 99)
    detector = Detector.from_pretrained(tiny_weights, planned.detector)
    config, preset = detector.config, detector.preset
    photos = [(photo, config.cascade.plan(photo.size, config.min_face, preset)) for photo in sample.photos.values()]
    largest = max(photos, key=lambda pair: pair[0].pixels)
    each = worker_bytes([largest], detector)
    assert each is not None
    # The largest files need not have the most pixels, but nearly: the photos are 160 to 183 px wide.
    assert expected_bytes(planned, shards)["cpu"] == pytest.approx(PROGRAM_BYTES + each, rel=0.01)


def test_both_kinds_of_workers_are_told_apart_and_a_gpu_holds_the_network(
    archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    planned = _plan(archive, tmp_path, tiny_weights, workers="gpu=1,cpu=1", address="head:6379")
    found = expected_bytes(planned, planning.what_to_do(planned)[1])
    assert set(found) == {"cuda", "cpu"}
    assert all(taken is not None and taken > PROGRAM_BYTES for taken in found.values())


def test_nothing_is_known_without_a_header_or_a_measured_network(
    archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    planned = _plan(archive, tmp_path, tiny_weights)
    assert expected_bytes(planned, []) == {"cpu": None}


@pytest.mark.parametrize("name", [b"huge.jpg", b"hug\xe9.jpg"], ids=["a name", "a name that is no text"])
def test_command_reads_no_photo_that_may_kill_and_no_huge_file_whole(
    archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    (tmp_path / "photos").mkdir()
    huge = tmp_path / "photos" / os.fsdecode(name)
    with huge.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")  # a JPEG by its first bytes, then nothing that tells
        file.truncate(worker_memory.WHOLE_BYTES + 1)
    monkeypatch.setattr(forecast, "read_bytes", lambda uri, storage: pytest.fail(f"{uri} is read whole"))
    planned = _plan(tmp_path / "photos", tmp_path / "out", tiny_weights)
    assert expected_bytes(planned, planning.what_to_do(planned)[1]) == {"cpu": None}
    monkeypatch.setattr(forecast, "read_start", lambda uri, most, storage: pytest.fail(f"{uri} is read"))
    careful = _plan(archive, tmp_path / "careful", tiny_weights, careful=True)
    assert expected_bytes(careful, planning.what_to_do(careful)[1]) == {"cpu": None}
