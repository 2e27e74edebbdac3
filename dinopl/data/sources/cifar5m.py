"""CIFAR-5m: six million generated images that look like CIFAR-10's.

"The Deep Bootstrap Framework" (Nakkiran, Neyshabur and Sedghi, ICLR 2021). Its six files hold 18 GB. They are
not read whole: arrays in an uncompressed ``.npz`` lie there as they are in memory, and are mapped.
"""

import zipfile
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays, ImageFiles
from dinopl.data.sources.base import ImageSource, SourceInfo, locate, missing, one_line

Array = np.ndarray[Any, np.dtype[Any]]

_SHAPE = ImageShape(3, 32, 32)
_PARTS = 6
_PER_PART = 1_000_448
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name, whose length and the next are its last words


class CIFAR5mImages(ImageSource):
    """CIFAR-5m: 10 kinds of objects, RGB, 32x32, 5,002,240 for training and 1,000,448 for testing.

    Read from ``part0.npz`` to ``part5.npz``, or ``cifar5m_part0.npz`` and so on, with the arrays ``X`` and ``Y``; only
    files whose images are used need be there. The last one is the test split. Normalised with CIFAR-10's
    constants. It is not downloaded.

    Args:
        folder: the folder of the files: absolute, or relative to ``root`` or else to the working directory.
        num_train: the first so many training images, kept in memory (3 kB each); None takes all, which
            ``num_workers`` processes read from the files as they are used.
        num_test: the first so many test images, kept in memory; None takes all.
    """

    mean = (0.4914, 0.4822, 0.4465)
    std = (0.247, 0.243, 0.261)

    def __init__(self, folder: str = "cifar5m", num_train: int | None = None, num_test: int | None = 10_000) -> None:
        for option, value in (("num_train", num_train), ("num_test", num_test)):
            if value is not None and value < 1:
                raise ValueError(f"{option}={value}: give a positive number, or None for all")
        self.folder = folder
        self.num_train = num_train
        self.num_test = num_test

    def info(self, root: Path) -> SourceInfo:
        """Known beforehand."""
        return SourceInfo(_SHAPE, 10, self.num_train or (_PARTS - 1) * _PER_PART, self.num_test or _PER_PART)

    def load(self, root: Path, train: bool) -> ImageArrays | ImageFiles:
        """Reads the first images of one split, or maps all of them."""
        numbers = range(_PARTS - 1) if train else range(_PARTS - 1, _PARTS)
        option, count = ("num_train", self.num_train) if train else ("num_test", self.num_test)
        files = (self._file(locate(root, self.folder), number) for number in numbers)
        try:
            if count is not None:
                return _first(files, count, option)
            paths = list(files)
            images = MappedImages(paths)
            label = torch.from_numpy(np.concatenate([_labels(path) for path in paths]))
            if len(label) != len(images):
                raise ValueError(f"there are {len(images)} images and {len(label)} labels")
            return ImageFiles(images, label, _SHAPE)
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.name}: {locate(root, self.folder)}: {one_line(error)}") from error

    def _file(self, folder: Path, number: int) -> Path:
        paths = [folder / f"{prefix}part{number}.npz" for prefix in ("", "cifar5m_")]
        for path in paths:
            if path.is_file():
                return path
        raise missing(self.name, paths[0])


def _first(paths: Iterable[Path], count: int, option: str) -> ImageArrays:
    """The first ``count`` images of some files, in memory. Files that are not needed are not opened."""
    images, labels, left = [], [], count
    for path in paths:
        part = map_array(path, "X")
        _check_images(part)
        images.append(part[:left])
        labels.append(_labels(path)[:left])
        if len(images[-1]) != len(labels[-1]):
            raise ValueError(f"{path.name} has {len(part)} images and another number of labels")
        left -= len(images[-1])
        if not left:
            stored = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).contiguous()
            return ImageArrays(stored, torch.from_numpy(np.concatenate(labels)))
    raise ValueError(f"{option}={count}: there are only {count - left} images")


class MappedImages:
    """The images of a row over several files with an array ``X``; a class, so that worker processes can be sent it."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._maps: list[Array] | None = None
        self._ends = list(accumulate(len(part) for part in self._parts()))

    def __len__(self) -> int:
        return self._ends[-1]

    def __call__(self, row: int) -> Array:
        """One image, ``(32, 32, 3)`` uint8."""
        part = bisect_right(self._ends, row)
        return np.array(self._parts()[part][row - (self._ends[part - 1] if part else 0)])

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which would be sent as copies of what they map."""
        return self.__dict__ | {"_maps": None}

    def _parts(self) -> list[Array]:
        if self._maps is None:
            self._maps = [map_array(path, "X") for path in self.paths]
            for part in self._maps:
                _check_images(part)
        return self._maps


def map_array(path: Path, name: str) -> Array:
    """Maps an array of an uncompressed ``.npz`` file into memory, read-only.

    Raises:
        KeyError: if there is no such array.
        ValueError: if it is compressed, or no array of numbers in C order.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path.name} is compressed and cannot be mapped; save it again with numpy.savez")
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject:
            raise ValueError(f"{name} of {path.name} is not an array of numbers in C order")
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)


def _check_images(images: Array) -> None:
    if images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"X is {images.dtype} of shape {images.shape}, not uint8 (n, 32, 32, 3)")


def _labels(path: Path) -> Array:
    with np.load(path, allow_pickle=False) as arrays:
        label: Array = arrays["Y"]
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise ValueError(f"Y of {path.name} is {label.dtype} of shape {label.shape}, not one integer per image")
    return label.astype(np.int64)
