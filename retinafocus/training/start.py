"""Where a training starts: a backbone that already knows pictures, from a classification checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from retinafocus.errors import WeightsError
from retinafocus.models.layout import difference, layout_of
from retinafocus.models.retinafocus import RetinaFocus

CLASSIFIER_PREFIX = "fc."
"""The only tensors of a classification checkpoint that the backbone has no use for."""


def load_backbone(model: RetinaFocus, path: Path) -> None:
    """Take over the backbone of a classification checkpoint.

    Args:
        model: changed in place; everything but its backbone stays.
        path: a torch file of tensors under the published names (MobileNet-0.25) or torchvision's (ResNets), perhaps
            wrapped in "state_dict" and prefixed "module.".

    Raises:
        WeightsError: the file cannot be read, or its tensors are not this backbone's.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise WeightsError(f"{path}: torch cannot read this file ({reason}); copy it again") from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path}: holds no dictionary of tensors; give a classification checkpoint")
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    backbone = {name: tensor for name, tensor in named.items() if not name.startswith(CLASSIFIER_PREFIX)}
    fault = difference(layout_of(backbone), layout_of(model.backbone.state_dict()))
    if fault:
        raise WeightsError(f"{path}: not the backbone {model.preset.backbone}: {fault}")
    model.backbone.load_state_dict(backbone)
