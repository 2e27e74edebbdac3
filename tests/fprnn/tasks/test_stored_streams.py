"""The sequences that committed figures rest on: what each seed stands for, kept as integers.

Stored from the code that generated them with its own PCG64 in array arithmetic; numpy's generators give the same.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dinopl.core.random import stream_seed
from fprnn.tasks import (
    BracketedArithmetic,
    Copying,
    CycleNavigation,
    DuplicateNGram,
    EvenPairs,
    ModularArithmetic,
    Parity,
    PrefixNGram,
    SequenceBatch,
    SequenceDataModule,
    SuffixNGram,
    Task,
    WordProblem,
)
from fprnn.tasks.corpus import pass_order, window_starts

# Task, training lengths, the first tokens of training batch 5, and digests of that batch and of the test set.
STORED: list[tuple[Callable[[], Task], tuple[int, int], list[int], str, str]] = [
    (Parity, (3, 12), [2, 2, 1, 1, 2, 2, 1, 1], "533d532adc3b44a3", "d893d8363407121f"),
    (lambda: WordProblem("S3", bos=True), (3, 12), [7, 3, 2, 0, 4, 4, 1, 0], "cd2eb962154f79de", "a08e83492f8e5b14"),
    (lambda: EvenPairs(context=40), (3, 12), [2, 2, 1, 1, 2, 2, 1, 0], "0a8006b16cb66abc", "90f7209f3adec2e0"),
    (
        lambda: CycleNavigation(eval_shortest=4),
        (3, 12),
        [3, 2, 2, 1, 3, 3, 1, 0],
        "c318ab658ee9da32",
        "afd42f75c959afab",
    ),
    (ModularArithmetic, (4, 12), [8, 2, 7, 2, 8, 2, 6, 3], "848eac6d8257b4d6", "ec05276d11aa0f7c"),
    (BracketedArithmetic, (1, 38), [8, 8, 8, 3, 5, 6, 3, 9], "5ee35b89ab4b6276", "c065e14f829000bf"),
    (lambda: Copying(context=70), (3, 20), [26, 1, 21, 0, 16, 14, 8, 0], "ef79dd114f5d81fe", "4a1688b3c52e1c6c"),
    (DuplicateNGram, (6, 20), [26, 2, 20, 18, 8, 1, 20, 8], "470d0919224bbe39", "843286fcf5a457db"),
    (lambda: SuffixNGram(context=70), (4, 20), [26, 3, 19, 4, 1, 21, 0, 16], "96d8a631c0646b6b", "8ad47aa9e788c3c7"),
    (PrefixNGram, (4, 20), [26, 11, 24, 11, 27, 2, 20, 18], "2f01a9d0a7d11ece", "bc8e139d953cd2f4"),
]

ORDER, STARTS = [11, 0, 4, 10, 5, 7, 6, 3, 1, 8, 9, 2], [163, 35, 419, 291, 803, 483]


def digest(batch: SequenceBatch) -> str:
    columns = (batch["tokens"], batch["targets"], batch["mask"])
    return hashlib.sha256(b"".join(column.to(torch.int64).numpy().tobytes() for column in columns)).hexdigest()[:16]


@pytest.mark.parametrize(("make", "lengths", "first", "train", "test"), STORED)
def test_a_seed_stands_for_the_same_sequences_as_ever(
    make: Callable[[], Task], lengths: tuple[int, int], first: list[int], train: str, test: str
) -> None:
    data = SequenceDataModule(
        make(), train_length=lengths, eval_lengths=[lengths[1]], batch_size=64, test_size=64, seed=3
    )
    batch = data.training_batch(5)
    assert batch["tokens"][0, :8].tolist() == first
    assert digest(batch) == train
    assert digest(data.evaluation_set("test", lengths[1])) == test


def test_a_corpus_is_read_in_the_same_order_as_ever() -> None:
    assert pass_order(5, 2, 12).tolist() == ORDER
    assert window_starts(5, 3, 6, 1000, 64).tolist() == STARTS
    seed = stream_seed("pass=2", 5)
    draws = [np.random.default_rng((seed + number) % 2**64).integers(2**32) for number in range(12)]
    assert np.argsort(draws).tolist() == ORDER
