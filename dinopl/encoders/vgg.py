"""VGG for small images: a convolutional feature stack, flattened.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), as used in
"Random Teachers are Good Teachers", appendix E.1. What differs from torchvision's ``vgg11``: no adaptive pooling and no
classifier (the feature map is flattened), and no BatchNorm. Layers and names of ``features`` are torchvision's, so its
weights load as they are.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dinopl.core.types import ImageShape
from dinopl.encoders.common import init_convolutions


class PooledStages(nn.Module):
    """Stages of 3x3 convolutions with ReLU, each stage ended by a 2x2 max pool; the last map is flattened.

    Args:
        shape: shape of one image.
        stages: for each stage the widths of its convolutions.

    Attributes:
        embed_dim: size of the flattened last map.

    Raises:
        ValueError: if the pools leave nothing of the image.
    """

    def __init__(self, shape: ImageShape, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        shrink = 2 ** len(stages)
        height, width = shape.height // shrink, shape.width // shrink
        if height < 1 or width < 1:
            raise ValueError(
                f"{type(self).__name__} halves the image {len(stages)} times, which leaves nothing of "
                f"{shape.height} x {shape.width}; set image_size to {shrink} or more, or use fewer stages"
            )
        self.features = stage_layers(shape.channels, stages)
        self.embed_dim = height * width * (stages[-1][-1] if stages else shape.channels)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images ``(B, C, H, W)`` as ``(B, embed_dim)``."""
        return self.features(x).flatten(1)


def stage_layers(channels: int, stages: Sequence[Sequence[int]]) -> nn.Sequential:
    """The layers of ``stages`` in one row: [convolution, ReLU] for each width, then a max pool for each stage."""
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG11(PooledStages):
    """VGG11 (configuration A) without BatchNorm, pooling head and classifier: 9,220,480 parameters for RGB images.

    Five max pools, so images of at least 32 x 32 pixels; these have 512 embedding dimensions.

    Args:
        shape: shape of one image.

    Raises:
        ValueError: if the image is smaller than 32 x 32 pixels.
    """

    def __init__(self, shape: ImageShape) -> None:
        super().__init__(shape, [(64,), (128,), (256, 256), (512, 512), (512, 512)])


class MiniVGG(PooledStages):
    """A VGG of a few narrow stages, which trains on a CPU in seconds.

    By default it has 71,792 parameters for grey images, and turns 8 x 8 pixels into 64 embedding dimensions.

    Args:
        shape: shape of one image.
        widths: number of channels of each stage; after each stage a 2x2 max pool halves the image.
        convs_per_stage: number of 3x3 convolutions in each stage.

    Raises:
        ValueError: if the pools leave nothing of the image, or a width or ``convs_per_stage`` is below 1.
    """

    def __init__(self, shape: ImageShape, widths: tuple[int, ...] = (16, 32, 64), convs_per_stage: int = 2) -> None:
        if any(width < 1 for width in widths):
            raise ValueError(f"widths={list(widths)}: must be at least 1 each; try [16, 32, 64]")
        if convs_per_stage < 1:
            raise ValueError(f"convs_per_stage={convs_per_stage}: must be at least 1; try 2")
        super().__init__(shape, [(width,) * convs_per_stage for width in widths])
