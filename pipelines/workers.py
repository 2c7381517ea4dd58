"""How many workers, on which device, with how many threads each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from retinafocus.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a run, all alike."""

    count: int
    """Workers; each looks at one photo at a time."""

    device: str
    """`cpu` or `cuda`."""

    threads: int
    """Threads of the network in each worker."""


def resolve_workers(text: str | None, device: str) -> Workers:
    """Read `--workers`.

    Args:
        text: `N` (on the device chosen), `cpu=N` or `gpu=N`; None takes one worker per GPU, or one single-threaded
            worker per CPU core (a small network gains less from a second thread than from a second photo).
        device: `cpu` or `cuda`, as resolved from `--device`.

    Raises:
        SettingsError: it cannot be read, or asks for GPUs that are not there.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kind, _, number = (text or "").rpartition("=")
    if text is not None and (kind not in ("", "cpu", "gpu") or not number.isdigit() or int(number) < 1):
        raise SettingsError(f"workers is {text!r}; write a number, cpu=NUMBER or gpu=NUMBER, with 1 or more")
    if kind:
        device = "cuda" if kind == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"workers is {text}: no usable GPU on this machine; use cpu=N")
    if device == "cuda":
        count = int(number) if number else torch.cuda.device_count()
        return Workers(count=count, device=device, threads=max(1, cores // count))
    count = int(number) if number else cores
    return Workers(count=count, device=device, threads=max(1, cores // count))
