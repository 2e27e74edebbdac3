"""Residual networks with a stem for small images.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), as used in "Random Teachers are Good Teachers",
appendix E.1. What differs from torchvision's ``resnet18``, ``34`` and ``50``: the stem for small images (first
convolution 3x3 with stride 1, no max pool; nothing else changes) and no classifier. Layer names are torchvision's, so
its weights load as they are.

What differs from He et al.'s networks for CIFAR, ResNet20 and ResNet56: where the shape changes, the shortcut is a 1x1
convolution with a norm instead of padding with zeros, as in the published code of "Random Teachers".
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.types import ImageShape
from dinopl.encoders.common import NormFactory, init_convolutions, normalization


class TwoConvBlock(nn.Module):
    """The basic residual block: two 3x3 convolutions with norms, and ReLU after the sum.

    The shortcut is the identity where the shape stays, else a 1x1 convolution with a norm.

    Args:
        channels: number of input channels.
        width: number of output channels.
        stride: of the first convolution.
        norm: makes the normalisation layer after each convolution; ``torch.nn.Identity`` for none.

    Raises:
        ValueError: if ``norm`` makes no normalisation layer, or its groups do not divide the channels.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int = 1, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = normalization(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = normalization(norm, width)
        self.downsample = shortcut(channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, channels, H, W)`` to ``(B, width, H / stride, W / stride)``, rounded up."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


class ThreeConvBlock(nn.Module):
    """The residual block of deep networks: 1x1, 3x3 and 1x1 convolutions with norms, and ReLU after the sum.

    The stride is that of the 3x3 convolution ("version 1.5"), and the output is four times as wide as it.

    Args:
        channels: number of input channels.
        width: number of channels of the 3x3 convolution.
        stride: of the 3x3 convolution.
        norm: makes the normalisation layer after each convolution; ``torch.nn.Identity`` for none.

    Raises:
        ValueError: if ``norm`` makes no normalisation layer, or its groups do not divide the channels.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int = 1, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = normalization(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = normalization(norm, width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = normalization(norm, out)
        self.downsample = shortcut(channels, out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, channels, H, W)`` to ``(B, 4 width, H / stride, W / stride)``, rounded up."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.downsample(x))


def shortcut(channels: int, out: int, stride: int, norm: NormFactory) -> nn.Module:
    """The identity where a block keeps the shape, else a 1x1 convolution with a norm."""
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), normalization(norm, out))


class ResidualNetwork(nn.Module):
    """Stem, stages of residual blocks, mean over the last feature map.

    The first stage keeps the resolution; each later one halves it and doubles the width.

    Args:
        shape: shape of one image.
        blocks: number of residual blocks in each stage.
        width: number of channels of the stem and of the first stage's 3x3 convolutions.
        small_image: stem for small images; otherwise ImageNet's, 7x7 with stride 2 and a max pool.
        norm: makes the normalisation layer after each convolution; ``torch.nn.Identity`` for none.
        block: the residual block.

    Attributes:
        embed_dim: number of channels of the last stage.

    Raises:
        ValueError: if ``norm`` makes no normalisation layer, or its groups do not divide the channels.
    """

    def __init__(
        self,
        shape: ImageShape,
        blocks: Sequence[int],
        width: int = 64,
        small_image: bool = True,
        norm: NormFactory = nn.BatchNorm2d,
        block: type[TwoConvBlock | ThreeConvBlock] = TwoConvBlock,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_image else (7, 2)
        self.conv1 = nn.Conv2d(shape.channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = normalization(norm, width)
        self.maxpool = nn.Identity() if small_image else nn.MaxPool2d(3, stride=2, padding=1)
        self.num_stages = len(blocks)
        channels = width
        for stage, depth in enumerate(blocks):
            layers = []
            for number in range(depth):
                layers.append(block(channels, width * 2**stage, 2 if stage > 0 and number == 0 else 1, norm))
                channels = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.embed_dim = channels
        init_convolutions(self)

    def feature_map(self, x: Tensor) -> Tensor:
        """The map before the mean: ``(B, C, H, W)`` to ``(B, embed_dim, h, w)``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images ``(B, C, H, W)`` as ``(B, embed_dim)``."""
        return self.feature_map(x).mean(dim=(2, 3))


class ResNet18(ResidualNetwork):
    """ResNet18 without classifier, 512 embedding dimensions: 11,168,832 parameters for RGB images and the small stem.

    Args:
        shape: shape of one image.
        small_image: stem for small images (3x3, stride 1, no max pool); otherwise ImageNet's.
        norm: makes the normalisation layer after each convolution, such as ``torch.nn.BatchNorm2d`` or ``GroupedNorm``;
            ``torch.nn.Identity`` for none.

    Raises:
        ValueError: if ``norm`` makes no normalisation layer, or its groups do not divide the channels.
    """

    def __init__(self, shape: ImageShape, small_image: bool = True, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__(shape, (2, 2, 2, 2), small_image=small_image, norm=norm)


class ResNet34(ResidualNetwork):
    """ResNet34, 512 embedding dimensions: 21,276,992 parameters; arguments as of ``ResNet18``."""

    def __init__(self, shape: ImageShape, small_image: bool = True, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__(shape, (3, 4, 6, 3), small_image=small_image, norm=norm)


class ResNet50(ResidualNetwork):
    """ResNet50, 2,048 embedding dimensions: 23,500,352 parameters; arguments as of ``ResNet18``."""

    def __init__(self, shape: ImageShape, small_image: bool = True, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__(shape, (3, 4, 6, 3), small_image=small_image, norm=norm, block=ThreeConvBlock)


class ResNet20(ResidualNetwork):
    """ResNet20 for CIFAR: three stages of three blocks, 64 embedding dimensions, 271,824 parameters for RGB images.

    Args:
        shape: shape of one image.
        norm: makes the normalisation layer after each convolution; ``torch.nn.Identity`` for none.

    Raises:
        ValueError: if ``norm`` makes no normalisation layer, or its groups do not divide the channels.
    """

    def __init__(self, shape: ImageShape, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__(shape, (3, 3, 3), width=16, norm=norm)


class ResNet56(ResidualNetwork):
    """ResNet56 for CIFAR: three stages of nine blocks, 855,120 parameters; arguments as of ``ResNet20``."""

    def __init__(self, shape: ImageShape, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__(shape, (9, 9, 9), width=16, norm=norm)
