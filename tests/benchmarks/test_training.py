"""The commands of the training's benchmarks, on handmade photos: every row is there, times are where they belong."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import sampling, training
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_parquet_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four labelled photos of 96 px; one has no face."""
    photos = {}
    for number in range(4):
        path = tmp_path / f"{number}.png"
        picture = np.full((96, 96, 3), 40 + 30 * number, np.uint8)
        boxes = np.array([[20, 20, 60, 70]] if number else np.zeros((0, 4)), dtype=np.float32)
        for left, top, right, bottom in boxes.astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right, bottom), (150, 180, 230), -1)
        assert cv2.imwrite(str(path), picture)
        photos[path.name] = LabelledPhoto(
            path=path,
            size=(96, 96),
            boxes=boxes,
            landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
            ignore=np.zeros((0, 4), np.float32),
            source="handmade",
            kinds=("human",) * len(boxes),
        )
    write_parquet_folder(photos, tmp_path / "labelled", pictures="link")
    return tmp_path / "labelled"


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "empty.toml").write_text("")
    values = [f"data.folders=['{folder}']", "batch=2", "loaders=0", "threads=1", "device=cpu"]
    return ["--config", str(tmp_path / "empty.toml"), *(word for value in values for word in ("--set", value))]


def run(monkeypatch: pytest.MonkeyPatch, benchmark: object, arguments: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    benchmark.main()  # type: ignore[attr-defined]


def test_a_part_is_not_counted_in_the_one_that_calls_it() -> None:
    watch = training.Stopwatch()

    def spin() -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass

    with watch.part("outer"):
        spin()
        watch.timed(spin, "inner")()
    assert watch.seconds["outer"] == pytest.approx(0.02, abs=0.01)
    assert watch.seconds["inner"] == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("kind", ["crops", "chips"])
def test_every_part_of_a_training_takes_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: list[str], kind: str
) -> None:
    run(monkeypatch, training, [*settings, "--set", f"sample.kind={kind}", "--sides", "32", "64", "--batches", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"preset mobile025, {kind}, batches of 2")
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert list(rows)[1:-2] == list(dict.fromkeys(training.PARTS.values()))
    assert not any("| 0.00 |" in row for row in rows.values())


def test_both_samplings_are_trained_and_judged(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sampling, "TIMED_SAMPLES", 3)
    arguments = [*settings, "--set", "sample.crop.side=32", "--judge", str(folder), "--crops", "4", "--min-face", "40"]
    run(monkeypatch, sampling, [*arguments, "-o", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "from random weights, 4 samples of 32 px in batches of 2, seed 0; AP on 4 photos" in told
    assert "| | faces | crops | chips |" in told
    assert "| AP, all | 3 |" in told
    for kind in ("crops", "chips"):
        assert f'kind = "{kind}"' in (tmp_path / "out" / f"{kind}-0" / "settings.toml").read_text()
    run(monkeypatch, sampling, [*arguments, "-o", str(tmp_path / "out")])
    assert "step " not in capsys.readouterr().out, "what is trained is not trained again"
