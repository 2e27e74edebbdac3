"""Arithmetic modulo 5 with the result asked for at the "=", without and with brackets.

Bit for bit the sequences of the authors of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4; see
``FormalLanguage``. Whole batches are made at once: the grammar with brackets, whose draws depend on each other, is
walked in step for all sequences, each reading on in its own stream.

With brackets the answers are not uniform: 0 is right more often than one time in five, so that the constant answer 0
is well above 0 in the paper's scaled accuracy. Both are reported side by side.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fprnn.tasks.formal import FormalLanguage, end_labelled
from fprnn.tasks.task import LengthRange, Seeds, SequenceBatch, Streams

Integers = NDArray[np.int64]

MODULUS = 5
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)


def scaled_measures(predictions: Tensor, batch: SequenceBatch, zero: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Scaled accuracy, and that of the constant answer 0.

    Accuracy a on the scale ``(a - 1/5) / (1 - 1/5)``, where a blind guess is 0 and always right is 1; over a set with
    r right answers of n that is ``(5 r - n) / (4 n)``, whose two sums add up over batches.

    Args:
        predictions: most likely target at each position, ``(B, T)``.
        batch: a batch of ``evaluation``.
        zero: the token that stands for 0.
    """
    mask, targets = batch["mask"], batch["targets"]
    asked = mask.sum()
    right = {
        "scaled_accuracy": ((predictions == targets) & mask).sum(),
        "scaled_accuracy_of_0": ((targets == zero) & mask).sum(),
    }
    return {name: (MODULUS * count - asked, (MODULUS - 1) * asked) for name, count in right.items()}


class ModularArithmetic(FormalLanguage):
    """Value of a formula like ``4 - 2 * 3 =`` modulo 5, asked for at the "="; a length counts tokens, "=" included.

    Products come before sums. Lengths are even, since numbers alternate with signs. Token 0 is blank, 1 to 3 are "+",
    "-" and "*", 4 is "=", and 5 + z is the number z.
    """

    min_length = 2

    def __init__(self, context: int | None = None, eval_shortest: int | None = None) -> None:
        super().__init__(("<blank>", "+", "-", "*", "=", *map(str, range(MODULUS))), MODULUS, context, eval_shortest)

    def check_length(self, name: str, length: int) -> None:
        """Refuses odd lengths too."""
        super().check_length(name, length)
        if length % 2:
            raise ValueError(f"{name}={length}: a formula and its = have an even number of tokens; use {length - 1}")

    def measures(self, predictions: Tensor, batch: SequenceBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Scaled accuracy, and that of the constant answer 0, which is close to 0 here."""
        return scaled_measures(predictions, batch, zero=5)

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Formulas of uniform numbers and signs; an odd length, which only a curriculum can ask for, is rounded down.

        First numbers are drawn for all places of the context, then signs for every second place, then the length.
        """
        streams = Streams(seeds)
        width = self.num_tokens(lengths.longest)
        numbers = streams.integers(0, MODULUS, width + 1)[:, :width]
        signs = streams.integers(0, 3, (width + 1) // 2)
        count = streams.integers((lengths.shortest + 2) // 2, (lengths.longest + 2) // 2 + 1, 1) - 1
        tokens = numbers + 5
        tokens[:, 1::2] = signs[:, : width // 2] + 1
        np.put_along_axis(tokens, 2 * count - 1, 4, axis=1)
        return end_labelled(tokens, 2 * count, flat_values(numbers[:, ::2], signs, count) + 5)


def flat_values(numbers: Integers, signs: Integers, count: Integers) -> Integers:
    """Values of formulas without brackets modulo 5.

    Args:
        numbers: ``(B, K)``.
        signs: sign behind each number, ``(B, K)`` or wider: 0 adds, 1 subtracts, 2 multiplies.
        count: numbers of each formula, ``(B, 1)``, between 1 and K; what stands behind them does not matter.

    Returns:
        Values ``(B, 1)``, 0 to 4.
    """
    total, product = np.zeros(len(numbers), dtype=np.int64), numbers[:, 0]
    for place in range(1, int(count.max(initial=1))):
        sign, number, goes_on = signs[:, place - 1], numbers[:, place], place < count[:, 0]
        multiplies = goes_on & (sign == 2)
        adds = goes_on & (sign != 2)
        total = np.where(adds, total + product, total)
        signed = np.where(sign == 1, -number, number)
        product = np.where(multiplies, product * number % MODULUS, np.where(adds, signed, product))
    return ((total + product) % MODULUS)[:, None]


class BracketedArithmetic(FormalLanguage):
    """Value of a formula like ``((-1)*(2+3))=`` modulo 5, asked for at the "="; a length counts tokens, "=" included.

    Tokens 0 to 4 are the numbers, then "+", "-", "*", "(", ")", "=" and blank. Lengths below 3 become 3, as the
    authors' generator has it; their training set, of sizes 3 to 40, is ``train_length: [1, 38]``, and their test set,
    of sizes 40 to 256, is ``eval_lengths: [254]`` with ``eval_shortest: 38``.
    """

    def __init__(self, eval_shortest: int | None = None) -> None:
        super().__init__((*map(str, range(MODULUS)), *"+-*()=", "<blank>"), MODULUS, None, eval_shortest)

    def num_tokens(self, length: int) -> int:
        """As many positions as tokens, of which there are 3 or more."""
        return max(length, 3)

    def measures(self, predictions: Tensor, batch: SequenceBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Scaled accuracy, and that of the constant answer 0: the floor that a model has to pass."""
        return scaled_measures(predictions, batch, zero=0)

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Random formulas; the length is the first draw of a stream, then the grammar draws as it goes."""
        streams = Streams(seeds)
        length = np.maximum(streams.integers(lengths.shortest, lengths.longest + 1, 1), 3)
        width = self.num_tokens(lengths.longest)
        tokens, values = random_formulas(streams, length[:, 0] - 1, width)
        np.put_along_axis(tokens, length - 1, self.vocabulary.encode("=")[0], axis=1)
        return end_labelled(tokens, length, values[:, None], blank=self.vocabulary.encode(["<blank>"])[0])


def random_formulas(streams: Streams, length: Integers, width: int) -> tuple[Integers, Integers]:
    """Formulas with brackets, and their values modulo 5.

    A formula of L tokens is ``z``, ``-z``, ``(z)`` or ``(-z)`` for L = 1 to 4, with z drawn from 0 to 4; a longer one
    is ``(`` left sign right ``)``: the length of the left formula is drawn from 1 to L - 4, then left and right are
    made, then the sign is drawn.

    Args:
        streams: one for each formula; where they stand, the formula's draws begin.
        length: tokens of each formula, ``(B,)``, 1 or more.
        width: columns of the result.

    Returns:
        Tokens ``(B, width)``, numbered as those of ``BracketedArithmetic``, and values ``(B,)``.
    """
    walk = _Walk(streams, length, width)
    while len(rows := np.flatnonzero(walk.waiting)):
        walk.step(rows)
    return walk.tokens, walk.values[:, 0]


class _Walk:
    """Depth-first walks through the trees of formulas, one a row, a node at a time.

    A row has a stack of nodes that wait, and one of values that wait for their sign. A formula waits with its length
    and its first column; a sign with length 0 and its own column.
    """

    def __init__(self, streams: Streams, length: Integers, width: int) -> None:
        count, longest = len(length), int(length.max(initial=1))
        # A formula of L tokens has (L - 1) / 4 signs or fewer, two draws each, and one more number than signs. The
        # bounded draws reject once in ten million times: eight spare draws last for ever.
        self.draws = streams.integers(0, 2**32, 3 * (longest // 4) + 9).astype(np.uint64)
        self.drawn = np.zeros(count, dtype=np.int64)
        # Each level of nesting takes four tokens or more, and leaves two nodes more and one value more to wait.
        self.lengths = np.zeros((count, longest // 2 + 3), dtype=np.int64)
        self.columns = np.zeros_like(self.lengths)
        self.waiting = np.ones(count, dtype=np.int64)
        self.lengths[:, 0] = length
        self.values = np.zeros((count, longest // 4 + 2), dtype=np.int64)
        self.ready = np.zeros(count, dtype=np.int64)
        self.tokens = np.zeros((count, width), dtype=np.int64)

    def step(self, rows: Integers) -> None:
        """Takes the last node that waits in each of these rows."""
        top = self.waiting[rows] - 1
        length, column = self.lengths[rows, top], self.columns[rows, top]
        span = np.where(length == 0, 3, np.where(length < 5, MODULUS, length - 4))
        draw, accepted = self._draw(rows, span)
        self.waiting[rows] -= accepted
        for kind, act in (
            (length == 0, self.write_sign),
            ((length > 0) & (length < 5), self.write_number),
            (length >= 5, self.write_brackets),
        ):
            chosen = np.flatnonzero(kind & accepted)
            act(rows[chosen], column[chosen], length[chosen], draw[chosen])

    def _draw(self, rows: Integers, span: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        """What numpy's ``integers(span)`` makes of each row's next draw, and whether it accepts that (Lemire)."""
        wide = span.astype(np.uint64)
        product = self.draws[rows, self.drawn[rows]] * wide
        self.drawn[rows] += span > 1  # numpy draws nothing where there is nothing to choose
        return (product >> _HALF).astype(np.int64), (product & _LOW) >= np.uint64(2**32) % wide

    def write_number(self, rows: Integers, column: Integers, length: Integers, draw: Integers) -> None:
        """Writes ``z``, ``-z``, ``(z)`` or ``(-z)``."""
        bracketed, negative = length > 2, length % 2 == 0
        self.tokens[rows[bracketed], column[bracketed]] = 8
        self.tokens[rows[bracketed], (column + length)[bracketed] - 1] = 9
        place = column + bracketed
        self.tokens[rows[negative], place[negative]] = 6
        self.tokens[rows, place + negative] = draw
        self.values[rows, self.ready[rows]] = np.where(negative, -draw, draw) % MODULUS
        self.ready[rows] += 1

    def write_brackets(self, rows: Integers, column: Integers, length: Integers, draw: Integers) -> None:
        """Writes the brackets; left formula, right formula and sign are to come, in this order."""
        self.tokens[rows, column] = 8
        self.tokens[rows, column + length - 1] = 9
        left = draw + 1
        for nodes, first in ((0, column + 1 + left), (length - left - 3, column + 2 + left), (left, column + 1)):
            self.lengths[rows, self.waiting[rows]] = nodes
            self.columns[rows, self.waiting[rows]] = first
            self.waiting[rows] += 1

    def write_sign(self, rows: Integers, column: Integers, length: Integers, draw: Integers) -> None:
        """Writes the sign between the two formulas before, and works it out."""
        self.tokens[rows, column] = draw + 5
        self.ready[rows] -= 1
        right = self.values[rows, self.ready[rows]]
        left = self.values[rows, self.ready[rows] - 1]
        self.values[rows, self.ready[rows] - 1] = np.choose(draw, (left + right, left - right, left * right)) % MODULUS
