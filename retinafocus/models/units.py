"""The one building block of backbone, pyramid and context modules: convolution, batch norm, activation."""

from __future__ import annotations

from torch import nn


def activation(slope: float) -> nn.Module:
    """Leaky ReLU of that negative slope; plain ReLU, which is faster and equal in value, for 0."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def conv_unit(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution without bias (`.0`), batch norm (`.1`), activation (`.2`, left out when `slope` is None).

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)); `kernel` is odd.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if slope is not None:
        layers.append(activation(slope))
    return nn.Sequential(*layers)
