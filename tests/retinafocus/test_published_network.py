"""Imported checkpoints against a second, straight writing of the published network.

The shapes and the forward pass below are written from the description of the published code alone and use none of
ours, so that a mistake would have to be made twice to pass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from retinafocus.anchors import anchor_boxes
from retinafocus.boxes import decode_boxes, decode_landmarks
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.models.layout import wanted_layout
from retinafocus.published import KNOWN_FILES, published_name
from retinafocus.weights import import_published, load_model

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

# Depthwise blocks of each stage: channels in, channels out, stride. The first entry of stage1 is a plain 3x3.
MOBILE_BLOCKS = {
    "stage1": [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)],
    "stage2": [(64, 128, 2)] + [(128, 128, 1)] * 5,
    "stage3": [(128, 256, 2), (256, 256, 1)],
}


def unit_shapes(conv: str, norm: str, shape: tuple[int, ...]) -> Shapes:
    """A convolution and its batch norm."""
    channels = (shape[0],)
    statistics = {f"{norm}.{name}": channels for name in ("weight", "bias", "running_mean", "running_var")}
    return {f"{conv}.weight": shape, **statistics, f"{norm}.num_batches_tracked": ()}


def neck_shapes(inputs: tuple[int, int, int], width: int) -> Shapes:
    """Pyramid, context modules and heads."""
    shapes: Shapes = {}
    for i, channels in enumerate(inputs, start=1):
        shapes |= unit_shapes(f"fpn.output{i}.0", f"fpn.output{i}.1", (width, channels, 1, 1))
    for i in (1, 2):
        shapes |= unit_shapes(f"fpn.merge{i}.0", f"fpn.merge{i}.1", (width, width, 3, 3))
    half, quarter = width // 2, width // 4
    for i in (1, 2, 3):
        for name, out, into in (
            ("conv3X3", half, width),
            ("conv5X5_1", quarter, width),
            ("conv5X5_2", quarter, quarter),
            ("conv7X7_2", quarter, quarter),
            ("conv7x7_3", quarter, quarter),
        ):
            shapes |= unit_shapes(f"ssh{i}.{name}.0", f"ssh{i}.{name}.1", (out, into, 3, 3))
    for head, values in (("ClassHead", 4), ("BboxHead", 8), ("LandmarkHead", 20)):
        for i in range(3):
            shapes |= {
                f"{head}.{i}.conv1x1.weight": (values, width, 1, 1),
                f"{head}.{i}.conv1x1.bias": (values,),
            }
    return shapes


def mobilenet_shapes() -> Shapes:
    """Every tensor of the published MobileNet-0.25 detector."""
    shapes = unit_shapes("body.stage1.0.0", "body.stage1.0.1", (8, 3, 3, 3))
    for stage, blocks in MOBILE_BLOCKS.items():
        for i, (into, out, _) in enumerate(blocks, start=1 if stage == "stage1" else 0):
            block = f"body.{stage}.{i}"
            shapes |= unit_shapes(f"{block}.0", f"{block}.1", (into, 1, 3, 3))
            shapes |= unit_shapes(f"{block}.3", f"{block}.4", (out, into, 1, 1))
    return shapes | neck_shapes((64, 128, 256), 64)


def resnet50_shapes() -> Shapes:
    """Every tensor of the published ResNet-50 detector."""
    shapes = unit_shapes("body.conv1", "body.bn1", (64, 3, 7, 7))
    into = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for i in range(blocks):
            block = f"body.layer{layer}.{i}"
            shapes |= unit_shapes(f"{block}.conv1", f"{block}.bn1", (width, into, 1, 1))
            shapes |= unit_shapes(f"{block}.conv2", f"{block}.bn2", (width, width, 3, 3))
            shapes |= unit_shapes(f"{block}.conv3", f"{block}.bn3", (4 * width, width, 1, 1))
            if i == 0:
                shapes |= unit_shapes(f"{block}.downsample.0", f"{block}.downsample.1", (4 * width, into, 1, 1))
            into = 4 * width
    return shapes | neck_shapes((512, 1024, 2048), 256)


def random_state(shapes: Shapes) -> State:
    """Random weights and random batch statistics that keep the activations near one."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 4:
            # The first convolution meets pixels of up to 150 in size, the others numbers near one.
            gain = 0.02 if name in ("body.stage1.0.0.weight", "body.conv1.weight") else 1.4
            state[name] = torch.randn(shape, generator=generator) * gain / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif name.endswith(("running_var", ".weight")):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


def unit(
    state: State, x: Tensor, conv: str, norm: str, slope: float | None, *, stride: int = 1, groups: int = 1
) -> Tensor:
    """Convolution, batch norm and, unless slope is None, leaky ReLU."""
    weight = state[f"{conv}.weight"]
    x = functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
    mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
    x = functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-5)
    return x if slope is None else functional.leaky_relu(x, slope)


def mobilenet_body(state: State, x: Tensor, slope: float) -> list[Tensor]:
    """The three taps of the published MobileNet."""
    x = unit(state, x, "body.stage1.0.0", "body.stage1.0.1", slope, stride=2)
    taps = []
    for stage, blocks in MOBILE_BLOCKS.items():
        for i, (into, _, stride) in enumerate(blocks, start=1 if stage == "stage1" else 0):
            block = f"body.{stage}.{i}"
            x = unit(state, x, f"{block}.0", f"{block}.1", slope, stride=stride, groups=into)
            x = unit(state, x, f"{block}.3", f"{block}.4", slope)
        taps.append(x)
    return taps


def resnet50_body(state: State, x: Tensor, slope: float) -> list[Tensor]:
    """The three taps of the published ResNet-50, which is torchvision's."""
    network = torchvision.models.resnet50(weights=None).eval()
    network.fc = torch.nn.Identity()
    network.load_state_dict({name[5:]: tensor for name, tensor in state.items() if name.startswith("body.")})
    x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
    taps = []
    for layer in (network.layer2, network.layer3, network.layer4):
        x = layer(x)
        taps.append(x)
    return taps


def context(state: State, x: Tensor, name: str, slope: float) -> Tensor:
    """One published context module."""

    def branch(x: Tensor, conv: str, slope: float | None) -> Tensor:
        return unit(state, x, f"{name}.{conv}.0", f"{name}.{conv}.1", slope)

    start = branch(x, "conv5X5_1", slope)
    longest = branch(branch(start, "conv7X7_2", slope), "conv7x7_3", None)
    return functional.relu(torch.cat([branch(x, "conv3X3", None), branch(start, "conv5X5_2", None), longest], dim=1))


Body = Callable[[State, Tensor, float], list[Tensor]]


def published_forward(state: State, rgb: Tensor, body: Body, slope: float) -> list[Tensor]:
    """Class logits, box and landmark offsets of the published network for (N, 3, H, W) RGB bytes."""
    bgr = rgb[:, [2, 1, 0]].float() - torch.tensor([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1)
    taps = body(state, bgr, slope)
    one, two, three = (
        unit(state, tap, f"fpn.output{i}.0", f"fpn.output{i}.1", slope) for i, tap in enumerate(taps, start=1)
    )
    two = two + functional.interpolate(three, size=two.shape[2:], mode="nearest")
    two = unit(state, two, "fpn.merge2.0", "fpn.merge2.1", slope)
    one = one + functional.interpolate(two, size=one.shape[2:], mode="nearest")
    one = unit(state, one, "fpn.merge1.0", "fpn.merge1.1", slope)
    maps = [context(state, level, f"ssh{i}", slope) for i, level in enumerate((one, two, three), start=1)]
    outputs = []
    for head, values in (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)):
        levels = []
        for i, level in enumerate(maps):
            name = f"{head}.{i}.conv1x1"
            out = functional.conv2d(level, state[f"{name}.weight"], state[f"{name}.bias"])
            levels.append(out.permute(0, 2, 3, 1).contiguous().view(out.shape[0], -1, values))
        outputs.append(torch.cat(levels, dim=1))
    return outputs


def noise(height: int, width: int) -> Tensor:
    """Two pictures of random bytes."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("preset", "shapes", "tensors", "parameters"),
    [
        pytest.param("mobilenet025-biubug6", mobilenet_shapes(), 300, 426_608, id="leaky MobileNet"),
        pytest.param("mobilenet025-1mb", mobilenet_shapes(), 300, 426_608, id="1MB MobileNet"),
        pytest.param("resnet50-biubug6", resnet50_shapes(), 456, 27_293_600, id="ResNet-50"),
    ],
)
def test_our_tensors_are_the_published_ones(preset: str, shapes: Shapes, tensors: int, parameters: int) -> None:
    wanted = wanted_layout(get_preset(preset))
    assert {published_name(name): entry.shape for name, entry in wanted.items()} == shapes
    assert len(wanted) == tensors
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in RetinaFocus(get_preset(preset)).parameters()) == parameters


@pytest.mark.parametrize(
    ("preset", "shapes", "body", "slope"),
    [
        pytest.param("mobilenet025-biubug6", mobilenet_shapes(), mobilenet_body, 0.1, id="leaky MobileNet"),
        pytest.param("mobilenet025-1mb", mobilenet_shapes(), mobilenet_body, 0.0, id="1MB MobileNet"),
        pytest.param("resnet50-biubug6", resnet50_shapes(), resnet50_body, 0.0, id="ResNet-50"),
    ],
)
def test_an_imported_model_computes_the_published_network(
    preset: str, shapes: Shapes, body: Body, slope: float, tmp_path: Path
) -> None:
    state = random_state(shapes)
    torch.save(state, tmp_path / "published.pth")
    info = import_published(tmp_path / "published.pth", preset, tmp_path / "ours.safetensors")
    assert info.preset == get_preset(preset)
    model = load_model(tmp_path / "ours.safetensors")
    pixels = noise(75, 101)  # odd maps, so that enlarging to the exact size counts
    with torch.inference_mode():
        outputs = model(pixels)
        expected = published_forward(state, pixels, body, slope)
    for ours, theirs in zip(outputs[:3], expected, strict=True):
        assert float(theirs.abs().mean()) > 0.01  # the comparison below means something
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.shared
def test_the_1mb_checkpoint_is_imported_whole(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "models" / "mobilenet0.25_Final.pth"
    info = import_published(path, "mobilenet025-1mb", tmp_path / "ours.safetensors")
    assert info.parameters == 426_608
    assert info.metadata["source_sha256"] in KNOWN_FILES
    assert info.licence == "code MIT; trained on WIDER FACE, non-commercial research only"
    # Recorded once: another value would tell every finished run that its weights have changed.
    assert info.sha256 == "56f548f7165dca963d50dfd561e47a772b42733d9c15e6bd6dc60be987e95560"
    state = torch.load(path, map_location="cpu", weights_only=True)
    pixels = noise(97, 130)
    with torch.inference_mode():
        outputs = load_model(tmp_path / "ours.safetensors")(pixels)
        expected = published_forward(state, pixels, mobilenet_body, slope=0.0)
    for ours, theirs in zip(outputs[:3], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.shared
def test_the_1mb_checkpoint_with_leaky_activations_would_answer_differently(shared_data: Path) -> None:
    state = torch.load(shared_data / "models" / "mobilenet0.25_Final.pth", map_location="cpu", weights_only=True)
    wrong = RetinaFocus(get_preset("mobilenet025-biubug6")).eval()
    wrong.load_state_dict({name: state[published_name(name)] for name in wrong.state_dict()})
    pixels = noise(97, 130)
    with torch.inference_mode():
        expected = published_forward(state, pixels, mobilenet_body, slope=0.0)
        assert float((wrong(pixels).class_logits - expected[0]).abs().max()) > 0.1


@pytest.mark.shared
def test_the_1mb_checkpoint_finds_the_face_of_a_portrait(shared_data: Path, tmp_path: Path) -> None:
    """The whole way from pixels to landmarks, against points read off the picture with the eye."""
    import_published(
        shared_data / "models" / "mobilenet0.25_Final.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors"
    )
    model = load_model(tmp_path / "ours.safetensors")
    portrait = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        outputs = model(portrait)
    scores = outputs.class_logits.softmax(dim=-1)[0, :, 1]
    best = int(scores.argmax())
    anchor = anchor_boxes(model.preset.anchors, (512, 512))[best]
    box = decode_boxes(outputs.box_deltas[0, best], anchor, model.preset.variances)
    points = decode_landmarks(outputs.landmark_deltas[0, best], anchor, model.preset.variances)
    assert float(scores[best]) > 0.99
    # Cheek, cheek and chin; the upper edge of a face is a matter of taste.
    torch.testing.assert_close(box[[0, 2, 3]], torch.tensor([182.0, 270.0, 177.0]), rtol=0, atol=5)
    eyes_nose_mouth = torch.tensor([[203.0, 102.0], [247.0, 103.0], [225.0, 127.0], [205.0, 142.0], [244.0, 142.0]])
    torch.testing.assert_close(points, eyes_nose_mouth, rtol=0, atol=4)
