"""`retinafocus tune anchors` leaves tables, a picture and settings that a training takes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.report import Progress
from pipelines.train_config import AnchorSettings, ModelConfig, TrainConfig, read_train_config
from pipelines.train_worker import build_samples, read_folder
from retinafocus.anchors import AnchorConfig, anchor_boxes
from retinafocus.errors import SettingsError
from retinafocus.models import get_preset
from retinafocus.training.anchor_coverage import ALL_SIZES, BUCKETS, coverage
from retinafocus.training.anchor_estimation import EstimateConfig
from tune.anchor_sets import compared_sets, rounded
from tune.anchors import AnchorsJob
from tune.seen_faces import network_faces, training_settings

pytest.importorskip("matplotlib")


@pytest.fixture
def folder(labels_alone: Path) -> Path:
    return labels_alone


def test_what_is_left_and_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    words = ["tune", "anchors", str(folder), "-o", str(output), "--draws", "40", "--crop-size", "160"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert f"photos   12 of {folder} with 96 faces\n" in said.out
    assert "faces in 40 crops of 160 px: half below" in said.out
    assert "crops 40 of 40: " in said.err
    assert {path.name for path in output.iterdir()} == {
        "anchors.json", "anchors.md", "anchors.png", "anchors.toml", "coverage.parquet",
    }  # fmt: skip
    rows = pq.read_table(output / "coverage.parquet").to_pylist()
    names = list(dict.fromkeys(row["set"] for row in rows))
    assert names == ["biubug6", "1mb = mobile025", "paper", "srn", "plain k-means", "estimated, square", "estimated"]
    assert len(rows) == len(names) * 3 * 9
    assert rows[0]["anchors_per_mpx"] == pytest.approx(2e6 * (1 / 64 + 1 / 256 + 1 / 1024))
    estimated = rows[-1]
    assert estimated["strides"] == [8, 16, 32]
    assert [int(np.log2(size)) for size in estimated["sizes"]] == [3, 4, 5, 6, 7, 8]
    assert estimated["ratio"] == pytest.approx(1.25, abs=0.05)
    assert {row["mean_overlap"] is None for row in rows if not row["faces"]} <= {True}
    text = (output / "anchors.md").read_text()
    assert "| estimated | 8 16 32 | " in text
    assert text.count("\n| ") > 3 * len(names)
    picture = cv2.imread(str(output / "anchors.png"))
    assert picture is not None
    assert picture.shape == (1300, 1100, 3)
    record = json.loads((output / "anchors.json").read_text())
    assert [fit["stride"] for fit in record["sets"][-1]["fits"]] == [8, 8, 16, 16, 32, 32]
    assert cli.main(words) == 2
    assert "there is a result in it already; choose another -o folder" in capsys.readouterr().err


def test_the_settings_give_a_training_the_estimated_anchors(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    base = tmp_path / "base.toml"
    base.write_text(
        "batch = 4\n[model]\ninit = 'mine.safetensors'\n[sample]\nkind = 'chips'\n[sample.crop]\nside = 96\n"
    )
    words = ["tune", "anchors", str(folder), "-o", str(output), "--draws", "30", "--config", str(base)]
    assert cli.main([*words, "--per-level", "3", "--ratio", "1.3", "--every-octave-to", "0", "--smallest", "10"]) == 0
    config = read_train_config(output / "anchors.toml")
    sizes = pq.read_table(output / "coverage.parquet").to_pylist()[-1]["sizes"]
    preset = config.model.to_preset()
    assert [size for level in preset.anchors.sizes for size in level] == sizes
    assert (preset.anchors.per_cell, preset.anchors.ratio) == (3, 1.3)
    assert (config.batch, config.sample.kind, config.sample.crop.side) == (4, "chips", 96)
    assert config.data.folders == (str(folder),)
    assert config.model.heads == "new"  # for the weights it starts from have other anchors
    samples = build_samples(config, print)
    assert samples.samples.anchors.equal(anchor_boxes(preset.anchors, (96, 96)))
    assert len(samples.samples.anchors) == 3 * (12 * 12 + 6 * 6 + 3 * 3)
    assert cli.main(["train", "--config", str(output / "anchors.toml"), "--show-settings"]) == 0


def test_seed_crop_size_and_factors_decide_the_faces(folder: Path) -> None:
    photos = read_folder(str(folder))

    def seen(**settings: Any) -> list[list[float]]:
        job = AnchorsJob(folder=str(folder), output="out", **settings)
        with open(os.devnull, "w") as quiet:
            faces: list[list[float]] = network_faces(job, training_settings(job), photos, Progress(quiet)).tolist()
            return faces

    first = seen(draws=20, seed=1)
    assert seen(draws=20, seed=1) == first
    assert seen(draws=20, seed=2) != first
    assert seen(draws=30, seed=1)[: len(first)] == first
    assert seen(draws=20, seed=1, crop_size=100) != first
    assert np.max(seen(draws=20, seed=1, crop_size=100)) <= 100
    assert len(seen(factors=(0.5, 1.0))) == 2 * 96


def test_levels_the_network_has_not_are_compared_but_give_no_settings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["tune", "anchors", str(folder), "-o", str(output), "--factors", "1", "--levels", "4", "8", "16", "32"]
    assert cli.main([*words, "--update", "best", "--octave-balance", "1"]) == 0
    assert "the network has the strides (8, 16, 32): these anchors are for comparison" in capsys.readouterr().out
    assert not (output / "anchors.toml").exists()
    assert pq.read_table(output / "coverage.parquet").to_pylist()[-1]["strides"] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factors", "1", "--seed", "3"], "seed: of crops, and factors look at whole photos; give one or the other"),
        (["--factors", "0"], r"factors are (0.0,); give numbers above 0"),
        (["--draws", "0"], "draws is 0; choose at least 1"),
        (["--seed", "-1"], "seed is -1; choose 0 or more"),
        (["--per-level", "1", "--factors", "1"], "3 anchors cannot give one to each of the 6 octaves"),
        (["--octave-balance", "2"], "octave_balance is 2.0; choose 0..1"),
        (["--config", "no.toml"], "no.toml: cannot be read as settings"),
    ],
    ids=["both", "factor", "draws", "seed", "few", "balance", "config"],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["tune", "anchors", str(folder), "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_ratio_is_auto_or_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["tune", "anchors", "folder", "-o", "out", "--ratio", "wide"])
    assert "'wide' is neither auto nor a number" in capsys.readouterr().err


def test_without_matplotlib_nothing_is_begun(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["tune", "anchors", str(folder), "-o", str(tmp_path / "out")]) == 2
    assert "they need matplotlib" in capsys.readouterr().err


def test_a_preset_of_its_own_anchors_is_a_set_of_its_own() -> None:
    config = TrainConfig(model=ModelConfig(anchors=AnchorSettings(ratio=1.5)))
    faces = np.array([[10, 12], [20, 25], [40, 50.0]])
    estimated = AnchorConfig(sizes=((10.0, 20.0), (30.0, 40.0), (50.0, 60.0)))
    sets = compared_sets(faces, estimated, config, EstimateConfig())
    # Three faces cannot be clustered into six; the estimated anchors are square already.
    assert [each.name for each in sets] == ["biubug6", "1mb", "paper", "srn", "mobile025", "estimated"]
    assert sets[4].anchors == AnchorConfig(sizes=get_preset("mobile025").anchors.sizes, ratio=1.5)
    assert str(sets[5].rows) == str(coverage(faces, estimated, (ALL_SIZES, *BUCKETS)))  # as text NaN is equal to NaN
    assert len(sets[5].curve) == 3 * 18


def test_nobody_means_more_than_a_tenth_of_a_pixel() -> None:
    exact = AnchorConfig(sizes=((0.01, 7.06), (15.951, 32.0), (64.0, 100.04)), ratio=1.2649)
    assert rounded(exact) == AnchorConfig(sizes=((0.1, 7.1), (16.0, 32.0), (64.0, 100.0)), ratio=1.26)


def test_a_result_that_cannot_be_written_is_an_error_in_words(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["tune", "anchors", str(folder), "-o", str(tmp_path / "file" / "out"), "--factors", "1"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_settings_of_crops_and_factors_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="crop_size, draws: of crops"):
        AnchorsJob(folder="a", output="b", crop_size=64, draws=3, factors=(1.0,))
