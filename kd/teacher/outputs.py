"""What the teacher says of a training sample: computed on the very tensor that the student sees, or kept by index.

Section "Teacher outputs" of the study. A teacher that is run on what the student sees is always right. Its outputs may
be kept where what the student sees is a function of the sample's index, or of the index and the number of one of a few
augmentations; then students of all fractions and of a whole study can share one file, whose identity is what went into
it: teacher, data, preprocessing, precision. A file with another identity is refused, never used and never overwritten.
"""

import fcntl
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from dinopl.core.files import replacing
from dinopl.data.batch import as_batch
from dinopl.data.indexed import IndexedDataModule
from kd.data import DataFraction
from kd.losses.base import TeacherOutputs
from kd.samplers import SelectedSampler
from kd.targets.reduced import TopLogits, top_logits
from kd.teacher.sources import HeldTeacher
from kd.text import token_index

FORMAT = 1
RESIDENT = 256 << 20  # bytes of a file's rows up to which they are read into the device's memory
AUTOMATIC = 1 << 30  # bytes up to which outputs are kept unasked
SIDECAR = "outputs.json"

# What a fact of a file's identity is called where it is not the one wanted.
DIFFERENT = {
    "teacher": "another teacher",
    "data": "other data, or other preprocessing",
    "clean": "samples under other augmentation",
    "augmentations": "another number of augmentations",
    "augmentation_seed": "augmentations of another seed",
    "precision": "a teacher at another precision",
    "dtype": "another type",
    "top_k": "another number of classes a sample",
    "temperature": "another temperature, at which the rest is joined",
}


@dataclass(frozen=True)
class Surroundings:
    """What there is while a student is trained.

    Attributes:
        teacher: whose outputs are wanted.
        trainer: gives device and precision.
        data: the data module.
        temperature: the objective's.
    """

    teacher: HeldTeacher
    trainer: Trainer
    data: Any
    temperature: float

    @property
    def augmentations(self) -> int:
        """How many augmentations of a sample there are."""
        return 1 if self.data.deterministic_views else (getattr(self.data, "augmentations", None) or 1)

    def logits(self, batches: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
        """Batches with the teacher's logits of their first view, computed at the precision of training."""
        precision = self.trainer.precision_plugin
        for batch in map(as_batch, batches):
            view = precision.convert_input(batch["views"][0])
            with precision.forward_context():
                yield batch, self.teacher(view)

    def loader(self, index: Tensor, *, visit: int = 0, clean: bool = False, noisy: bool = False) -> Iterable[Any]:
        """Training samples once.

        Args:
            index: which, ``(n,)`` int64.
            visit: which augmentation.
            clean: un-augmented, instead of as training sees them.
            noisy: with the labels that the student is given, where they are not the samples' own.
        """
        pool, fraction = pool_of(self.data), isinstance(self.data, DataFraction)
        if not clean and fraction:
            return self.data.cache_dataloader(visit, selected=len(index) < self.data.num_train)
        sampler = SelectedSampler(index, pool.eval_batch_size if clean else pool.batch_size, visit=visit)
        label = self.data.train_label if noisy and fraction else None
        return pool.indexed_loader(sampler, augment=not clean, label=label)


def pool_of(data: Any) -> IndexedDataModule:
    """The data module whose training samples are the pool."""
    return data.data if isinstance(data, DataFraction) else data


def student_index(data: Any) -> Tensor:
    """The samples that the student trains on, ``(M,)`` int64, increasing."""
    return data.index if isinstance(data, DataFraction) else torch.arange(data.num_train)


def is_indexed(data: Any) -> bool:
    """Whether training samples are found by index."""
    return isinstance(data, DataFraction | IndexedDataModule)


def subset_outputs(around: Surroundings) -> TeacherOutputs:
    """The teacher on all of the student's samples, un-augmented, for objectives and targets that need to know them.

    For text each token is a sample.
    """
    logits, labels, indices = [], [], []
    for batch, output in around.logits(around.loader(student_index(around.data), clean=True, noisy=True)):
        flat, label, index = flattened(output, batch["label"], batch["index"])
        logits.append(flat.float())
        labels.append(label)
        indices.append(index)
    return TeacherOutputs(torch.cat(logits), torch.cat(labels), torch.cat(indices))


def flattened(logits: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(B, C)``, labels ``(B,)`` and indices ``(B,)``: of samples, or of all tokens of windows."""
    if logits.ndim == 2:
        return logits, label, index
    return logits.flatten(0, -2), label.flatten(), token_index(index, logits.shape[1])


class OutputSource(ABC):
    """Where the teacher's logits come from in a training step."""

    @abstractmethod
    def check(self, around: Surroundings) -> None:
        """Refuses, before anything is trained, what cannot be.

        Raises:
            ValueError: in one line.
        """

    @abstractmethod
    def fill(self, around: Surroundings) -> None:
        """Gets ready, at the start of every training."""

    @abstractmethod
    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """The teacher's logits.

        Args:
            view: what the student sees, ``(B, ...)``.
            index: of the samples, ``(B,)`` int64.
            visit: number of the pass.

        Returns:
            ``(B, C)``, for text ``(B, T, C)``.
        """


class OnlineOutputs(OutputSource):
    """The teacher runs in every step, on the very tensor that the student sees: right under any augmentation."""

    def __init__(self) -> None:
        self._teacher: HeldTeacher | None = None

    def check(self, around: Surroundings) -> None:
        """Nothing can be wrong."""

    def fill(self, around: Surroundings) -> None:
        """Takes the teacher."""
        self._teacher = around.teacher

    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """Runs the teacher."""
        assert self._teacher is not None
        return self._teacher(view)


class CachedOutputs(OutputSource):
    """The teacher's outputs are computed once and kept by sample index.

    Exact where what the student sees depends on the index alone, or, with ``data.augmentations``, on the index and the
    number of the augmentation; up to rounding, since matrix products may round differently in batches of another size.

    Args:
        folder: of a memory-mapped file for all samples of the pool, which students of all fractions share, in turn or
            at a time; the first one writes it. One folder holds the outputs of one teacher on one kind of data. Null
            keeps those of the student's samples in memory.
        dtype: of what is kept.
        top_k: keep the largest logits of each sample, and one for all others; null keeps all. The rest's probability is
            then right at the objective's temperature.
        clean: what the teacher sees is not augmented although what the student sees is: a baseline to compare with,
            known to overfit, and no faster way to the same.

    Raises:
        ValueError: if ``top_k`` is below 1.
    """

    def __init__(
        self,
        folder: str | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        top_k: int | None = None,
        clean: bool = False,
    ) -> None:
        if top_k is not None and top_k < 1:
            raise ValueError(f"--model.outputs.top_k {top_k}: give at least 1, or null for all classes.")
        self.folder = folder
        self.dtype: Literal["float32", "float16"] = dtype
        self.top_k = top_k
        self.clean = clean
        self._num_classes = 0
        self._columns: dict[str, Tensor] = {}
        self._position: Tensor | None = None
        self._files: dict[str, NDArray[Any]] = {}
        self._augmentations = 1

    def check(self, around: Surroundings) -> None:
        """Refuses a cache that would not be exact, and a folder that holds another one's outputs."""
        if problem := obstacle(around.data, clean=self.clean):
            raise ValueError(f"--model.outputs CachedOutputs: {problem}; or take OnlineOutputs.")
        if self.clean and not around.data.deterministic_views:
            rank_zero_warn(
                "--model.outputs.clean true: the teacher sees un-augmented samples and the student augmented ones, "
                "which is known to overfit"
            )
        if self.folder is not None and (found := _read_sidecar(Path(self.folder))) is not None:
            _refuse_other(Path(self.folder), found["facts"], self.facts(around))

    def facts(self, around: Surroundings) -> dict[str, Any]:
        """What the outputs depend on, in plain values: the identity of a file."""
        random = not self.clean and not around.data.deterministic_views
        return {
            "teacher": around.teacher.fingerprint,
            "data": around.data.fingerprint(),
            "clean": self.clean and not around.data.deterministic_views,
            "augmentations": around.augmentations if random else 1,
            "augmentation_seed": around.data.facts()["seeds"]["augmentation"] if random else None,
            "precision": str(around.trainer.precision),
            "dtype": self.dtype,
            "top_k": self.top_k,
            "temperature": None if self.top_k is None else around.temperature,
        }

    def fill(self, around: Surroundings) -> None:
        """Computes the outputs, or finds them."""
        self._augmentations = 1 if self.clean else around.augmentations
        index = student_index(around.data)
        if self.folder is None:
            columns = self._compute(around, index)
            self._keep(columns, index, around)
            return
        path = Path(self.folder)
        rank_zero_info(f"The teacher's outputs on {around.data.num_train} samples are kept in {path}.")
        facts = self.facts(around)
        with _locked(path):
            found = _read_sidecar(path)
            if found is None:
                found = self._write(path, facts, around)
        _refuse_other(path, found["facts"], facts)
        self._num_classes = found["num_classes"]
        self._files = {name: _open(path, name, shape) for name, shape in found["shapes"].items()}
        rows = sum(file.nbytes // file.shape[1] for file in self._files.values()) * len(index)
        if rows <= RESIDENT:
            columns = {name: torch.from_numpy(file[:, index.numpy()]) for name, file in self._files.items()}
            self._keep(columns, index, around)

    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """Looks the samples up."""
        number = visit % self._augmentations
        if self._position is not None:
            rows = self._position[index]
            return self._decode({name: column[number][rows] for name, column in self._columns.items()})
        where = index.cpu().numpy()
        found = {name: torch.from_numpy(file[number, where]) for name, file in self._files.items()}
        return self._decode({name: part.to(view.device, non_blocking=True) for name, part in found.items()})

    def _keep(self, columns: dict[str, Tensor], index: Tensor, around: Surroundings) -> None:
        """Moves rows ``(V, M, ...)`` to the device, with the row of each index."""
        device = around.trainer.strategy.root_device
        position = torch.full((around.data.num_train,), -(1 << 40))  # what is not there is out of range, loudly
        position[index] = torch.arange(len(index))
        self._position = position.to(device)
        self._columns = {name: column.to(device) for name, column in columns.items()}
        self._files = {}

    def _compute(self, around: Surroundings, index: Tensor) -> dict[str, Tensor]:
        """The outputs of some samples, in memory."""
        position = torch.full((around.data.num_train,), -1)
        position[index] = torch.arange(len(index))
        columns: dict[str, Tensor] = {}
        for number, own_index, parts in self._parts(around, index):
            if not columns:
                sizes = (self._augmentations, len(index))
                columns = {name: part.new_empty(*sizes, *part.shape[1:]) for name, part in parts.items()}
            for name, part in parts.items():
                columns[name][number, position.to(part.device)[own_index.to(part.device)]] = part
        return columns

    def _write(self, path: Path, facts: dict[str, Any], around: Surroundings) -> dict[str, Any]:
        """Writes the outputs of the whole pool; the sidecar last, which makes them valid."""
        for stray in path.glob(".*.tmp"):
            stray.unlink()
        count = around.data.num_train
        files: dict[str, np.memmap[Any, Any]] = {}
        for number, index, parts in self._parts(around, torch.arange(count)):
            for name, part in parts.items():
                if name not in files:
                    shape = (self._augmentations, count, *part.shape[1:])
                    kind = np.dtype(str(part.dtype).removeprefix("torch."))
                    files[name] = np.lib.format.open_memmap(_temporary(path, name), "w+", kind, shape)
                files[name][number, index.cpu().numpy()] = part.cpu().numpy()
        shapes = {name: list(file.shape) for name, file in files.items()}
        for name, file in files.items():
            file.flush()
            _synchronise(_temporary(path, name))
            os.replace(_temporary(path, name), path / f"{name}.npy")
        content = {"key": key(facts), "facts": facts, "shapes": shapes, "num_classes": self._num_classes}
        with replacing(path / SIDECAR) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return content

    def _parts(self, around: Surroundings, index: Tensor) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """Number of the augmentation, indices and what is kept of them, batch by batch."""
        for number in range(self._augmentations):
            for batch, logits in around.logits(around.loader(index, visit=number, clean=self.clean)):
                self._num_classes = logits.shape[-1]
                yield number, batch["index"], self._encode(logits.float(), around.temperature)

    def _encode(self, logits: Tensor, temperature: float) -> dict[str, Tensor]:
        """What is kept of logits ``(B, ..., C)``."""
        kind = torch.float16 if self.dtype == "float16" else torch.float32
        if self.top_k is None or self.top_k >= self._num_classes:
            return {"values": logits.to(kind)}
        top = top_logits(logits.flatten(0, -2), self.top_k, temperature)
        values = torch.cat([top.values, top.rest[:, None]], dim=1).to(kind)
        shape = logits.shape[:-1]
        return {"values": values.view(*shape, -1), "classes": top.classes.to(torch.int32).view(*shape, -1)}

    def _decode(self, kept: dict[str, Tensor]) -> Tensor:
        """Logits ``(B, ..., C)`` in float32."""
        values = kept["values"].float()
        if "classes" not in kept:
            return values
        flat, classes = values.flatten(0, -2), kept["classes"].flatten(0, -2).long()
        top = TopLogits(flat[:, :-1], classes, flat[:, -1])
        return top.expand(self._num_classes).view(*values.shape[:-1], -1)


def obstacle(data: Any, clean: bool = False) -> str | None:
    """Why outputs cannot be kept by index, with the remedy; None if they can."""
    if not is_indexed(data):
        return "the data have no sample index; use DataFraction or ImageDataModule"
    if clean or data.deterministic_views or getattr(data, "augmentations", None):
        return None
    return "the training views are random; set --data.augmentations of DataFraction to keep a number of them"


def automatic(around: Surroundings, num_outputs: int) -> OutputSource:
    """Where outputs come from if nobody says: kept in memory where that is exact and small, else computed.

    Args:
        around: where they are wanted.
        num_outputs: numbers that the teacher returns for a sample.
    """
    if obstacle(around.data) is not None:
        return OnlineOutputs()
    size = len(student_index(around.data)) * around.augmentations * num_outputs * 4
    return CachedOutputs() if size <= AUTOMATIC else OnlineOutputs()


def key(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the identity of a file: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **facts}, sort_keys=True).encode()).hexdigest()


def _refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first fact in which a file is another one's."""
    for name, value in wanted.items():
        if found.get(name) != value:
            told = f"{_shown(found.get(name))} there, {_shown(value)} here"
            raise ValueError(
                f"--model.outputs.folder {path}: it holds outputs of {DIFFERENT[name]} ({told}); give another folder, "
                "or remove this one."
            )


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """What a folder says of its outputs; None if it holds none."""
    try:
        content = json.loads((path / SIDECAR).read_text(encoding="utf-8"))
        whole = content["key"] == key(content["facts"]) and content["shapes"] and content["num_classes"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"--model.outputs.folder {path}: its {SIDECAR} is damaged; remove the folder.")
    return dict(content)


def _open(path: Path, name: str, shape: list[int]) -> NDArray[Any]:
    """A file of a cache, mapped into memory."""
    try:
        file: NDArray[Any] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"--model.outputs.folder {path}: {name}.npy cannot be read ({error}); remove it.") from error
    if list(file.shape) != shape:
        raise ValueError(f"--model.outputs.folder {path}: {name}.npy is not of its {SIDECAR}; remove the folder.")
    return file


def _temporary(path: Path, name: str) -> Path:
    return path / f".{name}.npy.tmp"


def _synchronise(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Makes a folder, and waits until no other process writes to it; a dead one's lock is gone with it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / ".lock").open("a")
    except OSError as error:
        raise ValueError(f"--model.outputs.folder {path}: cannot be written to ({error.strerror}).") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
