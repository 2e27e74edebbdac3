"""Parity with the label at the end: read a word, answer the sum of its symbols at the last one.

Bit for bit the sequences of the authors of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4; see
``FormalLanguage``. Parity labelled at every token is ``WordProblem("Z2")``.
"""

import numpy as np

from dinopl.core.checks import MOST_NAMES, check_sizes
from fprnn.tasks.formal import FormalLanguage, end_labelled
from fprnn.tasks.streams import Streams, Words
from fprnn.tasks.task import LengthRange, SequenceBatch


class Parity(FormalLanguage):
    """Sum of the symbols modulo their number, asked for at the last symbol; a length counts symbols.

    Token 0 is blank, token 1 + s is the symbol s, and the target is the token of the sum.

    Args:
        modulus: number of symbols. 2 is parity.
        context: the authors' context, a fixed number of draws a sequence; a batch is ``context - 1`` wide. By default
            one more than the longest sequence. It sets which words a seed stands for.
        eval_shortest: evaluate on lengths between this and the one asked for; by default on that alone.

    Raises:
        ValueError: if the modulus is below 2 or beyond 10**7, or the context leaves no room for a symbol.
    """

    def __init__(self, modulus: int = 2, context: int | None = None, eval_shortest: int | None = None) -> None:
        if modulus < 2:
            raise ValueError(f"--data.task.modulus: {modulus} symbols leave nothing to add; use 2 or more.")
        check_sizes(MOST_NAMES, **{"--data.task.modulus": modulus})
        super().__init__(("<blank>", *map(str, range(modulus))), modulus, context, eval_shortest)
        self.modulus = modulus

    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Words of uniform symbols; first all symbols of the context are drawn, then the length."""
        streams = Streams(seeds)
        symbols = streams.integers(0, self.modulus, self.num_tokens(lengths.longest))
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        total = np.where(np.arange(symbols.shape[1]) < length, symbols, 0).sum(axis=1, keepdims=True)
        return end_labelled(symbols + 1, length, total % self.modulus + 1)
