"""A network in a file of its own, run there by the library it is for, alone."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retinafocus.errors import RunError, SettingsError, WeightsError
from retinafocus.export import SUFFIXES, export_network
from retinafocus.models import Preset
from retinafocus.weights import add_ranges, find_weights, load_model, read_info, save_model

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 75, 110, 3), dtype=np.uint8)


def run_onnx(path: Path) -> tuple[list[np.ndarray], dict[str, str]]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path)
    return session.run(None, {"pixels": PIXELS}), session.get_modelmeta().custom_metadata_map


def run_openvino(path: Path) -> tuple[list[np.ndarray], dict[str, str]]:
    openvino = pytest.importorskip("retinafocus.engines.openvino_import").openvino
    core = openvino.Core()
    network = core.read_model(path)
    outputs = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([PIXELS])
    keys = ("preset", "weights_sha256", "licence", "source")
    metadata = {key: network.get_rt_info(["retinafocus", key]).astype(str) for key in keys}
    return list(outputs.values()), metadata


RUNTIMES: dict[str, Callable[[Path], tuple[list[np.ndarray], dict[str, str]]]] = {
    "onnx": run_onnx,
    "openvino": run_openvino,
}


@pytest.mark.parametrize("form", list(SUFFIXES))
def test_exported_network_says_the_same_and_what_it_is(tmp_path: Path, form: str) -> None:
    weights = find_weights(None)
    pytest.importorskip(f"retinafocus.engines.{form}_engine")
    path = tmp_path / f"network{SUFFIXES[form]}"
    assert export_network(weights, path, form=form) == read_info(weights)
    found, metadata = RUNTIMES[form](path)
    with torch.inference_mode():
        outputs = load_model(weights)(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    wanted = [output.numpy() for output in outputs if output is not None]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1.0, float(abs(other).max())))
    info = read_info(weights)
    assert Preset.from_dict(json.loads(metadata["preset"])) == info.preset
    assert metadata["weights_sha256"] == info.sha256
    assert metadata["licence"] == info.licence
    assert metadata["source"] == info.source
    assert {file.name for file in tmp_path.iterdir()} == {path.name} | (
        {"network.bin"} if form == "openvino" else set()
    )


def test_same_weights_give_the_same_onnx_bytes(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for name in ("one.onnx", "other.onnx"):
        export_network(find_weights(None), tmp_path / name, form="onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


@pytest.mark.parametrize(
    ("output", "form", "text"),
    [
        pytest.param("network.pt", "onnx", "end it with .onnx for format onnx", id="suffix"),
        pytest.param("network.onnx", "openvino", "end it with .xml for format openvino", id="suffix of the other"),
        pytest.param("network.onnx", "tflite", "format is 'tflite'; choose onnx or openvino", id="format"),
    ],
)
def test_wrong_settings_say_the_rule_and_the_value(tmp_path: Path, output: str, form: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        export_network(find_weights(None), tmp_path / output, form=form)


def test_missing_weights_and_folder_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(WeightsError, match="there is no such file"):
        export_network(tmp_path / "none.safetensors", tmp_path / "network.onnx", form="onnx")
    with pytest.raises(RunError, match=r"nowhere/network.onnx: cannot be written \(No such file or directory\)"):
        export_network(find_weights(None), tmp_path / "nowhere" / "network.onnx", form="onnx")


def test_missing_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *arguments: Any) -> Any:
        if name == "onnx":
            raise ImportError(name="onnx")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(
        SettingsError, match=r"format onnx needs onnx; install it with: pip install 'retinafocus\[onnx\]"
    ):
        export_network(find_weights(None), tmp_path / "network.onnx", form="onnx")
    assert not list(tmp_path.iterdir())


def test_network_in_integers_is_written_for_weights_that_have_ranges(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    source, weights, path = find_weights(None), tmp_path / "ranged.safetensors", tmp_path / "network.onnx"
    modules = load_model(source).named_modules()
    convolutions = [name for name, module in modules if isinstance(module, torch.nn.Conv2d)]
    info = add_ranges(source, dict.fromkeys(convolutions, (-4.0, 12.0)), weights)
    export_network(weights, path, form="onnx", precision="int8")
    written = onnx.load(path)
    metadata = {entry.key: entry.value for entry in written.metadata_props}
    assert (metadata["precision"], metadata["ranges_sha256"]) == ("int8", info.ranges_sha256)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in written.graph.node}


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        pytest.param("int8", "measure them with `retinafocus weights calibrate", id="no ranges"),
        pytest.param("float16", "precision is 'float16'; choose float32 or int8", id="not written"),
    ],
)
def test_precision_that_cannot_be_written_is_refused(tmp_path: Path, precision: str, message: str) -> None:
    path = tmp_path / "plain.safetensors"
    model = load_model(find_weights(None))
    model.ranges = None
    save_model(model, path, licence="a", source="b")
    with pytest.raises(SettingsError, match=message):
        export_network(path, tmp_path / "network.onnx", form="onnx", precision=precision)
