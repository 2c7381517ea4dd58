"""Weights: our own safetensors files in and out, published RetinaFace checkpoints in.

A file says all that a network needs: the tensors and, in its metadata, the preset (backbone, anchors, variances,
normalisation, thresholds), the licence, the source and a hash of the tensors. Whatever does not fit exactly is an
error: a detector with some of its weights random, or with another's anchors, still draws boxes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models.layout import difference, empty_model, first_not_finite, layout_of, wanted_layout
from retinafocus.models.presets import Preset, get_preset
from retinafocus.models.ranges import Ranges, ranges_hash, ranges_text, read_ranges
from retinafocus.models.retinafocus import RetinaFocus
from retinafocus.published import read_checkpoint

BUNDLED = Path(__file__).parent / "data"
"""Weights that come with RetinaFocus, as NAME.safetensors."""

DEFAULT_NAME = "mobile025"
"""Of the bundled weights used when none are named."""

IMPORT_COMMAND = "retinafocus weights import FILE --preset NAME -o OUT"

FORMAT_VERSION = "1"

RANGES_KEY = "int8_ranges"
"""Of the metadata that hold a network's ranges. Files without it are whole."""

OWN_KEYS = ("format", "retinafocus_format", "preset", "licence", "source", "tensor_sha256", RANGES_KEY)
"""Of the metadata that `save_model` writes itself."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself."""

    preset: Preset
    sha256: str
    """Of the tensors, see `tensor_hash`; metadata, the preset among them, do not count."""
    licence: str
    source: str
    parameters: int
    """Trained numbers; the running statistics of batch norm not counted."""
    ranges: Ranges | None
    """What enters each convolution, for 8-bit integers; None if it was never measured."""
    metadata: dict[str, str]
    """All of the file's metadata as text."""

    @property
    def ranges_sha256(self) -> str | None:
        """Of the ranges; the answers in 8-bit integers depend on them as on the tensors. None without ranges."""
        return None if self.ranges is None else ranges_hash(self.ranges)


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names in sorted order, each with its type, shape and bytes; as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, entry in sorted(layout_of(tensors).items()):
        digest.update(f"{name}\0{entry.type}\0{entry.shape}\0".encode())
        values = tensors[name].detach().cpu().reshape(-1).contiguous()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_weights(name_or_path: str | os.PathLike[str] | None) -> Path:
    """Where the weights are.

    Args:
        name_or_path: a safetensors file; or the name of weights that come with RetinaFocus; None is the default's.

    Raises:
        WeightsError: there is no such file; the message has the command that makes one. Nothing is ever fetched.
    """
    name = DEFAULT_NAME if name_or_path is None else os.fspath(name_or_path)
    if name_or_path is not None and Path(name).is_file():
        return Path(name)
    bundled = BUNDLED / f"{name}.safetensors"
    if Path(name).name == name and bundled.is_file():
        return bundled
    missing = "no weights come with this RetinaFocus" if name_or_path is None else f"{name}: there is no such file"
    raise WeightsError(f"{missing}; make one from a published checkpoint with `{IMPORT_COMMAND}` and name it")


def load_model(path: str | os.PathLike[str]) -> RetinaFocus:
    """The network of a weights file, on the CPU, in evaluation mode.

    Args:
        path: a safetensors file that `save_model` or `import_published` wrote.

    Raises:
        WeightsError: the file is missing, damaged, no safetensors file or not ours, or a tensor is missing, too
            many, or of another shape or type than its preset wants.
    """
    info, tensors = _read(Path(path))
    model = _assemble(info.preset, tensors)
    model.ranges = info.ranges
    return model


def read_info(path: str | os.PathLike[str]) -> WeightsInfo:
    """What a weights file says about itself, after the checks of `load_model`.

    Raises:
        WeightsError: as for `load_model`.
    """
    return _read(Path(path))[0]


def save_model(
    model: RetinaFocus,
    path: str | os.PathLike[str],
    *,
    licence: str,
    source: str,
    extra: Mapping[str, str] | None = None,
) -> WeightsInfo:
    """Write a network with all that is needed to use it again. The same network gives the same bytes.

    Args:
        model: float32, on any device, in any mode. Its ranges, if it has any, are written too.
        path: a safetensors file; written beside and moved into place whole, so no reader sees half of it.
        licence: what its user must know, training data included.
        source: where the weights come from.
        extra: more metadata, such as the training run's settings.

    Raises:
        WeightsError: a tensor is not what the model's preset wants or not finite, or the file cannot be written.
        SettingsError: `extra` names a key that RetinaFocus writes itself.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    fault = difference(layout_of(tensors), wanted_layout(model.preset))
    if fault:
        raise WeightsError(f"{path}: not written: {fault}; save the bare RetinaFocus model in float32")
    name = first_not_finite(tensors)
    if name:
        raise WeightsError(f"{path}: not written: {name} has values that are not finite; the training diverged")
    metadata = {
        "format": "pt",
        "retinafocus_format": FORMAT_VERSION,
        "preset": json.dumps(model.preset.to_dict(), sort_keys=True),
        "licence": licence,
        "source": source,
        "tensor_sha256": tensor_hash(tensors),
    }
    if model.ranges is not None:
        metadata[RANGES_KEY] = ranges_text(model.ranges)
    metadata = _with_extra(metadata, extra or {})
    _write_whole(path, _with_sorted_metadata(safetensors.torch.save(tensors, metadata)))
    return _info(path, metadata)


def add_ranges(path: str | os.PathLike[str], ranges: Ranges, output: str | os.PathLike[str]) -> WeightsInfo:
    """Write a weights file again with ranges, in place of any that it has. All else, and its hash, stays.

    Args:
        path: the weights file.
        ranges: from `calibration`, of these weights.
        output: the file to write; may be the same.

    Raises:
        WeightsError: as for `load_model` and `save_model`.
    """
    info, tensors = _read(Path(path))
    model = _assemble(info.preset, tensors)
    model.ranges = ranges
    extra = {key: value for key, value in info.metadata.items() if key not in OWN_KEYS}
    return save_model(model, output, licence=info.licence, source=info.source, extra=extra)


def import_published(
    path: str | os.PathLike[str], preset_name: str, output: str | os.PathLike[str], *, licence: str | None = None
) -> WeightsInfo:
    """Turn a published RetinaFace checkpoint into a weights file of ours.

    Args:
        path: a `.pth` of biubug6/Pytorch_Retinaface, of its 1 MB sister, or of their training code; a `state_dict`
            wrapper and `module.` prefixes are taken off. Read as plain tensors; no code in it is ever run.
        preset_name: one of `presets.PUBLISHED_PRESETS`. It decides activation and anchors, which the file does not
            show.
        output: the safetensors file to write.
        licence: None takes that of a known file, else says that it is unknown.

    Raises:
        WeightsError: the file is missing, unsafe or not a checkpoint; a tensor is missing, too many or misshaped;
            or the file is known and needs another preset. The message has the file's own names and the mend.
        SettingsError: there is no preset of that name.
    """
    preset = get_preset(preset_name)
    checkpoint = read_checkpoint(Path(path), preset)
    return save_model(
        _assemble(preset, checkpoint.tensors),
        output,
        licence=licence or checkpoint.licence,
        source=checkpoint.source,
        extra={"source_sha256": checkpoint.sha256},
    )


def _assemble(preset: Preset, tensors: Mapping[str, Tensor]) -> RetinaFocus:
    """The network of a preset over checked tensors, in evaluation mode."""
    model = empty_model(preset)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def _read(path: Path) -> tuple[WeightsInfo, dict[str, Tensor]]:
    """Metadata and tensors of one of our files, from one opening; layout and hash checked."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; make one with `{IMPORT_COMMAND}`")
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            # Copied: the file's own memory would change, or end the process, with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); copy it again, or, if it is a published checkpoint, "
            f"turn it into one with `{IMPORT_COMMAND}`"
        ) from error
    info = _info(path, metadata)
    fault = difference(layout_of(tensors), wanted_layout(info.preset))
    if fault:
        raise WeightsError(f"{path}: {fault}; the tensors do not fit the file's preset {info.preset.name}, copy again")
    if tensor_hash(tensors) != info.sha256:
        raise WeightsError(f"{path}: the tensors are not those the file was written with; it is damaged, copy it again")
    return info, tensors


def _info(path: Path, metadata: dict[str, str]) -> WeightsInfo:
    """A file's metadata, understood."""
    if metadata.get("retinafocus_format") != FORMAT_VERSION:
        said = metadata.get("retinafocus_format", "nothing")
        raise WeightsError(
            f"{path}: a safetensors file, but not a RetinaFocus one of format {FORMAT_VERSION} (its metadata say "
            f"{said}); published checkpoints come in through `{IMPORT_COMMAND}`"
        )
    try:
        preset = Preset.from_dict(json.loads(metadata["preset"]))
        network = empty_model(preset)
        return WeightsInfo(
            preset=preset,
            sha256=metadata["tensor_sha256"],
            licence=metadata["licence"],
            source=metadata["source"],
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            ranges=_ranges(metadata, network),
            metadata=metadata,
        )
    except (KeyError, ValueError, TypeError, RecursionError, SettingsError) as error:
        raise WeightsError(
            f"{path}: its metadata cannot be used ({error}); write it again with this version"
        ) from error


def _ranges(metadata: Mapping[str, str], network: RetinaFocus) -> Ranges | None:
    if RANGES_KEY not in metadata:
        return None
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return read_ranges(metadata[RANGES_KEY], names)


def _with_extra(metadata: dict[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Both together; the caller's keys must be new."""
    taken = sorted(metadata.keys() & extra.keys())
    if taken:
        raise SettingsError(f"extra metadata has the key {taken[0]!r}, which RetinaFocus writes itself; rename it")
    return {**metadata, **extra}


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same safetensors file with its metadata in order: the library writes them in a new order each time.

    Source: the format is 8 bytes of header length, a JSON header padded with spaces, then the tensors' bytes.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    # Padded so that the tensors stay aligned to 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, then move: a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror}); check the folder and the space") from error
