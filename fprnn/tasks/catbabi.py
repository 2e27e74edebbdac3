"""catbAbI: the stories of bAbI one behind the other, with the words that answer questions to be predicted.

Schlag et al., "Learning Associative Inference Using Fast Weight Memory" (ICLR 2021), as in "Fixed-Point RNNs" (Movahedi
et al., NeurIPS 2025), appendix E.3: each sequence of 200 words starts from an empty state. What differs: a batch has
consecutive pieces of one stream instead of lanes that go on from batch to batch, which is the same where no state is
carried on, so that a sequence does not depend on the batch size; stories of validation and test come in one random
order, not in the files', which decides where the pieces are cut; the last story of each file is read too, which the
benchmark's preprocessing loses; and the vocabulary has words alone, not the numbers of the tasks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinopl.core.random import stream_seed
from fprnn.tasks.corpus import Integers, data_folder, pass_order, shortened
from fprnn.tasks.stories import SPLITS, read_stories
from fprnn.tasks.task import LengthRange, Seeds, SequenceBatch, Task, Vocabulary

PAD, EOS = 0, 1
TASKS = tuple(range(1, 21))
SETS = {"1k": "en-valid", "10k": "en-valid-10k"}


class StoryBatch(SequenceBatch):
    """An evaluation batch of stories."""

    task: Tensor
    """Number of the task that each word belongs to, ``(B, T)`` int64; 0 behind the end."""


class Stories:
    """The stories of a split, as one row of tokens.

    Args:
        tokens: "<eos>" and the words of each story, one behind the other, ``(N,)``.
        sizes: tokens of each story, ``(S,)``.
        tasks: task of each story, ``(S,)``.
    """

    def __init__(self, tokens: NDArray[np.int32], sizes: Integers, tasks: Integers) -> None:
        self.tokens, self.sizes, self.tasks = tokens, sizes, tasks
        self._orders: dict[tuple[int, int], Integers] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def order(self, stream: int, number: int) -> Integers:
        """Tokens of a pass through all stories, shuffled, as places in ``tokens``, ``(N,)``."""
        if (stream, number) not in self._orders:
            order = pass_order(stream, number, len(self.sizes))
            if len(self._orders) > 1:  # a batch can straddle two passes
                self._orders.pop(next(iter(self._orders)))
            # Places of the stories' tokens, story by story: each story's end in `tokens`, less its end in this pass.
            sizes: Integers = self.sizes[order]
            behind: Integers = self.sizes.cumsum()[order] - sizes.cumsum()
            self._orders[stream, number] = np.repeat(behind, sizes) + np.arange(len(self))
        return self._orders[stream, number]

    def piece(self, stream: int, begin: int, end: int) -> NDArray[np.int32]:
        """The tokens ``begin .. end - 1`` of all passes, one behind the other."""
        total = len(self)
        passes = range(begin // total, -(-end // total))
        return np.concatenate(
            [self.tokens[self.order(stream, n)[max(begin - n * total, 0) : end - n * total]] for n in passes]
        )


class CatBAbI(Task):
    """Stories of bAbI one behind the other, cut into pieces; a length counts words, of which the paper takes 200.

    A word is to be predicted from those before it; by default only answers are scored, at the "?" that they follow.
    Training goes through all stories pass by pass. Validation and test take the whole of bAbI's own splits, whatever
    ``val_size`` and ``test_size`` say, in one fixed random order; beside the accuracy of all answers they report that
    of each task.

    Args:
        root: folder with bAbI's ``en-valid`` or ``en-valid-10k`` in it or two levels below, or that folder itself. By
            default the environment's ``DINOPL_DATA``, or else ``./data``.
        tasks: numbers of the tasks, 1 to 20; by default all.
        size: the set with 1,000 questions a task to train and validate on, or with 10,000.
        answers_only: score answers only, or else every word.

    Raises:
        FileNotFoundError: if the folder or a task's file is missing.
        ValueError: if there is no such task, or a file is not bAbI's.
    """

    def __init__(
        self,
        root: str | None = None,
        tasks: list[int] | None = None,
        size: Literal["1k", "10k"] = "1k",
        answers_only: bool = True,
    ) -> None:
        numbers = list(TASKS if tasks is None else tasks)
        if unknown := [number for number in numbers if number not in TASKS]:
            raise ValueError(f"tasks={numbers}: there is no task {unknown[0]}; name tasks from 1 to 20")
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"tasks={numbers}: must be one or more different tasks; name each once")
        self.tasks = sorted(numbers)
        self.answers_only = answers_only
        place, name = data_folder() if root is None else Path(root).expanduser(), SETS[size]
        below = (found for pattern in (name, f"*/{name}", f"*/*/{name}") for found in sorted(place.glob(pattern)))
        folder = next((found for found in (place, *below) if found.name == name and found.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"root={place}: has no folder {name}; unpack bAbI's tasks_1-20_v1-2 there, or name the folder that has "
                "it, here or as $DINOPL_DATA"
            )
        files = {task: [folder / f"qa{task}_{split}.txt" for split in SPLITS] for task in self.tasks}
        missing = {task: file for task in self.tasks for file in reversed(files[task]) if not file.is_file()}
        if missing:
            task, file = next(iter(missing.items()))
            whole = [number for number in self.tasks if number not in missing]
            raise FileNotFoundError(
                f"tasks={self.tasks}: task {task} is missing, there is no {file}; complete the folder"
                + (f", or leave the task out: {whole}" if whole else ", or take other tasks")
            )
        stories = {
            split: [(task, story) for task in self.tasks for story in read_stories(folder / f"qa{task}_{split}.txt")]
            for split in SPLITS
        }
        words = dict.fromkeys(word for split in SPLITS for _, story in stories[split] for word in story)
        self.vocabulary = Vocabulary(("<pad>", "<eos>", *words))
        self.num_targets = self.vocab_size
        self._question = self.vocabulary.encode("?")[0]
        self._train, self._val, self._test = (self._numbered(stories[split]) for split in SPLITS)

    def training(self, stream: int, first: int, count: int, lengths: LengthRange) -> SequenceBatch:
        """The pieces ``first .. first + count - 1`` of all passes."""
        length = lengths.longest
        piece = self._train.piece(stream, first * length, (first + count) * length + 1)
        return shortened(self._labelled(piece, length), stream, first, lengths)

    def evaluation(self, split: Literal["val", "test"], seeds: Seeds, length: int) -> StoryBatch:
        """All pieces of a split; the last one is padded."""
        stories = self._val if split == "val" else self._test
        order = stories.order(stream_seed(split, 0), 0)
        padding = -len(stories) % length
        batch = self._labelled(np.concatenate([stories.tokens[order], [EOS], np.full(padding, PAD)]), length)
        tasks = np.pad(np.repeat(stories.tasks, stories.sizes)[order], (0, padding)).reshape(-1, length)
        batch["mask"] &= torch.from_numpy(tasks > 0)
        return {
            "tokens": batch["tokens"],
            "targets": batch["targets"] * batch["mask"],
            "mask": batch["mask"],
            "task": torch.from_numpy(tasks),
        }

    def measures(self, predictions: Tensor, batch: SequenceBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Accuracy of each task, as ``accuracy/task=1``."""
        right = (predictions == batch["targets"]) & batch["mask"]
        task: Tensor = batch["task"]  # type: ignore[typeddict-item]
        return {
            f"accuracy/task={number}": ((right & (task == number)).sum(), (batch["mask"] & (task == number)).sum())
            for number in self.tasks
        }

    def check_length(self, name: str, length: int) -> None:
        """Refuses pieces that are longer than a split."""
        super().check_length(name, length)
        shortest = min(map(len, (self._train, self._val, self._test)))
        if length > shortest:
            raise ValueError(
                f"{name}={length}: more than the {shortest} words of a split of the tasks {self.tasks}; use a shorter "
                "length or more tasks"
            )

    def _numbered(self, stories: Sequence[tuple[int, list[str]]]) -> Stories:
        words = [word for _, story in stories for word in ("<eos>", *story)]
        return Stories(
            np.array(self.vocabulary.encode(words), dtype=np.int32),
            np.array([len(story) + 1 for _, story in stories], dtype=np.int64),
            np.array([task for task, _ in stories], dtype=np.int64),
        )

    def _labelled(self, tokens: NDArray[np.int32], length: int) -> SequenceBatch:
        """Pieces of ``n * length + 1`` tokens behind each other, each token labelled with the next."""
        rows = torch.from_numpy(tokens.astype(np.int64))
        read, asked = rows[:-1].reshape(-1, length), rows[1:].reshape(-1, length)
        mask = read == self._question if self.answers_only else torch.ones_like(read, dtype=torch.bool)
        return {"tokens": read, "targets": asked * mask, "mask": mask}
