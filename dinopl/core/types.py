"""What the parts of the package pass to one another: image shapes and batches."""

from typing import NamedTuple, NotRequired, TypedDict

from torch import Tensor


class ImageShape(NamedTuple):
    """Shape of one image, channels first."""

    channels: int
    height: int
    width: int


class ImageBatch(TypedDict):
    """A batch of images: one entry a sample in every tensor."""

    views: list[Tensor]
    """Views of the same images, each ``(B, C, H, W)``, floating point and normalised."""
    label: Tensor
    """Class, ``(B,)`` int64."""
    index: Tensor
    """Position in the data set, ``(B,)`` int64: the key of caches and of predictions."""
    share: NotRequired[float]
    """This process's batch size times the number of processes, over the size of the global batch.

    1 but for a ragged last batch. Losses are multiplied by it: the mean over processes is then the mean over samples.
    """
    visit: NotRequired[int]
    """How many passes over the data came before this one; missing in the first. What is drawn anew in every pass, and
    is not to depend on the trainer's epochs, follows from it and the index."""
