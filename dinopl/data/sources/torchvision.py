"""Any data set that is used like torchvision's: ``dataset(root, ...)[i] -> (image, label)``."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageFiles, as_tensor
from dinopl.data.sources.base import ImageSource, SourceInfo, one_line
from dinopl.data.sources.downloads import fetch_once


class ItemReader:
    """The image of an item ``(image, label)``; a class, so that it can be sent to worker processes."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __call__(self, row: int) -> Any:
        """The image of one row."""
        return self.items[row][0]


class TorchvisionImages(ImageSource):
    """Any torchvision-style data set by class path, such as ``torchvision.datasets.SVHN``.

    The class is called with ``root`` and ``download`` where it has such arguments. Its items are ``(image, label)``, an
    image being a PIL image, an array or a uint8 tensor. By default it is normalised by its training images.

    Args:
        dataset: class path of the data set, a subclass of ``torch.utils.data.Dataset``.
        train_args: further arguments for the training split; None is ``{train: true}``.
        test_args: further arguments for the test split; None is ``{train: false}``.
        num_classes: number of classes; None counts the labels, for which the data must be there already.
        image_shape: channels (1 or 3), height and width; None looks at the first image, likewise.
        in_memory: decode all images once at the start; otherwise ``num_workers`` processes decode them as they
            are used.
    """

    def __init__(
        self,
        dataset: str,
        train_args: dict[str, Any] | None = None,
        test_args: dict[str, Any] | None = None,
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        in_memory: bool = True,
    ) -> None:
        self.dataset = dataset
        self.split_args = {
            True: {"train": True} if train_args is None else train_args,
            False: {"train": False} if test_args is None else test_args,
        }
        self.num_classes = num_classes
        self.image_shape = ImageShape(*image_shape) if image_shape else None
        self.in_memory = in_memory
        self._factory = find_class(dataset)
        self._parameters = inspect.signature(self._factory).parameters
        self._built: dict[bool, Any] = {}

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.dataset.rpartition(".")[2]

    def info(self, root: Path) -> SourceInfo:
        """From the arguments; what they leave open is read from the data set."""
        if self.num_classes and self.image_shape:
            return SourceInfo(self.image_shape, self.num_classes)
        train, test = self._items(root, True), self._items(root, False)
        shape = self.image_shape or _shape_of(train[0][0])
        classes = self.num_classes or int(max(item_labels(items).max() for items in (train, test))) + 1
        return SourceInfo(shape, classes, len(train), len(test))

    def prepare(self, root: Path) -> None:
        """Downloads what is not there, if the data set can do that."""
        if "download" in self._parameters and not self._complete(root):

            def fetch(staging: Path) -> None:
                for train in (True, False):
                    self._build(staging, train, download=True)

            fetch_once(self.name, root, root, lambda: self._complete(root), fetch)
            self._built.clear()

    def load(self, root: Path, train: bool) -> ImageFiles:
        """Opens one split."""
        items = self._items(root, train)
        self._built.pop(train)  # the reader has it now: images in memory are not to be kept twice
        shape = self.image_shape or _shape_of(items[0][0])
        return ImageFiles(ItemReader(items), item_labels(items), shape, in_memory=self.in_memory)

    def _items(self, root: Path, train: bool) -> Any:
        """The split as a data set, built once."""
        if train not in self._built:
            try:
                self._built[train] = self._build(root, train)
            except (RuntimeError, OSError) as error:
                raise FileNotFoundError(
                    f"{self.name}: not found under {root} ({one_line(error)}); put it there, or set root or "
                    "$DINOPL_DATA; for a download, num_classes and image_shape must be given, as it comes later"
                ) from error
        return self._built[train]

    def _build(self, root: Path, train: bool, **download: bool) -> Any:
        place = {"root": root} if "root" in self._parameters else {}
        try:
            return self._factory(**place, **self.split_args[train], **download)
        except TypeError as error:
            option = "train_args" if train else "test_args"
            raise ValueError(f"{option}={self.split_args[train]}: do not fit {self.name} ({error})") from error

    def _complete(self, root: Path) -> bool:
        try:
            return bool(self._items(root, True) and self._items(root, False))
        except FileNotFoundError:
            return False


def find_class(path: str) -> Any:
    """The data set class that a dotted path names. Nothing else is accepted: a configuration must not call anything.

    Raises:
        ValueError: if there is no such thing, or it is no data set class.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"dataset={path}: not a class that can be imported ({one_line(error)}); "
            "give a class path such as torchvision.datasets.SVHN"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, Dataset)):
        raise ValueError(
            f"dataset={path}: not a subclass of torch.utils.data.Dataset; "
            "give the class path of one, such as torchvision.datasets.SVHN"
        )
    return found


def item_labels(items: Any) -> Tensor:
    """Labels of a torchvision-style data set, ``(N,)`` int64: ``targets`` or ``labels``, or else from every item."""
    for attribute in ("targets", "labels"):
        label = getattr(items, attribute, None)
        if label is not None and len(label) == len(items):
            break
    else:
        label = [items[row][1] for row in range(len(items))]
    try:
        return torch.as_tensor(label).long()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(items).__name__}: its labels are not integers ({error})") from error


def _shape_of(image: Any) -> ImageShape:
    """Shape of a PIL image, an array or a tensor; a PIL image that is not gray is taken as RGB."""
    mode = getattr(image, "mode", "")
    gray = mode in ("1", "L", "F") or mode.startswith("I")  # I;16B and its like
    return ImageShape(*as_tensor(image, 1 if gray else 3).shape)
