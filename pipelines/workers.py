"""How many workers, on which devices."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import torch

from retinafocus.errors import SettingsError

# Of the network in one CPU worker. Two single-threaded workers look at more photos than one with two threads; and the
# last bit of a sum can depend on how many threads share it, while a photo's answer must not depend on the workers.
CPU_THREADS = 1

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}

# `N` or `LEAST..MOST`, with or without its kind.
_PART = re.compile(r"(?:(cpu|gpu)=)?(?:([0-9]+)\.\.)?([0-9]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a run, all alike; each looks at one photo at a time."""

    count: int
    """At most so many."""
    device: str
    """`cpu` or `cuda`."""
    chosen: bool
    """Whether the user named the count. Otherwise a joined cluster is filled, however large it is."""
    least: int | None = None
    """So many must find room, and the others begin where there is more; None: all must."""
    gpus_each: float = 0.0
    """Of a GPU that each of them holds."""
    beside: Workers | None = None
    """Others of the same run on the other device, at work at the same time."""

    @property
    def kinds(self) -> tuple[Workers, ...]:
        """These, and those beside them."""
        return (self,) if self.beside is None else (replace(self, beside=None), self.beside)

    @property
    def need_ray(self) -> bool:
        """Whether only Ray can run them: of two kinds, or more of them later."""
        return any(kind.least is not None for kind in self.kinds) or self.beside is not None

    @property
    def words(self) -> str:
        """How many of which kind, for people."""
        return " and ".join(
            f"{'' if kind.least is None else f'{kind.least} to '}{kind.count} {kind.device} workers"
            f"{f' of {kind.gpus_each:g} GPU each' if kind.gpus_each not in (0, 1) else ''}"
            for kind in self.kinds
        )


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_workers(
    text: str | None, device: str, *, gpus_each: float | None = None, on_cluster: bool = False
) -> Workers:
    """Read `--workers` beside `--device` and `--gpus-per-worker`.

    Args:
        text: `N` (on that device), `cpu=N`, `gpu=N`, or `gpu=N,cpu=N` for both kinds at once; `LEAST..MOST` in place
            of a number. None takes one worker per CPU core, or as many per GPU as share one.
        device: `auto`, `cpu` or `cuda`.
        gpus_each: of a GPU that each GPU worker holds; None for a whole one.
        on_cluster: they work on a cluster that is joined, whose GPUs nobody has counted yet.

    Raises:
        SettingsError: it cannot be read, contradicts the device, or asks for GPUs that are not there.
    """
    if gpus_each is not None and not 0 < gpus_each <= 1:
        raise SettingsError(f"gpus-per-worker is {gpus_each:g}; choose a share of one GPU, above 0 and up to 1")
    share = 1.0 if gpus_each is None else gpus_each
    if text is None:
        kinds = [_unnamed(_device(device), device, share, on_cluster=on_cluster)]
    else:
        kinds = sorted(_read(text, device, share), key=lambda kind: kind.device, reverse=True)  # GPU workers first
    for kind in kinds:
        if kind.device == "cuda" and not on_cluster:
            _check_gpus_here(kind, text, device)
    if gpus_each is not None and all(kind.device == "cpu" for kind in kinds):
        raise SettingsError(f"gpus-per-worker is {gpus_each:g}, but there are CPU workers alone; leave it out")
    return kinds[0] if len(kinds) == 1 else replace(kinds[0], beside=kinds[1])


def _unnamed(device: str, asked: str, share: float, *, on_cluster: bool) -> Workers:
    """As many as fill this machine."""
    if device == "cpu":
        return Workers(count=usable_cores(), device=device, chosen=False)
    here = _workers_here(share)
    return Workers(count=max(here, 1) if on_cluster else here, device=device, chosen=False, gpus_each=share)


def _read(text: str, device: str, share: float) -> list[Workers]:
    """The kinds of workers that a text names, as they stand there."""
    parts = [_PART.fullmatch(part) for part in text.split(",")]
    named = [part[1] for part in parts if part is not None]
    both = len(parts) == 2 and set(named) == {"cpu", "gpu"}
    if None in parts or not (len(parts) == 1 or both):
        raise SettingsError(
            f"workers is {text!r}; write a number, cpu=NUMBER, gpu=NUMBER or gpu=NUMBER,cpu=NUMBER, with 1 or more; "
            "LEAST..MOST for a number where a cluster may grow"
        )
    kinds = []
    for part in parts:
        kind, least, most = part.groups()  # type: ignore[union-attr]  # refused above
        wanted = _DEVICES[kind] if kind else _device(device)
        if kind and device not in ("auto", wanted):
            raise SettingsError(f"workers is {text}, device is {device}; leave one of them out")
        # Of two kinds, one may have to wait for its first node.
        if int(most) < 1 or (least is not None and not (0 if both else 1) <= int(least) <= int(most)):
            raise SettingsError(
                f"workers is {text!r}; write a number of 1 or more, or LEAST..MOST with LEAST from 1 (of two kinds: "
                "from 0) to MOST"
            )
        kinds.append(
            Workers(
                count=int(most),
                device=wanted,
                chosen=True,
                least=None if least is None else int(least),
                gpus_each=share if wanted == "cuda" else 0.0,
            )
        )
    if both and all(kind.least == 0 for kind in kinds):
        raise SettingsError(f"workers is {text!r}; one kind at least needs a worker to begin with")
    return kinds


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _workers_here(share: float) -> int:
    """GPU workers that this machine's GPUs hold. A tenth of a GPU is a rounded number, so a little less is enough."""
    return torch.cuda.device_count() * int(1 / share + 1e-6)


def _check_gpus_here(kind: Workers, text: str | None, device: str) -> None:
    if not torch.cuda.is_available():
        setting = f"workers is {text}" if text is not None and "gpu" in text else f"device is {device}"
        raise SettingsError(
            f"{setting}: torch finds no usable GPU here (see `retinafocus doctor`); use cpu, or --address for a "
            "cluster that has GPUs"
        )
    there, here = torch.cuda.device_count(), _workers_here(kind.gpus_each)
    if kind.count > here:
        sharing = "" if kind.gpus_each == 1 else f" of {kind.gpus_each:g} GPU each"
        raise SettingsError(f"workers is {text}{sharing}: this machine has {there} GPUs; use gpu={here}")
