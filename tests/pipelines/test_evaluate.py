"""A run held against labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluate import evaluate_run
from retinafocus import DetectorConfig, open_run
from retinafocus.datasets.labelled import LANDMARK_COLUMNS
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import Run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of two sources in the Parquet form; the labels are written by each test."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for name in ("one/a.jpg", "one/b.jpg", "two/a.jpg"):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(len(rows)).integers(0, 256, (96, 128, 3), dtype=np.uint8))
        rows.append({"image": name, "width": 128, "height": 96, "source": name.split("/")[0]})
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    return folder


def _label(folder: Path, rows: list[dict[str, object]]) -> None:
    fields = [pa.field(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", *LANDMARK_COLUMNS)]
    schema = pa.schema([pa.field("image", pa.string()), *fields, pa.field("kind", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "labels.parquet")


def test_labels_equal_to_what_was_found_score_one(
    run_job: Callable[..., Run], labelled: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run = run_job(labelled / "images", tmp_path / "out", tiny_weights)
    names = {row["image_id"]: row["path"] for row in run.manifest().to_pylist()}
    _label(labelled, [
        {"image": names[face["image_id"]], "kind": "human", **{edge: face[edge] for edge in ("x1", "y1", "x2", "y2")}}
        for face in run.faces().to_pylist()
    ])  # fmt: skip
    words = evaluate_run(str(tmp_path / "out"), str(labelled), None, str(tmp_path / "scores.parquet"))
    scores = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert scores[0]["ap50"] == pytest.approx(1.0)
    assert scores[0]["num_photos"] == 3
    assert f"| all | {open_run(tmp_path / 'out').faces().num_rows:,} |" in words


def test_sources_choose_photos_and_unknown_ones_are_refused(
    run_job: Callable[..., Run], labelled: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    _label(labelled, [{"image": "two/a.jpg", "kind": "human", "x1": 1.0, "y1": 1.0, "x2": 30.0, "y2": 40.0}])
    run_job(labelled / "images", tmp_path / "out", tiny_weights)
    assert "| all | 0 | 2 (0) |" in evaluate_run(str(tmp_path / "out"), str(labelled), ["one"], None)
    with pytest.raises(SettingsError, match="three not among the labels; choose one, two"):
        evaluate_run(str(tmp_path / "out"), str(labelled), ["three"], None)


def test_labelled_photo_that_was_not_run_is_an_error(
    run_job: Callable[..., Run], labelled: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    _label(labelled, [])
    run_job(labelled / "images" / "one", tmp_path / "out", tiny_weights)
    with pytest.raises(RunError, match=r"1 labelled photos are not in this run \(the first is .*two/a.jpg"):
        evaluate_run(str(tmp_path / "out"), str(labelled), None, None)


def test_run_that_found_nothing_has_an_ap_of_zero(
    run_job: Callable[..., Run], labelled: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    _label(labelled, [{"image": "two/a.jpg", "kind": "human", "x1": 1.0, "y1": 1.0, "x2": 30.0, "y2": 40.0}])
    detector = DetectorConfig(device="cpu", score_threshold=0.99)
    assert run_job(labelled / "images", tmp_path / "out", tiny_weights, detector=detector).faces().num_rows == 0
    assert "| all | 1 | 3 (1) | 0.0 [0.0, 0.0] |" in evaluate_run(str(tmp_path / "out"), str(labelled), None, None)
