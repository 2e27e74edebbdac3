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

from fprnn.tasks.streams import Words
from fprnn.tasks.task import GeneratedTask, LengthRange, SequenceBatch
from fprnn.tasks.vocabulary import Vocabulary


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
        context: the authors' context; a batch is ``context - 1`` wide. None for one more than the longest sequence.
        eval_shortest: shortest length in evaluation; shorter evaluation lengths stand alone. None for each itself.

    Raises:
        ValueError: if the context leaves no room, or no sequence is as short as ``eval_shortest``.
    """

    def __init__(
        self, tokens: Iterable[str], num_answers: int, context: int | None = None, eval_shortest: int | None = None
    ) -> None:
        self.vocabulary = Vocabulary(tokens)
        self.num_targets = self.vocab_size
        self.context = context
        self.eval_shortest = eval_shortest
        self._num_answers = num_answers
        if context is not None and context <= self.min_length:
            raise ValueError(
                f"--data.task.context: {context} leaves no room for a sequence; use {self.min_length + 1} or more."
            )
        self.max_length = None if context is None else context - 1
        if eval_shortest is not None:
            self.check_length("--data.task.eval_shortest", eval_shortest)

    @property
    def num_answers(self) -> int:
        """Number of tokens that can be an answer."""
        return self._num_answers

    def num_tokens(self, length: int) -> int:
        """As many positions as tokens, unless the context is fixed."""
        return length if self.context is None else self.context - 1

    def evaluation(self, split: Literal["val", "test"], seeds: Words, length: int) -> SequenceBatch:
        """All of one length, or of lengths from ``eval_shortest`` to it."""
        shortest = length if self.eval_shortest is None else min(self.eval_shortest, length)
        return self.sample(seeds, LengthRange(shortest, length))
