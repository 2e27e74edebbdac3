"""Word problems against published vectors and a word-by-word generator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import LengthRange, WordProblem
from fprnn.tasks.word_problem import cayley_table, prefix_products

SEEDS = np.array([0, 1, 2**40, 2**64 - 1], dtype=np.uint64)


def naive_word(group: str, seed: int, lengths: LengthRange) -> tuple[list[int], list[int]]:
    """One word and its prefix products, drawn and multiplied one at a time."""
    table, generator = cayley_table(group), np.random.default_rng(seed)
    length = int(generator.integers(lengths.shortest, lengths.longest + 1))
    word = [int(element) for element in generator.integers(len(table), size=lengths.longest)][:length]
    products, product = [], 0
    for element in word:
        product = int(table[product][element])
        products.append(product)
    return word, products


@pytest.mark.parametrize(
    ("group", "word", "expected"),
    [("A5", [1, 2, 3, 59, 17, 42], [1, 0, 3, 46, 51, 38]), ("S3", [1, 2, 3, 4, 5], [1, 4, 0, 4, 2])],
)
def test_published_vectors(group: str, word: list[int], expected: list[int]) -> None:
    assert prefix_products(cayley_table(group), np.array([word])).tolist() == [expected]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 1)])
def test_prefix_products_of_degenerate_words(shape: tuple[int, int]) -> None:
    words = np.ones(shape, dtype=np.int64)
    np.testing.assert_array_equal(prefix_products(cayley_table("S3"), words), words)


@given(
    st.sampled_from(["Z2", "S3", "A5", "Z1", "Z2_x_S3"]),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_is_what_the_naive_generator_makes(group: str, seeds: list[int], ends: tuple[int, int]) -> None:
    lengths = LengthRange(min(ends), max(ends))
    batch = WordProblem(group).sample(np.array(seeds, dtype=np.uint64), lengths)
    pad = len(cayley_table(group))
    for row, seed in enumerate(seeds):
        word, products = naive_word(group, seed, lengths)
        missing = lengths.longest - len(word)
        assert batch["tokens"][row].tolist() == word + [pad] * missing
        assert batch["targets"][row].tolist() == products + [0] * missing
        assert batch["mask"][row].tolist() == [True] * len(word) + [False] * missing


def test_a_word_does_not_depend_on_its_batch() -> None:
    task, lengths = WordProblem("A5"), LengthRange(2, 12)
    whole, part = task.sample(SEEDS, lengths), task.sample(SEEDS[[2, 0]], lengths)
    for key in ("tokens", "targets", "mask"):
        torch.testing.assert_close(part[key], whole[key][[2, 0]])  # type: ignore[literal-required]


@pytest.mark.parametrize("group", ["A5", "S5"])
def test_the_published_format_has_bos_and_scored_padding(group: str) -> None:
    task, lengths = WordProblem(group, bos=True, score_specials=True), LengthRange(2, 6)
    batch = task.sample(SEEDS, lengths)
    order = task.order
    assert task.vocab_size == task.num_targets == order + 7 == {"A5": 67, "S5": 127}[group]
    assert task.vocabulary.tokens[order : order + 2] == ("<pad>", "<bos>")
    assert batch["tokens"].shape == (4, task.num_tokens(6)) == (4, 7)
    assert batch["mask"].all()
    plain = WordProblem(group).sample(SEEDS, lengths)
    for key, filler in (("tokens", plain["tokens"]), ("targets", plain["targets"].where(plain["mask"], order))):
        assert (batch[key][:, 0] == order + 1).all()  # type: ignore[literal-required]
        torch.testing.assert_close(batch[key][:, 1:], filler)  # type: ignore[literal-required]


def test_bos_is_not_scored_by_default() -> None:
    task = WordProblem("S3", bos=True)
    batch = task.sample(SEEDS, LengthRange(4, 4))
    assert batch["mask"].tolist() == [[False, True, True, True, True]] * 4
    assert not batch["targets"][:, 0].any()


@pytest.mark.parametrize("task", [WordProblem("A5"), WordProblem("S3", bos=True), WordProblem("Z2")])
def test_types_and_ranges(task: WordProblem) -> None:
    batch = task.sample(np.arange(200, dtype=np.uint64), LengthRange(1, 9))
    assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
    assert batch["mask"].dtype == torch.bool
    assert 0 <= int(batch["tokens"].min()) <= int(batch["tokens"].max()) < task.vocab_size
    assert 0 <= int(batch["targets"].min()) <= int(batch["targets"].max()) < task.num_targets
    assert batch["mask"].sum(1).unique().tolist() == list(range(1, 10))
    assert set(batch["tokens"][batch["mask"]].tolist()) == set(range(task.order))


def test_elements_are_uniform() -> None:
    tokens = WordProblem("S3").sample(np.arange(2000, dtype=np.uint64), LengthRange(30, 30))["tokens"]
    counts = torch.bincount(tokens.flatten())
    expected = tokens.numel() / 6
    # 6 standard deviations of a binomial count
    assert (counts - expected).abs().max() < 6 * (expected * 5 / 6) ** 0.5


def test_words_can_be_spelt() -> None:
    vocabulary = WordProblem("Z3").vocabulary
    assert vocabulary.encode(["2", "0", "<pad>"]) == [2, 0, 3]
    assert vocabulary.decode([2, 0, 3]) == ["2", "0", "<pad>"]
    with pytest.raises(ValueError, match='token "3" is not among the 10'):
        vocabulary.encode(["3"])
