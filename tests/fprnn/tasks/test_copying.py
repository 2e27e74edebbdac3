"""Copying and its n-gram variants: packed rows taken apart as text, and what each example says checked as strings."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fprnn.tasks import (
    Copying,
    DuplicateNGram,
    LengthRange,
    PrefixNGram,
    SequenceBatch,
    SequenceDataModule,
    SuffixNGram,
)
from fprnn.tasks.copying import CopyingTask

SEEDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4)
KINDS = [Copying, DuplicateNGram, SuffixNGram, PrefixNGram]


def symbols(task: CopyingTask, batch: SequenceBatch, row: int) -> str:
    """What the model reads in a row."""
    return "".join(task.vocabulary.decode(batch["tokens"][row].tolist()))


def answered(task: CopyingTask, batch: SequenceBatch, row: int) -> list[str]:
    """Scored targets of a row, in runs of neighbours."""
    targets = task.vocabulary.decode(batch["targets"][row].tolist())
    marks = "".join(
        target if scored else " " for target, scored in zip(targets, batch["mask"][row].tolist(), strict=True)
    )
    return marks.split()


def expected_answer(kind: type[CopyingTask], example: str, n: int) -> str:
    """The answer to an example's question, worked out from its text."""
    parts = example.removeprefix("$").removesuffix(".").split("|")
    if kind is Copying or kind is DuplicateNGram:
        return parts[0]
    gram, string = (parts[0], parts[1]) if kind is PrefixNGram else (parts[1][:n], parts[0])
    assert len(gram) == n
    return string[string.index(gram) + n :]


@given(st.sampled_from(KINDS), SEEDS, st.tuples(st.integers(0, 14), st.integers(0, 14)), st.integers(0, 60) | st.none())
@settings(max_examples=80, deadline=None)
def test_rows_are_examples_with_their_answers(
    kind: type[CopyingTask], seeds: list[int], ends: tuple[int, int], spare: int | None
) -> None:
    task = kind(letters=4)  # few, so that n-grams come several times
    shortest, longest = (task.min_length + end for end in sorted(ends))
    context = None if spare is None else task.symbols(longest) + spare
    task = kind(letters=4, context=context)
    batch = task.sample(np.array(seeds, dtype=np.uint64), LengthRange(shortest, longest))
    assert batch["tokens"].shape == (len(seeds), task.num_tokens(longest))
    for row in range(len(seeds)):
        text = symbols(task, batch, row)
        last = task.vocabulary.tokens[int(batch["targets"][row, -1])] if batch["mask"][row, -1] else ""
        examples = re.findall(r"\$[^.$]*\.", text + last)
        assert len(examples) >= 1
        assert answered(task, batch, row) == [expected_answer(kind, example, 3) + "." for example in examples]
        strings = [max(example[1:-1].split("|"), key=len) for example in examples]
        assert all(shortest <= len(string) <= longest for string in strings)
        whole = "".join(examples)
        assert text.startswith(whole[:-1])
        assert set(text[len(whole) :]) <= ({"."} if context is None else set("abcd$|."))


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_row_is_one_example_without_the_end(kind: type[CopyingTask]) -> None:
    task = kind(context=256)
    batch = task.evaluation("test", np.arange(50, dtype=np.uint64), 20)
    assert batch["tokens"].shape == (50, task.symbols(20) - 1)
    for row in range(50):
        text = symbols(task, batch, row)
        assert text.count("$") == 1
        (answer,) = answered(task, batch, row)
        assert answer == expected_answer(kind, text.rstrip("."), 3)
        targets = batch["targets"][row][batch["mask"][row]]
        assert "".join(task.vocabulary.decode(targets.tolist())) == answer


def test_sequence_accuracy_is_string_accuracy() -> None:
    """A predictor that copies from the tokens is right everywhere, and one letter wrong makes its string wrong."""
    batch = Copying().evaluation("test", np.arange(8, dtype=np.uint64), 10)
    predictions = torch.zeros_like(batch["targets"])
    predictions[:, 11:21] = batch["tokens"][:, 1:11]  # from the "|" on, the string again
    right = (predictions == batch["targets"]) | ~batch["mask"]
    assert right.all()
    assert batch["mask"].sum().item() == 80
    predictions[3, 15] = 26
    right = (predictions == batch["targets"]) | ~batch["mask"]
    assert right.all(1).tolist() == [row != 3 for row in range(8)]


def test_a_duplicate_n_gram_comes_twice_without_overlap() -> None:
    task = DuplicateNGram(n=4)
    batch = task.sample(np.arange(200, dtype=np.uint64), LengthRange(8, 15))
    for row in range(200):
        string = symbols(task, batch, row)[1:].split("|")[0]
        assert any(string.find(string[i : i + 4], i + 4) >= 0 for i in range(len(string) - 7)), string


@pytest.mark.parametrize("kind", [SuffixNGram, PrefixNGram])
def test_n_grams_are_asked_for_everywhere_but_at_the_end(kind: type[CopyingTask]) -> None:
    task = kind()
    batch = task.evaluation("val", np.arange(400, dtype=np.uint64), 9)
    assert set(batch["mask"].sum(1).tolist()) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind: type[CopyingTask]) -> None:
    task, lengths, seeds = kind(context=100, letters=3), LengthRange(7, 40), np.arange(30, dtype=np.uint64)
    whole, part = task.sample(seeds, lengths), task.sample(seeds[[21, 4]], lengths)
    for key in ("tokens", "targets", "mask"):
        torch.testing.assert_close(part[key], whole[key][[21, 4]])


def test_letters_are_uniform_and_lengths_too() -> None:
    batch = Copying().sample(np.arange(3000, dtype=np.uint64), LengthRange(5, 8))
    counts = torch.bincount(batch["targets"][batch["mask"]], minlength=29)
    expected = int(counts[:26].sum()) / 26
    assert (counts[:26] - expected).abs().max() < 5 * expected**0.5
    assert counts[26:].tolist() == [0, 0, 3000]
    lengths = torch.bincount(batch["mask"].sum(1) - 1)[5:]
    assert (lengths - 750).abs().max() < 5 * 750**0.5


def test_the_papers_vocabulary() -> None:
    task = Copying(context=256)
    assert task.vocab_size == task.num_targets == 29
    assert task.vocabulary.encode("az$|.") == [0, 25, 26, 27, 28]
    assert (task.max_train_length, task.num_tokens(50), Copying().num_tokens(50)) == (126, 255, 102)
    assert PrefixNGram(context=256).max_train_length == 126


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Copying, {"letters": 1}, "letters=1: must be from 2 to 26"),
        (Copying, {"letters": 27}, "letters=27: must be from 2 to 26"),
        (Copying, {"context": 4}, "context=4: has no room for an example; use 5 or more"),
        (PrefixNGram, {"context": 11}, "context=11: has no room for an example; use 12 or more"),
        (SuffixNGram, {"n": 0}, "n=0: so many letters make no n-gram; use 1 or more"),
        (DuplicateNGram, {"n": -1}, "n=-1: so many letters make no n-gram"),
    ],
)
def test_a_bad_option_of_copying_is_refused(kind: type[CopyingTask], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        kind(**options)
    assert "\n" not in str(error.value)


def test_strings_too_long_for_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train_length=14: beyond Copying's limit in training; use 13 or less"):
        Copying(context=30).check_train_length("train_length", 14)
    with pytest.raises(ValueError, match=r"train_length=5: too short for DuplicateNGram; use 6"):
        DuplicateNGram().check_length("train_length", 5)


def test_evaluation_goes_beyond_the_context_of_training() -> None:
    """Its rows are as wide as their string asks for."""
    task = Copying(context=30)
    data = SequenceDataModule(task, train_length=13, eval_lengths=[13, 40], batch_size=2, test_size=3)
    narrow, wide = (next(iter(loader))["tokens"] for loader in data.test_dataloader())
    assert (narrow.shape, wide.shape, task.num_tokens(40)) == ((3, 28), (3, 82), 82)
