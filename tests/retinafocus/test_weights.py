"""Weights files: what comes back, and that every way of not fitting is an error that names the mend."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from retinafocus import weights
from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.training.start import starting_model
from retinafocus.weights import WeightsInfo, find_weights, load_model, read_info, save_model, tensor_hash


@pytest.fixture(scope="module")
def model() -> RetinaFocus:
    """Random weights of our own preset, with the focus branch."""
    torch.manual_seed(0)
    return RetinaFocus(get_preset("mobile025")).eval()


@pytest.fixture
def saved(model: RetinaFocus, tmp_path: Path) -> Path:
    """The model in a file."""
    path = tmp_path / "face.safetensors"
    save_model(model, path, licence="test only", source="random", extra={"epochs": "0"})
    return path


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> None:
    """The file again with other tensors or other metadata; None takes a key away."""
    with safe_open(path, framework="pt") as file:
        kept = {**file.metadata(), **metadata}
    whole = {key: value for key, value in kept.items() if value is not None}
    save_file(tensors or load_file(path), path, whole)


def test_a_model_comes_back_as_it_was(model: RetinaFocus, saved: Path) -> None:
    loaded = load_model(saved)
    assert loaded.preset == model.preset
    assert not loaded.training
    assert not any(module.training for module in loaded.modules())
    pixels = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    with torch.inference_mode():
        for before, after in zip(model(pixels), loaded(pixels), strict=True):
            assert torch.equal(before, after)
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


def test_a_loaded_model_can_be_trained(saved: Path) -> None:
    loaded = load_model(saved).train()
    outputs = loaded(torch.zeros(2, 3, 64, 64))
    sum(output.square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_a_loaded_model_does_not_depend_on_its_file(saved: Path) -> None:
    loaded = load_model(saved)
    before = tensor_hash(loaded.state_dict())
    with saved.open("r+b") as file:
        file.seek(-400_000, os.SEEK_END)
        file.write(bytes(400_000))
    assert tensor_hash(loaded.state_dict()) == before


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(saved)
    assert torch.equal(torch.rand(1), expected)


def test_a_file_says_what_it_is(model: RetinaFocus, saved: Path) -> None:
    info = read_info(saved)
    assert info.preset == get_preset("mobile025")
    assert info.sha256 == tensor_hash(model.state_dict())
    assert (info.licence, info.source) == ("test only", "random")
    # 426,608 of the detector; 3x3 x 64 x 64 + 64, 64 x 64 + 64 and 64 + 1 of the focus branch.
    assert info.parameters == 426_608 + 36_928 + 4_160 + 65
    assert info.metadata["epochs"] == "0"
    assert json.loads(info.metadata["preset"])["anchors"]["sizes"] == [[10, 20], [32, 64], [128, 256]]


def test_saving_says_the_same_as_reading(model: RetinaFocus, saved: Path) -> None:
    written = save_model(model, saved, licence="a", source="b")
    assert isinstance(written, WeightsInfo)
    assert written == read_info(saved)


def test_the_same_model_gives_the_same_bytes(model: RetinaFocus, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(5)]
    for path in files:
        save_model(model, path, licence="a", source="b", extra={"c": "d", "e": "f"})
    assert len({path.read_bytes() for path in files}) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"a": torch.tensor([1.0, 2.5])}, id="value"),
        pytest.param({"a": torch.tensor([[1.0, 2.0]])}, id="shape"),
        pytest.param({"a": torch.tensor([1.0, 2.0], dtype=torch.float64)}, id="type"),
        pytest.param({"b": torch.tensor([1.0, 2.0])}, id="name"),
        pytest.param({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}, id="one more"),
    ],
)
def test_every_difference_changes_the_hash(change: dict[str, torch.Tensor]) -> None:
    assert tensor_hash(change) != tensor_hash({"a": torch.tensor([1.0, 2.0])})


def test_the_hash_knows_no_order_and_no_strides() -> None:
    first, second = torch.arange(6.0).reshape(2, 3), torch.tensor(3)
    turned = first.t().contiguous().t()
    assert tensor_hash({"a": first, "b": second}) == tensor_hash({"b": second, "a": turned})


def test_a_changed_number_is_found(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    for read in (load_model, read_info):
        with pytest.raises(WeightsError, match="the tensors are not those the file was written with; it is damaged"):
            read(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"focus.logit.bias": None}, r"focus\.logit\.bias is missing; ", id="missing"),
        pytest.param({"focus.more": torch.zeros(1)}, r"focus\.more is no tensor of the model; ", id="extra"),
        pytest.param(
            {"focus.logit.bias": torch.zeros(2)},
            r"focus\.logit\.bias is \(2,\), the model wants \(1,\)",
            id="misshaped",
        ),
        pytest.param(
            {"focus.logit.bias": torch.zeros(1).half()},
            r"focus\.logit\.bias is float16, the model wants float32",
            id="half precision",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = {**load_file(saved), **change}
    rewrite(saved, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(WeightsError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"retinafocus_format": None}, "not a RetinaFocus one .*say nothing", id="another program's"),
        pytest.param({"retinafocus_format": "2"}, "not a RetinaFocus one of format 1 .*say 2", id="newer format"),
        pytest.param({"preset": None}, "its metadata cannot be used", id="no preset"),
        pytest.param({"preset": "{"}, "its metadata cannot be used", id="broken preset"),
        pytest.param({"preset": "[]"}, "does not fit this version", id="preset of another kind"),
        pytest.param({"licence": None}, "its metadata cannot be used .*licence", id="no licence"),
        pytest.param({"tensor_sha256": None}, "its metadata cannot be used .*tensor_sha256", id="no hash"),
        pytest.param({"tensor_sha256": "0" * 64}, "it is damaged, copy it again", id="wrong hash"),
        pytest.param(
            {"preset": json.dumps(get_preset("mobilenet025-1mb").to_dict())},
            r"focus\.conv1x1\.bias is no tensor of the model \(and 5 more such\)",
            id="other preset",
        ),
    ],
)
def test_metadata_that_do_not_fit_are_refused(saved: Path, metadata: dict[str, str | None], message: str) -> None:
    rewrite(saved, None, **metadata)
    with pytest.raises(WeightsError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x02}q\x00.", id="pickle"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="zip of torch"),
        pytest.param(b"<!DOCTYPE html><html>not found</html>", id="web page"),
    ],
)
def test_another_kind_of_file_names_the_import_command(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "face.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"face\.pth: not a whole safetensors file .* `retinafocus weights import"):
        load_model(path)


def test_a_cut_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_model(saved)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "."], ids=["missing", "folder"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such file; make one with `retinafocus weights import FILE"):
        load_model(tmp_path / name)


def broken(preset: str = "mobile025", dtype: torch.dtype = torch.float32, value: float = 0.0) -> RetinaFocus:
    """A model whose first head is filled with a value."""
    model = RetinaFocus(get_preset(preset))
    model.class_heads[0].bias.data.fill_(value)
    return model.to(dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"value": float("nan")}, r"class_heads\.0\.bias has values that are not finite", id="diverged"),
        pytest.param({"value": float("inf")}, r"class_heads\.0\.bias has values that are not finite", id="overflow"),
        pytest.param({"dtype": torch.float16}, "is float16, the model wants float32.*; save the bare", id="half"),
    ],
)
def test_a_broken_model_is_not_saved(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        save_model(broken(**arguments), tmp_path / "face.safetensors", licence="a", source="b")
    assert os.listdir(tmp_path) == []


def test_extra_metadata_cannot_replace_ours(model: RetinaFocus, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has the key 'preset', which RetinaFocus writes itself"):
        save_model(model, tmp_path / "face.safetensors", licence="a", source="b", extra={"preset": "{}"})


def test_a_folder_that_is_not_there_is_an_error(model: RetinaFocus, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"face\.safetensors: cannot be written \(No such file or directory\)"):
        save_model(model, tmp_path / "nowhere" / "face.safetensors", licence="a", source="b")


def test_a_failed_write_keeps_the_old_file(model: RetinaFocus, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        save_model(model, saved, licence="other", source="other")
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_named_file_is_found(saved: Path) -> None:
    assert find_weights(saved) == saved
    assert find_weights(str(saved)) == saved


def test_bundled_weights_are_found_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BUNDLED", saved.parent)
    assert find_weights("face") == saved
    default = saved.rename(saved.with_name("mobile025.safetensors"))
    assert find_weights(None) == default


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(None, "no weights come with this RetinaFocus; ", id="default"),
        pytest.param("face", "face: there is no such file; ", id="name"),
        pytest.param("no/such/face.safetensors", r"no/such/face\.safetensors: there is no such file; ", id="path"),
        pytest.param("../face", r"\.\./face: there is no such file; ", id="out of the bundle"),
        pytest.param("", ": there is no such file; ", id="nothing"),
    ],
)
def test_missing_weights_name_the_command_that_makes_them(
    name: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "data")
    (tmp_path / "face.safetensors").touch()
    command = r"`retinafocus weights import FILE --preset NAME -o OUT`"
    with pytest.raises(
        WeightsError, match=f"^{message}make one from a published checkpoint with {command} and name it"
    ):
        find_weights(name)


RANGES = {
    name: (-1.0, 2.5)
    for name, module in RetinaFocus(get_preset("mobile025")).named_modules()
    if isinstance(module, torch.nn.Conv2d)
}


def test_ranges_come_back_and_change_no_hash(model: RetinaFocus, saved: Path, tmp_path: Path) -> None:
    before, output = read_info(saved), tmp_path / "ranged.safetensors"
    written = weights.add_ranges(saved, RANGES, output)
    assert written == read_info(output)
    assert written.ranges == RANGES == load_model(output).ranges
    assert written.sha256 == before.sha256
    assert {**before.metadata, "int8_ranges": written.metadata["int8_ranges"]} == written.metadata
    assert before.ranges is before.ranges_sha256 is load_model(saved).ranges is None
    assert model.ranges is None


def test_new_ranges_take_the_place_of_old_ones(saved: Path) -> None:
    first = weights.add_ranges(saved, RANGES, saved)
    second = weights.add_ranges(saved, dict.fromkeys(RANGES, (-2.0, 2.0)), saved)
    assert first.ranges_sha256 != second.ranges_sha256
    assert read_info(saved).ranges == dict.fromkeys(RANGES, (-2.0, 2.0))


def test_saving_a_loaded_model_keeps_its_ranges(saved: Path) -> None:
    weights.add_ranges(saved, RANGES, saved)
    save_model(load_model(saved), saved, licence="a", source="b")
    assert read_info(saved).ranges == RANGES


def test_training_starts_without_ranges(saved: Path) -> None:
    weights.add_ranges(saved, RANGES, saved)
    assert starting_model(get_preset("mobile025"), init=str(saved)).ranges is None


def test_ranges_of_another_network_are_refused(saved: Path) -> None:
    rewrite(saved, int8_ranges='{"a": [0, 1]}')
    with pytest.raises(WeightsError, match=r"its metadata cannot be used \(ranges: a is no convolution of it\)"):
        load_model(saved)
