"""The interface of image sources, and the errors that they share."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from dinopl.core.types import ImageShape
from dinopl.data.images import ImageArrays, ImageFiles


class SourceInfo(NamedTuple):
    """Facts of an image set that are known before its images are read."""

    shape: ImageShape
    num_classes: int
    num_train: int | None = None
    num_test: int | None = None


class ImageSource(ABC):
    """An image set with a training and a test split.

    Attributes:
        mean: of each channel, for normalisation, in units where white is 1; None if the set has no published one.
        std: standard deviation of each channel, likewise.
        resizable: whether resizing the images keeps what they are, which it does not for noise.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resizable: bool = True

    @property
    def name(self) -> str:
        """The set's name in messages."""
        return type(self).__name__

    @abstractmethod
    def info(self, root: Path) -> SourceInfo:
        """Shape, classes and sizes; where they are not published, read from headers and folder lists below ``root``.

        Raises:
            FileNotFoundError: if that needs data which are not there.
        """

    def class_names(self, root: Path) -> list[str]:
        """The name of each class, in their order; empty if they have none but their numbers."""
        return []

    def prepare(self, root: Path) -> None:  # noqa: B027 - most sources have nothing to fetch
        """Fetches the data if they are not there. Called on one process of a node."""

    @abstractmethod
    def load(self, root: Path, train: bool) -> ImageArrays | ImageFiles:
        """Reads the training or the test split below ``root``, the folder of all data sets.

        Raises:
            FileNotFoundError: if the data are not there.
            ValueError: if they are malformed.
        """


def missing(name: str, path: Path) -> FileNotFoundError:
    """The error for data that are not there, with what to do about it."""
    return FileNotFoundError(
        f"{name}: nothing at {path}; put the data there, or point root or $DINOPL_DATA at the folder above"
    )


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its name if it has none."""
    return next(iter(str(error).strip(" :\n").splitlines()), type(error).__name__)


def locate(root: Path, path: str) -> Path:
    """A user's path below the root, or else below the working directory if it is there only."""
    return Path(path) if not (root / path).exists() and Path(path).exists() else root / path
