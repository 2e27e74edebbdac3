"""A multi-layer perceptron on pixels, for images so small that convolutions have little to share."""

from itertools import pairwise

from torch import nn

from dinopl.core.types import ImageShape


class MiniMLP(nn.Sequential):
    """Flattened pixels through linear layers with ReLU: ``(B, C, H, W)`` to ``(B, embed_dim)``.

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
            raise ValueError(f"hidden: {list(hidden)} of MiniMLP must be at least one width, each at least 1; try [32]")
        channels, height, width = shape
        widths = [channels * height * width, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.embed_dim = widths[-1]
