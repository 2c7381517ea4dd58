"""What every engine is, whatever library it runs on."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, Preset
from retinafocus.models.ranges import Ranges

# Type of weights and activations per setting. Half the bytes is only a gain where the hardware computes in it.
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

INT8 = "int8"
"""8-bit integers in the convolutions, with OpenVINO: two to three times as fast as float32."""

CALIBRATE_COMMAND = "retinafocus weights calibrate WEIGHTS PHOTOS -o OUT"

# The CPU allocators of PyTorch, OpenVINO and ONNX Runtime have no class of error; their messages are the only sign.
_OUT_OF_MEMORY = ("can't allocate memory", "Failed to allocate", "bad_alloc", "Insufficient memory")


class Engine(Protocol):
    """What the cascade asks of an engine."""

    name: str
    """As in run records: "torch", "openvino" or "onnx"."""

    device: str
    """Such as "cpu", "cuda" or "cuda:1"."""

    precision: str
    """One of `PRECISIONS`, or `INT8`."""

    preset: Preset
    """Of the network: anchors, variances, the sizes it finds."""

    batch: int
    """Pictures for each call that it gains from; 1 on CPUs."""

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at pictures of one size. What is said of a picture does not depend on the others.

        Args:
            pixels: (N, H, W, 3) uint8 RGB, C-contiguous; N, H and W at least 1, N at most `batch`.

        Returns:
            float32 outputs for the batch, on any device.

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


def check_precision(precision: str, device: str = "auto", engine: str = "auto") -> None:
    """Raise SettingsError unless a network may compute in that precision there; "auto" is not decided yet."""
    if precision not in (*PRECISIONS, INT8):
        raise SettingsError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}, {INT8}")
    if precision == INT8 and (engine not in ("auto", "openvino") or device not in ("auto", "cpu")):
        where = f"engine {engine}" if engine not in ("auto", "openvino") else f"device {device}"
        slower = ": ONNX Runtime is no faster in it" if engine == "onnx" else ""
        raise SettingsError(f"precision is {INT8!r} with {where}{slower}; choose float32, or engine=openvino on a CPU")
    if device == "cpu" and precision in ("float16", "bfloat16"):
        raise SettingsError(f"precision is {precision!r} on the CPU; choose float32 or {INT8}, or device=cuda")


def check_ranges(precision: str, ranges: Ranges | None) -> None:
    """Raise SettingsError unless weights with those ranges can compute in that precision."""
    if precision == INT8 and ranges is None:
        raise SettingsError(
            f"precision is {INT8!r}, but these weights do not say which numbers to expect; measure them with "
            f"`{CALIBRATE_COMMAND}`, or choose float32"
        )


def limit_threads(threads: int | None) -> None:
    """Set the CPU threads of PyTorch, which post-processing uses under every engine; None leaves them.

    For the whole process, because PyTorch has no other way.

    Raises:
        SettingsError: less than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise SettingsError(f"threads is {threads}; choose at least 1, or None for the library's choice")
    torch.set_num_threads(threads)


@contextlib.contextmanager
def photo_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what the network raises about one picture into the error of that photo.

    Args:
        kinds: exceptions of the library that runs it, beside RuntimeError and MemoryError.
    """
    caught: tuple[type[Exception], ...] = (MemoryError, RuntimeError, *kinds)
    try:
        yield
    except caught as error:
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if memory or any(sign in str(error) for sign in _OUT_OF_MEMORY):
            _let_go(error)
            reason = "there was not enough memory to look at it; use fewer workers or a smaller cascade.network_pixels"
            raise PhotoError("out_of_memory", reason) from error
        # Not the message itself: it can hold addresses, and two runs must record the same text.
        raise PhotoError("model_error", f"the network failed with a {type(error).__name__}") from error


def _let_go(error: Exception) -> None:
    """Free what the functions held that ran out of memory: the next, smaller try needs that room."""
    traceback.clear_frames(error.__traceback__)
    torch.cuda.empty_cache()  # does nothing where CUDA was not used


def joined(parts: list[Outputs]) -> Outputs:
    """The outputs of several batches of pictures of one size as those of one batch; at least one."""
    if len(parts) == 1:
        return parts[0]
    focus = [part.focus_logits for part in parts if part.focus_logits is not None]
    return Outputs(
        torch.cat([part.class_logits for part in parts]),
        torch.cat([part.box_deltas for part in parts]),
        torch.cat([part.landmark_deltas for part in parts]),
        torch.cat(focus) if focus else None,
    )
