"""The commands of the cascade's benchmarks, on small pictures: every row and every file is there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import cascade, sizes, tradeoff
from benchmarks.ways import Settings
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.average_precision import PhotoDetections


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[LabelledPhoto]:
    """Two small pictures of noise, one with a "face"; every command takes them for its mosaics."""
    random = np.random.default_rng(1)
    made = []
    for number, boxes in enumerate(([[10, 10, 50, 50]], [])):
        path = tmp_path / f"{number}.jpg"
        assert cv2.imwrite(str(path), random.integers(0, 256, (160, 240, 3), dtype=np.uint8))
        faces = np.array(boxes, np.float32).reshape(-1, 4)
        made.append(
            LabelledPhoto(
                path=path,
                size=(160, 240),
                boxes=faces,
                landmarks=np.full((len(faces), 5, 2), np.nan, np.float32),
                ignore=np.zeros((0, 4), np.float32),
                source="drawn",
                kinds=("human",) * len(faces),
            )
        )

    def made_sets(options: argparse.Namespace) -> dict[str, list[LabelledPhoto]]:
        return {"sparse": made, "dense": made}

    for module in (cascade, tradeoff, sizes):
        monkeypatch.setattr(module, "made_sets", made_sets)
    return made


def _argv(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "-o", str(folder), "--engine", "torch", "--repeats", "1", *more])


def _first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


def test_cascade_prints_a_table_for_each_density_and_one_by_chips(
    photos: list[LabelledPhoto], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cascade, "peak_memory", lambda *_: 3 * 2**20)  # a process each takes seconds to start
    _argv(monkeypatch, tmp_path, "--ways", "exhaustive", "whole", "focus")
    cascade.main()
    cells = _first_cells(capsys.readouterr().out)
    table = ["way", "simplejpeg", "OpenCV", "exhaustive", "whole", "focus"]
    groups = ["photos", *(group[0] for group in cascade.CHIP_GROUPS), "sparse", "dense"]
    assert cells == ["set", "sparse", "dense", *table, *table, *groups]
    rows = pq.read_table(tmp_path / "measurements.parquet").to_pylist()
    assert len(rows) == 2 * 5 * 2  # densities, ways, photos
    assert {row["photo"] for row in rows} == {0, 1}
    assert all(row["core_seconds"] > 0 for row in rows)


def test_photos_are_sorted_by_their_chips_and_compared_with_the_faster_decoder() -> None:
    times = {"simplejpeg": 0.5, "OpenCV": 1.0, "exhaustive": 10.0, "whole": 9.0}
    rows = [
        {"set": "sparse", "photo": number, "way": way, "core_seconds": core, "chip_share": share, "chips": chips}
        for number, (focus, share, chips) in enumerate([(1.0, 0.0, 0), (1.2, 0.0, 1), (1.5, 0.05, 1), (12.0, 1.0, 1)])
        for way, core in (times | {"focus": focus}).items()
    ]
    table = cascade._by_chips(rows)
    assert "| no chips | 1 | 1.000 | 2.0 (2) | 9.0 (6) | 0.10 |" in table
    assert "| up to 1 % | 1 | 1.200 | 2.4 (4) | 7.5 (6) | 0.12 |" in table  # chips on a level between alone
    assert "| 5 to 50 % | 0 | - | - | - | - |" in table
    assert "| 1 to 5 % | 1 | 1.500 | 3.0 (4) | 6.0 (6) | 0.15 |" in table
    assert "| more | 1 | 12.000 | 24.0 | 0.8 | 1.20 (1.1) |" in table
    assert "| sparse | 4 | 3.925 | 7.8 | 2.3 | 0.39 (1.1) |" in table


def test_quality_is_of_the_wanted_sizes(photos: list[LabelledPhoto]) -> None:
    found = [PhotoDetections(photos[0].boxes, np.array([0.9], np.float32)), PhotoDetections()]
    assert cascade.quality(photos, found, (20.0, 60.0)).ap == 1.0
    assert cascade.quality(photos, found, (60.0, 90.0)).num_faces == 0


def test_peak_memory_counts_what_a_way_needs(photos: list[LabelledPhoto]) -> None:
    assert cascade._peak_of_this_process("simplejpeg", Settings(), [photos[0].path]) > 50 * 2**20


def test_tradeoff_writes_a_point_for_each_setting_and_plots_them(
    photos: list[LabelledPhoto], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _argv(monkeypatch, tmp_path, "--thresholds", "0.2", "0.6", "--min-chips", "32", "64")
    tradeoff.main()
    points = pq.read_table(tmp_path / "tradeoff.parquet").to_pylist()
    settings = [(point["way"], point["threshold"], point["min_chip"]) for point in points if point["set"] == "sparse"]
    grid = [("focus", threshold, side) for threshold in (0.2, 0.6) for side in (32.0, 64.0)]
    assert settings == [("exhaustive", None, None), ("whole", None, None), *grid]
    assert all(point["core_seconds"] > 0 and 0 <= point["ap"] <= 1 for point in points)
    picture = cv2.imread(str(tmp_path / "tradeoff.png"))
    assert picture.shape[0] > 500
    assert picture.std() > 5
    assert _first_cells(capsys.readouterr().out).count("dense") == 1 + len(settings)


def test_sizes_prints_a_row_for_each_size_and_way(
    photos: list[LabelledPhoto], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sizes, "peak_memory", lambda *_: 3 * 2**20)
    _argv(monkeypatch, tmp_path, "--sizes", "4k", "8k", "--ways", "focus")
    sizes.main()
    assert _first_cells(capsys.readouterr().out) == ["set", *(["sparse"] * 2 + ["dense"] * 2) * 2]
