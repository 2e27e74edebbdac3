"""One kind of batch inside, several outside: dicts of ours, or what any image loader yields."""

from typing import Any

import torch
from torch import Tensor

from dinopl.core.types import ImageBatch


def as_batch(batch: Any) -> ImageBatch:
    """Brings a loader's batch into the package's form.

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
