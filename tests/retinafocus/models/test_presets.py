"""Presets: what tells networks with equal tensor names apart, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from retinafocus.anchors import AnchorConfig
from retinafocus.errors import SettingsError
from retinafocus.models import PRESETS, FocusConfig, Preset, get_preset
from retinafocus.models.presets import BACKBONES, PUBLISHED_PRESETS

WIDE = ((16, 32), (64, 128), (256, 512))
SMALL = ((10, 20), (32, 64), (128, 256))


@pytest.mark.parametrize(
    ("name", "backbone", "channels", "slope", "sizes"),
    [
        pytest.param("mobilenet025-biubug6", "mobilenet025", 64, 0.1, WIDE, id="leaky MobileNet"),
        pytest.param("resnet50-biubug6", "resnet50", 256, 0.0, WIDE, id="ResNet-50"),
        pytest.param("mobilenet025-1mb", "mobilenet025", 64, 0.0, SMALL, id="1MB MobileNet"),
    ],
)
def test_published_variants_are_as_published(
    name: str, backbone: str, channels: int, slope: float, sizes: tuple[tuple[float, ...], ...]
) -> None:
    preset = get_preset(name)
    assert (preset.backbone, preset.channels, preset.slope) == (backbone, channels, slope)
    assert preset.anchors == AnchorConfig(strides=(8, 16, 32), sizes=sizes)
    assert (preset.variances, preset.mean_rgb, preset.bgr) == ((0.1, 0.2), (123, 117, 104), True)
    assert preset.focus is None
    assert name in PUBLISHED_PRESETS


def test_ours_is_the_1mb_detector_with_a_focus_branch_on_p3() -> None:
    ours, published = get_preset("mobile025"), get_preset("mobilenet025-1mb")
    changed = dataclasses.replace(published, name="mobile025", focus=FocusConfig(feature="P3"), display_threshold=0.8)
    assert ours == changed
    assert ours.detector_difference(published) == ""


def test_presets_of_equal_tensors_are_told_apart() -> None:
    assert get_preset("mobilenet025-biubug6").detector_difference(get_preset("mobilenet025-1mb")) == (
        "preset mobilenet025-biubug6 has slope 0.1, preset mobilenet025-1mb 0.0"
    )


def test_every_backbone_has_a_preset_with_a_focus_branch() -> None:
    assert {preset.backbone for preset in PRESETS.values() if preset.focus} == set(BACKBONES)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_json_as_it_was(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert Preset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="no preset 'mobilenet'; choose one of mobilenet025-biubug6, resnet50-"):
        get_preset("mobilenet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"backbone": "vgg16"}, "model.backbone is 'vgg16'; choose one of mobilenet025", id="backbone"),
        pytest.param({"channels": 30}, "model.channels is 30; choose a positive multiple of 4", id="odd channels"),
        pytest.param({"channels": 0}, "model.channels is 0", id="no channels"),
        pytest.param({"slope": -0.1}, "model.slope is -0.1", id="slope"),
        pytest.param({"anchors": AnchorConfig(strides=(4, 8, 16))}, "the network's levels have", id="strides"),
        pytest.param({"variances": (0.1, 0.0)}, "model.variances is", id="variances"),
        pytest.param({"mean_rgb": (123.0, 117.0, 300.0)}, "model.mean_rgb is", id="mean"),
        pytest.param({"face_range": (400.0, 12.0)}, "model.face_range is", id="range turned over"),
        pytest.param({"face_range": (0.0, 12.0)}, "model.face_range is", id="range from zero"),
        pytest.param({"display_threshold": 1.5}, "model.display_threshold is 1.5", id="threshold"),
    ],
)
def test_presets_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(get_preset("mobile025"), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"feature": "P5"}, "focus.feature is 'P5'; choose one of C2, C3, C4, P2, P3, P4", id="feature"),
        pytest.param({"channels": 0}, "focus.channels is 0", id="channels"),
        pytest.param({"prior": 0.0}, "focus.prior is 0.0", id="prior"),
    ],
)
def test_focus_branches_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FocusConfig(**fields)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"dilation": 2}, id="unknown field"),
        pytest.param({"focus": {"feature": "P3", "depth": 3}}, id="unknown field of the focus branch"),
        pytest.param({"anchors": None}, id="no anchors"),
        pytest.param({"channels": "many"}, id="wrong type"),
    ],
)
def test_a_dictionary_of_another_version_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="does not fit this version of RetinaFocus"):
        Preset.from_dict({**get_preset("mobile025").to_dict(), **change})


def test_a_dictionary_without_a_field_is_refused_by_name() -> None:
    values = get_preset("mobile025").to_dict()
    del values["backbone"]
    with pytest.raises(SettingsError, match="backbone"):
        Preset.from_dict(values)
