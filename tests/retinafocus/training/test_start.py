"""A classification checkpoint becomes the backbone, or is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import models

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models import Preset, RetinaFocus, get_preset
from retinafocus.training.start import (
    HEADS,
    IMAGENET,
    load_backbone,
    preset_with_anchors,
    preset_with_focus,
    starting_model,
)
from retinafocus.weights import save_model


def test_prefix_wrapper_and_classifier_are_no_hindrance(model: RetinaFocus, tmp_path: Path) -> None:
    wanted = {name: torch.full_like(tensor, 3) for name, tensor in model.backbone.state_dict().items()}
    heads = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    published = {f"module.{name}": tensor for name, tensor in wanted.items()}
    published["module.fc.weight"] = torch.zeros((1000, 256))
    torch.save({"epoch": 18, "state_dict": published}, tmp_path / "start.tar")
    load_backbone(model, tmp_path / "start.tar")
    assert all(bool((tensor == 3).all()) for tensor in model.backbone.state_dict().values())
    assert all(torch.equal(tensor, heads[name]) for name, tensor in model.state_dict().items() if name in heads)


def test_what_does_not_fit_is_named(model: RetinaFocus, tmp_path: Path) -> None:
    tensors = dict(model.backbone.state_dict())
    del tensors["stage2.0.0.weight"]
    torch.save(tensors, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"short\.pth: not the backbone mobilenet025: .*stage2\.0\.0\.weight"):
        load_backbone(model, tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth: holds no dictionary of tensors"):
        load_backbone(model, tmp_path / "list.pth")
    (tmp_path / "text.pth").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match=r"text\.pth: torch cannot read this file"):
        load_backbone(model, tmp_path / "text.pth")
    with pytest.raises(WeightsError, match=r"none\.pth: torch cannot read this file"):
        load_backbone(model, tmp_path / "none.pth")


@pytest.mark.shared
def test_the_published_mobilenet_start_loads(shared_data: Path) -> None:
    model = RetinaFocus(get_preset("mobile025"))
    load_backbone(model, shared_data / "models" / "mobilenetV1X0.25_pretrain.tar")
    assert float(model.backbone.state_dict()["stage1.0.1.running_var"].min()) > 0


def test_a_torchvision_resnet_answers_as_it_did_for_its_own_input(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    network = models.resnet18(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    # Under the name and in the folder where torchvision looks before it downloads: no network is touched.
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    (tmp_path / "checkpoints").mkdir()
    cached = tmp_path / "checkpoints" / Path(weights.url).name
    torch.save(network.state_dict(), cached)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    theirs = (pixels / 255 - torch.tensor(mean).reshape(3, 1, 1) / 255) / torch.tensor([0.229, 0.224, 0.225]).reshape(
        3, 1, 1
    )
    expected = torch.nn.Sequential(*list(network.children())[:-2])(theirs)
    for bgr in (True, False):
        wanted = replace(preset, backbone="resnet18", mean_rgb=mean, bgr=bgr)
        for backbone in (IMAGENET, str(cached)):
            model = starting_model(wanted, backbone=backbone).eval()
            torch.testing.assert_close(model.backbone(model._normalise(pixels)).c5, expected, atol=1e-4, rtol=1e-4)


def test_imagenet_weights_are_of_resnets_only(preset: Preset) -> None:
    with pytest.raises(SettingsError, match="torchvision has no ImageNet weights of mobilenet025; give a classif"):
        starting_model(preset, backbone=IMAGENET)


def test_a_detector_is_gone_on_from_with_its_own_or_a_new_focus_branch(
    model: RetinaFocus, preset: Preset, tmp_path: Path
) -> None:
    path = tmp_path / "detector.safetensors"
    bundled = get_preset("mobile025")
    detector = RetinaFocus(bundled)
    save_model(detector, path, licence="none", source="a test")
    same = starting_model(replace(bundled, display_threshold=0.2), init=str(path))
    assert all(torch.equal(tensor, detector.state_dict()[name]) for name, tensor in same.state_dict().items())
    assert same.preset.display_threshold == 0.2
    other = starting_model(preset_with_focus(bundled, "C3"), init=str(path), seed=1)
    names = [name for name in other.state_dict() if not name.startswith("focus.")]
    assert all(torch.equal(other.state_dict()[name], detector.state_dict()[name]) for name in names)
    assert other.focus_stride == 8
    with pytest.raises(SettingsError, match="preset mobile025 has channels 64, preset mobile025 16"):
        starting_model(preset, init=str(path))
    with pytest.raises(SettingsError, match="both set"):
        starting_model(bundled, init=str(path), backbone="x")


def test_the_seed_decides_random_weights_and_nobody_elses_numbers_change(preset: Preset) -> None:
    torch.manual_seed(11)
    undisturbed = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (starting_model(preset, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), undisturbed)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["class_heads.0.weight"], other["class_heads.0.weight"])


@pytest.mark.parametrize(("focus", "feature"), [("preset", "P3"), ("none", None), ("C4", "C4")])
def test_focus_branch_of_a_preset(preset: Preset, focus: str, feature: str | None) -> None:
    changed = preset_with_focus(preset, focus).focus
    assert (None if changed is None else changed.feature) == feature
    with pytest.raises(SettingsError, match=r"model\.focus is 'P7'; choose preset, none, or one of C2"):
        preset_with_focus(preset, "P7")


SIZES = ((8.0, 16.0), (32.0, 64.0), (128.0, 512.0))
THREE = ((8.0, 12.0, 16.0), (24.0, 32.0, 64.0), (90.0, 128.0, 512.0))


def test_other_anchors_move_the_range_of_faces_unless_it_is_given(preset: Preset) -> None:
    assert preset_with_anchors(preset) is not preset
    assert preset_with_anchors(preset) == preset
    # The preset has anchors of 10 to 256 px and faces of 20 to 160 px.
    changed = preset_with_anchors(preset, SIZES, 1.25)
    assert (changed.anchors.sizes, changed.anchors.ratio, changed.face_range) == (SIZES, 1.25, (16.0, 320.0))
    assert replace(changed, anchors=preset.anchors, face_range=preset.face_range) == preset
    assert preset_with_anchors(preset, SIZES, face_range=(12.0, 90.0)).face_range == (12.0, 90.0)
    assert preset_with_anchors(preset, ratio=1.5).face_range == preset.face_range
    near = preset_with_anchors(preset, ((30.0,), (40.0,), (50.0,)))
    assert near.face_range == (60.0, 240.0)  # in proportion it would end at 31 px
    with pytest.raises(SettingsError, match=r"anchors\.sizes has 1 levels and anchors\.strides 3"):
        preset_with_anchors(preset, ((8.0,),))


@pytest.fixture
def detector(model: RetinaFocus, tmp_path: Path) -> tuple[RetinaFocus, str]:
    """A detector with the anchors of its preset, and its file."""
    path = tmp_path / "detector.safetensors"
    save_model(model, path, licence="none", source="a test")
    return model, str(path)


def test_weights_for_other_anchors_are_refused_until_their_heads_are_given_up(
    detector: tuple[RetinaFocus, str], preset: Preset
) -> None:
    before, path = detector
    for wanted in (preset_with_anchors(preset, SIZES), preset_with_anchors(preset, ratio=1.25)):
        with pytest.raises(SettingsError, match=r"model\.init has anchors 10, 20, 32, .* set model\.heads = new"):
            starting_model(wanted, init=path)
    for wanted in (preset_with_anchors(preset, SIZES), preset_with_anchors(preset, THREE, 1.25)):
        after = starting_model(wanted, init=path, seed=5, heads="new")
        assert after.preset == wanted
        for name, tensor in after.state_dict().items():
            taken = tensor.shape == before.state_dict()[name].shape and torch.equal(tensor, before.state_dict()[name])
            assert taken == (not name.startswith(HEADS)), name
    pixels = torch.zeros((1, 3, 32, 32), dtype=torch.uint8)
    assert after.eval()(pixels).class_logits.shape == (1, 3 * (16 + 4 + 1), 2)


def test_heads_are_adapted_to_equally_many_anchors_of_other_sizes(
    detector: tuple[RetinaFocus, str], preset: Preset
) -> None:
    before, path = detector
    wanted = preset_with_anchors(preset, SIZES)
    after = starting_model(wanted, init=path, heads="adapt")
    assert after.preset == wanted
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in after.state_dict().items())
    with pytest.raises(
        SettingsError, match=r"has 2 anchors in a cell and the network to train 3; choose model\.heads = new"
    ):
        starting_model(preset_with_anchors(preset, THREE), init=path, heads="adapt")
    with pytest.raises(SettingsError, match=r"has slope .*; model\.heads lets the anchors differ and nothing else"):
        starting_model(replace(wanted, slope=0.1), init=path, heads="new")
    with pytest.raises(SettingsError, match=r"model\.heads is new, but there are no weights to go on from; set model"):
        starting_model(wanted, heads="new")


def test_new_heads_leave_the_choice_of_the_focus_branch(detector: tuple[RetinaFocus, str], preset: Preset) -> None:
    before, path = detector
    wanted = preset_with_focus(preset_with_anchors(preset, THREE), "C3")
    after = starting_model(wanted, init=path, heads="new")
    assert after.focus_stride == 8
    assert not torch.equal(after.state_dict()["focus.conv3x3.weight"], before.state_dict()["focus.conv3x3.weight"])
    assert starting_model(replace(wanted, focus=None), init=path, heads="new").focus is None
