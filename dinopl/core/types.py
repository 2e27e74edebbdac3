"""What the parts of the package pass to one another: image shapes and batches."""

from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor


class ImageShape(NamedTuple):
    """Shape of one image, channels first."""

    channels: int
    height: int
    width: int


class ImageBatch(TypedDict):
    """A batch of images: one entry per sample in every tensor."""

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
    """How many passes over the data came before this one; missing in the first. What is drawn in every pass, and must
    not depend on the trainer's epochs, is keyed by it and the index."""
    teacher_views: NotRequired[list[int]]
    """Which of the views the teacher sees; missing where it sees all."""
    student_views: NotRequired[list[int]]
    """Likewise, of the student."""
    target: NotRequired[Tensor]
    """Logits to learn instead of the label, ``(B, m)``: noise, or the image itself."""


def as_batch(batch: Any) -> ImageBatch:
    """A loader's batch as an ``ImageBatch``.

    Args:
        batch: an ``ImageBatch``; or images ``(B, C, H, W)``; or a list or tuple whose first item is images or a list of
            views, whose second, if any, is labels, and whose third, if any, is indices.

    Returns:
        An ``ImageBatch``. Missing labels and indices are -1.

    Raises:
        ValueError: if the batch is none of these.
    """
    if isinstance(batch, dict):
        if "views" not in batch:
            raise ValueError(f"a batch that is a dict must hold 'views', got {', '.join(map(repr, batch)) or 'none'}.")
        return batch  # type: ignore[return-value]
    images, *rest = batch if isinstance(batch, list | tuple) else (batch,)
    views = list(images) if isinstance(images, list | tuple) else [images]
    if not views or not all(isinstance(view, Tensor) for view in views):
        raise ValueError(f"a batch must hold image tensors, got {type(batch).__name__} of {type(images).__name__}.")
    missing = torch.full((len(views[0]),), -1, device=views[0].device)
    label, index = (*rest, missing, missing)[:2] if len(rest) < 2 else rest[:2]
    return {"views": views, "label": label, "index": index}


def views_seen(batch: ImageBatch) -> tuple[list[int], list[int]]:
    """The numbers of the views that the teacher sees, and of those that the student sees."""
    every = list(range(len(batch["views"])))
    return batch.get("teacher_views", every), batch.get("student_views", every)
