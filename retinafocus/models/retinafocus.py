"""The network: RetinaFace's detection branch and, beside it, the focus branch, over one pass of the backbone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinafocus.errors import SettingsError
from retinafocus.models.backbone import build_backbone
from retinafocus.models.context import ContextModule
from retinafocus.models.heads import FocusBranch, per_anchor
from retinafocus.models.presets import LEVEL_STRIDES, Preset
from retinafocus.models.pyramid import Pyramid
from retinafocus.models.ranges import Ranges


class Outputs(NamedTuple):
    """What the network says; A anchors in the order of `anchors.anchor_boxes`."""

    class_logits: Tensor
    """(N, A, 2); softmax over the last axis, index 1 is the face."""
    box_deltas: Tensor
    """(N, A, 4); for `boxes.decode_boxes`."""
    landmark_deltas: Tensor
    """(N, A, 10); for `boxes.decode_landmarks`."""
    focus_logits: Tensor | None
    """(N, 1, ceil(H / stride), ceil(W / stride)); sigmoid is the probability of faces too small for this scale. None
    without a focus branch."""


class RetinaFocus(nn.Module):
    """Pixels in, offsets from anchors and a focus map out.

    A new one has random weights; `weights.load_model` gives one that finds faces.
    Source: RetinaFace, arXiv 1905.00641, as published in biubug6/Pytorch_Retinaface; AutoFocus, arXiv 1812.01600.
    """

    mean: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        # Of these very weights, for 8-bit integers; from `weights.load_model`, where the file has them. A new network,
        # as each training makes, has none.
        self.ranges: Ranges | None = None
        self.backbone = build_backbone(preset.backbone, preset.slope)
        stage_channels = self.backbone.stage_channels
        self.pyramid = Pyramid(stage_channels[1:], preset.channels, preset.slope)
        self.contexts = nn.ModuleList(ContextModule(preset.channels, preset.slope) for _ in LEVEL_STRIDES)
        per_cell = preset.anchors.per_cell
        self.class_heads = _heads(preset.channels, per_cell * 2)
        self.box_heads = _heads(preset.channels, per_cell * 4)
        self.landmark_heads = _heads(preset.channels, per_cell * 10)
        # Built last: with one seed, the detector starts from the same numbers with and without it.
        self.focus = (
            None if preset.focus is None else FocusBranch(preset.focus, stage_channels, preset.channels, preset.slope)
        )
        self.focus_stride = None if preset.focus is None else preset.focus.stride
        means = reversed(preset.mean_rgb) if preset.bgr else preset.mean_rgb
        # The device is explicit because the mean is in no file: it must be real in a model built on "meta".
        mean = torch.tensor(tuple(means), dtype=torch.float32, device="cpu").reshape(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, pixels: Tensor) -> Outputs:
        """Look at a batch of pictures of one size.

        Args:
            pixels: (N, 3, H, W) uint8 or float, RGB, 0..255, in either memory format; H and W at least 1.

        Returns:
            The outputs, in the type of the weights. The detection outputs are the same bit for bit whether or not
            there is a focus branch.

        Raises:
            ValueError: `pixels` has another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
            raise ValueError(f"pixels is {tuple(pixels.shape)}; give (pictures, 3, height, width) with sides from 1")
        return self.outputs(self._normalise(pixels))

    def outputs(self, normalised: Tensor) -> Outputs:
        """The outputs for (N, 3, H, W) pixels without their mean, in the channel order the weights want.

        Straight-line code without a look at values or sizes, so that `engines.graph` can follow it with no pixels.
        """
        stages = self.backbone(normalised)
        levels = self.pyramid(*stages[1:])
        maps = [context(level) for context, level in zip(self.contexts, levels, strict=True)]
        return Outputs(
            class_logits=_read(self.class_heads, maps, 2),
            box_deltas=_read(self.box_heads, maps, 4),
            landmark_deltas=_read(self.landmark_heads, maps, 10),
            focus_logits=None if self.focus is None else self.focus(stages, levels),
        )

    def _normalise(self, pixels: Tensor) -> Tensor:
        """RGB 0..255 of any type to what the first convolution wants, in the weights' type."""
        # Copied while still bytes, a quarter of the traffic; being a copy it may be written to. Subtracting without
        # the conversion first (type promotion) takes seven times as long on a 4K photo.
        ordered = pixels.flip(1) if self.preset.bgr else pixels.clone()
        return ordered.to(self.mean.dtype).sub_(self.mean)

    @classmethod
    def from_detector(cls, detector: RetinaFocus, preset: Preset) -> RetinaFocus:
        """A copy of a detector with a new, untrained focus branch, to train that on.

        Args:
            detector: its detection weights are copied; a focus branch of its own is left behind.
            preset: of the result; must agree with the detector's in all that its tensors depend on.

        Raises:
            SettingsError: the presets contradict each other; the message names the first such field.
        """
        contradiction = detector.preset.detector_difference(preset)
        if contradiction:
            raise SettingsError(f"{contradiction}; choose a preset that differs in its focus branch only")
        model = cls(preset)
        state = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("focus.")}
        kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("focus.")}
        model.load_state_dict({**state, **kept})
        return model.train(detector.training)


def _heads(channels: int, values: int) -> nn.ModuleList:
    """One 1x1 convolution per pyramid level."""
    return nn.ModuleList(nn.Conv2d(channels, values, 1) for _ in LEVEL_STRIDES)


def _read(heads: nn.ModuleList, maps: Iterable[Tensor], values: int) -> Tensor:
    """One kind of output of all levels, (N, A, values)."""
    return torch.cat([per_anchor(head(x), values) for head, x in zip(heads, maps, strict=True)], dim=1)
