"""Even pairs, cycle navigation and arithmetic against the authors' generators, written out one sequence at a time."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import CycleNavigation, EvenPairs, FormalLanguage, LengthRange, ModularArithmetic, Parity

Published = Callable[[np.random.Generator, int, int, int], tuple[list[int], int]]


def even_pairs(generator: np.random.Generator, shortest: int, longest: int, context: int) -> tuple[list[int], int]:
    """Answer by the name of the task: as many "ab" as "ba"."""
    draws = (generator.integers(2, size=context - 1) + 1).tolist()
    word = draws[: int(generator.integers(shortest, longest + 1)) - 1]
    pairs = list(pairwise(word))
    return word, 1 if pairs.count((1, 2)) == pairs.count((2, 1)) else 2


def cycle_navigation(
    generator: np.random.Generator, shortest: int, longest: int, context: int
) -> tuple[list[int], int]:
    draws = (generator.integers(3, size=context) + 1).tolist()
    word = draws[: int(generator.integers(shortest, longest + 1)) - 1]
    place = 0
    for token in word:
        place = {1: place, 2: (place + 1) % 6, 3: (place - 1) % 6}[token]
    return word, place + 4


def modular_arithmetic(
    generator: np.random.Generator, shortest: int, longest: int, context: int
) -> tuple[list[int], int]:
    draws = generator.integers(5, size=context) + 5
    draws[1::2] = generator.integers(3, size=len(draws[1::2])) + 1
    low, high = (shortest + 1) // 2, (longest + 1) // 2
    size = 2 * int(generator.integers(min(low, high), high + 1)) - 1
    formula = draws[: size - 2].tolist()
    return [*formula, 4], worked_out(formula) + 5


def worked_out(formula: list[int]) -> int:
    """Terms that are added up, each a list of factors: split at "+" and "-", then at "*"."""
    terms, sign = [[formula[0] - 5]], 1
    for token, number in zip(formula[1::2], formula[2::2], strict=True):
        if token == 3:
            terms[-1].append(number - 5)
        else:
            sign = {1: 1, 2: -1}[token]
            terms.append([sign, number - 5])
    return sum(int(np.prod(term)) for term in terms) % 5


CASES = [
    (EvenPairs, even_pairs, 1),
    (CycleNavigation, cycle_navigation, 1),
    (ModularArithmetic, modular_arithmetic, 2),
]


@pytest.mark.parametrize(
    ("task", "seed", "word", "answer"),
    [
        (EvenPairs, 1, [1, 2, 2, 2, 1, 1], 1),
        (CycleNavigation, 0, [3, 2, 2, 1, 1, 1, 1, 1], 5),
        (ModularArithmetic, 0, [9, 2, 7, 4], 7),
        (ModularArithmetic, 1, [7, 2, 8, 2, 5, 1, 9, 1, 6, 4], 9),
    ],
)
def test_published_vectors(task: type[FormalLanguage], seed: int, word: list[int], answer: int) -> None:
    batch = task(context=16).sample(np.array([seed], dtype=np.uint64), LengthRange(2, 11))
    assert batch["tokens"].tolist() == [word + [0] * (15 - len(word))]
    assert batch["mask"].nonzero().tolist() == [[0, len(word) - 1]]
    assert batch["targets"][batch["mask"]].tolist() == [answer]


@given(
    st.sampled_from(CASES),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.integers(0, 5) | st.none(),
)
@settings(max_examples=60, deadline=None)
def test_a_batch_is_what_the_authors_generator_makes(
    case: tuple[type[FormalLanguage], Published, int], seeds: list[int], ends: tuple[int, int], spare: int | None
) -> None:
    kind, published, _ = case
    context = max(ends) + 1 + (spare or 0)
    task = kind(context=None if spare is None else context)  # type: ignore[call-arg]
    batch = task.sample(np.array(seeds, dtype=np.uint64), LengthRange(min(ends), max(ends)))
    assert batch["tokens"].shape == (len(seeds), context - 1) == (len(seeds), task.num_tokens(max(ends)))
    for row, seed in enumerate(seeds):
        word, answer = published(np.random.default_rng(seed), min(ends) + 1, max(ends) + 1, context)
        assert batch["tokens"][row].tolist() == word + [0] * (context - 1 - len(word))
        assert batch["mask"][row].nonzero().tolist() == [[len(word) - 1]]
        assert batch["targets"][row].tolist() == [0] * (len(word) - 1) + [answer] + [0] * (context - 1 - len(word))


@pytest.mark.parametrize(("kind", "_published", "shortest"), CASES)
def test_every_answer_comes_about_equally_often(
    kind: type[FormalLanguage], _published: Published, shortest: int
) -> None:
    task = kind()  # type: ignore[call-arg]
    assert task.min_length == shortest
    batch = task.evaluation("val", np.arange(4000, dtype=np.uint64), 40)
    counts = torch.bincount(batch["targets"][batch["mask"]], minlength=task.num_targets)
    answers = counts[counts > 0]
    assert len(answers) == task.num_answers
    expected = 4000 / task.num_answers
    # 5 standard deviations of a binomial count
    assert (answers - expected).abs().max() < 5 * (expected * (1 - 1 / task.num_answers)) ** 0.5
    assert task.vocab_size == task.num_targets == {"EvenPairs": 3}.get(kind.__name__, 10)


def test_cycles_have_as_many_places_as_asked_for() -> None:
    task = CycleNavigation(places=5)
    batch = task.sample(np.arange(200, dtype=np.uint64), LengthRange(1, 9))
    steps = torch.tensor([0, 0, 1, -1])[batch["tokens"]].sum(1)
    answers = task.vocabulary.decode(batch["targets"][batch["mask"]].tolist())
    assert answers == [str(int(walked) % 5) for walked in steps]
    assert (task.vocab_size, task.num_answers) == (9, 5)


def test_evaluation_can_mix_lengths() -> None:
    seeds = np.arange(300, dtype=np.uint64)
    mixed = EvenPairs(eval_shortest=5).evaluation("test", seeds, 8)
    assert (mixed["tokens"] > 0).sum(1).unique().tolist() == [5, 6, 7, 8]
    short = EvenPairs(eval_shortest=5).evaluation("test", seeds, 3)
    assert (short["tokens"] > 0).sum(1).unique().tolist() == [3]
    plain = EvenPairs().evaluation("test", seeds, 8)
    assert (plain["tokens"] > 0).all()


def test_formulas_have_even_lengths() -> None:
    task = ModularArithmetic()
    task.check_length("train_length", 8)
    with pytest.raises(ValueError, match=r"train_length=9: .* even number of tokens; use 8"):
        task.check_length("train_length", 9)
    with pytest.raises(ValueError, match="train_length=1: too short for ModularArithmetic; use 2 or more"):
        task.check_length("train_length", 1)
    batch = task.sample(np.arange(50, dtype=np.uint64), LengthRange(7, 7))  # what a curriculum may ask for
    assert (batch["tokens"] > 0).sum(1).unique().tolist() == [6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvenPairs(context=1), "context=1: leaves no room .* use 2 or more"),
        (lambda: ModularArithmetic(context=2), "context=2: leaves no room .* use 3 or more"),
        (lambda: CycleNavigation(places=1), "places=1: leaves nowhere to go; use 2 or more"),
        (
            lambda: CycleNavigation(places=10**12),
            "places: 1000000000000 is too large; use 10000000",
        ),
        (lambda: Parity(modulus=10**12), "modulus: 1000000000000 is too large; use 10000000 or less"),
        (lambda: EvenPairs(eval_shortest=0), "eval_shortest=0: too short"),
        (lambda: EvenPairs(context=9, eval_shortest=9), "eval_shortest=9: beyond"),
    ],
)
def test_a_bad_option_of_a_language_is_refused(make: Callable[[], FormalLanguage], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
