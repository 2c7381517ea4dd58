"""The network as an ONNX graph: valid, named, for any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.models.presets import FOCUS_STRIDES, FocusConfig

onnx = pytest.importorskip("onnx")
graph = pytest.importorskip("retinafocus.engines.graph")

Maker = Callable[..., RetinaFocus]


def shape_of(value: object) -> list[int | str]:
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]  # type: ignore[attr-defined]


def test_graph_is_valid_and_says_its_inputs_and_outputs(model: RetinaFocus) -> None:
    written = graph.onnx_graph(model)
    onnx.checker.check_model(written, full_check=True)
    assert [(value.name, shape_of(value)) for value in written.graph.input] == [
        ("pixels", ["pictures", "height", "width", 3])
    ]
    assert [(value.name, shape_of(value)) for value in written.graph.output] == [
        ("class_logits", ["pictures", "anchors", 2]),
        ("box_deltas", ["pictures", "anchors", 4]),
        ("landmark_deltas", ["pictures", "anchors", 10]),
        ("focus_logits", ["pictures", 1, "focus_rows", "focus_columns"]),
    ]


def test_network_without_a_focus_branch_has_no_such_output(random_model: Maker) -> None:
    written = graph.onnx_graph(random_model("mobilenet025-biubug6"))
    assert [value.name for value in written.graph.output] == ["class_logits", "box_deltas", "landmark_deltas"]


def test_same_network_gives_the_same_bytes(random_model: Maker) -> None:
    one, other = (graph.onnx_graph(random_model()).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("feature", list(FOCUS_STRIDES))
def test_focus_branch_on_any_map_is_written(random_model: Maker, feature: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = random_model(dataclasses.replace(get_preset("mobile025"), focus=FocusConfig(feature=feature)))
    session = runtime.InferenceSession(graph.onnx_graph(model).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 45, 77, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).focus_logits
    assert wanted is not None
    np.testing.assert_allclose(session.run(["focus_logits"], {"pixels": pixels})[0], wanted.numpy(), atol=1e-4)


class Method(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.erf()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        pytest.param(nn.SiLU(), "step silu cannot be written as ONNX yet; choose engine=torch, or add", id="module"),
        pytest.param(Method(), "step erf cannot be written", id="method"),
        pytest.param(
            nn.Conv2d(3, 3, 3, padding="same"), "convolution with padding 'same' cannot", id="padding by name"
        ),
        pytest.param(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "step pad cannot", id="padding"),
        pytest.param(
            nn.Upsample(scale_factor=2), r"enlarging by nearest with .*2.0.* cannot", id="enlarging by factor"
        ),
    ],
)
def test_step_that_is_not_known_is_named(random_model: Maker, module: nn.Module, text: str) -> None:
    model = random_model()
    model.backbone.stage1.insert(0, module)  # type: ignore[union-attr, operator]
    with pytest.raises(SettingsError, match=text):
        graph.onnx_graph(model)


def test_largest_of_a_window_is_written_as_pytorch_means_it() -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = RetinaFocus(get_preset("resnet18")).eval()
    session = runtime.InferenceSession(graph.onnx_graph(model).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 51, 38, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).box_deltas
    np.testing.assert_allclose(session.run(["box_deltas"], {"pixels": pixels})[0], wanted.numpy(), atol=1e-4)


def test_threads_that_write_graphs_at_once_disturb_neither_each_other_nor_a_network_that_runs(
    model: RetinaFocus,
) -> None:
    wanted = graph.onnx_graph(model).SerializeToString(deterministic=True)
    with ThreadPoolExecutor(4) as threads, torch.inference_mode():
        written = [threads.submit(graph.onnx_graph, model) for _ in range(8)]
        for _ in range(20):
            model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        assert all(future.result().SerializeToString(deterministic=True) == wanted for future in written)


def test_convolutions_in_integers_have_8_bit_weights_and_inputs(ranged_model: RetinaFocus) -> None:
    written = graph.onnx_graph(ranged_model, ranges=ranged_model.ranges)
    onnx.checker.check_model(written, full_check=True)
    makers = {output: node for node in written.graph.node for output in node.output}
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in written.graph.initializer}
    convolutions = [node for node in written.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in ranged_model.modules())
    for node in convolutions:
        assert makers[makers[node.input[0]].input[0]].op_type == "QuantizeLinear"
        whole, scales, zeros = (constants[name] for name in makers[node.input[1]].input)
        assert whole.dtype == np.int8
        assert np.abs(whole).max(axis=(1, 2, 3)).tolist() == [127] * len(scales)
        assert not zeros.any()


def test_range_becomes_a_scale_and_a_zero(model: RetinaFocus) -> None:
    ranges = {name: (-1.0, 4.1) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    written = graph.onnx_graph(model, ranges=ranges)
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in written.graph.initializer}
    rounded = [node for node in written.graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in rounded}) == len(rounded)  # once, however many convolutions it enters
    for node in rounded:
        assert constants[node.input[1]] == pytest.approx(0.02)  # 5.1 / 255
        assert constants[node.input[2]] == 50
