"""The network as PyTorch runs it: the engine that is always there, and the only one on a GPU."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retinafocus.engines.protocol import (
    PRECISIONS,
    EngineReport,
    check_precision,
    joined,
    limit_threads,
    photo_errors,
)
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, RetinaFocus

# On a GPU: pictures in one call, and the pixels from which on a picture goes alone. A GPU that is given less is not
# busy; one that is given more gains nothing.
MAX_BATCH = 16
BATCH_PIXELS = 2**20


class TorchEngine:
    """The network as PyTorch runs it.

    On a CPU the outputs are the same bit for bit whenever the picture, the weights, the number of threads and the
    machine are the same. On a GPU the number of pictures computed at once follows from their size alone (a short
    batch is filled up with black ones), so that the library chooses the same method every time.
    """

    name = "torch"

    def __init__(
        self, model: RetinaFocus, device: str = "cpu", precision: str = "float32", threads: int | None = None
    ) -> None:
        """Copy the model to a device, ready to run.

        Args:
            model: left as it is.
            device: "cpu", "cuda" or "cuda:N"; see `resolve_device` for "auto".
            precision: one of `PRECISIONS`; the half ones on CUDA only.
            threads: CPU threads for PyTorch, for the whole process because PyTorch has no other way; None leaves
                them.

        Raises:
            SettingsError: the device is not usable, or the precision not on it.
        """
        check_precision(precision, device, self.name)
        _check_device(device)
        limit_threads(threads)
        self.device = device
        self.precision = precision
        self.preset = model.preset
        self.batch = 1 if device == "cpu" else MAX_BATCH
        if device != "cpu":
            # PyTorch otherwise rounds the inputs of float32 convolutions to 10 bits (TF32), and may add in any
            # order. The switches are the whole process's; turning them around each call would race between threads.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        network = fold_batch_norms(copy.deepcopy(model).eval()).requires_grad_(False)
        network = network.to(device=device, dtype=PRECISIONS[precision])
        # Channels last is how pixels arrive, and what the convolutions of both kinds of device are fastest in.
        self._network = network.to(memory_format=torch.channels_last)

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at pictures; see `Engine.run`.

        Where the memory of a GPU is too small for as many as usual, half as many are tried, and so on. The last digits
        of their scores may then be others.
        """
        height, width = pixels.shape[1:3]
        together = pictures_at_once(height, width, self.batch)
        while True:
            try:
                return self._run_all(pixels, together)
            except PhotoError as error:
                if error.status != "out_of_memory" or together == 1:
                    raise
            together //= 2

    def _run_all(self, pixels: NDArray[np.uint8], together: int) -> Outputs:
        """The outputs of pictures, computed so many at a time."""
        count = len(pixels)
        with torch.inference_mode(), photo_errors():
            outputs = joined([self._run(pixels[i : i + together], together) for i in range(0, count, together)])
            if self.device != "cpu":
                torch.cuda.synchronize(self.device)  # errors and time belong to these pictures
        return outputs

    def _run(self, pixels: NDArray[np.uint8], together: int) -> Outputs:
        """The outputs of up to `together` pictures, computed as a batch of exactly that many."""
        count = len(pixels)
        batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).to(self.device)
        if count < together:
            batch = torch.cat([batch, batch.new_zeros(together - count, *batch.shape[1:])])
        # Rows of pixels seen as (N, 3, H, W) are channels-last without a copy.
        outputs: Outputs = self._network(batch.permute(0, 3, 1, 2))
        return Outputs(*(None if output is None else output[:count].float() for output in outputs))  # type: ignore[arg-type]


def pictures_at_once(height: int, width: int, most: int) -> int:
    """How many pictures of a size are computed at once: a power of two, 1 where that fills the device already."""
    return 1 << min(most, max(1, BATCH_PIXELS // (height * width))).bit_length() - 1


def torch_reports() -> list[EngineReport]:
    """Every device PyTorch could use, with what stands in its way here."""
    version = f"torch {torch.__version__}"
    reports = [
        EngineReport(name="torch", device="cpu", usable=True, detail=f"{version}, {torch.get_num_threads()} threads")
    ]
    if not torch.cuda.is_available():
        why = "finds no CUDA device" if torch.version.cuda else "is built without CUDA"
        return [*reports, EngineReport(name="torch", device="cuda", usable=False, detail=f"{version} {why}")]
    for index in range(torch.cuda.device_count()):
        detail = f"{version}, {torch.cuda.get_device_name(index)}"
        reports.append(EngineReport(name="torch", device=f"cuda:{index}", usable=True, detail=detail))
    return reports


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Put every batch norm into the convolution before it, in place: the same function in fewer steps.

    A batch norm belongs to the convolution registered directly before it in the same module, which is how all our
    modules and torchvision's ResNets are written.

    Args:
        model: in eval mode.

    Returns:
        The model, its folded batch norms replaced by identities.
    """
    for module in model.modules():
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def _check_device(device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingsError(f"device is {device!r}; choose auto, cpu, cuda or cuda:N")
    usable = [report.device for report in torch_reports() if report.usable]
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise SettingsError(f"device is {device!r}; usable here: {', '.join(usable)}")
