"""Views of images: what a network sees of a sample.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3 and appendix E: the paper distils on the
whole image, without augmentation. Each object makes one view, of a whole batch at once, on the images' device. Random
numbers come from the samples' keys, never from a generator, so that a view of a sample does not depend on what else is
in the batch. What differs from the authors' code: a whole image is a plain resize, where theirs is a random crop whose
area is always 1.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from dinopl.core.random import integers


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, anti-aliased resize, ``(B, C, H, W) -> (B, C, height, width)``; the input itself at that size."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crops each image ``(B, C, H, W)`` out of its zero-padded self, then mirrors some; the shape stays.

    Args:
        images: ``(B, C, H, W)``.
        top: first row of each crop in the padded image, ``(B,)`` in ``[0, 2 * padding]``.
        left: first column, likewise.
        flip: whether to mirror left and right, ``(B,)`` bool.
        padding: pixels of zeros on each side.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device).expand(batch, width)
    columns = left[:, None] + torch.where(flip[:, None], across.flip(1), across)
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).reshape(batch, 1, -1)
    return padded.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view_as(images)


class ImageView(ABC):
    """Makes one view of each image of a batch."""

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether the view depends on the image alone, so that what is computed from it may be kept."""

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Makes the views ``(B, C, h, w)``, which may share the input's storage, and must not change it.

        Args:
            images: ``(B, C, H, W)`` floating point, before normalisation: 0 is black, 1 is white.
            keys: one key per sample, ``(B,)`` int64, for ``dinopl.core.random.uniform`` and ``integers``.
        """

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view of an image of that height and width."""
        return height, width


class WholeImage(ImageView):
    """The whole image, without augmentation.

    Args:
        size: what the image is resized to: the side of a square, or height and width; None keeps the data's size (see
            ``ImageDataModule``).
    """

    def __init__(self, size: int | tuple[int, int] | None = None) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size={size}: give positive numbers of pixels, or None for the data's own")

    @property
    def deterministic(self) -> bool:
        """True."""
        return True

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that was chosen, or else the image's own."""
        return self.size or (height, width)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Resizes; a no-op at native size."""
        return resize(images, *self.out_size(*images.shape[-2:]))


class CropFlip(ImageView):
    """Random crop out of the zero-padded image, and random mirroring: the usual augmentation of small images.

    Args:
        padding: pixels of zeros added on each side before cropping.
        flip: whether half of the images, chosen at random, are mirrored left and right.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if padding < 0:
            raise ValueError(f"padding={padding}: give 0 or more pixels")
        self.padding = padding
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        """True only if there is nothing to draw."""
        return self.padding == 0 and not self.flip

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Crops and mirrors each image by its key."""
        places = 2 * self.padding + 1
        top, left, flip = integers(keys, 0, (places, places, 2 if self.flip else 1))
        return crop_flip(images, top, left, flip.bool(), self.padding)
