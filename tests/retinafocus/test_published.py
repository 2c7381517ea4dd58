"""Published checkpoints: wrappers taken off, and every file that does not fit refused by its own names."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.models.layout import empty_model
from retinafocus.published import published_name
from retinafocus.weights import import_published, load_model

State = dict[str, Tensor]


def checkpoint(preset: str) -> State:
    """A detector with random weights under published names."""
    torch.manual_seed(0)
    return {published_name(name): tensor for name, tensor in RetinaFocus(get_preset(preset)).state_dict().items()}


def test_the_focus_branch_has_no_published_name() -> None:
    with pytest.raises(SettingsError, match=r"tensor focus\.logit\.bias has no published counterpart"):
        published_name("focus.logit.bias")


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="plain"),
        pytest.param(lambda state: {"state_dict": state, "epoch": 3}, id="wrapper"),
        pytest.param(lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, id="prefix"),
        pytest.param(
            lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, id="both"
        ),
    ],
)
def test_wrapper_and_prefix_are_taken_off(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    state = checkpoint("mobilenet025-1mb")
    torch.save(wrap(state), tmp_path / "published.pth")
    import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")
    loaded = load_model(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(tensor, state[published_name(name)]) for name, tensor in loaded.items())


def without(state: State, *names: str) -> State:
    """The checkpoint without some of its tensors."""
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda state: without(state, "ssh2.conv7x7_3.1.bias"),
            r"ssh2\.conv7x7_3\.1\.bias is missing; ",
            id="missing",
        ),
        pytest.param(
            lambda state: without(state, "fpn.merge1.0.weight", "ClassHead.0.conv1x1.bias"),
            r"ClassHead\.0\.conv1x1\.bias is missing \(and 1 more such\)",
            id="two missing",
        ),
        pytest.param(
            lambda state: state | {"body.fc.weight": torch.zeros(1000, 256)},
            r"body\.fc\.weight is no tensor of the model",
            id="extra",
        ),
        pytest.param(
            lambda state: state | {"BboxHead.1.conv1x1.bias": torch.zeros(12)},
            r"BboxHead\.1\.conv1x1\.bias is \(12,\), the model wants \(8,\); it fits no published preset",
            id="misshaped",
        ),
        pytest.param(
            lambda state: state | {"fpn.output1.0.weight": state["fpn.output1.0.weight"].half()},
            r"fpn\.output1\.0\.weight is float16, the model wants float32",
            id="half precision",
        ),
        pytest.param(
            lambda state: state | {"BboxHead.1.conv1x1.bias": torch.full((8,), float("nan"))},
            r"BboxHead\.1\.conv1x1\.bias has values that are not finite",
            id="not a number",
        ),
        pytest.param(
            lambda state: state | {"module.BboxHead.1.conv1x1.bias": torch.zeros(8)},
            r"BboxHead\.1\.conv1x1\.bias comes twice",
            id="twice",
        ),
        pytest.param(lambda state: state | {"epoch": 3}, "epoch is no tensor", id="no tensor"),
        pytest.param(lambda state: {}, "holds no tensors by name", id="empty"),
        pytest.param(lambda state: [1, 2], "holds no tensors by name", id="list"),
        pytest.param(lambda state: {"state_dict": 5}, "holds no tensors by name", id="wrapped number"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_own_names(
    change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    torch.save(change(checkpoint("mobilenet025-1mb")), tmp_path / "published.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'published.pth'}: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["published.pth"]


@pytest.mark.parametrize(
    ("found", "preset", "message"),
    [
        pytest.param(
            "resnet50-biubug6",
            "mobilenet025-1mb",
            r"BboxHead\.0\.conv1x1\.weight is \(8, 256, 1, 1\), the model wants \(8, 64, 1, 1\) "
            r"\(and \d+ more such\); choose --preset resnet50-biubug6$",
            id="ResNet-50 as MobileNet",
        ),
        pytest.param(
            "mobilenet025-1mb",
            "resnet50-biubug6",
            r"is \(8, 64, 1, 1\).*; choose --preset mobilenet025-biubug6 or mobilenet025-1mb$",
            id="MobileNet as ResNet-50",
        ),
    ],
)
def test_a_checkpoint_of_another_preset_names_the_right_one(
    found: str, preset: str, message: str, tmp_path: Path
) -> None:
    # One stored number per tensor keeps the file small; only types and shapes matter.
    state = {
        published_name(name): torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in empty_model(get_preset(found)).state_dict().items()
    }
    torch.save(state, tmp_path / "published.pth")
    with pytest.raises(WeightsError, match=message):
        import_published(tmp_path / "published.pth", preset, tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("preset", "mend"),
    [
        pytest.param("mobile025", "choose --preset mobilenet025-1mb, then train a focus branch", id="MobileNet"),
        pytest.param(
            "resnet18",
            "choose --preset mobilenet025-biubug6 or resnet50-biubug6 or mobilenet025-1mb, then train",
            id="none published",
        ),
    ],
)
def test_a_preset_with_a_focus_branch_is_refused(preset: str, mend: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"preset {preset} has a focus branch and published .* random; {mend}"):
        import_published(tmp_path / "published.pth", preset, tmp_path / "ours.safetensors")


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no preset 'mobilenet'"):
        import_published(tmp_path / "published.pth", "mobilenet", tmp_path / "ours.safetensors")


class Attack:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_the_attack_of_the_next_test_works_on_an_open_door(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "owned")))
    assert (tmp_path / "owned").is_dir()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy format", "zip format"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    state: dict[str, Any] = {"body.stage1.0.0.weight": torch.zeros(8, 3, 3, 3), "x": Attack(tmp_path / "owned")}
    torch.save(state, tmp_path / "published.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"not a torch checkpoint of plain tensors .* could run code"):
        import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")
    assert os.listdir(tmp_path) == ["published.pth"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!DOCTYPE html><html>not found</html>", id="web page"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(b"PK\x03\x04" + bytes(64), id="cut zip"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "published.pth").write_bytes(data)
    with pytest.raises(WeightsError, match="not a torch checkpoint of plain tensors"):
        import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")


def test_a_cut_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(checkpoint("mobilenet025-1mb"), tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"cut\.pth: not a torch checkpoint of plain tensors"):
        import_published(tmp_path / "cut.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth: cannot be read \(No such file or directory\)"):
        import_published(tmp_path / "nowhere.pth", "mobilenet025-1mb", tmp_path / "ours.safetensors")


def test_the_licence_of_an_unknown_file_is_said_to_be_unknown(tmp_path: Path) -> None:
    torch.save(checkpoint("mobilenet025-1mb"), tmp_path / "published.pth")
    info = import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "a.safetensors")
    assert info.licence.startswith("not stated by the file; ")
    assert info.source == "imported from a file named published.pth"
    named = import_published(tmp_path / "published.pth", "mobilenet025-1mb", tmp_path / "b.safetensors", licence="mine")
    assert named.licence == "mine"
    assert named.sha256 == info.sha256


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "preset", "message"),
    [
        pytest.param(
            "mobilenet0.25_Final.pth",
            "mobilenet025-biubug6",
            "this is mobilenet0.25_Final.pth of biubug6/Face-Detector-1MB-with-landmark; "
            "choose --preset mobilenet025-1mb",
            id="other activation",
        ),
        pytest.param("mobilenet0.25_Final.pth", "resnet50-biubug6", "mobilenet025-1mb", id="other backbone"),
        pytest.param("mobilenet0.25_Final.pth", "mobile025", "mobilenet025-1mb", id="focus branch"),
        pytest.param("mobilenetV1X0.25_pretrain.tar", "mobilenet025-1mb", "it holds no detector", id="classifier"),
    ],
)
def test_known_files_are_refused_with_a_wrong_preset(
    file: str, preset: str, message: str, shared_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message.replace(".", r"\.")):
        import_published(shared_data / "models" / file, preset, tmp_path / "ours.safetensors")
    assert os.listdir(tmp_path) == []
