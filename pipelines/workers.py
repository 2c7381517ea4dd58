"""How many workers, on which device."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from retinafocus.errors import SettingsError

# Of the network in one CPU worker. Two single-threaded workers look at more photos than one with two threads; and the
# last bit of a sum can depend on how many threads share it, while a photo's answer must not depend on the workers.
CPU_THREADS = 1


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a run, all alike; each looks at one photo at a time."""

    count: int
    device: str
    """`cpu` or `cuda`."""
    chosen: bool
    """Whether the user named the count. Otherwise a joined cluster is filled, however large it is."""


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_workers(text: str | None, device: str) -> Workers:
    """Read `--workers` beside `--device`.

    Args:
        text: `N` (on that device), `cpu=N` or `gpu=N`; None takes one worker per GPU or CPU core.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        SettingsError: it cannot be read, contradicts the device, or asks for GPUs that are not there.
    """
    kind, _, number = (text or "").rpartition("=")
    named = number.isascii() and number.isdigit() and int(number) > 0
    if text is not None and (kind not in ("", "cpu", "gpu") or not named):
        raise SettingsError(f"workers is {text!r}; write a number, cpu=NUMBER or gpu=NUMBER, with 1 or more")
    wanted = {"": device, "cpu": "cpu", "gpu": "cuda"}[kind]
    if device not in ("auto", wanted):
        raise SettingsError(f"workers is {text}, device is {device}; leave one of them out")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        setting = f"workers is {text}" if kind else f"device is {device}"
        raise SettingsError(f"{setting}: torch finds no usable GPU here (see `retinafocus doctor`); use cpu")
    there = torch.cuda.device_count() if wanted == "cuda" else usable_cores()
    count = int(number) if named else there
    if wanted == "cuda" and count > there:
        raise SettingsError(f"workers is {text}: this machine has {there} GPUs; use gpu={there}")
    return Workers(count=count, device=wanted, chosen=named)
