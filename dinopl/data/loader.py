"""Loaders of image batches: order from a sampler, images from a store, views made on the training device.

Views and normalisation are computed for a whole batch at once, where the images are. So the same code serves a tensor
on a GPU and files that worker processes decode; and as order and random numbers belong to the samples, the batches do
not depend on the number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinopl.data.keys import derived_keys, sample_keys
from dinopl.data.order import BatchSlice, OrderSampler
from dinopl.data.stores import ImageStore
from dinopl.data.views import ImageView
from dinopl.types import ImageBatch

_FIRST_VIEW = 1 << 20  # the draws that views make of a key stay below this, those that make a key for a view above


def make_views(
    stored: Tensor, keys: Tensor, views: Sequence[ImageView], *, scale: float, mean: Tensor, std: Tensor, channels: int
) -> list[Tensor]:
    """Normalised views of stored images.

    Args:
        stored: ``(B, c, H, W)``, as the source scales them.
        keys: one key a sample, ``(B,)`` int64; each view gets its own, derived from these.
        views: what to make.
        scale: the stored value that means white.
        mean: subtracted from the views, ``(c or 1, 1, 1)``.
        std: divides the views then, likewise.
        channels: of the views; one stored channel is repeated.

    Returns:
        One ``(B, channels, h, w)`` tensor a view, in the default floating-point type.
    """
    images = (stored.to(torch.get_default_dtype()) / scale).expand(-1, channels, -1, -1)
    made = [
        view(images, keys if view.deterministic else derived_keys(keys, _FIRST_VIEW + number)[0])
        for number, view in enumerate(views)
    ]
    return [(view - mean).div_(std) for view in made]


@dataclass(frozen=True)
class ViewRecipe:
    """How stored images become views.

    Attributes:
        views: what to make of each image.
        scale: the stored value that means white.
        mean: one number a channel, in units where white is 1.
        std: likewise.
        channels: of the views.
        seed: of the augmentation.
    """

    views: Sequence[ImageView]
    scale: float
    mean: Sequence[float]
    std: Sequence[float]
    channels: int
    seed: int = 0


class ImageLoader:
    """Batches of images, on their device. Iterating yields one ``ImageBatch`` a batch.

    The key ``share`` is there only where it is not 1. A Lightning trainer calls ``sampler.set_epoch``, and keeps
    ``state_dict`` in its checkpoints.

    Args:
        store: where the images are.
        rows: the row of each sample in the store, ``(n,)`` int64; a sample's index is its position here.
        label: class of each row of the store, ``(N,)`` int64.
        sampler: the order of the ``n`` samples.
        recipe: how stored images become views.
        device: where the batches are to be; that of the store's batches.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a ``sampler``

    def __init__(
        self,
        store: ImageStore,
        rows: Tensor,
        label: Tensor,
        sampler: OrderSampler,
        recipe: ViewRecipe,
        device: torch.device,
    ) -> None:
        self.store = store
        self.rows = rows
        self.label = label[rows].to(device)
        self.sampler = sampler
        self.recipe = recipe
        self.device = device
        self._mean, self._std = (
            torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in (recipe.mean, recipe.std)
        )

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[ImageBatch]:
        # A generator: the epoch and the offset are read at the first batch, not when the iterator is made.
        order = self.sampler.order()
        parts = self.sampler.begin()
        stored = self.store.batches([self.rows[order[part.start : part.stop]] for part in parts])
        order = order.to(self.device)
        keys = sample_keys(self.recipe.seed, self.sampler.epoch, order)
        for part, images in zip(parts, stored, strict=True):
            batch = self._batch(part, images, order, keys)
            self.sampler.advance(part)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch this loader is."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration go on there."""
        self.sampler.load_state_dict(state)

    def _batch(self, part: BatchSlice, stored: Tensor, order: Tensor, keys: Tensor) -> ImageBatch:
        index = order[part.start : part.stop]
        recipe = self.recipe
        views = make_views(
            stored,
            keys[part.start : part.stop],
            recipe.views,
            scale=recipe.scale,
            mean=self._mean,
            std=self._std,
            channels=recipe.channels,
        )
        batch: ImageBatch = {"views": views, "label": self.label[index], "index": index}
        if part.share != 1.0:
            batch["share"] = part.share
        return batch
