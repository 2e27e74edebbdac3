"""Images as a source provides them, arrays or files, and the stores that fetch them: a tensor, or worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinopl.core.errors import DataError
from dinopl.core.types import ImageShape
from dinopl.data.views import resize

_CHUNK = 4096  # images that are resized or summed at a time, which bounds the memory for floating-point copies
_READ = 256  # images of a batch where the batch size does not matter


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
        """Reads the image of a row, uint8; DataError if it is not of the ``shape``, and no size was chosen."""
        name = self.paths[row] if self.paths else f"image {row}"
        try:
            image = as_tensor(self.read(row), self.shape.channels)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
        image = square(image, self.shape.height) if self.squared else image
        if tuple(image.shape) != self.shape:
            raise DataError(
                f"{name} has shape {tuple(image.shape)}, the first one {tuple(self.shape)}; "
                "set image_size to bring all of them to one size"
            )
        return image

    @property
    def paths(self) -> list[str]:
        """The file of each row, where images are files of their own; empty otherwise."""
        return getattr(self.read, "files", [])


def as_tensor(image: Any, channels: int) -> Tensor:
    """An image as a viewer shows it: upright, on white where it is transparent, with 8 bits a channel.

    Args:
        image: a PIL image, an array ``(H, W[, C])`` or a tensor ``(C, H, W)``. Values of 16 bits are rescaled, and
            floating-point ones are taken to be from 0 to 1.
        channels: of the result; of arrays and tensors it is their own.

    Returns:
        ``(C, H, W)`` uint8.

    Raises:
        ValueError: if values are of another range, so that it is not known which of them is white.
    """
    from torchvision.transforms.v2 import functional as transforms

    kind = str(getattr(image, "dtype", ""))
    if hasattr(image, "convert"):
        from PIL import Image, ImageOps

        kind, is_png = f"mode {image.mode}", image.format == "PNG"
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # which PIL would cut off at 255
            pixels = np.array(image)
            image = pixels.astype(np.uint16) if image.mode != "F" and (image.mode != "I" or is_png) else pixels
        else:
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
    image = transforms.to_image(image).as_subclass(Tensor)
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.dtype == torch.uint16:
        image = (image.int() // 257).to(torch.uint8)  # 65535 is white
    elif image.is_floating_point() and bool(((image >= 0) & (image <= 1)).all()):
        image = transforms.to_dtype(image, torch.uint8, scale=True)
    elif not image.is_floating_point() and kind != "mode I" and 0 <= int(image.min()) <= int(image.max()) <= 255:
        image = image.to(torch.uint8)
    else:
        low, high = float(image.min()), float(image.max())
        raise ValueError(f"{kind} with values from {low:g} to {high:g}, and it is not known which is white; use 8 bits")
    # an image of one channel that was wanted in three
    return image.expand(channels, -1, -1) if kind.startswith("mode") else image


def square(images: Tensor, size: int) -> Tensor:
    """Resizes the shorter side to ``size`` pixels and crops the centre: ``(..., C, H, W)`` to ``(..., C, size, size)``.

    For square images this is a plain bilinear, anti-aliased resize.
    """
    from torchvision.transforms.v2 import functional as transforms

    if images.shape[-2] == images.shape[-1] and images.is_floating_point():
        return resize(images, size, size)
    return transforms.center_crop(transforms.resize(images, [size], antialias=True), [size, size])


class ImageStore(ABC):
    """Fetches stored images by row, a batch at a time.

    Attributes:
        image_size: height and width of a stored image.
    """

    image_size: tuple[int, int]

    @abstractmethod
    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Fetches batches, in order, of the rows ``(B,)`` int64 on the CPU that are given for each.

        Yields:
            Stored images ``(B, C, H, W)`` on the store's device, as the source scales them.
        """


class TensorStore(ImageStore):
    """Images ``(N, C, H, W)`` in one tensor, wherever that is."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.image_size = (images.shape[-2], images.shape[-1])

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Indexes the tensor; the rows of all batches travel to its device in one copy."""
        if rows:
            on_device = torch.cat(list(rows)).to(self.images.device)
            for batch in torch.split(on_device, [len(batch) for batch in rows]):
                yield self.images.index_select(0, batch)


class WorkerStore(ImageStore):
    """Images that are decoded when a batch needs them.

    Args:
        files: the images.
        num_workers: processes that decode ahead of their use; with 0 this process does.
        device: where the batches go.
    """

    def __init__(self, files: ImageFiles, num_workers: int, device: torch.device) -> None:
        self.device = device
        self.image_size = (files.shape.height, files.shape.width)
        self._lists = _RowLists()
        self._loader: DataLoader[Tensor] = DataLoader(
            files,
            batch_sampler=self._lists,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # a loader draws a seed for its workers: not from the run's generator
        )

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Decodes batches ahead of their use; the workers stay for the next call."""
        self._lists.rows = rows
        for images in self._loader:
            yield images.to(self.device, non_blocking=True)


class _RowLists:
    """A batch sampler whose lists of rows may change between iterations."""

    def __init__(self) -> None:
        self.rows: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def open_store(images: ImageArrays | ImageFiles, num_workers: int, device: torch.device) -> ImageStore:
    """The store that fits: a tensor, brought to the device, or worker processes."""
    if isinstance(images, ImageArrays):
        return TensorStore(images.images.to(device))
    return WorkerStore(images, num_workers, device)


def read_all(files: ImageFiles, num_workers: int) -> ImageArrays:
    """Decodes all files into memory."""
    images = torch.empty(len(files), *files.shape, dtype=torch.uint8)
    rows = torch.split(torch.arange(len(files)), _READ)
    store = WorkerStore(files, num_workers, torch.device("cpu"))
    for batch, decoded in zip(rows, store.batches(rows), strict=True):
        images[batch[0] : batch[-1] + 1] = decoded
    return ImageArrays(images, files.label, files.scale)


def channel_moments(store: ImageStore, rows: Tensor, scale: float) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over images and pixels, in units of ``scale``, summed in float64.

    The deviation is the population's. A constant channel has 1 as its deviation, so that dividing by it is harmless.
    """
    sums = [
        torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
        for pixels in (stored.double() / scale for stored in store.batches(torch.split(rows, _READ)))
    ]
    pixels_per_channel = len(rows) * next(store.batches([rows[:1]]))[0, 0].numel()
    mean, square = torch.stack(sums).sum(0) / pixels_per_channel
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), torch.where(deviation > 1e-8, deviation, 1.0).tolist()
