"""Heads: what is read off the maps. Three outputs per anchor, and one focus logit per cell."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from retinafocus.models.backbone import Stages
from retinafocus.models.presets import FocusConfig
from retinafocus.models.pyramid import Levels, PyramidStep

FOCUS_DEVIATION = 0.01
"""Of the Gaussian the focus branch starts from; biases start at zero but the last (AutoFocus, released code)."""


def per_anchor(output: Tensor, values: int) -> Tensor:
    """A 1x1 convolution's (N, anchors per cell * values, h, w) as (N, h * w * anchors per cell, values).

    The order is row, column, anchor: that of `anchors.anchor_boxes` within a level.
    """
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, values)


class FocusBranch(nn.Module):
    """A logit per cell: faces too small for this scale are here.

    Source: AutoFocus, arXiv 1812.01600, and its released code: 3x3 and 1x1 convolution with ReLU, 1x1 to two
    channels and softmax. One logit with a sigmoid is the same function with half of the last weights.
    """

    def __init__(
        self, config: FocusConfig, stage_channels: tuple[int, int, int, int], channels: int, slope: float
    ) -> None:
        super().__init__()
        self.feature = config.feature
        if self.feature == "P2":
            self.step = PyramidStep(stage_channels[0], channels, slope)
        in_channels = {"C2": stage_channels[0], "C3": stage_channels[1], "C4": stage_channels[2]}
        self.conv3x3 = _focus_conv(in_channels.get(self.feature, channels), config.channels, 3)
        self.conv1x1 = _focus_conv(config.channels, config.channels, 1)
        self.logit = _focus_conv(config.channels, 1, 1, bias=math.log(config.prior / (1 - config.prior)))

    def forward(self, stages: Stages, levels: Levels) -> Tensor:
        """The maps of the backbone and the pyramid to (N, 1, ceil(H / stride), ceil(W / stride)) logits."""
        hidden = functional.relu(self.conv3x3(self._input(stages, levels)), inplace=True)
        hidden = functional.relu(self.conv1x1(hidden), inplace=True)
        logits: Tensor = self.logit(hidden)
        return logits

    def _input(self, stages: Stages, levels: Levels) -> Tensor:
        """The map the configuration names."""
        if self.feature == "P2":
            merged: Tensor = self.step(stages.c2, levels.p3)
            return merged
        maps = {"C2": stages.c2, "C3": stages.c3, "C4": stages.c4, "P3": levels.p3, "P4": levels.p4}
        return maps[self.feature]


def _focus_conv(in_channels: int, out_channels: int, kernel: int, bias: float = 0.0) -> nn.Conv2d:
    """A convolution of the focus branch as it starts before training."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=FOCUS_DEVIATION)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv
