"""A VGG small enough to train on a CPU in seconds, in any image size and number of channels."""

from dinopl.core.types import ImageShape
from dinopl.encoders.vgg import PooledStages


class MiniVGG(PooledStages):
    """A few narrow VGG stages; with the default widths 71,792 parameters for grey images.

    The default turns 8 x 8 pixels into 64 embedding dimensions.

    Args:
        shape: shape of one image.
        widths: number of channels of each stage; after each stage a 2x2 max pool halves the image.
        convs_per_stage: number of 3x3 convolutions in each stage.

    Raises:
        ValueError: if the pools leave nothing of the image, or a width or ``convs_per_stage`` is below 1.
    """

    def __init__(self, shape: ImageShape, widths: tuple[int, ...] = (16, 32, 64), convs_per_stage: int = 2) -> None:
        if any(width < 1 for width in widths):
            raise ValueError(f"--model.encoder.widths must be at least 1 each, not {list(widths)}; try [16, 32, 64]")
        if convs_per_stage < 1:
            raise ValueError(f"--model.encoder.convs_per_stage must be at least 1, not {convs_per_stage}; try 2")
        super().__init__(shape, [(width,) * convs_per_stage for width in widths])
