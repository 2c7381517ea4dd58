"""The demo: the same pictures every time, honest counting, and the whole job on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import cli
from pipelines.demo import HEIGHT, WIDTH, count_found, make_archive
from retinafocus.errors import SettingsError
from retinafocus.faces import FACES_SCHEMA
from retinafocus.runs import Run

for name in ("skimage", "sklearn"):
    pytest.importorskip(name, reason="the demo's pictures come with scikit-image and scikit-learn")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("demo") / "photos"
    return folder, make_archive(folder, 2)


def test_faces_are_planted_inside_the_pictures_and_the_last_holds_none(made: tuple[Path, pa.Table]) -> None:
    folder, planted = made
    assert sorted(path.name for path in folder.iterdir()) == ["demo-000.jpg", "demo-001.jpg"]
    assert set(planted.column("image").to_pylist()) == {"demo-000.jpg"}
    boxes = np.stack([planted.column(edge).to_numpy() for edge in ("x1", "y1", "x2", "y2")], axis=1)
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert (boxes >= 0).all()
    assert (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert 19 < sizes.min() < 22
    assert sizes.max() > 300


def test_pictures_are_the_same_every_time(made: tuple[Path, pa.Table], tmp_path: Path) -> None:
    folder, planted = made
    assert make_archive(tmp_path / "photos", 2).equals(planted)
    digests = [
        hashlib.sha256((place / "demo-000.jpg").read_bytes()).digest() for place in (folder, tmp_path / "photos")
    ]
    assert digests[0] == digests[1]


class _Found(Run):
    """A run with two boxes: one on the planted face, one beside it; and one below the threshold."""

    def __init__(self) -> None:
        pass

    def faces(self) -> pa.Table:
        rows = [
            {"image_id": "a", "uri": "/x/demo-000.jpg", "face": number, "score": score, "x1": left, "y1": 10.0,
             "x2": left + 20, "y2": 30.0, "landmarks": [0.0] * 10, "level": 0, "shard": 0}
            for number, (left, score) in enumerate([(11.0, 0.9), (200.0, 0.8), (400.0, 0.5)])
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=FACES_SCHEMA)


def test_found_and_other_boxes_are_counted() -> None:
    planted = pa.table(
        {"image": ["demo-000.jpg"] * 2, **{name: pa.array(values, pa.float32()) for name, values in
         {"x1": [10, 600], "y1": [10, 600], "x2": [30, 620], "y2": [30, 620]}.items()}}
    )  # fmt: skip
    assert count_found(_Found(), planted, 0.6).startswith("planted  1 of 2 planted faces found")
    assert ", 1 other boxes;" in count_found(_Found(), planted, 0.6)


def test_demo_runs_the_whole_job(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    command = ["demo", "-o", str(out), "--weights", str(tiny_weights), "--pictures", "1", "--score-threshold", "0.99"]
    assert cli.main([*command, "--min-face", "80", "--device", "cpu", "--runner", "local"]) == 0
    words = capsys.readouterr().out
    assert "photos   1: 1 looked at, 0 failed" in words
    assert "planted  0 of " in words
    assert len(list((out / "annotated").glob("*.jpg"))) == 1
    assert (out / "planted.parquet").is_file()


def test_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pictures is 0; choose 1 or more"):
        make_archive(tmp_path, 0)
