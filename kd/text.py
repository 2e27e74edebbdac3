"""Windows of a text by index, for distillation: each token to be predicted from those before, on a part of the windows.

"Revisiting Knowledge Distillation" (Lanzillotta et al., arXiv 2510.15516) names several tasks; the first author's early
code distils language models in a single pass over books. What differs: small text, as many steps at every fraction, and
windows that do not overlap, so that a window has an index by which a teacher's outputs can be kept. A fraction is a
random part of the windows. No window is padded, so the mean over a batch is the mean per token.

What reads, numbers and cuts text stands in ``fprnn.tasks.text``. This data module is not ``SequenceDataModule`` over a
text task, and cannot become it. That one draws sequence n of an endless stream, each pass over the text from another
place, so that no window comes back and none has an index; here every window is one of a fixed pool, in which fractions
nest, noise has its place, and a teacher's outputs are found again. It makes batches of tokens, targets and mask by
length, this one the views, labels and indices that ``DataFraction`` and image data share, which ``dinopl.data``
defines and ``fprnn`` does not import. And its splits are rounded otherwise, by which figures of both would move.

Shapes: a batch has "views" ``[(B, T)]``, the tokens, and "label" ``(B, T)``, each the token after; "index" is ``(B,)``.
A network maps ``(B, T)`` to logits ``(B, T, V)``; whatever is defined for ``(B, C)`` logits then holds for each token.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dinopl.core.random import stream_seed
from dinopl.core.types import ImageBatch
from dinopl.data.indexed import IndexedDataModule, IndexedLoader, digest, skip_validation
from dinopl.data.order import BatchOrder, EvalSampler, OrderSampler
from fprnn.tasks.text import PythonDocsText, TextFile, TextSource, Units, encode, windows
from kd.networks import TextShape

__all__ = ["PythonDocsText", "TextDataModule", "TextFile", "TextSource", "TokenLoader"]

Split = Literal["train", "val", "test"]


class TokenLoader(IndexedLoader):
    """Batches of windows with the token after each, ``(n, T + 1)`` integers, on their device."""

    def __init__(self, tokens: Tensor, sampler: BatchOrder) -> None:
        super().__init__(sampler)
        self.tokens = tokens

    def __iter__(self) -> Iterator[ImageBatch]:
        for order, visits, parts in self.sampler.blocks():
            on_device = order.to(self.tokens.device)
            for part in parts:
                index = on_device[part.start : part.stop]
                tokens = self.tokens[index].long()
                self.sampler.advance(part)
                visit = int(visits[part.start])
                yield self.batch([tokens[:, :-1]], tokens[:, 1:], index, share=part.share, visit=visit)


class TextDataModule(IndexedDataModule):
    """Windows of a text, for predicting each token from those before it.

    The text's last part is for testing, the part before it for validation. Known after construction: ``vocab_size``,
    which is ``num_classes`` too, ``input_shape`` and ``vocabulary``.

    Args:
        text: where the text comes from; by default what Python's ``help`` shows.
        root: folder of all data sets; None takes the environment's ``DINOPL_DATA``, or else ``./data``.
        units: what a token is: one of the ``characters`` of the text, or one of its ``bytes``.
        length: tokens of a window.
        batch_size: training windows per step and process.
        eval_batch_size: windows per batch and process where nothing is trained.
        val_size: fraction of the text that is held out for validation; 0 for none.
        test_size: fraction of the text that is for testing.
        seed: of the order; None derives it from the run's seed.

    Raises:
        FileNotFoundError: if the text is not there.
        ValueError: if an option is out of range, or the text too short for it.
    """

    deterministic_views = True
    train_label = None
    samples = "windows"

    def __init__(
        self,
        text: TextSource | None = None,
        root: str | None = None,
        units: Units = "characters",
        length: int = 128,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        val_size: float = 0.05,
        test_size: float = 0.1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"length": length, "batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not (0 <= val_size < 1 and 0 < test_size < 1 and val_size + test_size < 1):
            raise ValueError(
                f"test_size={test_size}: must be above 0, and with val_size={val_size} leave some text to train on"
            )
        self.text = text or PythonDocsText()
        self.root = Path(root or os.environ.get("DINOPL_DATA") or "data")
        self.units: Units = units
        self.length = length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.seed = seed
        self._stream = torch.initial_seed() if seed is None else seed
        tokens, self.vocabulary = encode(self.text.read(self.root), units)
        self._splits = self._split(tokens)
        self.num_classes = self.vocab_size = len(self.vocabulary)
        self.input_shape = TextShape(self.vocab_size, length)
        if not val_size:
            skip_validation(self)

    @property
    def num_train(self) -> int:
        """Number of training windows; their indices run from 0."""
        return len(self._splits["train"])

    def fingerprint(self) -> str:
        """What identifies the training windows and their tokens."""
        return digest({"tokens": self._splits["train"]}, {"vocabulary": self.vocabulary})

    def reseed(self, seed: int) -> None:
        """Takes ``seed`` for the order, if no option gave one; nothing else is drawn."""
        if self.seed is None:
            self._stream = seed

    def setup(self, stage: str | None = None) -> None:
        """Checks that every process gets windows, and that there is something to validate on."""
        self._stream = self.common_stream()
        shared: tuple[Split, ...] = ("val", "test") if self.val_size else ("test",)
        self.check_stage(stage, {split: len(self._splits[split]) for split in shared})

    def indexed_loader(
        self,
        sampler: BatchOrder,
        *,
        augment: bool = True,
        label: Tensor | None = None,
        seed: int | None = None,
        cycle: int | None = None,
    ) -> TokenLoader:
        """A loader of training windows in the order of ``sampler``; ValueError if labels are given."""
        if label is not None:
            raise ValueError("the labels of text are its own tokens: leave label at None.")
        return TokenLoader(self._splits["train"].to(self.place()[0]), sampler)

    def train_sampler(self) -> OrderSampler:
        """The order of the training batches of this process."""
        _, rank, processes = self.place()
        order = stream_seed("order", self._stream)
        sampler = OrderSampler(self.num_train, self.batch_size, rank, processes, seed=order)
        sampler.repeats = self.overfits
        return sampler

    def train_dataloader(self) -> TokenLoader:
        """Shuffled training batches of this process."""
        return self.indexed_loader(self.train_sampler())

    def val_dataloader(self) -> TokenLoader:
        """The validation split in order; with ``val_size`` 0 a trainer finds no such method."""
        return self._eval_loader("val", *self.place())

    def test_dataloader(self) -> TokenLoader:
        """The test split in order."""
        return self._eval_loader("test", *self.place())

    def predict_dataloader(self) -> TokenLoader:
        """The test split in order."""
        return self.test_dataloader()

    def probe_dataloaders(self) -> dict[str, Iterable[ImageBatch]]:
        """The splits in order, whole on every process; no "val" if none is held out."""
        names: tuple[Split, ...] = ("train", "val", "test") if self.val_size else ("train", "test")
        return {name: self._eval_loader(name, self.place()[0], 0, 1) for name in names}

    def _eval_loader(self, split: Split, device: torch.device, rank: int, processes: int) -> TokenLoader:
        tokens = self._splits[split]
        return TokenLoader(tokens.to(device), EvalSampler(len(tokens), self.eval_batch_size, rank, processes))

    def _split(self, tokens: Tensor) -> dict[Split, Tensor]:
        """Windows of each part of the text; parts share no token."""
        test = round(self.test_size * len(tokens))
        val = round(self.val_size * len(tokens))
        parts = torch.split(tokens, [len(tokens) - val - test, val, test])
        names: tuple[Split, ...] = ("train", "val", "test")
        cut = {name: windows(part, self.length) for name, part in zip(names, parts, strict=True)}
        short = [name for name in names if not len(cut[name]) and (name != "val" or self.val_size)]
        if short:
            raise ValueError(
                f"length={self.length}: the {short[0]} part of a text of {len(tokens)} tokens has no window of that "
                "length; give a smaller one, or more text"
            )
        return cut
