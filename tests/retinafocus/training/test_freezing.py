"""Frozen parts keep weights and batch-norm statistics bit for bit; the rest learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch

from retinafocus.errors import SettingsError
from retinafocus.models import Preset, RetinaFocus
from retinafocus.training.freezing import FreezeMode, NormMode, freeze, set_training
from retinafocus.training.loop import LoopConfig, Training
from retinafocus.training.losses import LossConfig
from retinafocus.training.samples import Batch

FROZEN = {
    "none": [],
    "stem": ["backbone.stage1.0."],
    "stage1": ["backbone.stage1."],
    "body": ["backbone."],
    "body+fpn": ["backbone.", "pyramid."],
    "all-but-heads": ["backbone.", "pyramid.", "contexts."],
    "all-but-focus": ["backbone.", "pyramid.", "contexts.", "class_heads.", "box_heads.", "landmark_heads."],
}


def test_every_mode_is_tested() -> None:
    assert set(FROZEN) == set(get_args(FreezeMode))


@pytest.mark.parametrize("mode", FROZEN)
def test_exactly_the_frozen_part_stays(
    mode: FreezeMode, model: RetinaFocus, make_batches: Callable[[int, int], list[Batch]]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = Training(model, LoopConfig(steps=1, warmup_steps=0, freeze=mode), LossConfig())
    for batch in make_batches(0, 1):
        training.step(batch)
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(FROZEN[mode])):
            assert torch.equal(tensor, before[name]), name
        elif tensor.ndim == 4 or name.endswith("running_mean"):
            assert not torch.equal(tensor, before[name]), name


def test_detections_are_the_same_after_the_focus_branch_has_learned(
    model: RetinaFocus, make_batches: Callable[[int, int], list[Batch]]
) -> None:
    batches = make_batches(0, 2)
    with torch.inference_mode():
        before = model.eval()(batches[0].pixels)
    training = Training(model, LoopConfig(steps=2, warmup_steps=0, freeze="all-but-focus"), LossConfig())
    for batch in batches:
        training.step(batch)
    for learned in (model.eval(), training.averaged.model):
        with torch.inference_mode():
            after = learned(batches[0].pixels)
        for name in ("class_logits", "box_deltas", "landmark_deltas"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name
        assert not torch.equal(before.focus_logits, after.focus_logits)


def test_set_training_restores_the_frozen_part_after_an_evaluation(model: RetinaFocus) -> None:
    model.eval()
    set_training(model, "body")
    assert model.training
    assert model.pyramid.training
    assert not any(module.training for module in model.backbone.modules())


def test_resnet_stages_have_their_own_names(preset: Preset) -> None:
    model = RetinaFocus(replace(preset, backbone="resnet18"))
    freeze(model, "stage1")
    frozen = {name.split(".")[1] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_impossible_modes_are_refused(preset: Preset, model: RetinaFocus) -> None:
    with pytest.raises(SettingsError, match=r"loop\.freeze is 'head'; choose one of none, stem, "):
        freeze(model, "head")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="preset mobile025 has no focus branch"):
        freeze(RetinaFocus(replace(preset, focus=None)), "all-but-focus")


@pytest.mark.parametrize(
    ("norms", "prefix"),
    [pytest.param("frozen-body", "backbone.", id="body"), pytest.param("frozen", "", id="whole network")],
)
def test_frozen_batch_norms_stay_as_they_are_while_convolutions_learn(
    norms: NormMode, prefix: str, model: RetinaFocus, make_batches: Callable[[int, int], list[Batch]]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = Training(model, LoopConfig(steps=1, warmup_steps=0, batch_norm=norms), LossConfig())
    for batch in make_batches(0, 1):
        training.step(batch)
    statistics = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    for name, tensor in model.state_dict().items():
        frozen = name.rpartition(".")[0] in statistics and name.startswith(prefix)
        if frozen or tensor.ndim == 4 or name.endswith("running_mean"):
            assert torch.equal(tensor, before[name]) == frozen, name
