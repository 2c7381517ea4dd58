"""How `--workers` and `--device` are read together."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("gpus", "text", "device", "expected"),
    [
        pytest.param(0, None, "auto", Workers(count=usable_cores(), device="cpu", chosen=False), id="fills the cores"),
        pytest.param(2, None, "auto", Workers(count=2, device="cuda", chosen=False), id="fills the GPUs"),
        pytest.param(2, "3", "cpu", Workers(count=3, device="cpu", chosen=True), id="number on the device"),
        pytest.param(2, "cpu=5", "auto", Workers(count=5, device="cpu", chosen=True), id="CPU though there are GPUs"),
        pytest.param(2, "gpu=1", "auto", Workers(count=1, device="cuda", chosen=True), id="one of two GPUs"),
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
        pytest.param(0, "gpu=1", "auto", "workers is gpu=1: torch finds no usable GPU", id="no GPU for the workers"),
        pytest.param(0, None, "cuda", "device is cuda: torch finds no usable GPU", id="no GPU for the device"),
        pytest.param(2, "gpu=3", "auto", "this machine has 2 GPUs; use gpu=2", id="too many"),
        pytest.param(2, "cpu=1", "cuda", "workers is cpu=1, device is cuda; leave one of them out", id="contradiction"),
    ],
    indirect=["gpus"],
)
def test_what_cannot_be_is_refused(gpus: int, text: str | None, device: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_workers(text, device)
