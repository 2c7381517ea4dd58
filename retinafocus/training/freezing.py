"""Which part of the network stays as it is while the rest learns.

Frozen means two things: no gradient, and batch norm that keeps its statistics and stays in evaluation mode. With the
first alone the "frozen" part drifts with every batch it sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from retinafocus.errors import SettingsError
from retinafocus.models.retinafocus import RetinaFocus

FreezeMode = Literal["none", "stem", "stage1", "body", "body+fpn", "all-but-heads", "all-but-focus"]
"""From nothing to everything but the focus branch. "stem" is the first convolution, "stage1" all up to stride 8 of
MobileNet-0.25 and up to stride 4 of the ResNets, "body" the backbone; "all-but-heads" leaves the 1x1 convolutions of
the detection heads and the focus branch."""

NormMode = Literal["train", "frozen-body", "frozen", "synchronised"]
"""What batch norm does. "train" takes mean and variance from each worker's own crops; "frozen-body" keeps those that
the backbone came with, and "frozen" those of the whole network, which is right for a few crops per step;
"synchronised" takes them from the crops of all workers, on CUDA only."""

_STEM = ("backbone.stage1.0.", "backbone.conv1.", "backbone.bn1.")
_FROZEN: dict[str, tuple[str, ...]] = {
    "none": (),
    "stem": _STEM,
    "stage1": (*_STEM, "backbone.stage1.", "backbone.layer1."),
    "body": ("backbone.",),
    "body+fpn": ("backbone.", "pyramid."),
    "all-but-heads": ("backbone.", "pyramid.", "contexts."),
    "all-but-focus": ("backbone.", "pyramid.", "contexts.", "class_heads.", "box_heads.", "landmark_heads."),
}


def freeze(model: RetinaFocus, mode: FreezeMode, norms: NormMode = "train") -> None:
    """Let gradients flow into the part that is not frozen, and only there; frozen batch norms learn nothing either.

    Raises:
        SettingsError: there is no such mode, or "all-but-focus" and the model has no focus branch.
    """
    if mode not in get_args(FreezeMode):
        raise SettingsError(f"loop.freeze is {mode!r}; choose one of {', '.join(get_args(FreezeMode))}")
    if mode == "all-but-focus" and model.focus is None:
        raise SettingsError(f"loop.freeze is {mode!r}, but preset {model.preset.name} has no focus branch")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(_FROZEN[mode]))
    for norm in _frozen_norms(model, norms):
        norm.requires_grad_(False)


def set_training(model: RetinaFocus, mode: FreezeMode, norms: NormMode = "train") -> None:
    """Put the model in training mode, and the frozen part back in evaluation mode; call it after each evaluation."""
    model.train()
    for name, module in model.named_modules():
        # A module is frozen when all below it is; the dot makes "backbone" match "backbone.".
        if f"{name}.".startswith(_FROZEN[mode] or ("\0",)):
            module.eval()
    for norm in _frozen_norms(model, norms):
        norm.eval()


def _frozen_norms(model: RetinaFocus, norms: NormMode) -> Iterator[nn.Module]:
    prefix = {"frozen-body": "backbone.", "frozen": ""}.get(norms)
    for name, module in model.named_modules():
        if prefix is not None and isinstance(module, _BatchNorm) and name.startswith(prefix):
            yield module
