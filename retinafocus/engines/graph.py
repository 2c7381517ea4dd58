"""The network as an ONNX graph: what ONNX Runtime runs, OpenVINO reads, and `retinafocus export` writes.

Written here and not by PyTorch's exporters: those run the network on an example (and take seconds, in each worker),
or freeze what they saw of its size. This walks the modules once, for any size of picture, in a tenth of a second.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

from retinafocus.engines.torch_engine import fold_batch_norms
from retinafocus.errors import SettingsError
from retinafocus.models import Outputs, RetinaFocus

# The first whose Resize takes the two sizes alone (axes); what both runtimes have read since 2023.
OPSET = 18

INPUT = "pixels"
"""(N, H, W, 3) uint8 RGB."""


def onnx_graph(model: RetinaFocus) -> onnx.ModelProto:
    """The network with its normalisation, batch norms folded, as an ONNX model in float32.

    Args:
        model: left as it is.

    Returns:
        A model with the input "pixels", (N, H, W, 3) uint8 RGB with any N, H and W from 1, and the outputs of
        `Outputs` under their names; "focus_logits" only if there is a focus branch.

    Raises:
        SettingsError: the network has a step that is not known here.
    """
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    fold_batch_norms(network)
    graph = _Graph(network)
    channels = [2, 1, 0] if model.preset.bgr else [0, 1, 2]
    ordered = graph.add("Gather", graph.add("Transpose", INPUT, perm=[0, 3, 1, 2]), graph.integers(channels), axis=1)
    numbers = graph.add("Cast", ordered, to=TensorProto.FLOAT)
    normalised = graph.add("Sub", numbers, graph.constant(model.mean.float()))
    return graph.finished(normalised)


class _OutputsOf(nn.Module):
    """The network from normalised pixels on, in the form that tracing wants."""

    def __init__(self, network: RetinaFocus) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(self.network.outputs(normalised))


class _Tracer(fx.Tracer):
    """Follows a slice of a sequence too, which the network makes as it runs."""

    def path_of_module(self, mod: nn.Module) -> str:
        # Tracing goes through a sequence into its layers, so its own name is never looked up.
        return "sequence" if isinstance(mod, nn.Sequential) else super().path_of_module(mod)


class _Sizes(NamedTuple):
    """Sides of a tensor, known when the graph runs."""

    of: str
    axes: tuple[int, ...]


class _Graph:
    """ONNX nodes under construction. A value of the network is the name of its tensor, or some of its `_Sizes`."""

    def __init__(self, network: RetinaFocus) -> None:
        root = _OutputsOf(network)
        self._traced = fx.GraphModule(root, _Tracer().trace(root))
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """One more node; the name of its output."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Tensor) -> str:
        """A tensor of the network; its name."""
        return self._store(np.ascontiguousarray(values.detach().numpy()))

    def integers(self, values: list[int]) -> str:
        """A list of whole numbers as a tensor; its name."""
        return self._store(np.array(values, np.int64))

    def _store(self, values: np.ndarray[Any, Any]) -> str:
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def finished(self, normalised: str) -> onnx.ModelProto:
        """The whole model, the network fed with that value."""
        values: dict[fx.Node, Any] = {}
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                values[node] = normalised
            elif node.op == "output":
                return self._model(Outputs(*fx.map_arg(node.args[0], values.__getitem__)))
            else:
                arguments = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = self._step(node)(self, *arguments[0], **arguments[1])
        raise AssertionError("a traced graph ends with its output")

    def _step(self, node: fx.Node) -> Callable[..., Any]:
        """What writes that step of the network as ONNX nodes."""
        if node.op == "call_module":
            module = self._traced.get_submodule(str(node.target))
            if type(module) in _MODULES:
                return lambda graph, value: _MODULES[type(module)](graph, module, value)
        elif node.target in _FUNCTIONS:
            return _FUNCTIONS[node.target]
        raise SettingsError(
            f"the network's step {node.name} ({node.op} {node.target}) cannot be written as ONNX yet; "
            f"choose engine=torch, or add the step to retinafocus/engines/graph.py"
        )

    def _model(self, outputs: Outputs) -> onnx.ModelProto:
        """The nodes so far as a model with named and described inputs and outputs."""
        described = []
        for name, value in outputs._asdict().items():
            if value is None:
                continue
            self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
            last = ["focus_rows", "focus_columns"] if name == "focus_logits" else ["anchors", _VALUES[name]]
            shape = ["pictures", *([1] if name == "focus_logits" else []), *last]
            described.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["pictures", "height", "width", 3])
        graph = helper.make_graph(self._nodes, "retinafocus", [pixels], described, self._weights)
        opset = helper.make_opsetid("", OPSET)
        # The runtimes know the version that came with the opset; the library would write its own newest.
        version = helper.find_min_ir_version_for([opset])
        return helper.make_model(graph, opset_imports=[opset], ir_version=version, producer_name="retinafocus")


# How each step of the network is written. A new kind of module or function is one more entry.


def _convolution(graph: _Graph, module: nn.Conv2d, value: str) -> str:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise SettingsError(f"a convolution with padding {module.padding}, {module.padding_mode} cannot be written yet")
    inputs = [value, graph.constant(module.weight)]
    if module.bias is not None:
        inputs.append(graph.constant(module.bias))
    return graph.add(
        "Conv",
        *inputs,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
        dilations=list(module.dilation),
        group=module.groups,
    )


def _largest(graph: _Graph, module: nn.MaxPool2d, value: str) -> str:
    sides = {name: [int(getattr(module, name))] * 2 for name in ("kernel_size", "stride", "padding", "dilation")}
    return graph.add(
        "MaxPool",
        value,
        kernel_shape=sides["kernel_size"],
        strides=sides["stride"],
        pads=sides["padding"] * 2,
        dilations=sides["dilation"],
        ceil_mode=int(module.ceil_mode),
    )


def _sizes(graph: _Graph, value: str, attribute: str) -> _Sizes:
    assert attribute == "shape"
    return _Sizes(value, (0, 1, 2, 3))


def _some_sizes(graph: _Graph, sizes: _Sizes, index: int | slice) -> _Sizes:
    return _Sizes(sizes.of, sizes.axes[index] if isinstance(index, slice) else (sizes.axes[index],))


def _enlarged(graph: _Graph, value: str, size: _Sizes, mode: str, **unused: object) -> str:
    if mode != "nearest" or any(unused.values()):
        raise SettingsError(f"enlarging by {mode} with {unused} cannot be written as ONNX yet; choose engine=torch")
    assert size.axes == (2, 3)
    wanted = graph.add("Shape", size.of, start=2, end=4)
    # Cell x of the result repeats cell floor(x * from / to), as in PyTorch.
    return graph.add(
        "Resize",
        value,
        "",
        "",
        wanted,
        axes=[2, 3],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _reshaped(graph: _Graph, value: str, pictures: _Sizes, *sides: int) -> str:
    assert pictures.axes == (0,)
    return graph.add("Reshape", value, graph.integers([0, *sides]))  # 0 leaves that side as it is


_MODULES: dict[type[nn.Module], Callable[[_Graph, Any, str], str]] = {
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _largest,
    nn.ReLU: lambda graph, _, value: graph.add("Relu", value),
    nn.LeakyReLU: lambda graph, module, value: graph.add("LeakyRelu", value, alpha=module.negative_slope),
    nn.Identity: lambda graph, _, value: value,
}

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    functional.relu: lambda graph, value, inplace: graph.add("Relu", value),
    functional.interpolate: _enlarged,
    operator.add: lambda graph, one, other: graph.add("Add", one, other),
    operator.iadd: lambda graph, one, other: graph.add("Add", one, other),
    torch.cat: lambda graph, values, dim: graph.add("Concat", *values, axis=dim),
    getattr: _sizes,
    operator.getitem: _some_sizes,
    "permute": lambda graph, value, *order: graph.add("Transpose", value, perm=list(order)),
    "reshape": _reshaped,
}

# The last axis of each output.
_VALUES = {"class_logits": 2, "box_deltas": 4, "landmark_deltas": 10}
