"""The data module of all sequence tasks: training sequences without end, fixed evaluation sets by length.

Contract: training sequence n is a pure function of the seed, n and the length at that time; batch s of the whole is
the sequences ``s * B * W .. (s + 1) * B * W - 1``, of which rank r of W takes the r-th part of size B. So two processes
with half the batch see what one sees, as do two accumulated batches of half the size; nothing depends on workers, as
there are none; and a restart continues in mid-epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dinopl.core.errors import check_sizes
from dinopl.core.random import stream_seed
from fprnn.tasks.curriculum import LengthCurriculum
from fprnn.tasks.task import GeneratedTask, LengthRange, SequenceBatch, Task, sequence_seeds

MOST_TOKENS = 10**8  # in a training batch or an evaluation set that is made at once: some 4 GB


class TrainingLoader:
    """Training batches by number: epoch e holds the batches ``e * steps .. (e + 1) * steps - 1``.

    Iterating once moves on to the next epoch, whether or not ``set_epoch`` is called. Lightning finds ``set_epoch``
    under ``sampler``, and saves and loads the state for a restart in mid-epoch.

    Args:
        make_batch: makes the batch of a number; called when the batch is asked for and not before, so that a curriculum
            has observed the last one.
        steps: batches an epoch.
    """

    def __init__(self, make_batch: Callable[[int], SequenceBatch], steps: int) -> None:
        self.make_batch, self.steps = make_batch, steps
        self.epoch = self.offset = self._start = 0

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


class SequenceDataModule(LightningDataModule):
    """Batches of a sequence task, which follow from a seed.

    Known after construction: ``vocab_size``, ``num_targets``, ``max_tokens`` (the widest batch), ``eval_lengths`` and
    ``val_lengths``. Validation and test loaders are lists, one loader a length, in the order of these.

    Args:
        task: what to learn.
        train_length: length of the training sequences; or shortest and longest, between which each is drawn.
        eval_lengths: lengths to test at, by default the longest training length.
        val_lengths: lengths to validate at, by default those to test at.
        batch_size: training sequences a batch and process.
        eval_batch_size: the same in validation and test.
        steps_per_epoch: training batches an epoch. No sequence comes twice, or none of a corpus before all have come,
            so an epoch is only the time from one validation to the next.
        val_size: validation sequences of each length, 0 for no validation. A text gives so many at most; stories are
            always read to the end.
        test_size: test sequences of each length; likewise. Those of one length, which are all made at once, may have
            10**8 tokens, as may a batch.
        curriculum: how the longest training length grows; by default it is fixed.
        seed: what training sequences are drawn from; by default a stream of the run's seed.
        eval_seed: what validation and test sequences are drawn from; left alone, they are the same in every run.

    Raises:
        ValueError: if an option is out of range or a length beyond the task's limits; the message names it.
    """

    def __init__(
        self,
        task: Task,
        train_length: int | tuple[int, int] = 16,
        eval_lengths: list[int] | None = None,
        val_lengths: list[int] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        steps_per_epoch: int = 100,
        val_size: int = 500,
        test_size: int = 2000,
        curriculum: LengthCurriculum | None = None,
        seed: int | None = None,
        eval_seed: int = 0,
    ) -> None:
        super().__init__()
        self.task = task
        shortest, longest = (train_length, train_length) if isinstance(train_length, int) else train_length
        if shortest > longest:
            raise ValueError(f"train_length=[{shortest}, {longest}]: is empty; put the shorter length first")
        self.train_lengths = LengthRange(shortest, longest)
        self.eval_lengths = [longest] if eval_lengths is None else list(eval_lengths)
        self.val_lengths = list(self.eval_lengths if val_lengths is None else val_lengths)
        for name, lengths in (("eval_lengths", self.eval_lengths), ("val_lengths", self.val_lengths)):
            if not lengths or len(set(lengths)) < len(lengths):
                raise ValueError(f"{name}={lengths}: must be one or more different lengths; name each once")
        check_sizes(
            batch_size=batch_size, eval_batch_size=eval_batch_size, steps_per_epoch=steps_per_epoch, test_size=test_size
        )
        if val_size < 0:
            raise ValueError(f"val_size={val_size}: must be at least 0; 0 is no validation")
        self.batch_size, self.eval_batch_size, self.steps_per_epoch = batch_size, eval_batch_size, steps_per_epoch
        self.val_size, self.test_size = val_size, test_size
        self.curriculum, self.eval_seed = curriculum, eval_seed
        self._derive_seed = seed is None
        self.seed = stream_seed("data") if seed is None else seed
        for length in self.train_lengths:
            self.task.check_train_length("train_length", length)
        for name, lengths in (("eval_lengths", self.eval_lengths), ("val_lengths", self.val_lengths)):
            for length in lengths:
                self.task.check_length(name, length)
        self.vocab_size, self.num_targets = task.vocab_size, task.num_targets
        self.max_tokens = task.num_tokens(max(longest, *self.eval_lengths, *self.val_lengths))
        if not isinstance(self.task, GeneratedTask):
            return  # a corpus gives no more than it holds
        sizes = ("batch_size", self.batch_size), ("test_size", self.test_size), ("val_size", self.val_size)
        ranges = (
            ("train_length", self.train_lengths),
            ("eval_lengths", self.eval_lengths),
            ("val_lengths", self.val_lengths),
        )
        for (counted, count), (name, given) in zip(sizes, ranges, strict=True):
            tokens = count * self.task.num_tokens(max(given))
            if tokens > MOST_TOKENS:  # refused before it fills the memory
                raise ValueError(
                    f"{name}={max(given)}: {count} sequences of this length have {tokens} tokens; use shorter ones or "
                    f"a smaller {counted}, for {MOST_TOKENS} at most"
                )

    def lengths_at(self, step: int) -> LengthRange:
        """Lengths that the training batch ``step`` is drawn from.

        A curriculum moves the longest length; where all sequences have one length it moves that, otherwise the shortest
        stays as it is.
        """
        shortest, goal = self.train_lengths
        longest = goal if self.curriculum is None else max(self.curriculum.longest(step, goal), self.task.min_length)
        return LengthRange(longest if shortest == goal else min(shortest, longest), longest)

    def training_batch(self, step: int, rank: int | None = None, world_size: int | None = None) -> SequenceBatch:
        """The training batch of a number.

        Args:
            step: number of the batch, counted from 0 over all epochs.
            rank: which process's part; by default this process's.
            world_size: number of processes; by default the trainer's.
        """
        own_rank, own_world_size = self._place()
        rank, world_size = own_rank if rank is None else rank, own_world_size if world_size is None else world_size
        first = (step * world_size + rank) * self.batch_size
        return self.task.training(stream_seed("train", self.seed), first, self.batch_size, self.lengths_at(step))

    def evaluation_set(self, split: Literal["val", "test"], length: int) -> SequenceBatch:
        """All validation or test sequences of a length: the same at every call."""
        count = self.val_size if split == "val" else self.test_size
        seeds = sequence_seeds(stream_seed(f"{split}/length={length}", self.eval_seed), 0, count)
        return self.task.evaluation(split, seeds, length)

    def observe(self, accuracy: float | Tensor) -> None:
        """Gives the curriculum the accuracy of the last training batch.

        To be called after each training batch, in every process, where ``curriculum.needs_accuracy``.

        Args:
            accuracy: share of this process's sequences that were answered right at every scored position. Averaged over
                processes, so that the length stays the same in all of them.
        """
        if self.curriculum is None or not self.curriculum.needs_accuracy:
            return
        if self.trainer is not None and self.trainer.world_size > 1:
            value = torch.as_tensor(accuracy, dtype=torch.float32, device=self.trainer.strategy.root_device)
            accuracy = self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")
        self.curriculum.observe(float(accuracy), self.train_lengths.longest)

    def train_dataloader(self) -> TrainingLoader:
        """Training batches, fresh ones in each epoch; the same ones where the trainer is to overfit."""
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return TrainingLoader(lambda step: self.training_batch(step % self.steps_per_epoch), self.steps_per_epoch)
        return TrainingLoader(self.training_batch, self.steps_per_epoch)

    def val_dataloader(self) -> list[FixedLoader]:
        """One loader per validation length."""
        return self._fixed_loaders("val", self.val_lengths) if self.val_size else []

    def test_dataloader(self) -> list[FixedLoader]:
        """One loader per test length."""
        return self._fixed_loaders("test", self.eval_lengths)

    predict_dataloader = test_dataloader

    def state_dict(self) -> dict[str, Any]:
        """What training sequences depend on beside their number, and a fingerprint of the vocabulary."""
        return {
            "seed": self.seed,
            "curriculum": self.curriculum.state_dict() if self.curriculum else {},
            "vocabulary": self.task.vocabulary.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the stream of a checkpoint; a seed that was given as an option stays.

        Raises:
            ValueError: if the checkpoint's tokens mean something else.
        """
        own = self.task.vocabulary.fingerprint
        if state_dict.get("vocabulary", own) != own:
            raise ValueError(
                f"task={type(self.task).__name__}: its {self.vocab_size} tokens are not those that the checkpoint was "
                "trained on; give the task, text or alphabet of its own config"
            )
        if self._derive_seed:
            self.seed = state_dict["seed"]
        if self.curriculum is not None and state_dict["curriculum"]:
            self.curriculum.load_state_dict(state_dict["curriculum"])

    def _fixed_loaders(self, split: Literal["val", "test"], lengths: Sequence[int]) -> list[FixedLoader]:
        rank, world_size = self._place()
        return [
            FixedLoader(self.evaluation_set(split, length), self.eval_batch_size, length, rank, world_size)
            for length in lengths
        ]

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
