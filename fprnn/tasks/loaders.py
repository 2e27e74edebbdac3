"""Loaders of generated sequences: an endless training stream cut into epochs, and fixed evaluation sets."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fprnn.tasks.task import SequenceBatch


class TrainingLoader:
    """Training batches by number: epoch e holds the batches ``e * steps .. (e + 1) * steps - 1``.

    Iterating once moves on to the next epoch, whether or not anyone calls ``set_epoch``. Lightning finds ``set_epoch``
    under ``sampler``, and saves and loads the state for a restart in mid-epoch.

    Args:
        make_batch: makes the batch of a number; called when the batch is asked for and not before, so that a curriculum
            has heard of the last one.
        steps: batches an epoch.
    """

    def __init__(self, make_batch: Callable[[int], SequenceBatch], steps: int) -> None:
        self.make_batch = make_batch
        self.steps = steps
        self.epoch = 0
        self.offset = 0
        self._start = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[SequenceBatch]:
        self.offset, self._start = self._start, 0
        while self.offset < self.steps:
            batch = self.make_batch(self.epoch * self.steps + self.offset)
            self.offset += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    @property
    def sampler(self) -> "TrainingLoader":
        """The object whose ``set_epoch`` Lightning calls: this one."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Moves to the beginning of an epoch; in the epoch at hand, which may just have been resumed, stays put."""
        if epoch != self.epoch:
            self.epoch, self.offset, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch, and the number of its batches that were handed out."""
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues after the batches that were handed out."""
        self.epoch, self.offset, self._start = state["epoch"], state["offset"], state["offset"]


class FixedLoader:
    """A set of sequences in memory, in order, shared among processes.

    Batch b of the whole is rows ``b * batch_size * world_size`` and on, of which each rank takes its part. Every rank
    makes equally many batches of equal size; rows that are missing for that are added with an empty mask. ``index``
    says which row of the set each one is.

    Args:
        sequences: the whole set; the same in every process.
        batch_size: rows a batch and process.
        length: what the task calls the length of these sequences; for naming metrics.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self, sequences: SequenceBatch, batch_size: int, length: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        columns: dict[str, Tensor] = dict(sequences)  # type: ignore[arg-type]
        self._batches: list[Any] = []
        total, whole = len(sequences["mask"]), batch_size * world_size
        for start in range(0, total, whole):
            count = -(-min(whole, total - start) // world_size)
            rows = torch.arange(start + rank * count, start + (rank + 1) * count)
            kept = rows.clamp(max=total - 1)  # rows past the end repeat the last, with an empty mask
            batch = {name: column[kept] for name, column in columns.items()}
            batch["mask"] = batch["mask"] & (rows < total)[:, None]
            batch["index"] = kept
            self._batches.append(batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[SequenceBatch]:
        return iter(self._batches)
