"""VGG for small images: a convolutional feature stack, flattened.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), as used in
"Random Teachers are Good Teachers", appendix E.1. What differs from torchvision's ``vgg11`` to ``vgg19``: no adaptive
pooling and no classifier (the feature map is flattened). Layers and names of ``features`` are torchvision's, without
normalisation those of ``vgg11``, with ``norm=torch.nn.BatchNorm2d`` those of ``vgg11_bn``, so its weights load as they
are.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dinopl.core.types import ImageShape
from dinopl.encoders.common import NormFactory, init_convolutions, normalization


class PooledStages(nn.Module):
    """Stages of 3x3 convolutions with ReLU, each stage ended by a 2x2 max pool; the last map is flattened.

    Args:
        shape: shape of one image.
        stages: for each stage the widths of its convolutions.
        norm: makes the normalisation layer between each convolution and its ReLU; None for no normalisation.

    Attributes:
        embed_dim: size of the flattened last map.

    Raises:
        ValueError: if the pools leave nothing of the image, or ``norm`` makes no normalisation layer.
    """

    def __init__(self, shape: ImageShape, stages: Sequence[Sequence[int]], norm: NormFactory | None = None) -> None:
        super().__init__()
        shrink = 2 ** len(stages)
        height, width = shape.height // shrink, shape.width // shrink
        if height < 1 or width < 1:
            remedy = "give fewer widths" if isinstance(self, MiniVGG) else "use MiniVGG"
            raise ValueError(
                f"image_size={min(shape.height, shape.width)}: {type(self).__name__} halves the image {len(stages)} "
                f"times, which leaves nothing of {shape.height} x {shape.width}; set {shrink} or more, or {remedy}"
            )
        self.features = stage_layers(shape.channels, stages, norm)
        self.embed_dim = height * width * (stages[-1][-1] if stages else shape.channels)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images ``(B, C, H, W)`` as ``(B, embed_dim)``."""
        return self.features(x).flatten(1)


def stage_layers(channels: int, stages: Sequence[Sequence[int]], norm: NormFactory | None) -> nn.Sequential:
    """The layers of ``stages`` in one row: [convolution, norm, ReLU] for each width, then a max pool for each stage."""
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            layers += [] if norm is None else [normalization(norm, width)]
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG11(PooledStages):
    """VGG11 (configuration A) without pooling head and classifier: 9,220,480 parameters for RGB images.

    Five max pools, so images of at least 32 x 32 pixels; these have 512 embedding dimensions.

    Args:
        shape: shape of one image.
        norm: makes the normalisation layer after each convolution, such as ``torch.nn.BatchNorm2d`` or ``GroupedNorm``;
            None, the paper's choice, for no normalisation.

    Raises:
        ValueError: if the image is smaller than 32 x 32 pixels, or ``norm`` makes no normalisation layer.
    """

    def __init__(self, shape: ImageShape, norm: NormFactory | None = None) -> None:
        super().__init__(shape, [(64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2], norm)


class VGG13(PooledStages):
    """VGG13 (configuration B): 9,404,992 parameters for RGB images; arguments and errors as of ``VGG11``."""

    def __init__(self, shape: ImageShape, norm: NormFactory | None = None) -> None:
        super().__init__(shape, [(width,) * 2 for width in (64, 128, 256, 512, 512)], norm)


class VGG16(PooledStages):
    """VGG16 (configuration D): 14,714,688 parameters for RGB images; arguments and errors as of ``VGG11``."""

    def __init__(self, shape: ImageShape, norm: NormFactory | None = None) -> None:
        super().__init__(shape, [(64,) * 2, (128,) * 2, *((width,) * 3 for width in (256, 512, 512))], norm)


class VGG19(PooledStages):
    """VGG19 (configuration E): 20,024,384 parameters for RGB images; arguments and errors as of ``VGG11``."""

    def __init__(self, shape: ImageShape, norm: NormFactory | None = None) -> None:
        super().__init__(shape, [(64,) * 2, (128,) * 2, *((width,) * 4 for width in (256, 512, 512))], norm)


class MiniVGG(PooledStages):
    """A VGG of a few narrow stages, which trains on a CPU in seconds.

    By default it has 71,792 parameters for grey images, and turns 8 x 8 pixels into 64 embedding dimensions.

    Args:
        shape: shape of one image.
        widths: number of channels of each stage; after each stage a 2x2 max pool halves the image.
        convs_per_stage: number of 3x3 convolutions in each stage.
        norm: makes the normalisation layer after each convolution; None for no normalisation.

    Raises:
        ValueError: if the pools leave nothing of the image, a width or ``convs_per_stage`` is below 1, or ``norm``
            makes no normalisation layer.
    """

    def __init__(
        self,
        shape: ImageShape,
        widths: tuple[int, ...] = (16, 32, 64),
        convs_per_stage: int = 2,
        norm: NormFactory | None = None,
    ) -> None:
        if any(width < 1 for width in widths):
            raise ValueError(f"widths={list(widths)}: must be at least 1 each; try [16, 32, 64]")
        if convs_per_stage < 1:
            raise ValueError(f"convs_per_stage={convs_per_stage}: must be at least 1; try 2")
        super().__init__(shape, [(width,) * convs_per_stage for width in widths], norm)
