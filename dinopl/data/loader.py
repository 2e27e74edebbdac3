"""Loaders of image batches: order from a sampler, images from a store, views made on the training device.

Views and normalisation are computed for a whole batch at once, where the images are, and for several batches where
images are tiny. So the same code serves a tensor on a GPU and files that worker processes decode; and as order and
random numbers belong to the samples, the batches do not depend on the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dinopl.core.random import derived_keys, sample_keys
from dinopl.core.types import ImageBatch
from dinopl.data.images import ImageStore
from dinopl.data.indexed import IndexedLoader
from dinopl.data.order import BatchOrder, BatchSlice
from dinopl.data.views import SIDES, ImageView

_TOGETHER = 1 << 18  # numbers in the views that are made at once, unless a single batch has more
_FIRST_VIEW = 1 << 20  # draws below this number are a view's own, those from it on give each view its key


def make_views(
    stored: Tensor, keys: Tensor, views: Sequence[ImageView], *, scale: float, mean: Tensor, std: Tensor, channels: int
) -> list[Tensor]:
    """Normalised views of stored images: one ``(B, channels, h, w)`` per view, in the default floating-point type.

    Args:
        stored: ``(B, c, H, W)``, as the source scales them; one stored channel is repeated.
        keys: one key per sample, ``(B,)`` int64; each view gets its own, derived from these.
        views: what to make.
        scale: the stored value that means white.
        mean: subtracted from the views, ``(c or 1, 1, 1)``.
        std: divides the views then, likewise.
        channels: of the views.
    """
    images = (stored.to(torch.get_default_dtype()) / scale).expand(-1, channels, -1, -1)
    made = [
        view(images, keys if view.deterministic else derived_keys(keys, _FIRST_VIEW + number)[0])
        for number, view in enumerate(views)
    ]
    return [(view - mean).div_(std) for view in made]


class ImageLoader(IndexedLoader):
    """Batches of images, on their device. Iterating yields ``ImageBatch``es.

    Args:
        store: where the images are.
        rows: the row of each sample in the store, ``(n,)`` int64; a sample's index is its position here.
        label: class of each row of the store, ``(N,)`` int64.
        sampler: the order of the ``n`` samples, or of some of them.
        device: where the batches are to be; that of the store's batches.
        views: what to make of each image.
        scale: the stored value that means white.
        mean: one number per channel, in units where white is 1.
        std: likewise.
        channels: of the views.
        seed: of the augmentation.
        cycle: how many augmentations of an image there are, which follow one another from pass to pass; None: a new one
            in every pass.
        learn: changes what each batch says is to be learned; None leaves the labels.
    """

    def __init__(
        self,
        store: ImageStore,
        rows: Tensor,
        label: Tensor,
        sampler: BatchOrder,
        device: torch.device,
        *,
        views: Sequence[ImageView],
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        seed: int = 0,
        cycle: int | None = None,
        learn: Callable[[ImageBatch], ImageBatch] | None = None,
    ) -> None:
        super().__init__(sampler)
        self.store = store
        self.rows = rows
        self.label = label[rows].to(device)
        self.device = device
        self.views = views
        self._roles = {  # named only where a side does not see all views
            f"{side}_views": [number for number, view in enumerate(views) if side in view.seen_by]
            for side in SIDES
            if not all(side in view.seen_by for view in views)
        }
        self.scale = scale
        self.mean, self.std = (torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in (mean, std))
        self.channels = channels
        self.seed = seed
        self.cycle = cycle
        self.learn = learn

    def __iter__(self) -> Iterator[ImageBatch]:
        # A generator: the epoch and the offset are read at the first batch, not when the iterator is made.
        for order, visits, parts in self.sampler.blocks():
            if parts:
                for part, batch in zip(parts, self._batches(order, visits, parts), strict=True):
                    self.sampler.advance(part)
                    yield batch if self.learn is None else self.learn(batch)

    def _batches(self, order: Tensor, visits: Tensor, parts: list[BatchSlice]) -> Iterator[ImageBatch]:
        """The batches of a block. What is not images is looked up for all of them at once."""
        places = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        visit = iter(visits[torch.tensor([part.start for part in parts])].tolist())
        order = order[places]
        index = order.to(self.device)
        passes = visits[places].to(self.device)
        keys = sample_keys(self.seed, passes % self.cycle if self.cycle else passes, index)
        groups = self._groups(parts)
        sizes = [sum(part.stop - part.start for part in group) for group in groups]
        stored = self.store.batches(torch.split(self.rows[order], sizes))
        columns = zip(*(torch.split(column, sizes) for column in (index, self.label[index], keys)), strict=True)
        for group, images, (own_index, label, own_keys) in zip(groups, stored, columns, strict=True):
            scales: Any = {"scale": self.scale, "mean": self.mean, "std": self.std, "channels": self.channels}
            views = make_views(images, own_keys, self.views, **scales)
            counts = [part.stop - part.start for part in group]
            split = zip(*(torch.split(column, counts) for column in (own_index, label, *views)), strict=True)
            for part, (batch_index, batch_label, *batch_views) in zip(group, split, strict=True):
                batch = self.batch(batch_views, batch_label, batch_index, share=part.share, visit=next(visit))
                yield {**batch, **self._roles}  # type: ignore[typeddict-item]

    def _groups(self, parts: Sequence[BatchSlice]) -> list[list[BatchSlice]]:
        """Batches whose views are made at once: one, or several where images are so small that calls cost more."""
        sizes = [view.out_size(*self.store.image_size) for view in self.views]
        most = _TOGETHER // (self.channels * sum(height * width for height, width in sizes))
        groups: list[list[BatchSlice]] = []
        room = 0
        for part in parts:
            count = part.stop - part.start
            if count > room:
                groups.append([])
                room = max(most, count)
            groups[-1].append(part)
            room -= count
        return groups
