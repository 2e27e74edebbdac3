"""What a task is: a vocabulary, and labelled sequences that are pure functions of a seed; and measures of answers."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from math import log
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Seeds = NDArray[np.uint64]
"""Unsigned 64-bit numbers, one for each sequence, ``(B,)``."""


def sequence_seeds(stream: int, first: int, count: int) -> Seeds:
    """Seeds of the sequences ``first .. first + count - 1`` of a stream, ``(count,)``.

    They are consecutive, as in the data sets of the formal languages; ``SeedSequence`` makes neighbours independent.
    """
    seeds: Seeds = np.arange(count, dtype=np.uint64)
    seeds += np.array((stream + first) % 2**64, dtype=np.uint64)
    return seeds


class Streams:
    """Generators of several sequences, one ``numpy.random.default_rng(seed)`` each, drawn from side by side.

    So no sequence depends on its batch or process. A generator costs some 25 to 35 microseconds on a busy core
    (measured once: 3 to 4.5 ms for a batch of 128), which is small beside a training step of all but the smallest
    models.

    Args:
        seeds: one for each sequence, ``(B,)``.
    """

    def __init__(self, seeds: Seeds) -> None:
        self.generators = [np.random.default_rng(seed) for seed in seeds.tolist()]

    def integers(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        """What ``default_rng(seed).integers(low, high, size=count)`` draws next, for each seed.

        Args:
            low: smallest value.
            high: one more than the largest value.
            count: draws per sequence.

        Returns:
            Integers ``(B, count)``.
        """
        drawn = np.empty((len(self.generators), count), dtype=np.int64)
        for row, generator in zip(drawn, self.generators, strict=True):
            row[:] = generator.integers(low, high, size=count)
        return drawn


class Vocabulary:
    """The tokens of a task, numbered from 0.

    Args:
        tokens: one name a token, all different.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._index = {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({list(self.tokens)})"

    @property
    def fingerprint(self) -> str:
        """16 digits of a hash of the tokens' names and their order."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()[:16]

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of tokens.

        Raises:
            ValueError: if a token is not in the vocabulary.
        """
        tokens = list(tokens)
        if unknown := [token for token in tokens if token not in self._index]:
            raise ValueError(f'token "{unknown[0]}" is not among the {len(self)} of the vocabulary; see its `tokens`.')
        return [self._index[token] for token in tokens]

    def decode(self, numbers: Sequence[int]) -> list[str]:
        """Names of token numbers."""
        return [self.tokens[number] for number in numbers]


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
    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> SequenceBatch:
        """Sequences to evaluate on, all of one length unless the task says otherwise.

        Args:
            split: which of the held-out splits; of tasks without a corpus, the seeds alone differ.
            seeds: one per sequence, ``(B,)``. A task over a corpus may return all that it holds instead.
            length: length of each sequence.

        Returns:
            Sequences of width ``num_tokens(length)``. Columns beside the three are handed to ``measures``.
        """

    def measures(self, predictions: Tensor, batch: SequenceBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """What to report of an evaluation batch beside token and sequence accuracy: the same names for each batch.

        Args:
            predictions: most likely target at each position, ``(B, T)``.
            batch: a batch of ``evaluation``.

        Returns:
            Shares by name, each as two scalars that add up over batches and processes: what is counted, such as right
            answers, and out of how much. Empty by default.
        """
        return {}

    def check_length(self, name: str, length: int) -> None:
        """Refuses a length that the task cannot make.

        Raises:
            ValueError: naming the argument, the length and the task's limits.
        """
        if length < self.min_length:
            raise ValueError(f"{name}={length}: too short for {type(self).__name__}; use {self.min_length} or more")
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"{name}={length}: beyond {type(self).__name__}'s limit; use {self.max_length} or less")

    def check_train_length(self, name: str, length: int) -> None:
        """Like :meth:`check_length`, for a length to train on."""
        self.check_length(name, length)
        if self.max_train_length is not None and length > self.max_train_length:
            raise ValueError(
                f"{name}={length}: beyond {type(self).__name__}'s limit in training; use {self.max_train_length} or "
                "less"
            )


class GeneratedTask(Task):
    """A task that makes each sequence of a seed of its own, without end."""

    @abstractmethod
    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
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

    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> SequenceBatch:
        """Drawn like training sequences unless a task knows better."""
        return self.sample(seeds, LengthRange(length, length))


def constant_answer_accuracy(batch: SequenceBatch) -> float:
    """Share of a set's scored positions that the best constant answer gets right: the floor of any accuracy on it.

    Args:
        batch: an evaluation set, such as ``data.evaluation_set("test", length)``.

    Raises:
        ValueError: if no position is scored.
    """
    answers = batch["targets"][batch["mask"]]
    if not len(answers):
        raise ValueError("batch: has no scored position; take a set with answers")
    return float(torch.bincount(answers).max()) / len(answers)


def scaled_accuracy(accuracy: float, num_answers: int) -> float:
    """Accuracy on a scale where a blind guess is 0 and always right is 1: ``(accuracy - 1/n) / (1 - 1/n)``.

    The modular-arithmetic results of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4, are on this
    scale. Where answers are not uniform, a constant answer is above 0: see ``constant_answer_accuracy``.

    Args:
        accuracy: between 0 and 1.
        num_answers: number n of answers that can be right, 2 or more: a task's ``num_answers``.
    """
    return (accuracy * num_answers - 1) / (num_answers - 1)


def bits_per_character(loss: float, tokens_per_character: float = 1.0) -> float:
    """Bits that a model needs for a character of a text: ``loss * tokens_per_character / ln 2``.

    Args:
        loss: mean cross-entropy of a token, in nats.
        tokens_per_character: tokens of the text over its characters: a text task's ``tokens_per_character(split)``.
    """
    return loss * tokens_per_character / log(2)
