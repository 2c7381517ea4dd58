"""The whole network: shapes at any size, normalisation, and a focus branch that changes no detection."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from retinafocus.anchors import anchor_boxes
from retinafocus.errors import SettingsError
from retinafocus.models import FocusConfig, Outputs, Preset, RetinaFocus, get_preset
from retinafocus.models.presets import FOCUS_STRIDES

MOBILE = get_preset("mobilenet025-1mb")


def build(preset: Preset, seed: int = 0) -> RetinaFocus:
    """A network whose weights depend on the seed alone, with batch statistics that do something."""
    torch.manual_seed(seed)
    model = RetinaFocus(preset).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
    return model


def look(model: RetinaFocus, pixels: Tensor) -> Outputs:
    """The outputs without gradients."""
    with torch.inference_mode():
        outputs: Outputs = model(pixels)
        return outputs


def noise(*shape: int) -> Tensor:
    """The same random bytes each time."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (33, 1), (31, 65), (64, 96)], ids=str)
def test_outputs_match_the_anchors_at_any_size(size: tuple[int, int]) -> None:
    outputs = look(build(MOBILE), noise(2, 3, *size))
    count = len(anchor_boxes(MOBILE.anchors, size))
    assert outputs.class_logits.shape == (2, count, 2)
    assert outputs.box_deltas.shape == (2, count, 4)
    assert outputs.landmark_deltas.shape == (2, count, 10)
    assert outputs.focus_logits is None
    assert all(bool(output.isfinite().all()) for output in outputs[:3])


@pytest.mark.parametrize("backbone", ["mobilenet025-1mb", "resnet18"])
@pytest.mark.parametrize("feature", FOCUS_STRIDES)
def test_detections_are_bit_identical_with_a_focus_branch_on_any_map(feature: str, backbone: str) -> None:
    plain = build(dataclasses.replace(get_preset(backbone), channels=16, focus=None))
    focused = RetinaFocus.from_detector(
        plain, dataclasses.replace(plain.preset, name="focused", focus=FocusConfig(feature=feature, channels=8))
    )
    size = (70, 45)
    without, with_focus = look(plain, noise(1, 3, *size)), look(focused, noise(1, 3, *size))
    for kind in ("class_logits", "box_deltas", "landmark_deltas"):
        assert torch.equal(getattr(without, kind), getattr(with_focus, kind)), kind
    assert focused.focus_stride == FOCUS_STRIDES[feature]
    assert with_focus.focus_logits is not None
    assert with_focus.focus_logits.shape == (1, 1, *(math.ceil(side / FOCUS_STRIDES[feature]) for side in size))


def test_the_focus_branch_reads_the_map_it_names() -> None:
    """P3 is the merged map before its context module: changing the context changes no focus logit."""
    model = build(get_preset("mobile025"))
    before = look(model, noise(1, 3, 40, 40))
    for parameter in model.contexts.parameters():
        parameter.data.mul_(0.5)
    after = look(model, noise(1, 3, 40, 40))
    assert before.focus_logits is not None
    assert after.focus_logits is not None
    assert torch.equal(before.focus_logits, after.focus_logits)
    assert not torch.equal(before.class_logits, after.class_logits)
    model.pyramid.merges[0][1].bias.data.add_(1.0)
    merged = look(model, noise(1, 3, 40, 40))
    assert merged.focus_logits is not None
    assert not torch.equal(after.focus_logits, merged.focus_logits)


def test_an_untrained_focus_branch_says_its_prior() -> None:
    preset = dataclasses.replace(MOBILE, focus=FocusConfig(prior=0.01))
    logits = look(build(preset), noise(1, 3, 64, 64)).focus_logits
    assert logits is not None
    assert float(logits.sigmoid().max()) < 0.05
    assert float(logits.sigmoid().min()) > 0.002


def test_both_branches_share_one_pass_of_the_backbone() -> None:
    model = build(get_preset("mobile025"))
    passes = []
    model.backbone.register_forward_hook(lambda module, inputs, output: passes.append(1))
    look(model, noise(1, 3, 32, 32))
    assert len(passes) == 1


def test_one_seed_gives_one_detector_with_and_without_a_focus_branch() -> None:
    without = build(MOBILE).state_dict()
    with_focus = build(get_preset("mobile025")).state_dict()
    parameters = [name for name, _ in build(MOBILE).named_parameters()]
    assert all(torch.equal(without[name], with_focus[name]) for name in parameters)
    assert with_focus.keys() - without.keys() == {
        f"focus.{layer}.{kind}" for layer in ("conv3x3", "conv1x1", "logit") for kind in ("weight", "bias")
    }


def test_the_mean_is_subtracted_and_the_channels_turned() -> None:
    model = build(MOBILE)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    look(model, torch.tensor([200, 100, 50], dtype=torch.uint8).reshape(1, 3, 1, 1))
    # Blue first: 50 - 104, 100 - 117, 200 - 123.
    assert seen[0].flatten().tolist() == [-54.0, -17.0, 77.0]


def test_weights_in_rgb_order_see_rgb() -> None:
    rgb = build(dataclasses.replace(MOBILE, bgr=False))
    bgr = build(MOBILE)
    bgr.load_state_dict(rgb.state_dict())
    first = bgr.backbone.stage1[0][0].weight
    first.data.copy_(first.data.flip(1))
    torch.testing.assert_close(
        look(rgb, noise(1, 3, 32, 32)).class_logits, look(bgr, noise(1, 3, 32, 32)).class_logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_the_callers_pixels_are_left_alone(dtype: torch.dtype, bgr: bool) -> None:
    pixels = noise(1, 3, 16, 16).to(dtype)
    kept = pixels.clone()
    look(build(dataclasses.replace(MOBILE, bgr=bgr)), pixels)
    assert torch.equal(pixels, kept)


def test_bytes_and_floats_give_the_same() -> None:
    model, pixels = build(MOBILE), noise(1, 3, 40, 56)
    for byte, real in zip(look(model, pixels)[:3], look(model, pixels.float())[:3], strict=True):
        assert torch.equal(byte, real)


def test_channels_last_gives_the_same() -> None:
    model, pixels = build(get_preset("mobile025")), noise(2, 3, 40, 56)
    plain = look(model, pixels)
    rows = look(model.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last))
    for one, other in zip(plain, rows, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision_weights_answer_in_half_precision() -> None:
    model = build(get_preset("mobile025")).to(torch.bfloat16)
    for pixels in (noise(1, 3, 32, 32), noise(1, 3, 32, 32).float()):
        assert {output.dtype for output in look(model, pixels)} == {torch.bfloat16}


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = RetinaFocus(dataclasses.replace(MOBILE, focus=FocusConfig(feature="P2")))
    outputs = model(noise(2, 3, 64, 64))
    sum(output.square().mean() for output in outputs).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 8, 8), id="no batch"),
        pytest.param((1, 8, 8, 3), id="channels at the end"),
        pytest.param((1, 1, 8, 8), id="grey"),
        pytest.param((1, 3, 0, 8), id="no rows"),
    ],
)
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \(pictures, 3, height, width\)"):
        RetinaFocus(MOBILE)(torch.zeros(shape))


def test_a_detector_is_taken_over_with_its_statistics_and_mode() -> None:
    detector = build(MOBILE)
    focused = RetinaFocus.from_detector(detector, get_preset("mobile025"))
    assert focused.preset.name == "mobile025"
    assert not focused.training
    state = focused.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in detector.state_dict().items())
    # A copy: training the one must not move the other.
    focused.class_heads[0].bias.data.add_(1.0)
    assert not torch.equal(focused.class_heads[0].bias, detector.class_heads[0].bias)


def test_a_detector_of_another_activation_is_not_taken_over() -> None:
    with pytest.raises(SettingsError, match=r"has slope 0\.1, preset mobile025 0\.0; choose a preset that differs"):
        RetinaFocus.from_detector(RetinaFocus(get_preset("mobilenet025-biubug6")), get_preset("mobile025"))
