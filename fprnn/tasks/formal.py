"""Formal languages with the label at the end: read a word, answer a question about all of it at the last token.

The tasks of the Chomsky-hierarchy suite (Delétang et al., ICLR 2023) in the form of "Fixed-Point RNNs" (Movahedi et
al., NeurIPS 2025), appendix E.4. A sequence with seed s is, bit for bit, the one that the authors' generator makes of
``numpy.random.default_rng(s)``. What differs: a length counts the tokens that are read, while the authors' sizes count
the answer too; and seeds are streams of the run's seed instead of the authors' splits.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dinopl.core.errors import MOST_NAMES, check_sizes
from fprnn.tasks.task import GeneratedTask, LengthRange, Seeds, SequenceBatch, Streams, Vocabulary


def end_labelled(
    tokens: NDArray[np.int64], length: NDArray[np.int64], answer: NDArray[np.int64], blank: int = 0
) -> SequenceBatch:
    """Sequences that are asked one question each, at their last token.

    Args:
        tokens: ``(B, T)``; what stands behind a sequence's end does not matter.
        length: tokens of each sequence, ``(B, 1)``, between 1 and T.
        answer: target at the last token, ``(B, 1)``.
        blank: token that fills up a row.
    """
    position = np.arange(tokens.shape[1])
    mask = position == length - 1
    return {
        "tokens": torch.from_numpy(np.where(position < length, tokens, blank)),
        "targets": torch.from_numpy(np.where(mask, answer, 0)),
        "mask": torch.from_numpy(mask),
    }


class FormalLanguage(GeneratedTask):
    """What the formal languages share: answers are tokens, and a fixed number of draws makes a sequence.

    Args:
        tokens: names of the tokens, blank included.
        num_answers: number of tokens that can be an answer.
        context: the authors' context, a fixed number of draws a sequence; a batch is ``context - 1`` wide. None is one
            more than the longest sequence. It sets which sequences a seed stands for.
        eval_shortest: evaluate on lengths between this and the one asked for; None is that alone.

    Raises:
        ValueError: if the context leaves no room, or no sequence is as short as ``eval_shortest``.
    """

    def __init__(
        self, tokens: Iterable[str], num_answers: int, context: int | None = None, eval_shortest: int | None = None
    ) -> None:
        self.vocabulary = Vocabulary(tokens)
        self.num_targets = self.vocab_size
        self.context, self.eval_shortest, self._num_answers = context, eval_shortest, num_answers
        if context is not None and context <= self.min_length:
            raise ValueError(f"context={context}: leaves no room for a sequence; use {self.min_length + 1} or more")
        self.max_length = None if context is None else context - 1
        if eval_shortest is not None:
            self.check_length("eval_shortest", eval_shortest)

    @property
    def num_answers(self) -> int:
        """Number of tokens that can be an answer."""
        return self._num_answers

    def num_tokens(self, length: int) -> int:
        """As many positions as tokens, unless the context is fixed."""
        return length if self.context is None else self.context - 1

    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> SequenceBatch:
        """All of one length, or of lengths from ``eval_shortest`` to it."""
        shortest = length if self.eval_shortest is None else min(self.eval_shortest, length)
        return self.sample(seeds, LengthRange(shortest, length))


class Parity(FormalLanguage):
    """Sum of the symbols modulo their number, asked for at the last symbol; a length counts symbols.

    Parity labelled at every token is ``WordProblem("Z2")``.

    Token 0 is blank, token 1 + s is the symbol s, and the target is the token of the sum.

    Args:
        modulus: number of symbols. 2 is parity.

    Raises:
        ValueError: if the modulus is below 2 or beyond 10**7.
    """

    def __init__(self, modulus: int = 2, context: int | None = None, eval_shortest: int | None = None) -> None:
        if modulus < 2:
            raise ValueError(f"modulus={modulus}: leaves nothing to add; use 2 or more")
        check_sizes(MOST_NAMES, modulus=modulus)
        super().__init__(("<blank>", *map(str, range(modulus))), modulus, context, eval_shortest)
        self.modulus = modulus

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Words of uniform symbols; first all symbols of the context are drawn, then the length."""
        streams = Streams(seeds)
        symbols = streams.integers(0, self.modulus, self.num_tokens(lengths.longest))
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        total = np.where(np.arange(symbols.shape[1]) < length, symbols, 0).sum(axis=1, keepdims=True)
        return end_labelled(symbols + 1, length, total % self.modulus + 1)


class EvenPairs(FormalLanguage):
    """Whether first and last symbol of a word of "a" and "b" agree; a length counts symbols.

    That is, whether there are as many pairs "ab" as "ba".

    Token 0 is blank, 1 is "a", 2 is "b". The target is 1 where they agree, 2 where they differ.
    """

    def __init__(self, context: int | None = None, eval_shortest: int | None = None) -> None:
        super().__init__(("<blank>", "a", "b"), 2, context, eval_shortest)

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Words of uniform symbols; first all symbols of the context are drawn, then the length."""
        streams = Streams(seeds)
        symbols = streams.integers(0, 2, self.num_tokens(lengths.longest))
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        last = np.take_along_axis(symbols, length - 1, axis=1)
        return end_labelled(symbols + 1, length, (last != symbols[:, :1]) + 1)


STEPS = np.array([0, 1, -1])
"""What the tokens 1, 2 and 3 stand for."""


class CycleNavigation(FormalLanguage):
    """Place on a cycle after a walk from place 0, asked for at the last step; a length counts steps.

    The authors' code has 6 places, while its header and the Chomsky-hierarchy suite say 5.

    Token 0 is blank, 1 stays, 2 goes forwards, 3 backwards, and 4 + p is the place p, which only targets name.

    Args:
        places: length of the cycle.

    Raises:
        ValueError: if there is one place only, or there are more than 10**7.
    """

    def __init__(self, places: int = 6, context: int | None = None, eval_shortest: int | None = None) -> None:
        if places < 2:
            raise ValueError(f"places={places}: leaves nowhere to go; use 2 or more")
        check_sizes(MOST_NAMES, places=places)
        super().__init__(("<blank>", "stay", "+", "-", *map(str, range(places))), places, context, eval_shortest)
        self.places = places

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Walks of uniform steps; first as many steps as the context has are drawn, then the length."""
        streams = Streams(seeds)
        width = self.num_tokens(lengths.longest)
        steps = streams.integers(0, len(STEPS), width + 1)[:, :width]
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        walked = np.where(np.arange(width) < length, STEPS[steps], 0).sum(axis=1, keepdims=True)
        return end_labelled(steps + 1, length, walked % self.places + 4)
