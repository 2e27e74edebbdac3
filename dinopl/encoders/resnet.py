"""Residual networks with a stem for small images.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), as used in "Random Teachers are Good Teachers",
appendix E.1. What differs from torchvision's ``resnet18``: the stem for small images (first convolution 3x3 with stride
1, no max pool; nothing else changes) and no classifier. Layer names are torchvision's, so its weights load as they are.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.types import ImageShape
from dinopl.encoders.common import init_convolutions


class ResidualNetwork(nn.Module):
    """Stem, stages of residual blocks, mean over the last feature map.

    The first stage keeps the resolution; each later one halves it and doubles the width.

    Args:
        shape: shape of one image.
        blocks: number of residual blocks in each stage.
        width: number of channels of the stem and of the first stage.
        small_image: stem for small images; otherwise ImageNet's, 7x7 with stride 2 and a max pool.

    Attributes:
        embed_dim: number of channels of the last stage.
    """

    def __init__(self, shape: ImageShape, blocks: Sequence[int], width: int = 64, small_image: bool = True) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_image else (7, 2)
        self.conv1 = nn.Conv2d(shape.channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small_image else nn.MaxPool2d(3, stride=2, padding=1)
        self.num_stages = len(blocks)
        channels = width
        for stage, depth in enumerate(blocks):
            out = width * 2**stage
            self.add_module(f"layer{stage + 1}", residual_stage(channels, out, depth, stride=1 if stage == 0 else 2))
            channels = out
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


def residual_stage(channels: int, out: int, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks, of which the first changes the width to ``out`` and the resolution by ``stride``."""
    first = TwoConvBlock(channels, out, stride)
    return nn.Sequential(first, *(TwoConvBlock(out, out) for _ in range(depth - 1)))


class TwoConvBlock(nn.Module):
    """The basic residual block: two 3x3 convolutions with BatchNorm, and ReLU after the sum.

    The shortcut is the identity where the shape stays, else a 1x1 convolution with BatchNorm.

    Args:
        channels: number of input channels.
        out: number of output channels.
        stride: of the first convolution.
    """

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, channels, H, W)`` to ``(B, out, H / stride, W / stride)``, rounded up."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


class ResNet18(ResidualNetwork):
    """ResNet18 without classifier, 512 embedding dimensions: 11,168,832 parameters for RGB images and the small stem.

    Args:
        shape: shape of one image.
        small_image: stem for small images (3x3, stride 1, no max pool); otherwise ImageNet's.
    """

    def __init__(self, shape: ImageShape, small_image: bool = True) -> None:
        super().__init__(shape, blocks=(2, 2, 2, 2), small_image=small_image)
