"""The network as a file that other programs run: ONNX, or OpenVINO's own form."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from retinafocus.engines import INT8, check_ranges
from retinafocus.errors import RunError, SettingsError
from retinafocus.weights import WeightsInfo, load_model, read_info

# What the name of the file must end with. OpenVINO's numbers go into a .bin beside the .xml.
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}

PRECISIONS = ("float32", INT8)

HOW_TO_READ = (
    "Input pixels: (pictures, height, width, 3) uint8 RGB, 0..255, any size; normalisation is inside. Outputs: logits "
    "(softmax over the last axis, 1 is face), box and landmark offsets from the anchors of the preset, with its "
    "variances, in the order stride, row, column, anchor; focus logits (sigmoid) for each cell of the focus map."
)


def export_network(
    weights: str | os.PathLike[str], output: str | os.PathLike[str], *, form: str, precision: str = "float32"
) -> WeightsInfo:
    """Write the network of a weights file with all that is needed to use it elsewhere.

    The file has the outputs of `models.Outputs` under their names, as float32, for pictures of any size and number,
    and in its metadata (OpenVINO: runtime information under "retinafocus") the preset, the hash of the weights, their
    licence and their source. The same weights give the same bytes (not in OpenVINO's form, which numbers its nodes).

    Args:
        weights: a safetensors file of ours.
        output: the file to write; moved into place whole.
        form: "onnx" or "openvino".
        precision: "float32", or "int8": what enters each convolution and its weights are rounded to 8-bit integers
            (QuantizeLinear and DequantizeLinear, from which a runtime makes arithmetic in integers).

    Returns:
        What the weights file says about itself.

    Raises:
        SettingsError: the name of the file does not fit the form, the form's library is not installed, the precision
            is another or the weights have no ranges for it, or the network has a step that cannot be written.
        WeightsError: as for `weights.load_model`.
        RunError: the file cannot be written.
    """
    path = Path(output)
    if form not in SUFFIXES:
        raise SettingsError(f"format is {form!r}; choose {' or '.join(SUFFIXES)}")
    if path.suffix != SUFFIXES[form]:
        raise SettingsError(f"output is {str(path)!r}; end it with {SUFFIXES[form]} for format {form}")
    if precision not in PRECISIONS:
        raise SettingsError(f"precision is {precision!r}; choose {' or '.join(PRECISIONS)}")
    info = read_info(weights)
    check_ranges(precision, info.ranges)
    try:
        _write(Path(weights), path, _metadata(info, precision), form, precision)
    except ImportError as error:
        raise SettingsError(
            f"format {form} needs {error.name}; install it with: pip install 'retinafocus[{form}]'"
        ) from error
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); check the folder and the space") from error
    return info


def _metadata(info: WeightsInfo, precision: str) -> dict[str, str]:
    ranges = {"ranges_sha256": info.ranges_sha256} if precision == INT8 and info.ranges_sha256 else {}
    return {
        "preset": json.dumps(info.preset.to_dict(), sort_keys=True),
        "weights_sha256": info.sha256,
        "licence": info.licence,
        "source": info.source,
        "how_to_read": HOW_TO_READ,
        "precision": precision,
        **ranges,
    }


def _write(weights: Path, path: Path, metadata: dict[str, str], form: str, precision: str) -> None:
    from onnx import helper

    from retinafocus.engines.graph import onnx_graph

    model = load_model(weights)
    graph = onnx_graph(model, ranges=model.ranges if precision == INT8 else None)
    helper.set_model_props(graph, metadata)
    # Beside the goal, so that moving is one step on one disk.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        if form == "onnx":
            unfinished.write_bytes(graph.SerializeToString(deterministic=True))
        else:
            _save_for_openvino(graph.SerializeToString(), unfinished, metadata)
            os.replace(unfinished.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(unfinished, path)


def _save_for_openvino(graph: bytes, path: Path, metadata: dict[str, str]) -> None:
    from retinafocus.engines.openvino_import import core, openvino

    network = core().read_model(graph)
    for key, value in metadata.items():
        network.set_rt_info(value, ["retinafocus", key])
    openvino.save_model(network, path, compress_to_fp16=False)
