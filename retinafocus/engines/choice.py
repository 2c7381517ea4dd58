"""Which engine and device to use here, and one of them made."""

from __future__ import annotations

import importlib
from importlib import metadata, util

import torch

from retinafocus.engines.protocol import Engine, EngineReport, check_precision, check_ranges
from retinafocus.engines.torch_engine import TorchEngine, torch_reports
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus

# Engines for CPUs, by their name and that of the extra that installs them: module, class, packages. Imported when made.
_CPU_ENGINES = {
    "openvino": ("retinafocus.engines.openvino_engine", "OpenVinoEngine", ("openvino", "onnx")),
    "onnx": ("retinafocus.engines.onnx_engine", "OnnxEngine", ("onnxruntime", "onnx")),
}

ENGINES = ("torch", *_CPU_ENGINES)


def resolve_device(device: str) -> str:
    """What "auto" means here: "cuda" if it can be used, else "cpu". Any other name is returned as it is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_engine(name: str) -> None:
    """Raise SettingsError unless that is "auto" or the name of an engine."""
    if name not in ("auto", *ENGINES):
        raise SettingsError(f"engine is {name!r}; choose auto, {', '.join(ENGINES)}")


def resolve_engine(name: str, device: str) -> str:
    """What "auto" means on a device: openvino on a CPU where it is installed, else torch.

    Args:
        name: "auto", or one of `ENGINES`, which is returned as it is.
        device: "cpu", "cuda" or "cuda:N"; see `resolve_device` for "auto".

    Raises:
        SettingsError: there is no such engine, it is not installed, or it does not run on the device.
    """
    check_engine(name)
    if name == "auto":
        return "openvino" if device == "cpu" and not _missing("openvino") else "torch"
    if name in _CPU_ENGINES:
        if device != "cpu":
            raise SettingsError(f"engine is {name!r}, which runs on CPUs, device is {device!r}; choose torch, or cpu")
        if _missing(name):
            raise SettingsError(f"engine is {name!r}: {_missing(name)}, or choose torch")
    return name


def make_engine(
    model: RetinaFocus,
    *,
    name: str = "auto",
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
) -> Engine:
    """An engine with a copy of the model, ready to run.

    Args:
        model: left as it is.
        name: "auto" or one of `ENGINES`; see `resolve_engine`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: one of `PRECISIONS`, the half ones on CUDA only; or `INT8`, with openvino only, for a model that has
            ranges.
        threads: CPU threads of the network; None leaves the library's choice.

    Raises:
        SettingsError: the engine or the device cannot be used here, or they do not go together, or not with the model.
    """
    device = resolve_device(device)
    name = resolve_engine(name, device)
    check_precision(precision, device, name)
    check_ranges(precision, model.ranges)
    if name == "torch":
        return TorchEngine(model, device, precision, threads)
    module, kind, _ = _CPU_ENGINES[name]
    engine: Engine = getattr(importlib.import_module(module), kind)(model, precision, threads)
    return engine


def available_engines() -> list[EngineReport]:
    """Every engine and device this version knows, with what stands in its way here."""
    others = []
    for name in _CPU_ENGINES:
        missing = _missing(name)
        detail = missing or ", ".join(" ".join(pair) for pair in engine_versions(name).items())
        others.append(EngineReport(name=name, device="cpu", usable=not missing, detail=detail))
    return [*torch_reports(), *others]


def engine_versions(name: str) -> dict[str, str]:
    """Versions of what an installed engine runs on, by package; for "torch" too."""
    packages = _CPU_ENGINES[name][2] if name in _CPU_ENGINES else ("torch",)
    return {package: metadata.version(package) for package in packages}


def _missing(name: str) -> str:
    """What a CPU engine lacks here and how to get it, in words; "" if nothing."""
    absent = [package for package in _CPU_ENGINES[name][2] if util.find_spec(package) is None]
    return f"it needs {' and '.join(absent)}: pip install 'retinafocus[{name}]'" if absent else ""
