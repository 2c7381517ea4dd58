"""A classification checkpoint becomes the backbone, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retinafocus.errors import WeightsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.training.start import load_backbone


def test_prefix_wrapper_and_classifier_are_no_hindrance(model: RetinaFocus, tmp_path: Path) -> None:
    wanted = {name: torch.full_like(tensor, 3) for name, tensor in model.backbone.state_dict().items()}
    heads = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    published = {f"module.{name}": tensor for name, tensor in wanted.items()}
    published["module.fc.weight"] = torch.zeros((1000, 256))
    torch.save({"epoch": 18, "state_dict": published}, tmp_path / "start.tar")
    load_backbone(model, tmp_path / "start.tar")
    assert all(bool((tensor == 3).all()) for tensor in model.backbone.state_dict().values())
    assert all(torch.equal(tensor, heads[name]) for name, tensor in model.state_dict().items() if name in heads)


def test_what_does_not_fit_is_named(model: RetinaFocus, tmp_path: Path) -> None:
    tensors = dict(model.backbone.state_dict())
    del tensors["stage2.0.0.weight"]
    torch.save(tensors, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"short\.pth: not the backbone mobilenet025: .*stage2\.0\.0\.weight"):
        load_backbone(model, tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth: holds no dictionary of tensors"):
        load_backbone(model, tmp_path / "list.pth")
    (tmp_path / "text.pth").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match=r"text\.pth: torch cannot read this file"):
        load_backbone(model, tmp_path / "text.pth")
    with pytest.raises(WeightsError, match=r"none\.pth: torch cannot read this file"):
        load_backbone(model, tmp_path / "none.pth")


@pytest.mark.shared
def test_the_published_mobilenet_start_loads(shared_data: Path) -> None:
    model = RetinaFocus(get_preset("mobile025"))
    load_backbone(model, shared_data / "models" / "mobilenetV1X0.25_pretrain.tar")
    assert float(model.backbone.state_dict()["stage1.0.1.running_var"].min()) > 0
