"""The order in which samples are seen: a pure function of (seed, epoch), sliced by rank.

One order for all processes: with ``W`` processes and ``B`` samples each, global batch ``b`` is
``order[b*B*W : (b+1)*B*W]`` and each rank takes its slice of it. So W processes with batches of B see what one process
with batches of W*B sees, nothing depends on the number of workers, and an offset is enough to resume in mid-epoch.
torch's ``DistributedSampler`` differs: it deals samples out one by one and repeats some to make the ranks even.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dinopl.core.random import stream_seed


class BatchSlice(NamedTuple):
    """One process's part of a global batch, as positions in the epoch's order."""

    start: int
    stop: int
    end: int
    """Where the global batch ends: the offset once it is done."""
    share: float
    """Size of this part, times the number of processes, over the size of the global batch."""


Block = tuple[Tensor, Tensor, list[BatchSlice]]
"""A stretch of the training order that a loader gets in one piece.

Samples, ``(n,)`` int64 on the CPU, over all processes; for each how many passes over the data came before, ``(n,)``
int64, which augmentation is keyed by; and this process's batches, as positions in the stretch.
"""


class BatchOrder(ABC):
    """Which samples make the batches of an epoch, and how far the epoch has come; resumable in mid-epoch.

    An iteration that follows ``load_state_dict`` continues where the state was saved; any other starts at the first
    batch of the current epoch.

    Attributes:
        epoch: the current one; Lightning moves it through ``set_epoch``.
        offset: how much of it was handed out, in units of the subclass.
        repeats: whether every epoch has the samples of the first, in their order, as for a test by overfitting.
    """

    epoch = 0
    offset = 0
    repeats = False
    _resume_at = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches of a whole epoch."""

    @property
    @abstractmethod
    def smallest(self) -> int:
        """Samples of the smallest batch of this process."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Starts an iteration: what is left of the epoch, in order."""

    @abstractmethod
    def advance(self, part: BatchSlice) -> None:
        """Notes that the batch ``part`` was handed out."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch. Another one than the current one starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.offset, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how much of it was handed out, over all processes."""
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration continue where ``state`` was saved."""
        self.epoch, self.offset = state["epoch"], state["offset"]
        self._resume_at = self.offset


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of ``0..n-1``, ``(n,)`` int64 on the CPU; another one each epoch."""
    generator = torch.Generator().manual_seed(stream_seed(f"epoch/{epoch}", seed))
    return torch.randperm(n, generator=generator)


def rank_slice(start: int, end: int, rank: int, world_size: int) -> BatchSlice:
    """The part of the global batch ``[start, end)`` that belongs to ``rank``; parts differ by at most one sample.

    Where there are fewer samples than processes, a rank without any gets the first one with share 0: every process then
    takes part in each step, and the mean over processes of ``share * mean`` is still the mean over samples.
    """
    size = end - start
    low, high = (start + size * r // world_size for r in (rank, rank + 1))
    if low == high:
        return BatchSlice(start, start + 1, end, 0.0)
    return BatchSlice(low, high, end, (high - low) * world_size / size)


def train_slices(
    n: int, batch_size: int, rank: int = 0, world_size: int = 1, *, start: int = 0, drop_last: bool = False
) -> list[BatchSlice]:
    """This rank's slices of the order of n samples, from the sample ``start`` on: one per global batch on every rank.

    With ``drop_last`` a last global batch that is not full is left out. ``batch_size`` is that of one process.
    """
    size = batch_size * world_size
    stop = n - (n - start) % size if drop_last else n
    return [rank_slice(low, min(low + size, n), rank, world_size) for low in range(start, stop, size)]


def eval_slices(n: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[BatchSlice]:
    """This rank's slices of ``0..n-1``, each sample on one rank exactly once.

    Every rank gets the same number of batches, since buffers may be synchronised in each of them. A remainder of fewer
    samples than processes therefore joins the batch before it.

    Raises:
        ValueError: if there are fewer samples than processes.
    """
    if n < world_size:
        raise ValueError(f"devices: {world_size} processes cannot share {n} evaluation images; use fewer")
    size = batch_size * world_size
    full, rest = divmod(n, size)
    bounds = [size * b for b in range(max(full + (rest >= world_size and rest > 0), 1))] + [n]
    return [rank_slice(low, high, rank, world_size) for low, high in pairwise(bounds)]


class OrderSampler(BatchOrder):
    """Positions of the samples of each batch of this process, in training order.

    Iterating yields ``(B,)`` int64 tensors; the offset is the number of samples over all processes.

    Args:
        n: number of samples.
        batch_size: samples per batch and process.
        rank: which process this is.
        world_size: how many there are.
        seed: of the order; None is the data set's own order in every epoch.
        drop_last: leave out a last global batch that is not full.
        count: samples of each epoch, the first of its order; None: all.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        count: int | None = None,
    ) -> None:
        self.n = n
        self.count = n if count is None else count
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self._slices(0))

    def __iter__(self) -> Iterator[Tensor]:
        order = self.order()
        for part in self.begin():
            self.advance(part)
            yield order[part.start : part.stop]

    def order(self) -> Tensor:
        """The current epoch's order over all processes, ``(count,)`` int64 on the CPU."""
        epoch = 0 if self.repeats else self.epoch
        order = torch.arange(self.n) if self.seed is None else epoch_order(self.n, self.seed, epoch)
        return order[: self.count]

    @property
    def smallest(self) -> int:
        """Samples of the smallest batch of this process."""
        return min((part.stop - part.start for part in self._slices(0)), default=0)

    def blocks(self) -> Iterator[Block]:
        """The epoch in one block."""
        order = self.order()
        yield order, torch.tensor(self.epoch).expand_as(order), self.begin()

    def begin(self) -> list[BatchSlice]:
        """Starts an iteration: the slices that are left of the epoch."""
        self.offset, self._resume_at = self._resume_at, 0
        return self._slices(self.offset)

    def advance(self, part: BatchSlice) -> None:
        """Notes that the batch ``part`` was handed out."""
        self.offset = part.end

    def _slices(self, start: int) -> list[BatchSlice]:
        size, rank, processes = self.batch_size, self.rank, self.world_size
        return train_slices(self.count, size, rank, processes, start=start, drop_last=self.drop_last)


class EvalSampler(OrderSampler):
    """Positions in data set order, each on one process exactly once: for validation, test, probes and prediction.

    Args:
        n: number of samples.
        batch_size: samples per batch and process.
        rank: which process this is.
        world_size: how many there are.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(n, batch_size, rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch here."""

    def _slices(self, start: int) -> list[BatchSlice]:
        parts = eval_slices(self.n, self.batch_size, self.rank, self.world_size)
        return [part._replace(share=1.0) for part in parts if part.end > start]
