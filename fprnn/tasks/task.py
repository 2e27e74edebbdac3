"""What a task is: a vocabulary, and labelled sequences that are pure functions of a seed."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from fprnn.tasks.streams import Words, sequence_seeds
from fprnn.tasks.vocabulary import Vocabulary


class SequenceBatch(TypedDict):
    """Labelled sequences, one a row, padded on the right to a common width."""

    tokens: Tensor
    """What the model reads, ``(B, T)`` int64, below ``vocab_size``."""
    targets: Tensor
    """What it has to answer at each position, ``(B, T)`` int64, below ``num_targets``; 0 where the mask is False."""
    mask: Tensor
    """Where the answer counts, ``(B, T)`` bool. A row without any fills up a last batch and counts nowhere."""


class LengthRange(NamedTuple):
    """Lengths that sequences are drawn from, uniformly, both ends included."""

    shortest: int
    longest: int


class Ratio(NamedTuple):
    """A share as its two sums, so that shares of batches and processes add up to the share of the whole."""

    part: Tensor
    """What is counted, such as right answers; a scalar."""
    whole: Tensor
    """Out of how much, a scalar; 0 where the batch has none."""


class Task(ABC):
    """A sequence task: labelled sequences and their vocabulary.

    What "length" counts is the task's to say (group elements, bits, letters to copy); positions may be more. Most tasks
    make each sequence of a seed, and extend ``GeneratedTask``; a task over a corpus reads it in its constructor.
    """

    vocabulary: Vocabulary
    """Names of the input tokens."""
    num_targets: int
    """Number of classes that targets are drawn from."""
    min_length: int = 1
    """Shortest sequence that makes sense."""
    max_length: int | None = None
    """Longest sequence that the task can make, None without limit."""
    max_train_length: int | None = None
    """Longest sequence to train on where that is shorter, None where it is not."""

    @property
    def vocab_size(self) -> int:
        """Number of different input tokens."""
        return len(self.vocabulary)

    @property
    def num_answers(self) -> int:
        """Number of answers that can be right, of which a blind guess takes one; by default every target."""
        return self.num_targets

    def num_tokens(self, length: int) -> int:
        """Width of a batch whose longest sequence has this length; where a task says so, evaluation is narrower."""
        return length

    @abstractmethod
    def training(self, stream: int, first: int, count: int, lengths: LengthRange) -> SequenceBatch:
        """Training sequences ``first .. first + count - 1`` of a stream that does not end.

        Args:
            stream: seed of the stream. A sequence depends on nothing but this, its number and ``lengths``.
            first: number of the first sequence.
            count: number of sequences.
            lengths: what their lengths are drawn from.

        Returns:
            ``count`` sequences of width ``num_tokens(lengths.longest)``.
        """

    @abstractmethod
    def evaluation(self, split: Literal["val", "test"], seeds: Words, length: int) -> SequenceBatch:
        """Sequences to evaluate on, all of one length unless the task says otherwise.

        Args:
            split: which of the held-out splits; tasks without a corpus are told apart by their seeds alone.
            seeds: one per sequence, ``(B,)``. A task over a corpus may return all that it holds instead.
            length: length of each sequence.

        Returns:
            Sequences of width ``num_tokens(length)``. Columns beside the three are handed to ``measures``.
        """

    def measures(self, predictions: Tensor, batch: SequenceBatch) -> dict[str, Ratio]:
        """What to report of an evaluation batch beside token and sequence accuracy: the same names for each batch.

        Args:
            predictions: most likely target at each position, ``(B, T)``.
            batch: a batch of ``evaluation``.

        Returns:
            Shares by name; nothing unless a task knows better.
        """
        return {}

    def check_length(self, option: str, length: int) -> None:
        """Refuses a length that the task cannot make.

        Raises:
            ValueError: naming ``option``, the length and the task's limits.
        """
        if length < self.min_length:
            raise ValueError(
                f"{option}: length {length} is too short for {type(self).__name__}; use {self.min_length} or more."
            )
        self._check_limit(option, length, self.max_length)

    def check_train_length(self, option: str, length: int) -> None:
        """Refuses a length that the task cannot make, or not for training.

        Raises:
            ValueError: naming ``option``, the length and the task's limits.
        """
        self.check_length(option, length)
        self._check_limit(option, length, self.max_train_length)

    def _check_limit(self, option: str, length: int, limit: int | None) -> None:
        if limit is not None and length > limit:
            raise ValueError(f"{option}: length {length} is beyond {type(self).__name__}'s limit; use {limit} or less.")


class GeneratedTask(Task):
    """A task that makes each sequence of a seed of its own, without end."""

    @abstractmethod
    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Sequences of seeds.

        Args:
            seeds: one per sequence, ``(B,)``. A sequence depends on nothing but its seed and ``lengths``.
            lengths: what its length is drawn from.

        Returns:
            ``B`` sequences of width ``num_tokens(lengths.longest)``.
        """

    def training(self, stream: int, first: int, count: int, lengths: LengthRange) -> SequenceBatch:
        """The sequences of consecutive seeds."""
        return self.sample(sequence_seeds(stream, first, count), lengths)

    def evaluation(self, split: Literal["val", "test"], seeds: Words, length: int) -> SequenceBatch:
        """Drawn like training sequences unless a task knows better."""
        return self.sample(seeds, LengthRange(length, length))
