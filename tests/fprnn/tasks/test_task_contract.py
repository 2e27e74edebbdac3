"""What every task promises the data module, whatever it is about."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fprnn.tasks import (
    BracketedArithmetic,
    ByteText,
    CatBAbI,
    CharacterText,
    Copying,
    CycleNavigation,
    DuplicateNGram,
    EvenPairs,
    LinearLengths,
    ModularArithmetic,
    Parity,
    PrefixNGram,
    SequenceBatch,
    SequenceDataModule,
    SuffixNGram,
    Task,
    TokenShards,
    WordProblem,
    write_stories,
)

TASKS: dict[str, Callable[[Path], Task]] = {
    "parity": lambda folder: Parity(),
    "word problem": lambda folder: WordProblem("S3", bos=True),
    "even pairs": lambda folder: EvenPairs(context=40),
    "cycle": lambda folder: CycleNavigation(eval_shortest=4),
    "arithmetic": lambda folder: ModularArithmetic(),
    "brackets": lambda folder: BracketedArithmetic(),
    "copying": lambda folder: Copying(context=70),
    "duplicate": lambda folder: DuplicateNGram(),
    "suffix": lambda folder: SuffixNGram(context=70),
    "prefix": lambda folder: PrefixNGram(),
    "stories": lambda folder: CatBAbI(str(folder), tasks=[2, 5]),
    "characters": lambda folder: CharacterText(str(folder / "text.txt")),
    "bytes": lambda folder: ByteText(str(folder / "text.txt")),
    "shards": lambda folder: TokenShards(str(folder), 60, 0.1, 0.1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpora")
    write_stories(path / "en-valid", tasks=(2, 5), count=8)
    (path / "text.txt").write_text("To be, or not to be: that is the question. " * 30)
    np.save(path / "shard.npy", np.arange(3000, dtype=np.uint16) % 53)
    return path


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, folder: Path) -> Task:
    return TASKS[request.param](folder)


def module(task: Task, **options: object) -> SequenceDataModule:
    fixed = {
        "train_length": (8, 14),
        "eval_lengths": [8, 12],
        "batch_size": 6,
        "val_size": 5,
        "test_size": 9,
        "seed": 3,
    }
    return SequenceDataModule(task, **{**fixed, **options})  # type: ignore[arg-type]


def same(left: SequenceBatch, right: SequenceBatch) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)  # type: ignore[literal-required]


def joined(*batches: SequenceBatch) -> SequenceBatch:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}  # type: ignore[literal-required,return-value]


@pytest.mark.parametrize("step", [0, 1, 40])
def test_training_follows_from_seed_and_step(task: Task, step: int) -> None:
    data = module(task)
    whole = data.training_batch(step)
    assert same(whole, module(task, val_size=0, eval_seed=9).training_batch(step))
    assert not same(whole, data.training_batch(step + 1))
    assert not same(whole, module(task, seed=4).training_batch(step))
    ranks = [module(task, batch_size=2).training_batch(step, rank, 3) for rank in range(3)]
    assert same(joined(*ranks), whole)
    halves = module(task, batch_size=3)
    assert same(joined(halves.training_batch(2 * step), halves.training_batch(2 * step + 1)), whole)


def test_batches_are_what_a_model_takes(task: Task) -> None:
    data = module(task)
    for batch in (data.training_batch(0), data.evaluation_set("val", 8), data.evaluation_set("test", 12)):
        assert batch["tokens"].shape == batch["targets"].shape == batch["mask"].shape
        assert batch["tokens"].shape[1] <= data.max_tokens
        assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
        assert batch["mask"].dtype == torch.bool
        assert all(column.is_contiguous() for column in batch.values())  # type: ignore[attr-defined]
        assert 0 <= int(batch["tokens"].min()) <= int(batch["tokens"].max()) < task.vocab_size
        assert 0 <= int(batch["targets"].min()) <= int(batch["targets"].max()) < task.num_targets
        assert not batch["targets"][~batch["mask"]].any()
        assert batch["mask"].any()
    assert data.training_batch(0)["tokens"].shape == (6, task.num_tokens(14))
    assert len(task.vocabulary) == task.vocab_size
    assert 2 <= task.num_answers <= task.num_targets


def test_evaluation_is_fixed(task: Task) -> None:
    first, second = module(task, seed=1), module(task, seed=2, batch_size=1)
    for split in ("val", "test"):
        assert same(first.evaluation_set(split, 12), second.evaluation_set(split, 12))
    assert not torch.equal(
        first.evaluation_set("val", 12)["tokens"][:3], first.evaluation_set("test", 12)["tokens"][:3]
    )
    assert len(first.test_dataloader()) == 2


def test_measures_are_named_alike_for_each_batch(task: Task) -> None:
    data = module(task, eval_batch_size=2)
    names = {tuple(task.measures(batch["targets"], batch)) for batch in data.test_dataloader()[0]}
    assert len(names) == 1


def test_a_curriculum_may_ask_for_any_length(task: Task) -> None:
    data = module(task, train_length=14, curriculum=LinearLengths(task.min_length, 20))
    widths = [data.training_batch(step)["tokens"].shape for step in (0, 7, 8, 20)]
    assert [width[1] for width in widths] == [task.num_tokens(data.lengths_at(step).longest) for step in (0, 7, 8, 20)]
