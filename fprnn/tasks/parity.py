"""Parity with the label at the end: read a word, answer the sum of its symbols at the last one.

The formal-language task of the Chomsky-hierarchy suite (Delétang et al., ICLR 2023) in the form of "Fixed-Point RNNs"
(Movahedi et al., NeurIPS 2025), appendix E.4. A sequence with seed s is, bit for bit, the one that the authors'
generator makes of ``numpy.random.default_rng(s)``. What differs: a length counts the symbols that are read, one less
than the authors' size, which counts the answer too. Parity labelled at every token is ``WordProblem("Z2")``.
"""

import numpy as np
import torch

from fprnn.tasks.streams import Streams, Words
from fprnn.tasks.task import LengthRange, SequenceBatch, Task
from fprnn.tasks.vocabulary import Vocabulary


class Parity(Task):
    """Sum of the symbols modulo their number, asked for at the last symbol; a length counts symbols.

    Token 0 is blank, token 1 + s is the symbol s, and the target is the token of the sum.

    Args:
        modulus: number of symbols. 2 is parity.
        context: the authors' context, a fixed number of draws a sequence; a batch is ``context - 1`` wide. By default
            one more than the longest sequence. It sets which words a seed stands for.

    Raises:
        ValueError: if the modulus is below 2 or the context leaves no room for a symbol.
    """

    def __init__(self, modulus: int = 2, context: int | None = None) -> None:
        if modulus < 2:
            raise ValueError(f"--data.task.modulus: {modulus} symbols leave nothing to add; use 2 or more.")
        if context is not None and context < 2:
            raise ValueError(f"--data.task.context: {context} leaves no room for a symbol; use 2 or more.")
        self.modulus = modulus
        self.context = context
        self.vocabulary = Vocabulary(("<blank>", *map(str, range(modulus))))
        self.num_targets = modulus + 1
        self.max_length = None if context is None else context - 1

    def num_tokens(self, length: int) -> int:
        """As many positions as symbols, unless the context is fixed."""
        return length if self.context is None else self.context - 1

    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Words of uniform symbols; first all symbols of the context are drawn, then the length."""
        streams = Streams(seeds)
        width = self.num_tokens(lengths.longest)
        symbols = streams.integers(1, self.modulus + 1, width)
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        position = np.arange(width)
        tokens = np.where(position < length, symbols, 0)
        answer = (tokens.sum(axis=1, keepdims=True) - length) % self.modulus + 1
        mask = position == length - 1
        return {
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(np.where(mask, answer, 0)),
            "mask": torch.from_numpy(mask),
        }
