"""Image sets in one ``.npz`` file. Nothing in it is unpickled."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays
from dinopl.data.sources.base import ImageSource, SourceInfo, locate, missing, one_line

_KEYS = ("x_train", "y_train", "x_test", "y_test")


class NpzImages(ImageSource):
    """A ``.npz`` file with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Images are ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels, uint8 or floating point in
    [0, 1]. Labels are integers from 0. By default the set is normalised by its training images.

    Args:
        path: the file: absolute, or relative to ``root`` or else to the working directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def info(self, root: Path) -> SourceInfo:
        """Reads the arrays' headers and the labels."""
        headers = self._headers(root)
        shapes = {key: self._shape(key, *headers[key]) for key in ("x_train", "x_test")}
        if shapes["x_train"] != shapes["x_test"]:
            raise self._wrong(f"images of x_train are {tuple(shapes['x_train'])}, of x_test {tuple(shapes['x_test'])}")
        labels = [self._labels(root, key) for key in ("y_train", "y_test")]
        for split, label in zip(("train", "test"), labels, strict=True):
            count = headers[f"x_{split}"][0][0]
            if label.shape != (count,) or not count:
                raise self._wrong(f"x_{split} has {count} images, y_{split} the shape {label.shape}")
        classes = int(max(label.max() for label in labels)) + 1
        return SourceInfo(shapes["x_train"], classes, len(labels[0]), len(labels[1]))

    def load(self, root: Path, train: bool) -> ImageArrays:
        """Reads one split."""
        self.info(root)
        split = "train" if train else "test"
        images = self._array(root, f"x_{split}")
        if images.dtype != np.uint8:
            if not (finite := np.isfinite(images)).all():
                first = tuple(np.argwhere(~finite)[0].tolist())
                raise self._wrong(
                    f"x_{split} has {int((~finite).sum())} values that are NaN or infinite, the first at {first}; "
                    "leave those images out, or replace the values"
                )
            low, high = float(images.min()), float(images.max())
            if low < 0 or high > 1:
                remedy = f"subtract {low:g} and divide by {high - low:g}" if low < 0 else "divide by the value of white"
                raise self._wrong(f"x_{split} has values from {low:g} to {high:g}, and must be in [0, 1]; {remedy}")
            images = images.astype(np.float32)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[3] in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(images)
        label = torch.from_numpy(self._labels(root, f"y_{split}").astype(np.int64))
        return ImageArrays(torch.from_numpy(images), label, scale=255.0 if images.dtype == np.uint8 else 1.0)

    def _headers(self, root: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each array, without reading the arrays."""
        path, headers = self._file(root), {}
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as file:
                        old = np.lib.format.read_magic(file) == (1, 0)
                        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                        shape, _, dtype = read(file)
                    headers[name.removesuffix(".npy")] = shape, dtype
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise self._wrong(f"it is not an .npz file ({one_line(error)})") from error
        lacking = [key for key in _KEYS if key not in headers]
        if lacking:
            raise self._wrong(f"{lacking[0]} is missing; it has {', '.join(sorted(headers)) or 'no arrays'}")
        return headers

    def _array(self, root: Path, key: str) -> np.ndarray[Any, np.dtype[Any]]:
        try:
            with np.load(self._file(root), allow_pickle=False) as arrays:
                return arrays[key]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise self._wrong(f"{key} cannot be read ({one_line(error)})") from error

    def _labels(self, root: Path, key: str) -> np.ndarray[Any, np.dtype[Any]]:
        label = self._array(root, key)
        if label.ndim != 1 or label.dtype.kind not in "iu" or (len(label) and label.min() < 0):
            raise self._wrong(f"{key} is {label.dtype} of shape {label.shape}; it must be one integer from 0 per image")
        return label

    def _shape(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ImageShape:
        """Shape of one image of an array ``x``."""
        if dtype != np.uint8 and dtype.kind != "f":
            raise self._wrong(f"{key} is {dtype}; images must be uint8, or floating point in [0, 1]")
        match shape:
            case (_, height, width):
                return ImageShape(1, height, width)
            case (_, height, width, 1 | 3 as channels) | (_, 1 | 3 as channels, height, width):
                return ImageShape(channels, height, width)
        raise self._wrong(f"{key} has shape {shape}; it must be NHW, or NHWC or NCHW with 1 or 3 channels")

    def _file(self, root: Path) -> Path:
        path = locate(root, self.path)
        if not path.is_file():
            raise missing(self.name, path)
        return path

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: {self.path}: {what}")
