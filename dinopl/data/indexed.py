"""The base of data modules whose training samples are found by index, so that parts of them can be drawn.

A sample's index does not depend on the part that is trained on, nor on the order: outputs of a frozen network that are
kept by index serve every part.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import getattr_static
from types import MethodType
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from dinopl.core.types import ImageBatch
from dinopl.data.order import BatchOrder, OrderSampler

SAMPLES = 64  # whose content is read, spread evenly; of the others only the label counts


class IndexedLoader(ABC):
    """Batches in the order of a sampler, whose length and state are the loader's: resumable in mid-epoch.

    A Lightning trainer calls ``sampler.set_epoch``, and keeps ``state_dict`` in its checkpoints.

    Args:
        sampler: the order of the samples.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a ``sampler``

    def __init__(self, sampler: BatchOrder) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.sampler)

    @abstractmethod
    def __iter__(self) -> Iterator[ImageBatch]:
        """The batches that are left of the epoch."""

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch this loader is."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue there."""
        self.sampler.load_state_dict(state)

    @staticmethod
    def batch(views: Sequence[Tensor], label: Tensor, index: Tensor, *, share: float, visit: int) -> ImageBatch:
        """A batch; ``share`` is named only where it is not 1, ``visit`` only in passes after the first."""
        batch: ImageBatch = {"views": list(views), "label": label, "index": index}
        if share != 1.0:
            batch["share"] = share
        if visit:
            batch["visit"] = visit
        return batch


class IndexedDataModule(LightningDataModule, ABC):
    """A data module whose training samples have the indices 0 to ``num_train - 1``.

    Batches have the keys "views", "label" and "index", whatever the samples are: see ``dinopl.core.types.ImageBatch``.

    Attributes:
        num_classes: number of classes that a label may have; known after construction, as is what follows.
        input_shape: shape of what training sees of a sample, as the network's factory takes it.
        batch_size: training samples per step and process.
        eval_batch_size: samples per batch and process where nothing is trained.
        val_size: what is held out for validation; 0 is nothing.
        samples: what samples are called in messages.
    """

    num_classes: int
    input_shape: Any
    batch_size: int
    eval_batch_size: int
    val_size: int | float
    samples: ClassVar[str] = "samples"
    _stream: int
    """The seed of all draws: the argument's, or else the run's."""

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
        """Takes ``seed`` instead of the run's, unless the argument ``seed`` was given."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies samples, their order of index, and what training sees of them; known after ``setup``.

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

    def cache_dataloader(self) -> IndexedLoader:
        """All training samples once, in order of their index, as in training: for what is computed once and kept."""
        return self.indexed_loader(OrderSampler(self.num_train, self.batch_size))

    @abstractmethod
    def probe_dataloaders(self) -> dict[str, Iterable[ImageBatch]]:
        """The splits as evaluation sees them, in order and whole on every process."""

    def state_dict(self) -> dict[str, Any]:
        """The seed that order, and what else is drawn, come from."""
        return {"seed": self._stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the checkpoint's seed, unless an argument set one: what was held out then stays held out."""
        self.reseed(state_dict["seed"])

    @property
    def overfits(self) -> bool:
        """Whether the trainer is to overfit some batches: every epoch then has those of the first."""
        return getattr(self.trainer, "overfit_batches", 0) > 0

    def common_stream(self) -> int:
        """The seed of the first process: without seed_everything, each has one of its own."""
        return self._stream if self.trainer is None else self.trainer.strategy.broadcast(self._stream)

    def check_stage(self, stage: str | None, counts: Mapping[str, int]) -> None:
        """Checks that there is enough to train on, to validate on, and to share out among the processes.

        Args:
            stage: "fit", "validate" or another; None checks as "fit" does.
            counts: samples of the splits that processes share out, by name.

        Raises:
            ValueError: if there is not.
        """
        if stage == "validate" and not self.val_size:
            raise ValueError(
                f"val_size=0: no {self.samples} were held out to validate on; set it as it was in training"
            )
        processes = self.place()[2]
        if stage in (None, "fit") and self.batch_size * processes > self.num_train:
            among = f" for {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size}: there are only {self.num_train} training {self.samples}{among}; "
                f"give at most {self.num_train // processes}"
            )
        for split, count in counts.items():
            if not count:
                size = getattr(self, f"{split}_size", None)
                raise ValueError(f"{split}_size={size}: leaves the {split} split without {self.samples}; give more")
            if count < processes:
                raise ValueError(
                    f"devices: {processes} processes cannot share the {count} {self.samples} of the {split} split; "
                    "use fewer"
                )

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


class IndexedValues:
    """Values of samples, found by sample index: what a frozen network says of each is computed once and kept here.

    Args:
        num_samples: of the pool, whose indices are 0 to ``num_samples - 1``.
        index: the samples whose values are kept, ``(M,)`` int64; None for all.
        device: where values and indices are.
    """

    def __init__(self, num_samples: int, index: Tensor | None, device: torch.device) -> None:
        self._size = num_samples if index is None else len(index)
        self._row: Tensor | None = None
        if index is not None:
            row = torch.full((num_samples,), -(1 << 40))  # a sample that is not kept fails, and finds no other's value
            row[index] = torch.arange(len(index))
            self._row = row.to(device)
        self._values: Tensor | None = None

    def put(self, index: Tensor, values: Tensor) -> None:
        """Keeps values ``(B, ...)`` of the samples ``index``, ``(B,)`` int64."""
        if self._values is None:
            self._values = values.new_empty(self._size, *values.shape[1:])
        self._values[index if self._row is None else self._row[index]] = values

    def take(self, index: Tensor) -> Tensor:
        """Values ``(B, ...)`` of the samples ``index``, ``(B,)`` int64."""
        assert self._values is not None
        return self._values[index if self._row is None else self._row[index]]


def check_one_view(data: Any) -> None:
    """Raises a ValueError if a data module makes several views of a sample.

    Data without views, such as text, pass; an error within a property ``views`` is raised as it is.
    """
    pool: Any = getattr(data, "data", data)  # within a module that takes a part of the data
    if getattr_static(pool, "views", None) is not None and len(pool.views) != 1:
        raise ValueError(f"views={len(pool.views)}: the model takes one view of a sample; give one")


def check_no_probes(data: Any) -> None:
    """Raises a ValueError if a data module has options of probes, for a model that has none."""
    pool: Any = getattr(data, "data", data)
    for name in ("probe_dataset", "probe_train_size"):
        if (value := getattr_static(pool, name, None)) is not None:
            shown = value if isinstance(value, int | float) else type(value).__name__
            raise ValueError(f"{name}={shown}: the model has no probes; leave it out")


def spread(count: int) -> Tensor:
    """Positions of at most ``SAMPLES`` of ``count`` samples, spread evenly, increasing, ``(n,)`` int64."""
    return torch.linspace(0, count - 1, min(SAMPLES, count)).long()


def digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of tensors, bit by bit, and of plain facts: 64 hexadecimal digits.

    Names, shapes and types of tensors count too. Facts are what JSON can hold; floating-point numbers count to 6
    digits, since sums differ between machines.
    """
    result = hashlib.sha256(json.dumps(_rounded(dict(facts)), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def describe(part: object) -> list[Any]:
    """Class and public attributes of an object that a configuration made, for ``digest``."""
    public = {name: repr(value) for name, value in vars(part).items() if not name.startswith("_")}
    return [type(part).__qualname__, public]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
