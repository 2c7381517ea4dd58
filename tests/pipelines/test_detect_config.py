"""The settings file of a detection: each setting it takes changes the detector, and no other is taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import cli
from pipelines.detect_config import DetectSettings, read_detect_settings
from pipelines.planning import detector_config
from pipelines.settings import settings_toml
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import SettingsError
from retinafocus.focus.chips import ChipConfig

FULL = """\
min_face = 12
score_threshold = 0.1
max_pixels = 1000000
device = "cpu"
engine = "torch"
precision = "int8"

[post]
score_floor = 0.2
top_k = 7
nms_iou = 0.5
soft_sigma = 0.55
keep_top_k = 9

[cascade]
mode = "focus"
border = 4.0
overlap = 0.7
left_to_finer = 1.5
whole_above = 0.5
crowded = 0.6
zoom = 4
network_pixels = 4000000
finer_looks = 0.25

[[cascade.chips]]
threshold = 0.1
dilation = 5
min_chip = 32.0

[[cascade.chips]]
dilation = 1
"""


def options(*words: str) -> Any:
    return cli._parser().parse_args(["detect", "photos", "-o", "out", *words])


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{key}.{field.name}")
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from leaves(each, f"{key}.{number}")
    else:
        yield key, value


def test_every_setting_of_a_file_arrives_in_the_detector(tmp_path: Path) -> None:
    path = written(tmp_path, FULL.replace("int8", "float32"))
    found = detector_config(options("--config", str(path)))
    assert found.cascade.chips == (ChipConfig(threshold=0.1, dilation=5, min_chip=32), ChipConfig(dilation=1))
    before, now = dict(leaves(DetectorConfig())), dict(leaves(found))
    same = {key for key in before if before[key] == now[key]}
    # What a job or an evaluation decides, and what the file has at its default.
    assert same == {".whole_looks", ".threads", ".precision"}


def test_no_field_of_the_detector_was_forgotten() -> None:
    ours = {field.name for field in dataclasses.fields(DetectSettings)}
    assert {field.name for field in dataclasses.fields(DetectorConfig)} - ours == {"whole_looks", "threads"}
    assert DetectSettings().to_detector() == DetectorConfig()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    settings = read_detect_settings(written(tmp_path, FULL.replace("int8", "float32")))
    assert read_detect_settings(written(tmp_path, settings_toml(settings, meanings=True))) == settings
    assert read_detect_settings(written(tmp_path, settings_toml(DetectSettings()))) == DetectSettings()


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, FULL.replace("int8", "float32"))
    found = detector_config(options("--config", str(path), "--min-face", "30", "--focus-threshold", "0.4"))
    assert found.min_face == 30
    assert [chips.threshold for chips in found.cascade.chips] == [0.4, 0.4]
    assert [chips.dilation for chips in found.cascade.chips] == [5, 1]
    assert detector_config(options("--config", str(path), "--mode", "auto")).cascade.mode == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("threads = 2", r"threads: there is no such setting", id="the job's own"),
        pytest.param("[cascade]\nbordr = 2", r"cascade\.bordr: .*did you mean border\?", id="typo"),
        pytest.param("[[cascade.chips]]\nside = 2", r"cascade\.chips\.0\.side: there is no such", id="chip"),
        pytest.param("[cascade]\nchips = 3", r"cascade\.chips: is 3; give a list", id="no list"),
        pytest.param("[[cascade.chips]]\ndilation = 2", r"table \[cascade\.chips\.0\]: .*dilation is 2", id="even"),
        pytest.param("[[cascade.chips]]\nthreshold = 'a'", r"chips\.0\.threshold: is \"a\"; give a number", id="text"),
        pytest.param("[cascade]\nzoom = 3", r"table \[cascade\]: cascade\.zoom is 3", id="zoom"),
        pytest.param("[cascade]\noverlap = 1.5", r"cascade\.overlap is 1\.5; choose a share", id="overlap"),
        pytest.param("[cascade]\nleft_to_finer = 0.5", r"cascade\.left_to_finer is 0\.5; choose 1", id="left"),
        pytest.param("min_face = -1", r"top level: min_face is -1", id="range at the top"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_detect_settings(written(tmp_path, text))


def test_ranges_of_levels_follow_the_settings() -> None:
    from retinafocus.cascade import CascadeConfig
    from retinafocus.models import get_preset

    preset = get_preset("mobile025")
    low = preset.face_range[0]
    plan = CascadeConfig(overlap=0.5).plan((2000, 3000), 20, preset)
    assert plan.levels[0].face_range == (0.5 * low / plan.levels[0].scale, math.inf)
    assert plan.finest.face_range[0] == 0


def test_settings_of_a_file_change_where_a_photo_is_looked_at(tmp_path: Path) -> None:
    photo = np.random.default_rng(2).integers(90, 110, (600, 800, 3), dtype=np.uint8)
    cv2.ellipse(photo, (300, 200), (12, 15), 0, 0, 360, (230, 180, 150), -1)
    looked = {}
    for text in ("", "[[cascade.chips]]\nthreshold = 0.9", "[cascade]\nmode = 'exhaustive'", "min_face = 200"):
        path = written(tmp_path, f'device = "cpu"\nengine = "torch"\n{text}')
        if text.startswith("min_face"):
            path = written(tmp_path, f'{text}\ndevice = "cpu"\nengine = "torch"')
        detector = Detector.from_pretrained(None, detector_config(options("--config", str(path))))
        looked[text] = detector.look(detector.prepare(photo)).pixels_processed
    assert len(set(looked.values())) == 4, looked
