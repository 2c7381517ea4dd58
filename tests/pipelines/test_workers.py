"""How `--workers`, `--device` and `--gpus-per-worker` are read together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.workers import Workers, resolve_workers, usable_cores
from retinafocus.errors import SettingsError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Pretend that many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return int(request.param)


def _cpu(count: int, **settings: Any) -> Workers:
    return Workers(**{"count": count, "device": "cpu", "chosen": True, **settings})


def _gpu(count: int, **settings: Any) -> Workers:
    return Workers(**{"count": count, "device": "cuda", "chosen": True, "gpus_each": 1.0, **settings})


@pytest.mark.parametrize(
    ("gpus", "text", "device", "expected"),
    [
        pytest.param(0, None, "auto", _cpu(usable_cores(), chosen=False), id="fills the cores"),
        pytest.param(2, None, "auto", _gpu(2, chosen=False), id="fills the GPUs"),
        pytest.param(2, "3", "cpu", _cpu(3), id="number on the device"),
        pytest.param(2, "cpu=5", "auto", _cpu(5), id="CPU though there are GPUs"),
        pytest.param(2, "gpu=1", "auto", _gpu(1), id="one of two GPUs"),
        pytest.param(0, "2..8", "auto", _cpu(8, least=2), id="range on the device"),
        pytest.param(2, "gpu=1..2", "auto", _gpu(2, least=1), id="range of GPUs"),
        pytest.param(2, "gpu=2,cpu=6", "auto", _gpu(2, beside=_cpu(6)), id="both"),
        pytest.param(2, "cpu=6,gpu=2", "auto", _gpu(2, beside=_cpu(6)), id="both, in the other order"),
        pytest.param(2, "gpu=0..2,cpu=4", "auto", _gpu(2, least=0, beside=_cpu(4)), id="both, GPUs as they come"),
    ],
    indirect=["gpus"],
)
def test_workers_are_what_was_asked_for(gpus: int, text: str | None, device: str, expected: Workers) -> None:
    assert resolve_workers(text, device) == expected


@pytest.mark.parametrize(
    ("gpus", "text", "device", "message"),
    [
        pytest.param(0, "0", "auto", "workers is '0'; write a number", id="none"),
        pytest.param(0, "tpu=1", "auto", "workers is 'tpu=1'; write", id="unknown kind"),
        pytest.param(0, "\u00b2", "auto", "write a number", id="a digit that is no number"),
        pytest.param(0, "4..2", "auto", "workers is '4..2'; .*LEAST from 1", id="range that falls"),
        pytest.param(0, "0..2", "auto", "workers is '0..2'; .*LEAST from 1", id="range from none"),
        pytest.param(2, "gpu=1,gpu=1", "auto", "write a number", id="the same kind twice"),
        pytest.param(2, "gpu=1,2", "auto", "write a number", id="second kind without a name"),
        pytest.param(2, "gpu=0..1,cpu=0..1", "auto", "one kind at least needs a worker", id="both from none"),
        pytest.param(0, "gpu=1", "auto", "workers is gpu=1: torch finds no usable GPU here .* --address", id="no GPU"),
        pytest.param(
            0, "gpu=1,cpu=1", "auto", "workers is gpu=1,cpu=1: torch finds no usable GPU", id="no GPU of both"
        ),
        pytest.param(0, None, "cuda", "device is cuda: torch finds no usable GPU", id="no GPU for the device"),
        pytest.param(2, "gpu=3", "auto", "workers is gpu=3: this machine has 2 GPUs; use gpu=2", id="too many"),
        pytest.param(2, "cpu=1", "cuda", "workers is cpu=1, device is cuda; leave one of them out", id="contradiction"),
        pytest.param(2, "gpu=1,cpu=1", "cpu", "workers is gpu=1,cpu=1, device is cpu; leave one", id="both on one"),
    ],
    indirect=["gpus"],
)
def test_what_cannot_be_is_refused(gpus: int, text: str | None, device: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_workers(text, device)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_workers_share_a_gpu(gpus: int) -> None:
    assert resolve_workers(None, "auto", gpus_each=0.5) == _gpu(4, chosen=False, gpus_each=0.5)
    assert resolve_workers("gpu=20", "auto", gpus_each=0.1) == _gpu(20, gpus_each=0.1)
    with pytest.raises(SettingsError, match=r"workers is gpu=5 of 0\.5 GPU each: this machine has 2 GPUs; use gpu=4"):
        resolve_workers("gpu=5", "auto", gpus_each=0.5)
    with pytest.raises(SettingsError, match=r"gpus-per-worker is 1\.5; choose a share"):
        resolve_workers("gpu=1", "auto", gpus_each=1.5)
    with pytest.raises(SettingsError, match=r"gpus-per-worker is 0\.5, but there are CPU workers alone"):
        resolve_workers("cpu=1", "auto", gpus_each=0.5)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_gpus_of_a_cluster_are_not_looked_for_here(gpus: int) -> None:
    assert resolve_workers("gpu=9", "auto", on_cluster=True) == _gpu(9)
    assert resolve_workers(None, "cuda", on_cluster=True) == _gpu(1, chosen=False)


def test_workers_of_two_kinds_are_told_apart() -> None:
    both = _gpu(2, least=1, gpus_each=0.5, beside=_cpu(6))
    assert both.kinds == (_gpu(2, least=1, gpus_each=0.5), _cpu(6))
    assert both.words == "1 to 2 cuda workers of 0.5 GPU each and 6 cpu workers"
    assert (both.need_ray, _gpu(2, least=2).need_ray, _gpu(2).need_ray) == (True, True, False)
