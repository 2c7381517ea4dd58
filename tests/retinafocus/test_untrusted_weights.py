"""Weights from untrusted hands: no code in them is run, and no header makes more of them than the file holds."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retinafocus.errors import WeightsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.training.start import load_backbone
from retinafocus.weights import load_model


class Attack:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_the_attack_works_on_an_open_door(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "owned")))
    assert (tmp_path / "owned").is_dir()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy format", "zip format"])
def test_a_backbone_with_code_in_it_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    state: dict[str, Any] = {"stage1.0.0.weight": torch.zeros(8, 3, 3, 3), "x": Attack(tmp_path / "owned")}
    torch.save(state, tmp_path / "backbone.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"backbone\.pth: torch cannot read this file"):
        load_backbone(RetinaFocus(get_preset("mobile025")), tmp_path / "backbone.pth")
    assert os.listdir(tmp_path) == ["backbone.pth"]


def test_a_pickle_named_as_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "face.safetensors"
    path.write_bytes(pickle.dumps(Attack(tmp_path / "owned")))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_model(path)
    assert os.listdir(tmp_path) == ["face.safetensors"]


def test_the_library_asks_torch_for_plain_tensors_only() -> None:
    """Wherever the sources load a torch file; each has a test of its own, but a new one might not."""
    sources = [path for folder in ("retinafocus", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    for path in sources:
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        assert "pickle.load" not in text, path
        assert "allow_pickle" not in text, path


ROOT = Path(__file__).parents[2]


def entry(shape: list[int], start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        pytest.param({"a": entry([2], 0, 8)}, 2**63, id="header of 2^63 bytes"),
        pytest.param({"a": entry([2], 0, 8)}, 10**8, id="header longer than the file"),
        pytest.param({"a": entry([2], 0, 8)}, 0, id="no header"),
        pytest.param({"a": entry([2], -8, 0)}, None, id="negative offset"),
        pytest.param({"a": entry([2], 8, 0)}, None, id="end before the start"),
        pytest.param({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, None, id="tensors that overlap"),
        pytest.param({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, None, id="a hole between tensors"),
        pytest.param({"a": entry([2], 0, 2**40)}, None, id="tensor beyond the end"),
        pytest.param({"a": entry([2**40, 2**40], 0, 16)}, None, id="shape that overflows"),
        pytest.param({"a": entry([-2], 0, 16)}, None, id="negative side"),
        pytest.param({"a": entry([2], 0, 16, "PYOBJECT")}, None, id="a type there is not"),
        pytest.param({"a": [[]]}, None, id="no tensor"),
    ],
)
def test_a_hostile_header_is_refused(header: dict[str, Any], length: int | None, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "face.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))
    with pytest.raises(WeightsError, match=r"face\.safetensors: not a whole safetensors file"):
        load_model(path)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    text = b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path = tmp_path / "face.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="deeply nested"),
        pytest.param("[]", id="a list"),
        pytest.param('{"name": 3}', id="other types"),
        pytest.param("null", id="nothing"),
        pytest.param('{"name": "mobile025", "backbone": "__import__"}', id="a name of Python"),
    ],
)
def test_a_hostile_preset_is_refused(preset: str, tmp_path: Path) -> None:
    metadata = {"retinafocus_format": "1", "preset": preset, "tensor_sha256": "", "licence": "", "source": ""}
    text = json.dumps({"__metadata__": metadata, "a": entry([2], 0, 8)}).encode()
    path = tmp_path / "face.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(WeightsError, match="its metadata cannot be used"):
        load_model(path)
