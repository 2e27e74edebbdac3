"""Arithmetic with brackets against published formulas, the grammar in plain recursion, and a calculator of our own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fprnn.tasks import BracketedArithmetic, LengthRange, ModularArithmetic, constant_answer_accuracy, scaled_accuracy
from fprnn.tasks.arithmetic import random_formulas
from fprnn.tasks.task import SequenceBatch, Streams

TASK = BracketedArithmetic()


def spelt(batch: SequenceBatch, row: int) -> str:
    return "".join(TASK.vocabulary.decode(batch["tokens"][row].tolist())).replace("<blank>", "")


class Draws:
    """``integers`` as numpy draws them from given 32-bit words: Lemire's method, one word after the other."""

    def __init__(self, words: list[int]) -> None:
        self.words = iter(words)

    def integers(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        span = high - low
        if span == 1:
            return low
        while True:
            product = next(self.words) * span
            if product % 2**32 >= 2**32 % span:
                return low + product // 2**32


def formula(generator: np.random.Generator | Draws, length: int) -> str:
    """The grammar as the paper's code has it."""
    if length < 5:
        number = str(generator.integers(5))
        return {1: number, 2: f"-{number}", 3: f"({number})", 4: f"(-{number})"}[length]
    left_length = int(generator.integers(1, length - 3))
    left = formula(generator, left_length)
    right = formula(generator, length - left_length - 3)
    return f"({left}{'+-*'[int(generator.integers(3))]}{right})"


def calculated(text: str) -> int:
    """Value modulo 5, by replacing innermost brackets until a number is left; needs no grammar."""
    while "(" in text:
        begin = text.rindex("(")
        end = text.index(")", begin)
        text = text[:begin] + str(simple(text[begin + 1 : end])) + text[end + 1 :]
    return simple(text) % 5


def simple(text: str) -> int:
    """Value of ``-?a`` or ``-?a op -?b``, from which digits may be longer than one."""
    for place in range(1, len(text)):
        if text[place] in "+-*" and text[place - 1].isdigit():
            left, right = int(text[:place]), int(text[place + 1 :].replace("--", ""))
            return {"+": left + right, "-": left - right, "*": left * right}[text[place]]
    return int(text.replace("--", ""))


@pytest.mark.parametrize(
    ("seed", "expected", "answer"),
    [
        (0, "(((-1+(0))*(0-(4)))-((-3)*(-4)))=", 2),
        (1, "(((4)+0)*((4)+1))=", 0),
        (2, "((1*(-2))-((1*(-3))+((-4)*-0)))=", 1),
        (3, "((0)+((0*4)*((0-(1))*(-2+1))))=", 0),
    ],
)
def test_published_formulas(seed: int, expected: str, answer: int) -> None:
    batch = TASK.sample(np.array([seed], dtype=np.uint64), LengthRange(1, 38))  # sizes 3 to 40
    assert spelt(batch, 0) == expected
    assert batch["mask"].nonzero().tolist() == [[0, len(expected) - 1]]
    assert batch["targets"][batch["mask"]].tolist() == [answer]
    assert batch["tokens"].shape == (1, TASK.num_tokens(38)) == (1, 38)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.tuples(st.integers(1, 120), st.integers(1, 120)))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_what_the_grammar_makes(seeds: list[int], ends: tuple[int, int]) -> None:
    shortest, longest = min(ends), max(ends)
    batch = TASK.sample(np.array(seeds, dtype=np.uint64), LengthRange(shortest, longest))
    for row, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        size = max(int(generator.integers(shortest + 2, longest + 3)), 5)
        text = formula(generator, size - 3)
        assert spelt(batch, row) == text + "="
        expected = torch.zeros(max(longest, 3), dtype=torch.int64)
        expected[len(text)] = calculated(text)
        assert batch["targets"][row].tolist() == expected.tolist()


class GivenStreams(Streams):
    """Streams of given 32-bit words."""

    def __init__(self, words: list[int]) -> None:
        super().__init__(np.zeros(1, dtype=np.uint64))
        self.words = words

    def integers(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        assert (low, high) == (0, 2**32)
        return np.array([self.words[:count]], dtype=np.int64)


@given(st.integers(1, 40), st.lists(st.integers(0, 30), max_size=8), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_rejected_draws_are_drawn_again(length: int, zeros: list[int], seed: int) -> None:
    """The word 0 is rejected for signs and numbers; real streams hardly ever show it, and eight to spare are enough."""
    words = np.random.default_rng(seed).integers(2**32, size=60).tolist()
    for place in zeros:
        words[place] = 0
    tokens, values = random_formulas(GivenStreams(words), np.array([length]), length)
    expected = formula(Draws(words), length)
    assert "".join(TASK.vocabulary.decode(tokens[0].tolist())) == expected
    assert values.tolist() == [calculated(expected)]


def test_raw_draws_are_numpys() -> None:
    drawn = Streams(np.array([7], dtype=np.uint64)).integers(0, 2**32, 9)
    np.testing.assert_array_equal(drawn[0], np.random.default_rng(7).integers(0, 2**32, size=9))


def test_a_formula_does_not_depend_on_its_batch() -> None:
    seeds, lengths = np.arange(40, dtype=np.uint64), LengthRange(1, 90)
    whole, part = TASK.sample(seeds, lengths), TASK.sample(seeds[[31, 2]], lengths)
    for key in ("tokens", "targets", "mask"):
        torch.testing.assert_close(part[key], whole[key][[31, 2]])


def test_the_constant_answer_is_well_above_a_guess_with_brackets_only() -> None:
    seeds = np.arange(4000, dtype=np.uint64)
    paper = BracketedArithmetic(eval_shortest=38).evaluation("test", seeds, 254)
    assert scaled_accuracy(constant_answer_accuracy(paper), 5) == pytest.approx(0.13, abs=0.02)
    trained = TASK.sample(seeds, LengthRange(1, 38))
    assert constant_answer_accuracy(trained) == pytest.approx(0.275, abs=0.02)
    flat = ModularArithmetic().evaluation("test", seeds, 100)
    assert scaled_accuracy(constant_answer_accuracy(flat), 5) < 0.03


@pytest.mark.parametrize("task", [TASK, ModularArithmetic()])
def test_scaled_accuracies_add_up_over_batches(task: BracketedArithmetic | ModularArithmetic) -> None:
    zero = task.vocabulary.encode("0")[0]
    batches = [
        task.evaluation("val", np.arange(first, first + count, dtype=np.uint64), 30)
        for first, count in ((0, 30), (50, 7))
    ]
    guesses = [torch.where(torch.rand(batch["targets"].shape) < 0.6, batch["targets"], zero) for batch in batches]
    shares = [task.measures(guess, batch) for guess, batch in zip(guesses, batches, strict=True)]
    answers = torch.cat([batch["targets"][batch["mask"]] for batch in batches])
    given_answers = torch.cat([guess[batch["mask"]] for guess, batch in zip(guesses, batches, strict=True)])
    for name, accuracy in (
        ("scaled_accuracy", (answers == given_answers).double().mean()),
        ("scaled_accuracy_of_0", (answers == zero).double().mean()),
    ):
        total = sum(int(share[name][0]) for share in shares) / sum(int(share[name][1]) for share in shares)
        assert total == pytest.approx(scaled_accuracy(float(accuracy), 5))
        assert total == pytest.approx((float(accuracy) - 0.2) / 0.8)


def test_a_set_without_answers_has_no_floor() -> None:
    batch = TASK.sample(np.arange(3, dtype=np.uint64), LengthRange(5, 5))
    batch["mask"] = torch.zeros_like(batch["mask"])
    with pytest.raises(ValueError, match="batch: has no scored position"):
        constant_answer_accuracy(batch)
