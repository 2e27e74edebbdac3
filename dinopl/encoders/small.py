"""Small networks without a paper of their own: pixels, perceptrons on them, and plain convolutional networks.

``ConvNet`` is the small student and teacher of "Revisiting Knowledge Distillation" (Lanzillotta et al., 2025), as in
its first author's early code: four convolutions whose widths double. What differs: the last pool takes the maximum over
whatever is left of the map, so that images of other sizes than 32 x 32 are embedded too; and convolutions have no
biases, which BatchNorm would cancel.

``UniformConvNet`` and ``UniformMLP`` are the grids of widths and depths in the published code of "Random Teachers are
Good Teachers" (widths of 16 and 32, and of 512 and 1,024; depths of 1 to 5). What differs: the biases of convolutions
start at 0, and every value comes from the seed; there some come from the global generator.
"""

from itertools import pairwise

from torch import Tensor, nn

from dinopl.core.types import ImageShape
from dinopl.encoders.common import NormFactory, init_convolutions, normalization


class MiniMLP(nn.Sequential):
    """Multi-layer perceptron on pixels, for images so small that convolutions have little to share.

    Flattened pixels through linear layers with ReLU: ``(B, C, H, W)`` to ``(B, embed_dim)``.

    Args:
        shape: shape of one image.
        hidden: width of each layer; the last is the size of the embedding.

    Attributes:
        embed_dim: the last width.

    Raises:
        ValueError: if there is no layer, or one of no width.
    """

    def __init__(self, shape: ImageShape, hidden: tuple[int, ...] = (32,)) -> None:
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden={list(hidden)}: must be at least one width, each at least 1; try [32]")
        channels, height, width = shape
        widths = [channels * height * width, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.embed_dim = widths[-1]


class ConvNet(nn.Module):
    """3x3 convolutions of ``width``, twice, four and eight times that, each with BatchNorm and ReLU.

    A 2x2 max pool follows the second, third and fourth; of what is left of the map the maximum is taken.

    Args:
        shape: shape of one image.
        width: channels of the first convolution.

    Attributes:
        embed_dim: eight times the width.

    Raises:
        ValueError: if the pools leave nothing of the image, or the width is below 1.
    """

    def __init__(self, shape: ImageShape, width: int = 20) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: must be at least 1; try 20")
        channels, *sides = shape
        if min(sides) < 8:
            raise ValueError(
                f"image_size={min(sides)}: ConvNet halves the image 3 times, which leaves nothing of "
                f"{sides[0]} x {sides[1]}; set 8 or more"
            )
        layers: list[nn.Module] = []
        for stage in range(4):
            out = width * 2**stage
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if stage else []
            channels = out
        self.features = nn.Sequential(*layers)
        self.embed_dim = channels

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images ``(B, C, H, W)`` as ``(B, embed_dim)``."""
        return self.features(x).amax(dim=(2, 3))


class Pixels(nn.Flatten):
    """The pixels themselves, ``(B, C, H, W)`` to ``(B, C H W)``, without parameters: the paper's input baseline.

    Args:
        shape: shape of one image.

    Attributes:
        embed_dim: number of pixels times channels.
    """

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.embed_dim = shape.channels * shape.height * shape.width


class UniformConvNet(nn.Sequential):
    """Convolutions of one width: [3x3 convolution, ReLU, norm, 2x2 average pool] per layer, the last pooled to 2 x 2.

    Args:
        shape: shape of one image.
        width: channels of each convolution.
        depth: number of layers.
        norm: makes the normalisation layer after each ReLU; None for no normalisation.

    Attributes:
        embed_dim: four times the width.

    Raises:
        ValueError: if the pools leave nothing of the image, width or depth are below 1, or ``norm`` makes no
            normalisation layer.
    """

    def __init__(self, shape: ImageShape, width: int = 32, depth: int = 3, norm: NormFactory | None = None) -> None:
        super().__init__()
        check_grid(width, depth)
        channels, *sides = shape
        if min(sides) < 2 ** (depth - 1):
            raise ValueError(
                f"depth={depth}: halves the image {depth - 1} times, which leaves nothing of {sides[0]} x {sides[1]}; "
                f"use fewer layers, or set image_size to {2 ** (depth - 1)} or more"
            )
        for layer in range(depth):
            self.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
            self.extend([] if norm is None else [normalization(norm, width)])
            self.append(nn.AvgPool2d(2) if layer < depth - 1 else nn.AdaptiveAvgPool2d(2))
            channels = width
        self.append(nn.Flatten())
        self.embed_dim = 4 * width
        init_convolutions(self)


class UniformMLP(nn.Sequential):
    """A perceptron of one width on pixels: [linear map, norm, GELU] per layer, from torch's own initial values.

    Args:
        shape: shape of one image.
        width: of each layer.
        depth: number of layers.
        norm: makes the normalisation layer after each linear map, such as ``torch.nn.BatchNorm1d``; None for none.

    Attributes:
        embed_dim: the width.

    Raises:
        ValueError: if width or depth are below 1, or ``norm`` makes no normalisation layer.
    """

    def __init__(self, shape: ImageShape, width: int = 512, depth: int = 3, norm: NormFactory | None = None) -> None:
        super().__init__(nn.Flatten())
        check_grid(width, depth)
        features = shape.channels * shape.height * shape.width
        for _ in range(depth):
            self.append(nn.Linear(features, width))
            self.extend([] if norm is None else [normalization(norm, width, "torch.nn.BatchNorm1d")])
            self.append(nn.GELU())
            features = width
        self.embed_dim = width


def check_grid(width: int, depth: int) -> None:
    """Raises a ValueError for a network of no width or no depth."""
    for name, size in (("width", width), ("depth", depth)):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1; try {32 if name == 'width' else 3}")
