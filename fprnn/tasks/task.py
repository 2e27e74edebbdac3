"""What a task is: a vocabulary, and labelled sequences that are pure functions of a seed."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from fprnn.tasks.streams import Words
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


class Task(ABC):
    """A sequence task: one generator and its vocabulary.

    What "length" counts is the task's to say (group elements, bits, letters to copy); positions may be more. A task
    over a corpus reads what it needs for its vocabulary in its constructor and overrides ``evaluation``.
    """

    vocabulary: Vocabulary
    """Names of the input tokens."""
    num_targets: int
    """Number of classes that targets are drawn from."""
    min_length: int = 1
    """Shortest sequence that makes sense."""
    max_length: int | None = None
    """Longest sequence that the task can make, None without limit."""

    @property
    def vocab_size(self) -> int:
        """Number of different input tokens."""
        return len(self.vocabulary)

    def num_tokens(self, length: int) -> int:
        """Width of a batch whose longest sequence has this length."""
        return length

    @abstractmethod
    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Training sequences.

        Args:
            seeds: one per sequence, ``(B,)``. A sequence depends on nothing but its seed and ``lengths``.
            lengths: what its length is drawn from.

        Returns:
            ``B`` sequences of width ``num_tokens(lengths.longest)``.
        """

    def evaluation(self, split: Literal["val", "test"], seeds: Words, length: int) -> SequenceBatch:
        """Sequences to evaluate on, all of one length; drawn like training sequences unless a task knows better.

        Args:
            split: which of the held-out splits; tasks without a corpus are told apart by their seeds alone.
            seeds: one per sequence, ``(B,)``. A task over a corpus may return all that it holds instead.
            length: length of each sequence.

        Returns:
            Sequences of width ``num_tokens(length)``.
        """
        return self.sample(seeds, LengthRange(length, length))

    def check_length(self, option: str, length: int) -> None:
        """Refuses a length that the task cannot make.

        Raises:
            ValueError: naming ``option``, the length and the task's limits.
        """
        if length < self.min_length:
            raise ValueError(
                f"{option}: length {length} is too short for {type(self).__name__}; use {self.min_length} or more."
            )
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"{option}: length {length} is beyond {type(self).__name__}'s limit; use {self.max_length} or less."
            )
