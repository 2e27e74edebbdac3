"""Training for a fixed number of steps on however few samples: passes over them, cut into epochs of equal length.

"Revisiting Knowledge Distillation" compares students on parts of a data set. With a fixed number of passes a small part
gets fewer optimiser steps, and its size is confounded with the length of training; with a fixed number of steps it is
not. Either way the order is a pure function of the seed and the number of the step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dinopl.data.order import BatchOrder, BatchSlice, Block, EvalSampler, epoch_order, train_slices

_STEPS = 256  # that a block has at least, where the epoch has as many: what a block costs is shared by its steps


class PassSampler(BatchOrder):
    """Passes over some samples in ever new order. Batches do not reach over the end of a pass; the offset counts them.

    Args:
        index: the samples, ``(M,)`` int64.
        batch_size: samples per batch and process. Fewer samples than one global batch make one batch of them all.
        rank: which process this is.
        world_size: how many there are.
        seed: of the order.
        steps: batches of an epoch, over as many passes as that takes; of each pass a last batch that is not full is
            then left out. None makes an epoch one pass, in which each sample comes once.
        drop_last: leave it out there too, unless it is the only one.
    """

    def __init__(
        self,
        index: Tensor,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        seed: int,
        steps: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.index = index
        self.seed = seed
        whole_batches = (drop_last or steps is not None) and len(index) >= batch_size * world_size
        self._pass = train_slices(len(index), batch_size, rank, world_size, drop_last=whole_batches)
        self._steps = len(self._pass) if steps is None else steps

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return self._steps

    @property
    def smallest(self) -> int:
        """Samples of the smallest batch of this process."""
        return min(part.stop - part.start for part in self._pass)

    def blocks(self) -> Iterator[Block]:
        """What is left of the epoch: blocks that end with a pass or with the epoch."""
        self.offset, self._resume_at = self._resume_at, 0
        epoch = 0 if self.repeats else self.epoch
        step, end = epoch * self._steps + self.offset, (epoch + 1) * self._steps
        passes = -(-_STEPS // len(self._pass))
        while step < end:
            stop = min(end, (step // len(self._pass) + passes) * len(self._pass))
            yield self._block(step, stop)
            step = stop

    def advance(self, part: BatchSlice) -> None:
        """Notes that one more batch was handed out."""
        self.offset += 1

    def _block(self, step: int, stop: int) -> Block:
        """The batches ``step`` to ``stop - 1``, counted over all epochs, with whole passes for their order."""
        n, per_pass = len(self.index), len(self._pass)
        first, last = step // per_pass, (stop - 1) // per_pass
        order = torch.cat([self.index[epoch_order(n, self.seed, number)] for number in range(first, last + 1)])
        visits = torch.arange(first, last + 1).repeat_interleave(n)
        parts = []
        for s in range(step, stop):
            part, by = self._pass[s % per_pass], (s // per_pass - first) * n  # in the order of its own pass
            parts.append(BatchSlice(part.start + by, part.stop + by, part.end + by, part.share))
        return order, visits, parts


class SelectedSampler(EvalSampler):
    """Some samples in the order given, each on one process exactly once.

    Args:
        index: the samples, ``(M,)`` int64.
        batch_size: samples per batch and process.
        rank: which process this is.
        world_size: how many there are.
        visit: how many passes over the data came before: it chooses the augmentation.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int = 0, world_size: int = 1, *, visit: int = 0) -> None:
        super().__init__(len(index), batch_size, rank, world_size)
        self.index = index
        self.epoch = visit

    def order(self) -> Tensor:
        """The samples, ``(M,)`` int64."""
        return self.index


def steps_per_pass(size: int, batch_size: int, *, whole_batches: bool) -> int:
    """Number of batches in one pass over ``size`` samples, ``batch_size`` counting all processes.

    With ``whole_batches`` a last batch that is not full is left out, as long as there is a full one.
    """
    return max(size // batch_size, 1) if whole_batches else -(-size // batch_size)


def token_index(index: Tensor, length: int) -> Tensor:
    """An index for each token of windows: ``(B,)`` to ``(B * length,)`` int64, in the order of flattened batches."""
    return (index[:, None] * length + torch.arange(length, device=index.device)).flatten()
