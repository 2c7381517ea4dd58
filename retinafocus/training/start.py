"""Where a training starts: a backbone that already knows pictures, or a whole detector to be fine-tuned."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models.layout import difference, layout_of
from retinafocus.models.presets import FOCUS_STRIDES, FocusConfig, Preset
from retinafocus.models.retinafocus import RetinaFocus
from retinafocus.weights import find_weights, load_model

CLASSIFIER_PREFIX = "fc."
"""The only tensors of a classification checkpoint that the backbone has no use for."""

IMAGENET = "imagenet"
"""Stands for torchvision's ImageNet weights where the path of a classification checkpoint is wanted."""

IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""What torchvision's classifiers divide their RGB input 0..1 by (docs of torchvision.models, ImageNet weights)."""


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
    _take_over(model, tensors, str(path))


def load_imagenet_backbone(model: RetinaFocus) -> None:
    """Take over torchvision's ImageNet weights for a ResNet; torchvision downloads them unless its cache has them.

    Args:
        model: changed in place; everything but its backbone stays.

    Raises:
        SettingsError: torchvision has no weights for this backbone.
        WeightsError: they cannot be downloaded.
    """
    name = model.preset.backbone
    if not name.startswith("resnet"):
        raise SettingsError(f"torchvision has no ImageNet weights of {name}; give a classification checkpoint of it")
    from torchvision import models

    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{weights.url}: cannot be downloaded ({error}); fetch it elsewhere and name the file"
        ) from error
    _take_over(model, tensors, weights.url)


def _take_over(model: RetinaFocus, tensors: Mapping[str, Tensor], origin: str) -> None:
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    backbone = {name: tensor for name, tensor in named.items() if not name.startswith(CLASSIFIER_PREFIX)}
    fault = difference(layout_of(backbone), layout_of(model.backbone.state_dict()))
    if fault:
        raise WeightsError(f"{origin}: not the backbone {model.preset.backbone}: {fault}")
    if model.preset.backbone.startswith("resnet"):
        backbone["conv1.weight"] = _for_our_input(backbone["conv1.weight"], model.preset)
    model.backbone.load_state_dict(backbone)


def _for_our_input(weight: Tensor, preset: Preset) -> Tensor:
    """torchvision's first convolution (C, 3, 7, 7), for 0..255 in the preset's channel order instead of its own input.

    Without this its answers are some 58 times too large for the batch norm behind it, with red and blue exchanged: a
    training with free batch norm recovers, one with frozen batch norm does not. The means agree to within 0.7 levels.
    """
    scaled = weight / (255 * weight.new_tensor(IMAGENET_DEVIATION).reshape(1, 3, 1, 1))
    return scaled.flip(1) if preset.bgr else scaled


def preset_with_focus(preset: Preset, focus: str) -> Preset:
    """A preset with another focus branch.

    Args:
        preset: of the network.
        focus: "preset" leaves it, "none" takes the branch away, else the map it reads (C2, C3, C4, P2, P3, P4).

    Raises:
        SettingsError: it is none of these.
    """
    if focus == "preset":
        return preset
    if focus == "none":
        return dataclasses.replace(preset, focus=None)
    if focus not in FOCUS_STRIDES:
        raise SettingsError(f"model.focus is {focus!r}; choose preset, none, or one of {', '.join(FOCUS_STRIDES)}")
    return dataclasses.replace(preset, focus=dataclasses.replace(preset.focus or FocusConfig(), feature=focus))


def starting_model(preset: Preset, *, init: str = "", backbone: str = "", seed: int = 0) -> RetinaFocus:
    """The network that a training starts from, on the CPU.

    Args:
        preset: of the network.
        init: weights file, or a name `find_weights` knows, to go on from; its detector must be the preset's. Its focus
            branch is kept if it is the preset's too, else the branch starts new. "" starts from random weights.
        backbone: classification checkpoint for the backbone, or `IMAGENET`; "" leaves it random.
        seed: of all random weights. The state of torch's own generator is left as it was.

    Raises:
        SettingsError: both starts are given, or the weights are of a network that contradicts the preset.
        WeightsError: a file is missing or does not fit.
    """
    if init and backbone:
        raise SettingsError("model.init and model.backbone are both set; a detector brings its own backbone: keep one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if init:
            return _from_weights(load_model(find_weights(init)), preset)
        model = RetinaFocus(preset)
    if backbone == IMAGENET:
        load_imagenet_backbone(model)
    elif backbone:
        load_backbone(model, Path(backbone))
    return model


def _from_weights(found: RetinaFocus, preset: Preset) -> RetinaFocus:
    if found.preset.focus != preset.focus or found.preset.detector_difference(preset):
        return RetinaFocus.from_detector(found, preset)
    # Names, thresholds and ranges may differ; the new ones count.
    model = RetinaFocus(preset)
    model.load_state_dict(found.state_dict())
    return model
