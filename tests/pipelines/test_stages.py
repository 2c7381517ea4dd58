"""A worker: how far it reads ahead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.limits import Limits
from pipelines.looking import Looked, Looker
from pipelines.stages import DetectShard, StageConfig
from retinafocus import DetectorConfig
from retinafocus.weights import read_info


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tiny_weights: Path, tmp_path: Path) -> Callable[..., list[int]]:
    """How many bytes of files a worker holds ahead, each time it looks at photos of those sizes."""

    def run(sizes: list[int], most: int, batch: int = 1) -> list[int]:
        begun: list[int] = []
        looked_at: list[int] = []
        ahead: list[int] = []

        class Pool(ThreadPoolExecutor):
            def submit(self, prepare: Any, row: Any) -> Any:  # type: ignore[override]
                begun.append(row["number"])
                return super().submit(prepare, row)

        def look(self: Looker, group: list[Looked]) -> None:
            looked_at.extend(looked.row["number"] for looked in group)
            ahead.append(sum(sizes[number] for number in begun if number not in looked_at))

        monkeypatch.setattr("pipelines.stages.ThreadPoolExecutor", Pool)
        monkeypatch.setattr(Looker, "prepare", lambda self, row: Looked(row=row))
        monkeypatch.setattr(Looker, "look", look)
        stage = DetectShard(
            StageConfig(
                output=str(tmp_path), weights=str(tiny_weights), weights_sha256=read_info(tiny_weights).sha256,
                detector=DetectorConfig(device="cpu", engine="torch"), limits=Limits(read_ahead_bytes=most),
            )
        )  # fmt: skip
        stage.detector.engine.batch = batch
        rows = [{"number": number, "bytes": size} for number, size in enumerate(sizes)]
        looked = list(stage._side_by_side(rows))
        assert [photo.row["number"] for photo in looked] == list(range(len(sizes)))
        return ahead

    return run


def test_small_files_are_bounded_by_their_number(held: Callable[..., list[int]]) -> None:
    assert held([10] * 5, most=1000) == [20, 20, 20, 10, 0]


def test_large_files_are_bounded_by_their_bytes_but_one_is_always_ahead(held: Callable[..., list[int]]) -> None:
    assert held([10, 600, 600, 10, 10, 10], most=1000) == [600, 610, 20, 20, 10, 0]
    assert held([10, 600, 600], most=0) == [600, 600, 0]


def test_photos_side_by_side_are_bounded_together(held: Callable[..., list[int]]) -> None:
    assert max(held([100] * 20, most=350, batch=4)) <= 350
