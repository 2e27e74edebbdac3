"""Copying a string, and its n-gram variants: repeat a string, or what follows an n-gram in it.

The tasks of "Repeat After Me" (Jelassi et al., ICML 2024) in the form of "Fixed-Point RNNs" (Movahedi et al., NeurIPS
2025), section 4.3 and appendix D.2: "$", a string of letters, "|", the answer, "."; training rows are packed with
examples. What differs: a batch is a function of its seeds, while the authors' generator was never seeded; the "*" that
no string uses has no token; and where an n-gram comes several times, the first counts, in training too.
"""

from abc import abstractmethod
from string import ascii_lowercase
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fprnn.tasks.task import GeneratedTask, LengthRange, Seeds, SequenceBatch, Streams, Vocabulary

Integers = NDArray[np.int64]
Draws = NDArray[np.uint64]


Run = tuple[Integers, Integers]
"""Letters that follow each other in each example's string: the place of the first, and how many, ``(B, K)`` each."""


def write(
    letters: Integers, offset: Integers, runs: list[Run], given: int, alphabet: int, width: int, score_end: bool
) -> tuple[Integers, NDArray[np.bool_]]:
    """Writes examples one behind the other, each as "$" run "|" run ... ".".

    Args:
        letters: all strings of a row one behind the other, ``(B, S)``.
        offset: where each example's string begins in these, ``(B, K)``.
        runs: what each example writes of its string, in this order.
        given: letters of the last run that belong to the question.
        alphabet: number of different letters, whose successors are "$", "|" and ".".
        width: symbols of a row. An example that does not end in it is not scored; behind the last, "." fills up.
        score_end: whether the "." of an example is scored like its answer.

    Returns:
        Symbols ``(B, width)``, and whether each belongs to an answer.
    """
    sizes: Integers = np.sum([size + 1 for _, size in runs], axis=0) + 1  # symbols of each example
    ends = sizes.cumsum(axis=1)
    is_end = np.zeros((len(sizes), width + 1), dtype=np.int64)
    np.put_along_axis(is_end, np.minimum(ends, width), 1, axis=1)
    example = is_end[:, :width].cumsum(axis=1)
    behind = example == sizes.shape[1]
    example = np.minimum(example, sizes.shape[1] - 1)

    def of_place(values: Integers) -> Integers:
        return np.take_along_axis(values, example, axis=1)

    end = of_place(ends)
    place = np.arange(width) - end + of_place(sizes)  # from the example's beginning
    symbols = np.where(place == 0, alphabet, alphabet + 1)
    offset, begin = of_place(offset), np.ones_like(place)
    for run in runs:
        start, size = of_place(run[0]), of_place(run[1])
        source = np.clip(offset + start + place - begin, 0, letters.shape[1] - 1)
        inside = (place >= begin) & (place < begin + size)
        symbols = np.where(inside, np.take_along_axis(letters, source, axis=1), symbols)
        begin = begin + size + 1
    last = begin - 1  # the place of "."
    symbols = np.where(behind | (place == last), alphabet + 2, symbols)
    answer = (place >= last - size + given) & (place < last + score_end)
    return symbols, answer & ~behind & (end <= width)


class CopyingTask(GeneratedTask):
    """What the copying tasks share; a length counts the letters of the string.

    Tokens are the letters, "$", "|" and ".". A training row is packed with examples, whose answers and their "." are
    scored. A row of an evaluation set is one example, of whose answer the letters alone are scored: its token accuracy
    is the paper's character accuracy, and its sequence accuracy the paper's string accuracy.

    Args:
        letters: number of different letters, 26 or fewer.
        context: symbols of a training row, which is packed with examples; 256 in the paper. None is one example a row,
            as an evaluation row always is.

    Raises:
        ValueError: if there are fewer letters than 2 or more than 26, or the context has no room for an example.
    """

    def __init__(self, letters: int = 26, context: int | None = None) -> None:
        if not 2 <= letters <= 26:
            raise ValueError(f"letters={letters}: must be from 2 to 26; 26 is the alphabet")
        self.letters, self.context = letters, context
        self.vocabulary = Vocabulary((*ascii_lowercase[:letters], "$", "|", "."))
        self.num_targets = self.vocab_size
        if context is not None and context < self.symbols(self.min_length):
            raise ValueError(
                f"context={context}: has no room for an example; use {self.symbols(self.min_length)} or more, and "
                "twice the longest training length"
            )
        self.max_train_length = None if context is None else (context - self.symbols(0)) // 2

    def symbols(self, length: int) -> int:
        """Symbols of the longest example with a string of this length."""
        return 2 * length + 3

    def num_tokens(self, length: int) -> int:
        """One position less than symbols, of one example or of the context; a row of evaluation is one example."""
        return max(self.symbols(length), self.context or 0) - 1

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Packed examples, or one a row: first all lengths are drawn, then the questions, then the letters."""
        if self.context is None:
            return self._batch(seeds, lengths, 1, self.symbols(lengths.longest), score_end=True)
        count = -(-self.context // (lengths.shortest + 4))  # no example is shorter
        return self._batch(seeds, lengths, count, self.context, score_end=True)

    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> SequenceBatch:
        """One example a row, as wide as it is, whatever the context."""
        return self._batch(seeds, LengthRange(length, length), 1, self.symbols(length), score_end=False)

    @abstractmethod
    def examples(
        self, letters: Integers, offset: Integers, length: Integers, draws: Draws
    ) -> tuple[Integers, list[Run], int]:
        """All strings of a row, the runs that each example writes, and how many letters of the last run are given.

        Args:
            letters: all strings of a row, ``(B, S)``.
            offset: where each begins, ``(B, K)``.
            length: letters of each, ``(B, K)``.
            draws: two uniform draws below 2**32 for each, ``(B, K, 2)``.
        """

    def _batch(self, seeds: Seeds, lengths: LengthRange, count: int, width: int, score_end: bool) -> SequenceBatch:
        streams = Streams(seeds)
        length = streams.integers(lengths.shortest, lengths.longest + 1, count)
        draws = streams.integers(0, 2**32, 2 * count).astype(np.uint64).reshape(-1, count, 2)
        # Only an example that begins within the row is seen, and those before it have fewer letters than symbols.
        letters = streams.integers(0, self.letters, width + lengths.longest)
        offset = np.minimum(length.cumsum(axis=1) - length, width)
        letters, runs, given = self.examples(letters, offset, length, draws)
        symbols, answer = write(letters, offset, runs, given, self.letters, width, score_end)
        tokens, targets, mask = symbols[:, :-1], symbols[:, 1:], answer[:, 1:]
        return {
            "tokens": torch.from_numpy(tokens.copy()),
            "targets": torch.from_numpy(np.where(mask, targets, 0)),
            "mask": torch.from_numpy(mask.copy()),
        }


class Copying(CopyingTask):
    """Repeat a string: ``$abc|abc.``; a length counts letters."""

    def examples(
        self, letters: Integers, offset: Integers, length: Integers, draws: Draws
    ) -> tuple[Integers, list[Run], int]:
        """The string, twice."""
        whole = (np.zeros_like(length), length)
        return letters, [whole, whole], 0


class DuplicateNGram(CopyingTask):
    """Repeat a string in which one n-gram comes twice; a length counts letters.

    A random string, onto a random place of which the n letters of another, not overlapping place are written.

    Args:
        n: letters of the n-gram.
    """

    def __init__(self, n: int = 3, letters: int = 26, context: int | None = None) -> None:
        self.n = _check_n(n)
        self.min_length = 2 * n
        super().__init__(letters, context)

    def examples(
        self, letters: Integers, offset: Integers, length: Integers, draws: Draws
    ) -> tuple[Integers, list[Run], int]:
        """See :meth:`CopyingTask.examples`."""
        slots = length - 2 * self.n + 1  # places for one n-gram where the other is cut out
        one, other = (_choose(draws[..., i], slots) for i in range(2))
        gram = np.arange(self.n)
        source = offset[..., None] + np.minimum(one, other)[..., None] + gram
        target = offset[..., None] + np.maximum(one, other)[..., None] + self.n + gram
        letters = letters.copy()
        np.put_along_axis(
            letters, target.reshape(len(letters), -1), _take(letters, source).reshape(len(letters), -1), 1
        )
        whole = (np.zeros_like(length), length)
        return letters, [whole, whole], 0


class SuffixNGram(CopyingTask):
    """Say what follows an n-gram in a string that came before: ``$abcdef|bcdef.``; a length counts letters.

    Here the question ends with "bc", and the answer is "def". Where the n-gram comes several times, the answer follows
    the first, and goes on to the string's end, one letter or more.

    Args:
        n: letters of the n-gram.
    """

    def __init__(self, n: int = 3, letters: int = 26, context: int | None = None) -> None:
        self.n = _check_n(n)
        self.min_length = n + 1
        super().__init__(letters, context)

    def examples(
        self, letters: Integers, offset: Integers, length: Integers, draws: Draws
    ) -> tuple[Integers, list[Run], int]:
        """See :meth:`CopyingTask.examples`."""
        place = self._place(letters, offset, length, draws)
        return letters, [(np.zeros_like(length), length), (place, length - place)], self.n

    def _place(self, letters: Integers, offset: Integers, length: Integers, draws: Draws) -> Integers:
        """Where an n-gram that is not the string's end comes first, ``(B, K)``."""
        place = _choose(draws[..., 0], length - self.n)
        grams = np.arange(int(length.max(initial=self.n)) - self.n + 1)[:, None] + np.arange(self.n)
        # A place behind the last n-gram of a shorter string may match too; the one that was drawn comes before it.
        all_grams = _take(letters, np.minimum(offset[..., None, None] + grams, letters.shape[1] - 1))
        gram = _take(letters, offset[..., None] + place[..., None] + np.arange(self.n))
        return (all_grams == gram[..., None, :]).all(axis=-1).argmax(axis=-1)


class PrefixNGram(SuffixNGram):
    """Say what follows an n-gram in a string that comes after it: ``$bc|abcdef|def.``; a length counts letters.

    Where the n-gram comes several times, the answer follows the first, and goes on to the string's end, one letter or
    more.
    """

    def symbols(self, length: int) -> int:
        """Symbols of the longest example with a string of this length."""
        return 2 * length + 4

    def examples(
        self, letters: Integers, offset: Integers, length: Integers, draws: Draws
    ) -> tuple[Integers, list[Run], int]:
        """See :meth:`CopyingTask.examples`."""
        place = self._place(letters, offset, length, draws)
        question = (place, np.full_like(length, self.n))
        answer = (place + self.n, length - place - self.n)
        return letters, [question, (np.zeros_like(length), length), answer], 0


def _check_n(n: int) -> int:
    if n < 1:
        raise ValueError(f"n={n}: so many letters make no n-gram; use 1 or more")
    return n


def _choose(draws: Draws, count: Integers) -> Integers:
    """Uniform numbers below ``count``, up to one part in 2**32."""
    return ((draws * count.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _take(letters: Integers, index: Integers) -> Integers:
    """``letters[b, index[b, ...]]`` for letters ``(B, S)``."""
    return np.take_along_axis(letters, index.reshape(len(letters), -1), axis=1).reshape(index.shape)
