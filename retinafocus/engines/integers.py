"""Whether OpenVINO computes 8-bit integers exactly on this processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from retinafocus.engines.openvino_import import core
from retinafocus.errors import SettingsError

# The sum that gives most: every input and every weight at its largest, over enough channels for the usual arithmetic.
_CHANNELS = 64
_LARGEST_INPUT, _LARGEST_WEIGHT = 255, 127


def check_processor(settings: dict[str, Any]) -> None:
    """Raise SettingsError where sums of products of 8-bit integers come out wrong.

    Without instructions for such sums (VNNI, AMX) the library keeps pairs of products in 16 bits, and what does not fit
    is cut off. Asked of the arithmetic itself, because each kind of processor names its instructions differently.

    Args:
        settings: what the network will be compiled with.
    """
    network = core().compile_model(core().read_model(_probe().SerializeToString()), "CPU", settings)
    found = network([np.full((1, _CHANNELS, 8, 8), _LARGEST_INPUT, np.float32)])[0]
    if not np.allclose(found, _CHANNELS * _LARGEST_INPUT * _LARGEST_WEIGHT, rtol=1e-3):
        raise SettingsError(
            "precision is 'int8', but this processor has no instructions for it (VNNI or AMX), and would give wrong "
            "answers; choose float32"
        )


def _probe() -> ModelProto:
    """One convolution of the largest numbers, quantised as `graph` does it."""
    constants: dict[str, np.ndarray[Any, Any]] = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "weight": np.full((8, _CHANNELS, 1, 1), _LARGEST_WEIGHT, np.int8),
        "ones": np.ones(8, np.float32),
        "zeros": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "one", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weight", "ones", "zeros"], ["rounded_weight"], axis=0),
        helper.make_node("Conv", ["rounded", "rounded_weight"], ["output"], kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, _CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 8, 8, 8])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]))
