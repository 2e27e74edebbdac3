"""The published image sets: scikit-learn's digits, and those that torchvision can fetch, with sizes and constants.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 4.1 and appendix E. Constants are those of
the authors' code, which normalises CIFAR100 with CIFAR10's; theirs for STL10 are not known, so that it has none here.
FashionMNIST, which the paper does not use, has its own mean and deviation.
"""

import gzip
import importlib
import math
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays
from dinopl.data.sources.base import ImageSource, SourceInfo, missing, one_line
from dinopl.data.sources.downloads import fetch_once

_DIGITS = 1797


class DigitsImages(ImageSource):
    """Handwritten digits, 1797 gray images of 8x8, embedded in scikit-learn (UCI optical recognition of digits).

    Args:
        test_size: images in the test split; it is stratified and always the same.
    """

    def __init__(self, test_size: int = 500) -> None:
        if not 10 <= test_size <= _DIGITS - 10:
            raise ValueError(f"test_size={test_size}: give a number from 10 to {_DIGITS - 10}")
        self.test_size = test_size

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return SourceInfo(ImageShape(1, 8, 8), 10, _DIGITS - self.test_size, self.test_size)

    def load(self, root: Path, train: bool) -> ImageArrays:
        """Reads scikit-learn's copy; values are 0 to 16."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, label = load_digits(return_X_y=True)
        splits = train_test_split(images, label, test_size=self.test_size, random_state=0, stratify=label)
        images, label = splits[0 if train else 1], splits[2 if train else 3]
        stored = torch.from_numpy(images).to(torch.uint8).view(-1, 1, 8, 8)
        return ImageArrays(stored, torch.from_numpy(label).long(), scale=16.0)


class PublishedImages(ImageSource):
    """A published set: known before it is read, fetched if it is not there."""

    torchvision_name: ClassVar[str]
    facts: ClassVar[SourceInfo]
    folder: ClassVar[str]
    """Folder of the files under the root, the one that torchvision uses."""
    files: ClassVar[tuple[str, ...]]

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return self.facts

    def complete(self, root: Path) -> bool:
        """Whether all files are there."""
        return all((root / self.folder / file).is_file() for file in self.files)

    def prepare(self, root: Path) -> None:
        """Downloads what is not there; touches nothing otherwise."""
        if not self.complete(root):
            fetch_once(self.name, root / self.folder, root, lambda: self.complete(root), self.fetch)

    def load(self, root: Path, train: bool) -> ImageArrays:
        """Reads one split from the files."""
        if not self.complete(root):
            raise missing(self.name, root / self.folder)
        try:
            return self.read(root, train)
        except (RuntimeError, OSError, EOFError, ValueError, zlib.error) as error:
            raise ValueError(
                f"{self.name}: the files in {root / self.folder} are damaged ({one_line(error)}); "
                "remove them and fetch them again"
            ) from error

    def fetch(self, root: Path) -> object:
        """Downloads the set under ``root``, through torchvision."""
        return self.torchvision()(root, download=True)

    def torchvision(self) -> Any:
        """Torchvision's class of the same set."""
        return getattr(importlib.import_module("torchvision.datasets"), self.name.removesuffix("Images"))

    @abstractmethod
    def read(self, root: Path, train: bool) -> ImageArrays:
        """Reads one split of a complete set."""


class MNISTImages(PublishedImages):
    """MNIST: handwritten digits, gray, 28x28, 60,000 for training and 10,000 for testing.

    Read from ``MNIST/raw`` under the root, unpacked or as ``.gz``.
    """

    torchvision_name = "MNIST"
    facts = SourceInfo(ImageShape(1, 28, 28), 10, 60_000, 10_000)
    folder = "MNIST/raw"
    files = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    mean: tuple[float, ...] | None = (0.1307,)
    std: tuple[float, ...] | None = (0.3081,)

    def complete(self, root: Path) -> bool:
        """Whether each file is there in one of its two forms."""
        return all(self._file(root, file).is_file() for file in self.files)

    def read(self, root: Path, train: bool) -> ImageArrays:
        """Reads the idx files."""
        images, label = (read_idx(self._file(root, file)) for file in self.files[0 if train else 2 :][:2])
        if images.ndim != 3 or label.shape != images.shape[:1]:
            raise ValueError(f"images of shape {tuple(images.shape)} with labels of shape {tuple(label.shape)}")
        return ImageArrays(images.unsqueeze(1), label.long())

    def _file(self, root: Path, name: str) -> Path:
        unpacked = root / self.folder / name
        return unpacked if unpacked.is_file() else unpacked.with_name(f"{name}.gz")


class FashionMNISTImages(MNISTImages):
    """Fashion-MNIST: clothes, gray, 28x28, 60,000 for training and 10,000 for testing.

    Read from ``FashionMNIST/raw`` under the root, unpacked or as ``.gz``.
    """

    torchvision_name = "FashionMNIST"
    folder = "FashionMNIST/raw"
    mean = (0.2860,)
    std = (0.3530,)


class CIFAR10Images(PublishedImages):
    """CIFAR-10: 10 kinds of objects, RGB, 32x32, 50,000 for training and 10,000 for testing.

    Read from ``cifar-10-batches-py`` under the root.
    """

    torchvision_name = "CIFAR10"
    facts = SourceInfo(ImageShape(3, 32, 32), 10, 50_000, 10_000)
    folder = "cifar-10-batches-py"
    files = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.247, 0.243, 0.261)

    def read(self, root: Path, train: bool) -> ImageArrays:
        """Reads through torchvision, which checks the files' sums before it unpickles them."""
        data = self.torchvision()(root, train=train)
        return ImageArrays(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))


class CIFAR100Images(CIFAR10Images):
    """CIFAR-100: 100 kinds of objects, RGB, 32x32, 50,000 for training and 10,000 for testing.

    Read from ``cifar-100-python`` under the root. Normalised with CIFAR-10's constants, as the reference code does.
    """

    torchvision_name = "CIFAR100"
    facts = SourceInfo(ImageShape(3, 32, 32), 100, 50_000, 10_000)
    folder = "cifar-100-python"
    files = ("train", "test", "meta")


class STL10Images(PublishedImages):
    """STL-10: 10 kinds of objects, RGB, 96x96, 5,000 labelled for training, 8,000 for testing, 100,000 unlabelled.

    Read from ``stl10_binary`` under the root. There are no published constants: by default it is normalised by its
    training images.

    Args:
        unlabelled: train on the 100,000 unlabelled images. Probes then need another set, such as this one without.
    """

    torchvision_name = "STL10"
    folder = "stl10_binary"
    files = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin")
    facts = SourceInfo(ImageShape(3, 96, 96), 10, 5_000, 8_000)

    def __init__(self, unlabelled: bool = False) -> None:
        self.unlabelled = unlabelled

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return self.facts._replace(num_train=100_000) if self.unlabelled else self.facts

    def read(self, root: Path, train: bool) -> ImageArrays:
        """Reads through torchvision; unlabelled images have the class -1."""
        split = ("unlabeled" if self.unlabelled else "train") if train else "test"
        data = self.torchvision()(root, split=split)
        return ImageArrays(torch.from_numpy(data.data), torch.from_numpy(np.asarray(data.labels)).long())


def read_idx(path: Path) -> Tensor:
    """An idx file of bytes, plain or gzipped if its name ends in ``.gz``, as uint8 with the sizes that it states.

    Raises:
        ValueError: if it is not such a file, or its length is not what it states.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    rank = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    head = 4 + 4 * rank
    sizes = np.frombuffer(content[4:head], dtype=">i4").tolist()
    if not rank or len(content) != head + math.prod(sizes):
        raise ValueError(f"{path.name} is not an idx file of bytes, or is truncated")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=head).copy()).view(*sizes)
