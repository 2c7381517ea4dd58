"""Published RetinaFace checkpoints: their tensor names, the files we know, and reading them without running them.

Source of the names: models/net.py and models/retinaface.py of biubug6/Pytorch_Retinaface.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models.layout import Layout, difference, first_not_finite, layout_of, wanted_layout
from retinafocus.models.presets import PRESETS, PUBLISHED_PRESETS, Preset

UNKNOWN_LICENCE = (
    "not stated by the file; detectors trained on WIDER FACE, as the published ones are, are for "
    "non-commercial research only"
)


class KnownFile(NamedTuple):
    """A published file recognised by its SHA-256."""

    what: str
    preset: str | None
    """The only preset it may be imported with; None: it is no detector."""
    licence: str
    source: str


# Files whose meaning their tensors do not show. The first has every name and shape of another repository's file of
# the same name, and with that one's preset gives plausible boxes of twice the size.
KNOWN_FILES = {
    "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1": KnownFile(
        what="mobilenet0.25_Final.pth of biubug6/Face-Detector-1MB-with-landmark",
        preset="mobilenet025-1mb",
        licence="code MIT; trained on WIDER FACE, non-commercial research only",
        source="github.com/biubug6/Face-Detector-1MB-with-landmark at 2b075657aef954b9426f938ac7fce100b6910fe6",
    ),
    "75c37f8d438b7c6aed2e6b310fd0540c40dabf0dd820770bd7082668dfd7c1c1": KnownFile(
        what="mobilenetV1X0.25_pretrain.tar, an ImageNet classifier to start training from",
        preset=None,
        licence="code MIT; trained on ImageNet, non-commercial research only",
        source="github.com/KinghooWei/retinaface-pytorch at 307d978947cc90132c45aee5b556affedcf8db8d",
    ),
}

# Beginnings of our names and of the published ones. The lower-case x of conv7x7_3 is theirs.
_CONTEXT_NAMES = {
    "conv3": "conv3X3",
    "conv5_1": "conv5X5_1",
    "conv5_2": "conv5X5_2",
    "conv7_2": "conv7X7_2",
    "conv7_3": "conv7x7_3",
}
_HEAD_NAMES = {"class_heads": "ClassHead", "box_heads": "BboxHead", "landmark_heads": "LandmarkHead"}
_PREFIXES = {
    "backbone.": "body.",
    **{f"pyramid.laterals.{i}.": f"fpn.output{i + 1}." for i in range(3)},
    **{f"pyramid.merges.{i}.": f"fpn.merge{i + 1}." for i in range(2)},
    **{f"contexts.{i}.{a}.": f"ssh{i + 1}.{b}." for i in range(3) for a, b in _CONTEXT_NAMES.items()},
    **{f"{a}.{i}.": f"{b}.{i}.conv1x1." for i in range(3) for a, b in _HEAD_NAMES.items()},
}


class Checkpoint(NamedTuple):
    """A published detector, read and checked."""

    tensors: dict[str, Tensor]
    """By our names; every tensor of its preset, none else."""
    sha256: str
    """Of the file, as 64 hexadecimal digits."""
    licence: str
    source: str


def published_name(name: str) -> str:
    """The name that published files give one of our detection tensors.

    Raises:
        SettingsError: it is no detection tensor; the focus branch was never published.
    """
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise SettingsError(f"tensor {name} has no published counterpart; only the detection branch was published")


def read_checkpoint(path: Path, preset: Preset) -> Checkpoint:
    """A published file as tensors of a preset.

    Args:
        path: a torch checkpoint; a `state_dict` wrapper and `module.` prefixes are taken off.
        preset: without focus branch; decides activation and anchors, which the file does not show.

    Raises:
        WeightsError: as for `weights.import_published`.
    """
    if preset.focus is not None:
        raise WeightsError(
            f"{path}: preset {preset.name} has a focus branch and published detectors have none, so part of it would "
            f"be random; choose --preset {_detectors_like(preset)}, then train a focus branch on the result"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the name and the permissions") from error
    digest = hashlib.sha256(data).hexdigest()
    known = KNOWN_FILES.get(digest)
    if known is not None and known.preset != preset.name:
        mend = f"choose --preset {known.preset}" if known.preset else "it holds no detector; choose another file"
        raise WeightsError(f"{path}: this is {known.what}; {mend}")
    published = _unpickle(path, data)
    _check(path, published, preset)
    return Checkpoint(
        tensors={name: published[published_name(name)] for name in wanted_layout(preset)},
        sha256=digest,
        licence=known.licence if known else UNKNOWN_LICENCE,
        source=known.source if known else f"imported from a file named {path.name}",
    )


def _unpickle(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint, without wrapper and prefix."""
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds here, the unpickler whatever a file provokes
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{path}: not a torch checkpoint of plain tensors ({type(error).__name__}: {reason}); one that holds "
            "other objects could run code and is not read; save the model's state_dict()"
        ) from error
    state = loaded["state_dict"] if isinstance(loaded, dict) and "state_dict" in loaded else loaded
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: holds no tensors by name; save the model's state_dict()")
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = str(key).removeprefix("module.")
        if name in tensors:
            raise WeightsError(f"{path}: {name} comes twice, with and without `module.`; save the model's state_dict()")
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {name} is no tensor; save the model's state_dict()")
        # Copied: two names of one checkpoint may share memory, which safetensors refuses to write.
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return tensors


def _check(path: Path, tensors: dict[str, Tensor], preset: Preset) -> None:
    """Refuse what is not the preset's, naming the presets that it fits."""
    found = layout_of(tensors)
    fault = difference(found, _published_layout(preset))
    if fault:
        fitting = [name for name in PUBLISHED_PRESETS if found == _published_layout(PRESETS[name])]
        mend = f"choose --preset {' or '.join(fitting)}" if fitting else "it fits no published preset"
        raise WeightsError(f"{path}: {fault}; {mend}")
    name = first_not_finite(tensors)
    if name:
        raise WeightsError(f"{path}: {name} has values that are not finite; choose another file")


def _published_layout(preset: Preset) -> Layout:
    """The layout of a preset without focus branch, by published names."""
    return {published_name(name): entry for name, entry in wanted_layout(preset).items()}


def _detectors_like(preset: Preset) -> str:
    """The published presets whose weights are right for a preset's detector, or all, for a message."""
    alike = [name for name in PUBLISHED_PRESETS if not PRESETS[name].detector_difference(preset)]
    return " or ".join(alike or PUBLISHED_PRESETS)
