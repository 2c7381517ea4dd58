"""Where a training starts: a backbone that already knows pictures, or a whole detector to be fine-tuned."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from retinafocus.anchors import AnchorConfig
from retinafocus.errors import SettingsError, WeightsError
from retinafocus.levels import ZOOM
from retinafocus.models.layout import difference, layout_of
from retinafocus.models.presets import FOCUS_STRIDES, FocusConfig, Preset
from retinafocus.models.retinafocus import RetinaFocus
from retinafocus.weights import find_weights, load_model

CLASSIFIER_PREFIX = "fc."
"""The only tensors of a classification checkpoint that the backbone has no use for."""

IMAGENET = "imagenet"
"""Stands for torchvision's ImageNet weights where the path of a classification checkpoint is wanted."""

HEADS = ("class_heads.", "box_heads.", "landmark_heads.")
"""What the names of the tensors begin with whose meaning depends on the anchors."""

Heads = Literal["keep", "adapt", "new"]

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


def preset_with_anchors(
    preset: Preset,
    sizes: tuple[tuple[float, ...], ...] = (),
    ratio: float = 0.0,
    face_range: tuple[float, float] = (0.0, 0.0),
) -> Preset:
    """A preset with other anchors.

    Args:
        preset: of the network.
        sizes: see `AnchorConfig.sizes`; empty leaves the preset's.
        ratio: height over width; 0 leaves the preset's.
        face_range: smallest and largest face found reliably, network-input pixels; (0, 0) moves the preset's in the
            proportion in which its smallest and its largest anchor change, at least `levels.ZOOM` wide. That is a guess
            until it is measured.

    Raises:
        SettingsError: they are no anchors, or no range.
    """
    before = preset.anchors
    anchors = AnchorConfig(strides=before.strides, sizes=sizes or before.sizes, ratio=ratio or before.ratio)
    if face_range == (0.0, 0.0):
        face_range = preset.face_range
        if anchors != before:
            ends = [(min(map(min, each.sizes)), max(map(max, each.sizes))) for each in (before, anchors)]
            low, high = (end * new / old for end, old, new in zip(face_range, *ends, strict=True))
            # The cascade needs that much, or some sizes would lie in the range of no level.
            face_range = (low, max(high, ZOOM * low))
    return dataclasses.replace(preset, anchors=anchors, face_range=face_range)


def starting_model(
    preset: Preset, *, init: str = "", backbone: str = "", seed: int = 0, heads: Heads = "keep"
) -> RetinaFocus:
    """The network that a training starts from, on the CPU.

    Args:
        preset: of the network.
        init: weights file, or a name `find_weights` knows, to go on from; its detector must be the preset's. Its focus
            branch is kept if it is the preset's too, else the branch starts new. "" starts from random weights.
        backbone: classification checkpoint for the backbone, or `IMAGENET`; "" leaves it random.
        seed: of all random weights. The state of torch's own generator is left as it was.
        heads: what becomes of the detection heads of `init`, whose answers are offsets from anchors. keep: its anchors
            must be the preset's. adapt: they are taken over for other anchors, equally many in a cell. new: they start
            from random weights.

    Raises:
        SettingsError: both starts are given, the weights are of a network that contradicts the preset, or `heads`
            tells of weights that are not given.
        WeightsError: a file is missing or does not fit.
    """
    if init and backbone:
        raise SettingsError("model.init and model.backbone are both set; a detector brings its own backbone: keep one")
    check_heads(init, heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if init:
            return _from_weights(load_model(find_weights(init)), preset, heads)
        model = RetinaFocus(preset)
    if backbone == IMAGENET:
        load_imagenet_backbone(model)
    elif backbone:
        load_backbone(model, Path(backbone))
    return model


def check_heads(init: str, heads: Heads) -> None:
    """Raise SettingsError where `heads` has nothing to work on."""
    if heads != "keep" and not init:
        raise SettingsError(f"model.heads is {heads}, but there are no weights to go on from; set model.init")


def _from_weights(found: RetinaFocus, preset: Preset, heads: Heads) -> RetinaFocus:
    if heads != "keep":
        return _with_other_anchors(found, preset, heads)
    elsewhere = found.preset.detector_difference(dataclasses.replace(preset, anchors=found.preset.anchors))
    if found.preset.anchors != preset.anchors and not elsewhere:
        raise SettingsError(
            f"model.init has {_anchors_in_words(found.preset)}, the network to train {_anchors_in_words(preset)}; "
            "boxes are offsets from these: set model.heads = new to train new heads, or adapt where only sizes differ"
        )
    if found.preset.focus != preset.focus or found.preset.detector_difference(preset):
        return RetinaFocus.from_detector(found, preset)
    # Names, thresholds and ranges may differ; the new ones count.
    model = RetinaFocus(preset)
    model.load_state_dict(found.state_dict())
    return model


def _with_other_anchors(found: RetinaFocus, preset: Preset, heads: Heads) -> RetinaFocus:
    """All of a detector but, where `heads` is "new", its heads. The focus branch is kept if it is the preset's too."""
    before, after = found.preset.anchors, preset.anchors
    if heads == "adapt" and before.per_cell != after.per_cell:
        raise SettingsError(
            f"model.heads is adapt, but model.init has {before.per_cell} anchors in a cell and the network to train "
            f"{after.per_cell}; choose model.heads = new"
        )
    if contradiction := found.preset.detector_difference(dataclasses.replace(preset, anchors=before)):
        raise SettingsError(f"{contradiction}; model.heads lets the anchors differ and nothing else")
    model = RetinaFocus(preset)
    fresh = (HEADS if heads == "new" else ()) + (("focus.",) if found.preset.focus != preset.focus else ())
    taken = {name: tensor for name, tensor in found.state_dict().items() if not name.startswith(fresh)}
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(fresh)}
    model.load_state_dict({**taken, **kept})
    return model


def _anchors_in_words(preset: Preset) -> str:
    sizes = ", ".join(f"{size:g}" for level in preset.anchors.sizes for size in level)
    return f"anchors {sizes} of ratio {preset.anchors.ratio:g}"
