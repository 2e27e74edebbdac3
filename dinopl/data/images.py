"""Images as a source provides them: arrays in memory, or files that are decoded one at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dinopl.core.types import ImageShape
from dinopl.data.views import resize

_CHUNK = 4096  # images that are resized or summed at a time, which bounds the memory for floating-point copies


@dataclass(frozen=True)
class ImageArrays:
    """All images of one split, in memory.

    Attributes:
        images: ``(N, C, H, W)`` uint8, or float32.
        label: class of each image, ``(N,)`` int64; -1 where there is none.
        scale: the stored value that means white: 255, 16 for the digits, 1 for floating point.
    """

    images: Tensor
    label: Tensor
    scale: float = 255.0

    def __len__(self) -> int:
        return len(self.label)

    @property
    def shape(self) -> ImageShape:
        """Shape of one image."""
        return ImageShape(*self.images.shape[1:])

    def resized(self, size: int) -> "ImageArrays":
        """The same images as squares of side ``size``; see ``square``."""
        if self.images.shape[-2:] == (size, size):
            return self
        # A coarse integer scale, as that of the digits, would lose the values between two of its few levels.
        coarse = self.images.dtype == torch.uint8 and self.scale < 255
        pieces = [square(part.float() if coarse else part, size) for part in torch.split(self.images, _CHUNK)]
        return replace(self, images=torch.cat(pieces))


class ImageFiles(Dataset[Tensor]):
    """All images of one split, on disk: a map from row to image, which worker processes can be given.

    Args:
        read: gives the image of a row, as a PIL image, an array ``(H, W)`` or ``(H, W, C)``, or a tensor
            ``(C, H, W)``; it must survive pickling, since worker processes call it.
        label: class of each image, ``(N,)`` int64.
        shape: what each image is decoded to.
        squared: whether to resize and crop to that shape; otherwise an image of another size is an error.
        in_memory: whether to decode all of them once at the start.
        scale: the decoded value that means white.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        label: Tensor,
        shape: ImageShape,
        squared: bool = False,
        in_memory: bool = False,
        scale: float = 255.0,
    ) -> None:
        self.read = read
        self.label = label
        self.shape = shape
        self.squared = squared
        self.in_memory = in_memory
        self.scale = scale

    def __len__(self) -> int:
        return len(self.label)

    def resized(self, size: int) -> "ImageFiles":
        """The same images as squares of side ``size``; see ``square``."""
        shape = ImageShape(self.shape.channels, size, size)
        return ImageFiles(self.read, self.label, shape, True, self.in_memory, self.scale)

    def __getitem__(self, row: int) -> Tensor:
        """Reads one image.

        Args:
            row: position in the split.

        Returns:
            ``shape`` uint8.

        Raises:
            ValueError: if the image has another size and none was chosen, or another number of channels.
        """
        image = as_tensor(self.read(row), self.shape.channels)
        image = square(image, self.shape.height) if self.squared else image
        if tuple(image.shape) != self.shape:
            raise ValueError(
                f"image {row} has shape {tuple(image.shape)}, the first one {tuple(self.shape)}; "
                "set image_size to bring all of them to one size"
            )
        return image


def as_tensor(image: Any, channels: int) -> Tensor:
    """A PIL image, an array ``(H, W[, C])`` or a tensor ``(C, H, W)`` as uint8 ``(C, H, W)``.

    Args:
        image: the image; a PIL image is converted to gray or RGB.
        channels: 1 or 3.
    """
    from torchvision.transforms.v2 import functional as transforms

    if hasattr(image, "convert"):
        image = image.convert("L" if channels == 1 else "RGB")
    image = transforms.to_image(image).as_subclass(Tensor)
    return transforms.to_dtype(image, torch.uint8, scale=True)


def square(images: Tensor, size: int) -> Tensor:
    """Resizes the shorter side to ``size`` and crops the centre.

    Args:
        images: ``(..., C, H, W)`` uint8 or floating point.
        size: side of the result in pixels.

    Returns:
        ``(..., C, size, size)`` of the same type: for square images a plain bilinear, anti-aliased resize.
    """
    from torchvision.transforms.v2 import functional as transforms

    if images.shape[-2] == images.shape[-1] and images.is_floating_point():
        return resize(images, size, size)
    return transforms.center_crop(transforms.resize(images, [size], antialias=True), [size, size])
