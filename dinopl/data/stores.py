"""Where stored images are fetched from: a tensor on the training device, or files through worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dinopl.data.images import ImageArrays, ImageFiles

_READ = 256  # images of a batch where the batch size does not matter


class ImageStore(ABC):
    """Fetches stored images by row, a batch at a time.

    Attributes:
        image_size: height and width of a stored image.
    """

    image_size: tuple[int, int]

    @abstractmethod
    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Fetches batches, in order.

        Args:
            rows: for each batch the rows of its images, ``(B,)`` int64 on the CPU.

        Yields:
            Stored images ``(B, C, H, W)`` on the store's device, as the source scales them.
        """


class TensorStore(ImageStore):
    """Images in one tensor, wherever that is.

    Args:
        images: ``(N, C, H, W)``.
    """

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
    """Mean and standard deviation of each channel over images and pixels, in units of ``scale``.

    Args:
        store: where the images are.
        rows: which images count, ``(M,)`` int64.
        scale: the stored value that means 1.

    Returns:
        Means and (population) standard deviations, one number per channel, summed in float64. A constant channel has 1
        as its deviation, so that dividing by it is harmless.
    """
    sums = [
        torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
        for pixels in (stored.double() / scale for stored in store.batches(torch.split(rows, _READ)))
    ]
    pixels_per_channel = len(rows) * next(store.batches([rows[:1]]))[0, 0].numel()
    mean, square = torch.stack(sums).sum(0) / pixels_per_channel
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), torch.where(deviation > 1e-8, deviation, 1.0).tolist()
