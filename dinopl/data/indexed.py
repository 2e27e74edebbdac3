"""The base of data modules whose training samples are found by index, so that parts of them can be drawn.

A sample's index does not depend on the part that is trained on, nor on the order: outputs of a frozen network that are
kept by index serve every part.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dinopl.core.types import ImageBatch
from dinopl.data.order import BatchOrder


class IndexedLoader(Protocol):
    """Batches in the order of its sampler, resumable in mid-epoch."""

    sampler: BatchOrder

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""

    def __iter__(self) -> Iterator[ImageBatch]:
        """The batches that are left of the epoch."""

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch this loader is."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue there."""


class IndexedDataModule(LightningDataModule, ABC):
    """A data module whose training samples have the indices 0 to ``num_train - 1``.

    Batches have the keys "views", "label" and "index", whatever the samples are: see ``dinopl.core.types.ImageBatch``.

    Attributes:
        num_classes: number of classes that a label may have; known after construction, as is what follows.
        input_shape: shape of what training sees of a sample, as the network's factory takes it.
        batch_size: training samples per step and process.
        eval_batch_size: samples per batch and process where nothing is trained.
        val_size: what is held out for validation; 0 is nothing.
    """

    num_classes: int
    input_shape: Any
    batch_size: int
    eval_batch_size: int
    val_size: int | float

    @property
    @abstractmethod
    def num_train(self) -> int:
        """Number of training samples, known after ``setup``."""

    @property
    @abstractmethod
    def train_label(self) -> Tensor | None:
        """Class of each training sample, ``(num_train,)`` int64; None if a sample has no single class."""

    @property
    @abstractmethod
    def deterministic_views(self) -> bool:
        """Whether what training sees of a sample depends on its index alone."""

    @abstractmethod
    def reseed(self, seed: int) -> None:
        """Takes ``seed`` instead of the run's, unless the argument ``seed`` was given.

        Args:
            seed: as the argument ``seed``.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies samples, their order of index, and what training sees of them; known after ``setup``.

        Returns:
            A hexadecimal digest: the same in every process and on every machine.
        """

    @abstractmethod
    def indexed_loader(
        self,
        sampler: BatchOrder,
        *,
        augment: bool = True,
        label: Tensor | None = None,
        seed: int | None = None,
        cycle: int | None = None,
    ) -> IndexedLoader:
        """A loader of training samples in the order of ``sampler``.

        Args:
            sampler: the order of indices.
            augment: as training sees the samples, or else as evaluation does.
            label: to be given instead of the samples' own, one for each index, ``(num_train,)``.
            seed: of the augmentation; None takes the one of ``train_dataloader``.
            cycle: how many augmentations of a sample there are, which follow one another from pass to pass; None: a
                new one in every pass.
        """

    @abstractmethod
    def cache_dataloader(self) -> IndexedLoader:
        """All training samples once, in order of their index, as in training: for what is computed once and kept."""

    @abstractmethod
    def probe_dataloaders(self) -> dict[str, Iterable[ImageBatch]]:
        """The splits as evaluation sees them, in order and whole on every process."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Returns a batch that is on the device as it is: looking through it costs more than a small training step."""
        return batch if is_there(batch, device) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def place(self) -> tuple[torch.device, int, int]:
        """Device, rank and number of processes: the trainer's, or this process alone on the CPU."""
        if self.trainer is None:
            return torch.device("cpu"), 0, 1
        return self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size


def is_there(batch: Any, device: torch.device) -> bool:
    """Whether a batch of ours is on a device."""
    return isinstance(batch, dict) and "views" in batch and bool(batch["views"][0].device == device)


def skip_validation(module: LightningDataModule) -> None:
    """Makes a trainer find no validation loader in ``module``: it then says that it skips validation.

    An empty list of loaders would make it say something obscure.
    """
    module.val_dataloader = MethodType(LightningDataModule.val_dataloader, module)  # type: ignore[method-assign]
