"""Layouts: the names, types and shapes of a network's tensors, and how two differ, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retinafocus.models.presets import Preset
from retinafocus.models.retinafocus import RetinaFocus


class Entry(NamedTuple):
    """Type ("float32") and shape of a tensor."""

    type: str
    shape: tuple[int, ...]


Layout = dict[str, Entry]
"""By tensor name."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Type and shape of every tensor."""
    return {
        name: Entry(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def empty_model(preset: Preset) -> RetinaFocus:
    """The network without memory for its tensors, on the device "meta"; draws no random numbers."""
    with torch.device("meta"):
        return RetinaFocus(preset)


def wanted_layout(preset: Preset) -> Layout:
    """The layout of a preset's state dictionary."""
    return layout_of(empty_model(preset).state_dict())


def difference(found: Layout, wanted: Layout) -> str:
    """The first difference in words, and how many more there are; "" if there is none."""
    faults = []
    for name in sorted(found.keys() & wanted.keys()):
        if found[name].shape != wanted[name].shape:
            faults.append(f"{name} is {found[name].shape}, the model wants {wanted[name].shape}")
        elif found[name].type != wanted[name].type:
            faults.append(f"{name} is {found[name].type}, the model wants {wanted[name].type}")
    faults += [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"{name} is no tensor of the model" for name in sorted(found.keys() - wanted.keys())]
    return f"{faults[0]} (and {len(faults) - 1} more such)" if len(faults) > 1 else "".join(faults)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it, which would make every answer meaningless."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
