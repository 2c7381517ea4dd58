"""Settings files: every error names the file or --set, the key and the mend; what is written is read back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.settings import field_meanings, settings_toml
from pipelines.train_config import (
    AnchorSettings,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
    first_difference,
    read_train_config,
)
from retinafocus.errors import SettingsError
from retinafocus.training.augment import CropConfig
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.photometry import PhotometryConfig
from retinafocus.training.samples import SampleConfig
from retinafocus.training.targets import MATCH_PRESETS, FocusLabelConfig, MatchConfig

ALL = (
    TrainConfig, ModelConfig, AnchorSettings, DataConfig, EvaluationConfig, SampleConfig, CropConfig, PhotometryConfig,
    MatchConfig, FocusLabelConfig, LossConfig, LoopConfig,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        pytest.param("batch = = 3", None, r"FILE: this is no TOML: .*line 1", id="no TOML"),
        pytest.param("batchs = 3", None, r"FILE: batchs: there is no such setting; did you mean batch\?", id="typo"),
        pytest.param("[sample.crop]\nzzz = 1", None, r"FILE: sample\.crop\.zzz: .*there are side, aimed", id="unknown"),
        pytest.param("batch = '3'", None, r'FILE: batch: is "3"; give a whole number', id="text for a number"),
        pytest.param("batch = 3.5", None, r"FILE: batch: is 3\.5; give a whole number", id="broken number"),
        pytest.param("batch = true", None, r"FILE: batch: is true; give a whole number", id="truth for a number"),
        pytest.param("output = 3", None, r"FILE: output: is 3; give a text in quotes", id="number for a text"),
        pytest.param("model = 'x'", None, r'model: is "x"; it is a table, write its keys under \[model\]', id="table"),
        pytest.param("[loop]\nlearning_rate = nan", None, r"loop\.learning_rate: is nan; give a finite", id="nan"),
        pytest.param("[loop]\nmilestones = 0.5", None, r"loop\.milestones: is 0\.5; give a list in", id="no list"),
        pytest.param("[sample.crop]\nface_sides = [4]", None, r"face_sides: is \[4\]; give 2 values", id="pair"),
        pytest.param("[loop]\nfreeze = 'head'", None, r"loop\.freeze: is .head.; choose one of none,", id="choice"),
        pytest.param("[sample]\nmatch = 'mine'", None, r"sample\.match: .* choose one of biubug6, paper,", id="named"),
        pytest.param("[data]\nsource_weights = 2", None, r"source_weights: is 2; give a table of", id="mapping"),
        pytest.param("[data.source_weights]\na = 'b'", None, r"source_weights\.a: is .b.; give a number", id="weight"),
        pytest.param("[sample.crop]\nside = 0", None, r"FILE: table \[sample\.crop\]: crop\.side is 0 px", id="range"),
        pytest.param("batch = 0", None, r"FILE: top level: batch is 0; choose at least 1", id="range at the top"),
        pytest.param("batch = 5\nworkers = 2", None, r"batch is 5, which 2 workers cannot share", id="shares"),
        pytest.param("[model]\npreset = 'x'", None, r"there is no preset 'x'; choose one of mobilenet025", id="preset"),
        pytest.param("[model]\nfocus = 'P9'", None, r"model\.focus is 'P9'; choose preset, none, or", id="focus"),
        pytest.param("[model]\ninit = 'a'\nbackbone = 'b'", None, r"init and backbone are both set", id="two starts"),
        pytest.param("[model]\nheads = 'new'", None, r"model\.heads is new, but there are no weights", id="heads"),
        pytest.param("[model.anchors]\nsizes = [[8], [9]]", None, r"\[model\]: anchors\.sizes has 2 l", id="levels"),
        pytest.param("[model.anchors]\nratio = -1", None, r"table \[model\]: anchors\.ratio is -1\.0", id="ratio"),
        pytest.param("[model.anchors]\nface_range = [9, 4]", None, r"model\.face_range is \(9\.0, 4\.0\)", id="faces"),
        pytest.param("device = 'cpu'\nprecision = 'float16'", None, r"precision is float16 on the CPU", id="precision"),
        pytest.param("[loop]\nbatch_norm = 'frozen'", None, r"learned no statistics; set model\.init", id="norms"),
        pytest.param("[loop]\nbatch_norm = 'frozen-body'", None, r"random; set model\.backbone", id="body norms"),
        pytest.param(
            "[loop]\nfreeze = 'all-but-focus'\n[model]\nfocus = 'none'", None, r"has no focus branch; set model\.focus",
            id="no focus",
        ),
        pytest.param("", "batch", r"--set batch: write KEY=VALUE", id="override without a value"),
        pytest.param("", "batch=many", r'--set: batch: is "many"; give a whole number', id="override of another type"),
        pytest.param("", "batch.x=1", r"--set: batch: is a table; give a whole number", id="override below a value"),
        pytest.param("batch = 2", "batch.x=1", r"--set batch\.x=1: batch is a value", id="override below a given one"),
        pytest.param("", "loop.steps=0", r"--set loop\.steps: table \[loop\]: loop\.steps is 0", id="override range"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_with_their_mend(
    tmp_path: Path, text: str, override: str | None, message: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message.replace("FILE", re.escape(str(path)))) as caught:
        read_train_config(path, [override] if override else [])
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read as settings .*; ready ones are in configs/"):
        read_train_config(tmp_path / "none.toml")


def test_an_empty_file_is_the_defaults_and_overrides_come_last(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    assert read_train_config(path) == TrainConfig()
    path.write_text("batch = 8\n[sample]\nmatch = 'paper'\n[sample.crop]\nface_sides = [5, 6.5]")
    config = read_train_config(path, ["batch=4", "batch=6", "output=runs/a", "data.folders=['x', 'y']", "loss={}"])
    assert (config.batch, config.output, config.data.folders) == (6, "runs/a", ("x", "y"))
    assert config.sample.match == MATCH_PRESETS["paper"]
    assert config.sample.crop == CropConfig(face_sides=(5.0, 6.5))


@pytest.mark.parametrize("meanings", [False, True], ids=["bare", "with meanings"])
def test_what_is_written_is_read_back(tmp_path: Path, meanings: bool) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    override = ['data.source_weights={"a b" = 0.5}', "licence='Ünicode \"quoted\"'", "loop.learning_rate=1e-7"]
    config = read_train_config(path, [*override, "sample.match=paper", "loop.milestones=[]"])
    path.write_text(settings_toml(config, meanings=meanings), encoding="utf-8")
    assert read_train_config(path) == config


@pytest.mark.parametrize("kind", ALL)
def test_every_setting_says_what_it_means(kind: type) -> None:
    assert set(field_meanings(kind)) == set(kind.__dataclass_fields__)


def test_a_training_may_move_but_not_change() -> None:
    config = TrainConfig()
    assert first_difference(config, TrainConfig(workers=2, loaders=3, device="cuda", output="elsewhere")) == ""
    changed = TrainConfig(loop=LoopConfig(learning_rate=0.5))
    assert first_difference(config, changed) == "loop.learning_rate was 0.01 and is now 0.5"
