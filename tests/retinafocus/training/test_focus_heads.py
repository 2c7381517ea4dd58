"""Focus branches trained beside a frozen detector: alone and together, from crops and from maps that were kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.models.presets import FOCUS_STRIDES
from retinafocus.training.augment import LabelledCrop
from retinafocus.training.focus_heads import CropFaces, Head, HeadTraining, features, focus_reading, network_with
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import find_weights, load_model

LABELS = FocusLabelConfig(smallest=3, small=40, large=64)
LEVEL_HEADS = tuple(Head(feature, LABELS) for feature in FOCUS_STRIDES)


@pytest.fixture(scope="module")
def detector() -> RetinaFocus:
    return load_model(find_weights(None))


def crop(number: int) -> LabelledCrop:
    """64 px of noise with one face of 16 px."""
    return LabelledCrop(
        pixels=np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        boxes=np.array([[8, 8, 24, 24]], np.float32),
        sides=np.array([16], np.float32),
        landmarks=np.full((1, 5, 2), np.nan, np.float32),
        ignore=np.zeros((0, 4), np.float32),
        in_range=np.ones(1, bool),
    )


def after(detector: RetinaFocus, heads: tuple[Head, ...], steps: int) -> HeadTraining:
    training = HeadTraining(detector, heads, LoopConfig(steps=3, warmup_steps=1), LossConfig())
    for step in range(steps):
        training.step([crop(2 * step), crop(2 * step + 1)])
    return training


def test_a_branch_learns_the_same_whichever_others_are_trained_beside_it(detector: RetinaFocus) -> None:
    alone, among = after(detector, LEVEL_HEADS[3:4], 2), after(detector, LEVEL_HEADS, 2)
    for name, branch in alone.branches.items():
        other = among.branches[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in branch.state_dict().items())


def test_every_branch_learns_and_the_detector_does_not(detector: RetinaFocus) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    training = HeadTraining(detector, LEVEL_HEADS, LoopConfig(steps=12, warmup_steps=0), LossConfig())
    losses = [training.step([crop(0)]) for _ in range(12)]
    assert [name for name in losses[0] if losses[-1][name] >= losses[0][name]] == []
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_checkpoint_of_other_branches_is_refused(detector: RetinaFocus, tmp_path: Path) -> None:
    after(detector, LEVEL_HEADS[:1], 0).save(tmp_path / "checkpoint.pt")
    with pytest.raises(SettingsError, match="a training of other branches"):
        after(detector, LEVEL_HEADS[1:2], 0).load(tmp_path / "checkpoint.pt")


def test_maps_that_were_kept_teach_what_the_crops_teach(detector: RetinaFocus) -> None:
    heads = LEVEL_HEADS[4:5]
    seen, kept = after(detector, heads, 1), after(detector, heads, 0)
    crops = [crop(0), crop(1)]
    maps = features(detector, torch.from_numpy(np.stack([each.pixels for each in crops])).permute(0, 3, 1, 2))
    nothing = torch.empty(0)
    stages = maps[0]._replace(c2=nothing, c3=nothing, c4=nothing, c5=nothing)
    kept.learn(stages, maps[1]._replace(p4=nothing, p5=nothing), [CropFaces.of(each) for each in crops])
    (branch,), (other,) = seen.branches.values(), kept.branches.values()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in branch.state_dict().items())


@pytest.mark.parametrize("feature", ["C4", "P3"])
def test_network_with_another_branch_finds_what_the_detector_finds(detector: RetinaFocus, feature: str) -> None:
    training = after(detector, (Head(feature, LABELS),), 1)
    (branch,) = training.branches.values()
    network = network_with(detector, focus_reading(detector, feature), branch)
    pixels = torch.from_numpy(crop(5).pixels)[None].permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours, theirs = network(pixels), detector(pixels)
        said = branch.eval()(*features(detector, pixels))
    assert torch.equal(ours.class_logits, theirs.class_logits)
    assert torch.equal(ours.focus_logits, said)
    assert network.preset.focus == focus_reading(detector, feature)
