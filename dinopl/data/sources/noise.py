"""Gaussian noise instead of images: does the student learn from the data, or from any input?

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 4.4 and Figure 4 (left). The paper's sigma is
not known; 1 matches the scale of normalised images.
"""

import math
from pathlib import Path

import torch

from dinopl.core.random import stream_seed
from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays
from dinopl.data.sources.base import ImageSource, SourceInfo


class NoiseImages(ImageSource):
    """Independent Gaussian pixels in the shape of another set, with uniformly random labels of its classes.

    Values are N(0, sigma^2) as the network sees them: the set's own mean is 0 and its deviation 1, whatever the other
    set's are. To probe on real images, give them to the data module as ``probe_dataset``.

    Args:
        like: the set whose shape, classes and sizes to take; its images are not read.
        sigma: standard deviation.
        num_train: number of training images; None takes that of ``like``.
        num_test: number of test images, likewise.
        size: side of the images in pixels; None takes that of ``like``. Where the data module's
            ``image_size`` is given, this must be the same, since resizing noise would smooth it.
        seed: of the noise; None derives one from the run's seed.
    """

    mean = (0.0,)
    std = (1.0,)
    resizable = False

    def __init__(
        self,
        like: ImageSource,
        sigma: float = 1.0,
        num_train: int | None = None,
        num_test: int | None = None,
        size: int | None = None,
        seed: int | None = None,
    ) -> None:
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma={sigma}: give a positive number; 1 is the scale of normalised images")
        for option, value in (("num_train", num_train), ("num_test", num_test), ("size", size)):
            if value is not None and value < 1:
                raise ValueError(f"{option}={value}: give a positive number, or None")
        self.like = like
        self.sigma = sigma
        self.num_train = num_train
        self.num_test = num_test
        self.size = size
        self.seed = stream_seed("noise") if seed is None else seed

    def info(self, root: Path) -> SourceInfo:
        """The other set's, but for the sizes that were given."""
        other = self.like.info(root)
        shape = ImageShape(other.shape.channels, self.size, self.size) if self.size else other.shape
        return SourceInfo(shape, other.num_classes, self.num_train or other.num_train, self.num_test or other.num_test)

    def load(self, root: Path, train: bool) -> ImageArrays:
        """Draws one split."""
        info = self.info(root)
        count = info.num_train if train else info.num_test
        if count is None:
            raise ValueError(f"NoiseImages: the size of {self.like.name} is not known; give num_train and num_test")
        generator = torch.Generator().manual_seed(stream_seed("train" if train else "test", self.seed))
        images = torch.randn(count, *info.shape, generator=generator).mul_(self.sigma)
        label = torch.randint(info.num_classes, (count,), generator=generator)
        return ImageArrays(images, label, scale=1.0)
