"""Word problems of finite groups: name the product of all elements read so far, at every position.

The state-tracking task of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), section 4.4 and appendix D; data format
of Merrill et al. (ICML 2024). What differs: words are drawn on the fly instead of read from a file of 16 million, no
position that holds no element is scored, and BOS is left out unless asked for.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fprnn.tasks.groups import cayley_table, element_names
from fprnn.tasks.task import GeneratedTask, LengthRange, Seeds, SequenceBatch, Streams, Vocabulary

__all__ = ["WordProblem", "cayley_table", "prefix_products"]

SPECIALS = ("<pad>", "<bos>", "<unk>", "<eos>", "<sep>", "<cls>", "<mask>")


def prefix_products(table: NDArray[np.int16], words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Products of all prefixes: ``y_t = y_{t-1} * x_t`` from the identity, which is element 0.

    Args:
        table: multiplication table ``(n, n)``.
        words: elements ``(B, T)``.

    Returns:
        Elements ``(B, T)``.
    """
    flat, order = table.reshape(-1), len(table)
    products = np.empty(words.shape[::-1], dtype=np.int64)
    product = np.zeros(len(words), dtype=np.int64)
    for position, elements in enumerate(np.ascontiguousarray(words.T)):
        products[position] = flat.take(product * order + elements)  # few entries of a table that may have millions
        product = products[position]
    return np.ascontiguousarray(products.T)


class WordProblem(GeneratedTask):
    """Words of group elements, labelled with the product of each prefix; a length counts elements.

    Tokens are the elements, then seven specials, as in the public data sets (A5: 67 tokens, S5: 127).

    Args:
        group: ``Z<n>``, ``S<n>``, ``A<n>`` or a direct product such as ``A4_x_Z5``. Z2 is parity, labelled everywhere.
        bos: start each word with a BOS token.
        score_specials: score the answers at BOS and padding as well, as the paper's code does; they are trivial, and
            raise both loss and accuracy. Targets are then all tokens instead of the elements.

    Raises:
        ValueError: if there is no such group.
    """

    def __init__(self, group: str, bos: bool = False, score_specials: bool = False) -> None:
        self.table = cayley_table(group)
        self.order, self.bos, self.score_specials = len(self.table), bos, score_specials
        self.vocabulary = Vocabulary((*element_names(group), *SPECIALS))
        self.num_targets = self.vocab_size if score_specials else self.order

    def num_tokens(self, length: int) -> int:
        """One position an element, and one for BOS."""
        return length + self.bos

    def sample(self, seeds: Seeds, lengths: LengthRange) -> SequenceBatch:
        """Words of independent uniform elements; a word's length is the first draw of its stream."""
        streams = Streams(seeds)
        length = streams.integers(lengths.shortest, lengths.longest + 1, 1)
        words = streams.integers(0, self.order, lengths.longest)
        products = prefix_products(self.table, words)
        inside = np.arange(lengths.longest) < length
        pad, bos = self.order, self.order + 1
        tokens, targets = np.where(inside, words, pad), np.where(inside, products, pad)
        if self.bos:
            margin = ((0, 0), (1, 0))
            tokens, targets = (np.pad(ids, margin, constant_values=bos) for ids in (tokens, targets))
            inside = np.pad(inside, margin)
        if self.score_specials:
            inside = np.ones_like(inside)
        else:
            targets = np.where(inside, targets, 0)
        return {
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(targets),
            "mask": torch.from_numpy(inside),
        }
