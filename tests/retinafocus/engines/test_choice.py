"""What "auto" means, and what is said of an engine that cannot be used."""

from __future__ import annotations

from importlib import util

import pytest
import torch

from retinafocus.engines import ENGINES, available_engines, choice, make_engine, resolve_device, resolve_engine
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without extras."""
    monkeypatch.setattr(choice.util, "find_spec", lambda name: None)


def test_auto_is_cuda_where_it_can_be_used() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cuda:3") == "cuda:3"


def test_auto_is_openvino_on_a_cpu_where_it_is_installed() -> None:
    installed = util.find_spec("openvino") and util.find_spec("onnx")
    assert resolve_engine("auto", "cpu") == ("openvino" if installed else "torch")


@pytest.mark.usefixtures("bare")
def test_auto_is_torch_where_nothing_else_is_installed() -> None:
    assert resolve_engine("auto", "cpu") == "torch"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_auto_is_torch_on_a_gpu(device: str) -> None:
    assert resolve_engine("auto", device) == "torch"
    assert resolve_engine("torch", device) == "torch"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("name", "packages"), [("openvino", "openvino and onnx"), ("onnx", "onnxruntime and onnx")])
def test_missing_engine_says_how_to_get_it(name: str, packages: str) -> None:
    with pytest.raises(SettingsError, match=rf"needs {packages}: pip install 'retinafocus\[{name}\]', or choose torch"):
        resolve_engine(name, "cpu")


def test_engine_for_cpus_is_refused_on_a_gpu() -> None:
    with pytest.raises(SettingsError, match="engine is 'onnx', which runs on CPUs, device is 'cuda:0'; choose torch"):
        resolve_engine("onnx", "cuda:0")


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(SettingsError, match="engine is 'tensorrt'; choose auto, torch, openvino, onnx"):
        resolve_engine("tensorrt", "cpu")


@pytest.mark.parametrize("name", ENGINES)
def test_half_precision_on_a_cpu_is_refused(model: RetinaFocus, name: str) -> None:
    pytest.importorskip(f"retinafocus.engines.{name}_engine")
    with pytest.raises(
        SettingsError, match="precision is 'float16' on the CPU; choose float32 or int8, or device=cuda"
    ):
        make_engine(model, name=name, device="cpu", precision="float16")


def test_every_engine_is_reported_with_its_versions() -> None:
    reports = available_engines()
    assert (reports[0].name, reports[0].device, reports[0].usable) == ("torch", "cpu", True)
    assert any(report.device.startswith("cuda") for report in reports)
    assert {report.name for report in reports} == set(ENGINES)
    assert all(torch.__version__ in report.detail for report in reports if report.name == "torch")


@pytest.mark.usefixtures("bare")
def test_missing_engine_is_reported_as_not_usable() -> None:
    (report,) = [report for report in available_engines() if report.name == "openvino"]
    assert not report.usable
    assert report.detail == "it needs openvino and onnx: pip install 'retinafocus[openvino]'"


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        pytest.param(
            "torch", "cpu", "precision is 'int8' with engine torch; choose float32, or engine=openvino", id="torch"
        ),
        pytest.param("onnx", "cpu", "with engine onnx: ONNX Runtime is no faster in it; choose float32", id="onnx"),
        pytest.param("auto", "cuda", "precision is 'int8' with (device cuda|engine torch); choose float32", id="gpu"),
    ],
)
def test_int8_is_for_openvino_on_a_cpu(ranged_model: RetinaFocus, name: str, device: str, message: str) -> None:
    if name == "onnx":
        pytest.importorskip("retinafocus.engines.onnx_engine")
    with pytest.raises(SettingsError, match=message):
        make_engine(ranged_model, name=name, device=device, precision="int8")


def test_int8_without_ranges_names_the_command_that_measures_them(model: RetinaFocus) -> None:
    pytest.importorskip("retinafocus.engines.openvino_engine")
    with pytest.raises(SettingsError, match="retinafocus weights calibrate WEIGHTS PHOTOS -o OUT`, or choose float32"):
        make_engine(model, name="openvino", device="cpu", precision="int8")
