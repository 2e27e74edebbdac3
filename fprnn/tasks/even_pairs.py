"""Even pairs: are there as many pairs "ab" as "ba" in a word; that is, does its last symbol equal its first.

Bit for bit the sequences of the authors of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4; see
``FormalLanguage``.
"""

import numpy as np

from fprnn.tasks.formal import FormalLanguage, end_labelled
from fprnn.tasks.streams import Streams, Words
from fprnn.tasks.task import LengthRange, SequenceBatch


class EvenPairs(FormalLanguage):
    """Whether first and last symbol of a word of "a" and "b" agree; a length counts symbols.

    Token 0 is blank, 1 is "a", 2 is "b". The target is 1 where they agree, 2 where they differ.

    Args:
        context: the authors' context, a fixed number of draws a sequence; a batch is ``context - 1`` wide. By default
            one more than the longest sequence. It sets which words a seed stands for.
        eval_shortest: evaluate on lengths between this and the one asked for; by default on that alone.

    Raises:
        ValueError: if the context leaves no room for a symbol.
    """

    def __init__(self, context: int | None = None, eval_shortest: int | None = None) -> None:
        super().__init__(("<blank>", "a", "b"), 2, context, eval_shortest)

    def sample(self, seeds: Words, lengths: LengthRange) -> SequenceBatch:
        """Words of uniform symbols; first all symbols of the context are drawn, then the length."""
        streams = Streams(seeds)
        symbols = streams.integers(0, 2, self.num_tokens(lengths.longest))
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        last = np.take_along_axis(symbols, length - 1, axis=1)
        return end_labelled(symbols + 1, length, (last != symbols[:, :1]) + 1)
