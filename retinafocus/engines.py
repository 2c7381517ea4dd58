"""Run a network on pixels: one class per way of doing it.

An engine is anything with the attributes and the one method of `Engine`. It starts nothing at import, and only what
is asked of it when it is made.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, Preset, RetinaFocus

# Type of weights and activations per setting. Half the bytes is only a gain where the hardware computes in it.
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Engine(Protocol):
    """What the cascade asks of an engine."""

    name: str
    """As in run records: "torch"."""

    device: str
    """Such as "cpu", "cuda" or "cuda:1"."""

    precision: str
    """One of `PRECISIONS`."""

    preset: Preset
    """Of the network: anchors, variances, the sizes it finds."""

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB, C-contiguous; H and W at least 1.

        Returns:
            float32 outputs for a batch of one, on any device.

        Raises:
            PhotoError: out_of_memory or model_error.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """Whether an engine can be used here, and why not."""

    name: str
    device: str
    usable: bool
    detail: str


class TorchEngine:
    """The network as PyTorch runs it, one picture at a time.

    On a CPU the outputs are the same bit for bit whenever the picture, the weights, the number of threads and the
    machine are the same.
    """

    name = "torch"

    def __init__(
        self, model: RetinaFocus, device: str = "cpu", precision: str = "float32", threads: int | None = None
    ) -> None:
        """Copy the model to a device, ready to run.

        Args:
            model: left as it is.
            device: "cpu", "cuda" or "cuda:N"; see `resolve_device` for "auto".
            precision: one of `PRECISIONS`; the half ones on CUDA only.
            threads: CPU threads for PyTorch, for the whole process because PyTorch has no other way; None leaves
                them.

        Raises:
            SettingsError: the device is not usable, or the precision not on it.
        """
        _check_settings(device, precision, threads)
        self.device = device
        self.precision = precision
        self.preset = model.preset
        if threads is not None:
            torch.set_num_threads(threads)
        if device != "cpu":
            # PyTorch otherwise rounds the inputs of float32 convolutions to 10 bits (TF32). The switch is the whole
            # process's; turning it on and off around each picture would race between threads.
            torch.backends.cudnn.allow_tf32 = False
        network = fold_batch_norms(copy.deepcopy(model).eval()).requires_grad_(False)
        network = network.to(device=device, dtype=PRECISIONS[precision])
        # Channels last is how pixels arrive, and what the convolutions of both kinds of device are fastest in.
        self._network = network.to(memory_format=torch.channels_last)

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at one picture; see `Engine.run`."""
        writable = pixels if pixels.flags.writeable else pixels.copy()
        with torch.inference_mode(), _photo_errors():
            # Rows of pixels seen as (1, 3, H, W) are channels-last without a copy.
            picture = torch.from_numpy(writable).to(self.device).permute(2, 0, 1).unsqueeze(0)
            outputs: Outputs = self._network(picture)
            if self.device != "cpu":
                torch.cuda.synchronize(self.device)  # errors and time belong to this picture
            return _in_float32(outputs)


def resolve_device(device: str) -> str:
    """What "auto" means here: "cuda" if it can be used, else "cpu". Any other name is returned as it is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def available_engines() -> list[EngineReport]:
    """Every engine and device this version knows, with what stands in its way here."""
    version = f"torch {torch.__version__}"
    reports = [
        EngineReport(name="torch", device="cpu", usable=True, detail=f"{version}, {torch.get_num_threads()} threads")
    ]
    if not torch.cuda.is_available():
        why = "finds no CUDA device" if torch.version.cuda else "is built without CUDA"
        return [*reports, EngineReport(name="torch", device="cuda", usable=False, detail=f"{version} {why}")]
    for index in range(torch.cuda.device_count()):
        detail = f"{version}, {torch.cuda.get_device_name(index)}"
        reports.append(EngineReport(name="torch", device=f"cuda:{index}", usable=True, detail=detail))
    return reports


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Put every batch norm into the convolution before it, in place: the same function in fewer steps.

    A batch norm belongs to the convolution registered directly before it in the same module, which is how all our
    modules and torchvision's ResNets are written.

    Args:
        model: in eval mode.

    Returns:
        The model, its folded batch norms replaced by identities.
    """
    for module in model.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def _in_float32(outputs: Outputs) -> Outputs:
    focus = outputs.focus_logits
    return Outputs(
        outputs.class_logits.float(),
        outputs.box_deltas.float(),
        outputs.landmark_deltas.float(),
        None if focus is None else focus.float(),
    )


def _check_settings(device: str, precision: str, threads: int | None) -> None:
    if precision not in PRECISIONS:
        raise SettingsError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise SettingsError(f"threads is {threads}; choose at least 1, or None to leave PyTorch's choice")
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingsError(f"device is {device!r}; choose auto, cpu, cuda or cuda:N")
    if device == "cpu" and precision != "float32":
        raise SettingsError(f"precision is {precision!r} on the CPU; choose float32, or device=cuda")
    usable = [report.device for report in available_engines() if report.usable]
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise SettingsError(f"device is {device!r}; usable here: {', '.join(usable)}")


@contextlib.contextmanager
def _photo_errors() -> Iterator[None]:
    """Turn what the network raises about one picture into the error of that photo."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU allocator has no class of its own; its message is the only sign.
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if memory:
            reason = "the network needs more memory for it than there is; use a larger min_face or a smaller max_pixels"
            raise PhotoError("out_of_memory", reason) from error
        # Not the message itself: it can hold addresses, and two runs must record the same text.
        raise PhotoError("model_error", f"the network failed with a {type(error).__name__}") from error
