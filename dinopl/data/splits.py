"""One image set, read, resized, split and with its normalisation: what the loaders of a DataModule share."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dinopl.core.random import stream_seed
from dinopl.data.images import ImageArrays, ImageFiles, channel_moments, open_store, read_all
from dinopl.data.sources.base import ImageSource
from dinopl.data.subsets import count_of, stratified_split, stratified_subset

Split = Literal["train", "val", "test"]
Normalization = Literal["source", "train"] | tuple[float, float] | tuple[list[float], list[float]]

_TRIED = 32  # files that are decoded at the start, so that a folder of mixed sizes fails there


class SplitImages:
    """The splits of one image set.

    Args:
        source: the set.
        root: the folder of all data sets.
        val_size: how many training images to hold out.
        test_size: how many test images to keep; None keeps all.
        normalization: see ``ImageDataModule``.
        image_size: side to resize to; None keeps the native size.
        num_workers: processes that decode files.
        seed: the run's; the hold-out has a stream of its own under it.

    Attributes:
        train: what the source gives for training; the held-out validation images are in it.
        test: what the source gives for testing.
        rows: which rows of ``train`` (for "train" and "val") or ``test`` each split has.
        mean: for normalisation, one number per channel.
        std: likewise.

    Raises:
        ValueError: if a size does not fit the data.
    """

    def __init__(
        self,
        source: ImageSource,
        root: Path,
        *,
        val_size: int | float,
        test_size: int | float | None,
        normalization: Normalization,
        image_size: int | None,
        num_workers: int,
        seed: int,
    ) -> None:
        self.train, self.test = (_read(source, root, part, image_size, num_workers) for part in (True, False))
        total = len(self.train)
        count = count_of(val_size, total, "val_size")
        train, val = torch.arange(total), torch.arange(0)
        if val_size:
            if count in (0, total):
                raise ValueError(f"val_size={val_size}: that holds out {count} of {total} training images; change it")
            train, val = stratified_split(self.train.label, count, stream_seed("validation", seed))
        test = torch.arange(len(self.test))
        if test_size is not None:
            if (count := count_of(test_size, len(test), "test_size")) == 0:
                raise ValueError(f"test_size={test_size}: that leaves no test image; give more")
            test = stratified_subset(self.test.label, count)  # the first ones of each class, whatever the seed
        self.rows: dict[Split, Tensor] = {"train": train, "val": val, "test": test}
        if normalization == "source" and source.mean is not None and source.std is not None:
            self.mean, self.std = list(source.mean), list(source.std)
        elif isinstance(normalization, str):
            store = open_store(self.train, num_workers, torch.device("cpu"))
            self.mean, self.std = channel_moments(store, train, self.train.scale)
        else:
            self.mean, self.std = ([part] if isinstance(part, int | float) else list(part) for part in normalization)

    def images(self, split: Split) -> ImageArrays | ImageFiles:
        """Where the rows of a split are."""
        return self.test if split == "test" else self.train

    def label(self, split: Split) -> Tensor:
        """Classes of a split's samples, ``(n,)`` int64."""
        return self.images(split).label[self.rows[split]]


def _read(
    source: ImageSource, root: Path, train: bool, image_size: int | None, num_workers: int
) -> ImageArrays | ImageFiles:
    images = source.load(root, train)
    images = images if image_size is None else images.resized(image_size)
    if isinstance(images, ImageArrays):
        return images
    for row in torch.linspace(0, len(images) - 1, min(_TRIED, len(images))).long().tolist():
        images[row]
    return read_all(images, num_workers) if images.in_memory else images


def nested_subset(label: Tensor, size: int | float | None, seed: int, name: str) -> Tensor:
    """Positions of the training images to distil or to probe on: all, or a stratified subset that larger ones contain.

    Args:
        label: classes of the training split, ``(n,)`` int64.
        size: how many; None takes all.
        seed: the run's; the subset has a stream of its own under it.
        name: the argument that holds the size, for messages.
    """
    if size is None:
        return torch.arange(len(label))
    count = count_of(size, len(label), name)
    if count == 0:
        raise ValueError(f"{name}={size}: that leaves no training image; give more")
    return stratified_subset(label, count, stream_seed("subset", seed))
