"""Backbones: pixels in, four feature maps out.

To add one, write a module whose forward returns the maps of stride 4, 8, 16 and 32 and which has `stage_channels`,
and name it in `build_backbone` and in `presets.BACKBONES`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from retinafocus.models.units import activation, conv_unit


class Stages(NamedTuple):
    """A backbone's maps, each (N, channels, ceil(H / stride), ceil(W / stride))."""

    c2: Tensor
    """Stride 4; only the focus branch may ask for it."""
    c3: Tensor
    """Stride 8."""
    c4: Tensor
    """Stride 16."""
    c5: Tensor
    """Stride 32."""


def depthwise_unit(in_channels: int, out_channels: int, stride: int, slope: float) -> nn.Sequential:
    """A depthwise 3x3 (`.0`, `.1`) and a pointwise convolution (`.3`, `.4`), each with batch norm and activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        activation(slope),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        activation(slope),
    )


class MobileNet025(nn.Module):
    """MobileNetV1 at a quarter of its width, in the three stages of the published RetinaFace weights.

    Source: MobileNets, arXiv 1704.04861, table 1; stages and names as in biubug6/Pytorch_Retinaface, models/net.py.
    """

    stage_channels = (32, 64, 128, 256)

    C2_UNITS = 4
    """Units of the first stage up to the last one of stride 4."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            conv_unit(3, 8, 3, stride=2, slope=slope),
            depthwise_unit(8, 16, 1, slope),
            depthwise_unit(16, 32, 2, slope),
            depthwise_unit(32, 32, 1, slope),
            depthwise_unit(32, 64, 2, slope),
            depthwise_unit(64, 64, 1, slope),
        )
        self.stage2 = nn.Sequential(
            depthwise_unit(64, 128, 2, slope), *(depthwise_unit(128, 128, 1, slope) for _ in range(5))
        )
        self.stage3 = nn.Sequential(depthwise_unit(128, 256, 2, slope), depthwise_unit(256, 256, 1, slope))

    def forward(self, x: Tensor) -> Stages:
        """(N, 3, H, W) normalised pixels to the four maps."""
        c2: Tensor = self.stage1[: self.C2_UNITS](x)
        c3: Tensor = self.stage1[self.C2_UNITS :](c2)
        c4: Tensor = self.stage2(c3)
        return Stages(c2, c3, c4, self.stage3(c4))


class ResNet(nn.Module):
    """A torchvision ResNet without its classifier; parameter names are torchvision's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision import models  # as slow to import as torch, and the small backbone does without

        network = getattr(models, name)(weights=None)
        self.conv1: nn.Module = network.conv1
        self.bn1: nn.Module = network.bn1
        self.relu: nn.Module = network.relu
        self.maxpool: nn.Module = network.maxpool
        self.layer1: nn.Module = network.layer1
        self.layer2: nn.Module = network.layer2
        self.layer3: nn.Module = network.layer3
        self.layer4: nn.Module = network.layer4
        widest: int = network.fc.in_features
        self.stage_channels = (widest // 8, widest // 4, widest // 2, widest)

    def forward(self, x: Tensor) -> Stages:
        """(N, 3, H, W) normalised pixels to the four maps."""
        c2: Tensor = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3: Tensor = self.layer2(c2)
        c4: Tensor = self.layer3(c3)
        return Stages(c2, c3, c4, self.layer4(c4))


def build_backbone(name: str, slope: float) -> MobileNet025 | ResNet:
    """A backbone with random weights.

    Args:
        name: one of `presets.BACKBONES`.
        slope: negative slope of the activations; ResNets are plain ReLU whatever it says.
    """
    return MobileNet025(slope) if name == "mobilenet025" else ResNet(name)
