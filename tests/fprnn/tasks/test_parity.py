"""Parity against published vectors and the authors' generator, written out one sequence at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import LengthRange, Parity


def published(seed: int, shortest: int, longest: int, context: int, vocab: int) -> tuple[list[int], list[int]]:
    """Inputs and labels of one sequence in the authors' terms: a size counts the answer, -1 is not scored."""
    generator = np.random.default_rng(seed)
    word = generator.integers(1, vocab, size=context - 1)
    size = int(generator.integers(shortest, longest + 1))
    answer = (int(word[: size - 1].sum()) - (size - 1)) % (vocab - 1) + 1
    sequence, labels = [0] * context, [-1] * context
    sequence[: size - 1] = word[: size - 1].tolist()
    labels[size - 1] = answer
    return sequence[:-1], labels[1:]


@pytest.mark.parametrize(("seed", "word", "answer"), [(0, [2, 2, 2, 1, 1, 1, 1, 1, 1], 2), (1, [1, 2, 2, 2, 1, 1], 2)])
def test_published_vectors(seed: int, word: list[int], answer: int) -> None:
    batch = Parity(context=16).sample(np.array([seed], dtype=np.uint64), LengthRange(2, 11))
    assert batch["tokens"].tolist() == [word + [0] * (15 - len(word))]
    assert batch["mask"].nonzero().tolist() == [[0, len(word) - 1]]
    assert batch["targets"][batch["mask"]].tolist() == [answer]


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 5) | st.none(),
    st.integers(2, 5),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_is_what_the_authors_generator_makes(
    seeds: list[int], ends: tuple[int, int], spare: int | None, modulus: int
) -> None:
    shortest, longest = min(ends), max(ends)
    context = longest + 1 + (spare or 0)
    task = Parity(modulus, None if spare is None else context)
    batch = task.sample(np.array(seeds, dtype=np.uint64), LengthRange(shortest, longest))
    for row, seed in enumerate(seeds):
        tokens, labels = published(seed, shortest + 1, longest + 1, context, modulus + 1)
        assert batch["tokens"][row].tolist() == tokens
        assert batch["targets"][row].where(batch["mask"][row], -1).tolist() == labels


def test_the_answer_is_the_parity_of_the_ones() -> None:
    task = Parity()
    batch = task.sample(np.arange(300, dtype=np.uint64), LengthRange(1, 12))
    ones = (batch["tokens"] == task.vocabulary.encode(["1"])[0]).sum(1)
    assert task.vocabulary.decode(batch["targets"][batch["mask"]].tolist()) == [str(n % 2) for n in ones.tolist()]
    assert batch["mask"].sum(1).tolist() == [1] * 300
    assert task.vocab_size == task.num_targets == 3
    assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64


def test_limits_come_from_the_context() -> None:
    assert Parity(context=16).max_length == 15
    assert Parity(context=16).num_tokens(4) == 15
    assert Parity().max_length is None
    assert Parity().num_tokens(4) == 4


@pytest.mark.parametrize(("option", "value"), [("modulus", 1), ("context", 1)])
def test_a_bad_option_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{option}={value}: .*use 2 or more"):
        Parity(**{option: value})
