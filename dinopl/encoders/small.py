"""Small networks without a paper of their own: a perceptron on pixels, and a plain convolutional network.

``ConvNet`` is the small student and teacher of "Revisiting Knowledge Distillation" (Lanzillotta et al., 2025), as in
its first author's early code: four convolutions whose widths double. What differs: the last pool takes the maximum over
whatever is left of the map, so that images of other sizes than 32 x 32 are embedded too; and convolutions have no
biases, which BatchNorm would cancel.
"""

from itertools import pairwise

from torch import Tensor, nn

from dinopl.core.types import ImageShape


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
                f"ConvNet halves the image 3 times, which leaves nothing of {sides[0]} x {sides[1]}; "
                "set image_size to 8 or more"
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
