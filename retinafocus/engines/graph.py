"""The network as an ONNX graph: what ONNX Runtime runs, OpenVINO reads, and `retinafocus export` writes.

Written here and not by an exporter of PyTorch's: those run the network on an example, take seconds in each worker, or
keep the size they saw. Here the network is called once with a stand-in for its pixels that writes down what is done to
it, in a tenth of a second, and changes nothing that another thread could see.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from retinafocus.engines.torch_engine import fold_batch_norms
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.models.ranges import Ranges

# The first whose Resize takes the two sizes alone (axes); what both runtimes have read since 2023.
OPSET = 18

INPUT = "pixels"

# A channel that is always zero, or nearly, still needs a scale above zero.
SMALLEST_RANGE = 1e-6

# Sides of the outputs after the first, the pictures; in words where they depend on the size of the pictures.
_SIDES = {
    "class_logits": ("anchors", 2),
    "box_deltas": ("anchors", 4),
    "landmark_deltas": ("anchors", 10),
    "focus_logits": (1, "focus_rows", "focus_columns"),
}


def onnx_graph(model: RetinaFocus, *, ranges: Ranges | None = None) -> onnx.ModelProto:
    """The network with its normalisation, batch norms folded, as an ONNX model with float32 outputs.

    Args:
        model: left as it is.
        ranges: of what enters each convolution: these inputs and the weights are then rounded to 8-bit integers
            (QuantizeLinear, DequantizeLinear), which runtimes turn into arithmetic in integers. None: all float32.

    Returns:
        A model with the input "pixels", (N, H, W, 3) uint8 RGB with any N, H and W from 1, and the outputs of
        `models.Outputs` under their names; "focus_logits" only if there is a focus branch.

    Raises:
        SettingsError: the network has a step that is not known here.
    """
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    fold_batch_norms(network)
    graph = _Graph(_by_weight(network, ranges or {}))
    pixels = _Value(graph, INPUT).permute(0, 3, 1, 2)
    channels = graph.constant(np.array([2, 1, 0] if model.preset.bgr else [0, 1, 2]))
    ordered = graph.add("Gather", pixels, channels, axis=1)
    normalised = graph.add(
        "Sub", graph.add("Cast", ordered, to=TensorProto.FLOAT), graph.constant(network.mean.numpy())
    )
    outputs = network.outputs(normalised)  # type: ignore[arg-type]
    return graph.model({name: value for name, value in outputs._asdict().items() if value is not None})


class _Graph:
    """ONNX nodes and constants under construction."""

    def __init__(self, ranges: Mapping[Tensor, tuple[float, float]]) -> None:
        self._ranges = ranges
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._rounded: dict[str, _Value] = {}

    def add(self, kind: str, *inputs: _Value | None, **attributes: Any) -> _Value:
        """One more node; its output. None is an input that is left out."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        names = [value.name if value else "" for value in inputs]
        self._nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return _Value(self, name)

    def constant(self, values: np.ndarray[Any, Any]) -> _Value:
        """Numbers that are part of the network."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return _Value(self, name)

    def convolved(self, value: _Value, weight: Tensor) -> tuple[_Value, _Value]:
        """What enters a convolution and its weight, rounded to 8-bit integers where the range of it is known."""
        if weight not in self._ranges:
            return value, self.constant(weight.numpy())
        if value.name not in self._rounded:  # once, however many convolutions it enters
            low, high = self._ranges[weight]
            scale = np.float32(max(high - low, SMALLEST_RANGE) / 255)
            numbers = self.constant(np.array(scale)), self.constant(np.array(round(-low / scale), np.uint8))
            whole = self.add("QuantizeLinear", value, *numbers)
            self._rounded[value.name] = self.add("DequantizeLinear", whole, *numbers)
        return self._rounded[value.name], self._rounded_weight(weight.numpy())

    def _rounded_weight(self, weight: np.ndarray[Any, Any]) -> _Value:
        """A weight as 8-bit integers with a scale for each channel of the result; zero stays zero."""
        scales = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / 127, SMALLEST_RANGE / 127).astype(np.float32)
        whole = np.round(weight / scales[:, None, None, None]).astype(np.int8)
        zeros = self.constant(np.zeros(len(scales), np.int8))
        return self.add("DequantizeLinear", self.constant(whole), self.constant(scales), zeros, axis=0)

    def model(self, outputs: Mapping[str, _Value]) -> onnx.ModelProto:
        """All of it, with the outputs under those names."""
        described = []
        for name, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
            described.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["pictures", *_SIDES[name]]))
        pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["pictures", "height", "width", 3])
        graph = helper.make_graph(self._nodes, "retinafocus", [pixels], described, self._constants)
        opset = helper.make_opsetid("", OPSET)
        # The oldest version of the format that has the opset: the library's own newest may be too new for a runtime.
        version = helper.find_min_ir_version_for([opset])
        return helper.make_model(graph, opset_imports=[opset], ir_version=version, producer_name="retinafocus")


@dataclass(frozen=True)
class _Sides:
    """Some sides of a value, known only when the graph runs."""

    of: _Value
    axes: tuple[int, ...] = (0, 1, 2, 3)

    def __getitem__(self, index: int | slice) -> _Sides:
        return _Sides(self.of, self.axes[index] if isinstance(index, slice) else (self.axes[index],))


class _Value:
    """Stands for a tensor while the network is called: PyTorch's functions, given one, call `__torch_function__`."""

    def __init__(self, graph: _Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> _Value:
        if function not in _STEPS:
            raise _not_known(function.__name__)
        return _STEPS[function](*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else _not_known(name)

    def __add__(self, other: _Value) -> _Value:
        return self.graph.add("Add", self, other)

    @property
    def shape(self) -> _Sides:
        return _Sides(self)

    def permute(self, *order: int) -> _Value:
        return self.graph.add("Transpose", self, perm=list(order))

    def reshape(self, pictures: _Sides, *sides: int) -> _Value:
        assert pictures.axes == (0,)
        return self.graph.add("Reshape", self, self.graph.constant(np.array([0, *sides])))  # 0: as it is


def _by_weight(network: RetinaFocus, ranges: Ranges) -> dict[Tensor, tuple[float, float]]:
    """The ranges by the weights of their convolutions, which is what a convolution's function is given."""
    return {network.get_parameter(f"{name}.weight"): found for name, found in ranges.items()}


def _not_known(step: str) -> SettingsError:
    return SettingsError(
        f"the network's step {step} cannot be written as ONNX yet; choose engine=torch, or add it to "
        f"retinafocus/engines/graph.py"
    )


def _convolution(
    value: _Value,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
    groups: int,
) -> _Value:
    if isinstance(padding, str):
        raise _not_known(f"convolution with padding {padding!r}")
    return value.graph.add(
        "Conv",
        *value.graph.convolved(value, weight),
        *([] if bias is None else [value.graph.constant(bias.numpy())]),
        kernel_shape=list(weight.shape[2:]),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )


def _largest(value: _Value, side: int, stride: int, padding: int, dilation: int, **other: Any) -> _Value:
    return value.graph.add(
        "MaxPool",
        value,
        kernel_shape=[side] * 2,
        strides=[stride] * 2,
        pads=[padding] * 4,
        dilations=[dilation] * 2,
        ceil_mode=int(other["ceil_mode"]),
    )


def _enlarged(value: _Value, *, size: _Sides | None, mode: str, **other: Any) -> _Value:
    if mode != "nearest" or size is None or any(other.values()):
        raise _not_known(f"enlarging by {mode} with {other}")
    assert size.axes == (2, 3)
    wanted = value.graph.add("Shape", size.of, start=2, end=4)
    # Cell x of the result repeats cell floor(x * from / to), as in PyTorch.
    rule = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return value.graph.add("Resize", value, None, None, wanted, axes=[2, 3], **rule)


# How each of PyTorch's functions is written. A new kind of layer is one more line.
_STEPS: dict[Callable[..., Any], Callable[..., _Value]] = {
    torch.conv2d: _convolution,
    functional.max_pool2d: _largest,
    torch.cat: lambda values, dim: values[0].graph.add("Concat", *values, axis=dim),
    functional.relu: lambda value, inplace: value.graph.add("Relu", value),
    functional.leaky_relu: lambda value, negative_slope, inplace: value.graph.add(
        "LeakyRelu", value, alpha=negative_slope
    ),
    functional.interpolate: _enlarged,
}
