"""The context module: each cell sees what 3x3, 5x5 and 7x7 windows around it would.

Source: SSH, arXiv 1708.03979, section 3.4 (5x5 and 7x7 as stacked 3x3); RetinaFace, arXiv 1905.00641, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from retinafocus.models.units import conv_unit


class ContextModule(nn.Module):
    """(N, channels, h, w) to the same shape; `channels` is a multiple of 4. One per pyramid level, not shared."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3 = conv_unit(channels, half, 3)
        self.conv5_1 = conv_unit(channels, quarter, 3, slope=slope)
        self.conv5_2 = conv_unit(quarter, quarter, 3)
        self.conv7_2 = conv_unit(quarter, quarter, 3, slope=slope)
        self.conv7_3 = conv_unit(quarter, quarter, 3)

    def forward(self, level: Tensor) -> Tensor:
        """A pyramid map to its map with context."""
        start = self.conv5_1(level)
        windows = (self.conv3(level), self.conv5_2(start), self.conv7_3(self.conv7_2(start)))
        return functional.relu(torch.cat(windows, dim=1), inplace=True)
