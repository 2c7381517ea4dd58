"""Which engine and device to use here, and one of them made."""

from __future__ import annotations

import torch

from retinafocus.engines.protocol import Engine, EngineReport
from retinafocus.engines.torch_engine import TorchEngine, torch_reports
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus

ENGINES = ("torch",)


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
    """What "auto" means on a resolved device. Any other name is returned as it is, if it can be used there."""
    check_engine(name)
    return "torch" if name == "auto" else name


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
        precision: one of `PRECISIONS`; the half ones on CUDA only.
        threads: CPU threads of the network; None leaves the library's choice.

    Raises:
        SettingsError: the engine or the device cannot be used here, or they do not go together.
    """
    device = resolve_device(device)
    resolve_engine(name, device)
    return TorchEngine(model, device, precision, threads)


def available_engines() -> list[EngineReport]:
    """Every engine and device this version knows, with what stands in its way here."""
    return torch_reports()
