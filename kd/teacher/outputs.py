"""The teacher's outputs in training: computed on the very tensor that the student sees, or kept by sample index.

Section "Teacher outputs" of the study. A teacher that is run on what the student sees is always right. Its outputs may
be kept where what the student sees is a function of the sample's index, or of the index and the number of one of a few
augmentations; then students of all fractions and of a whole study can share one file, whose identity is what went into
it: teacher, data, preprocessing, precision. A file with another identity is refused, never used and never overwritten.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from dinopl.core.files import replacing
from dinopl.data.indexed import IndexedValues
from kd.losses.base import Objective, TeacherOutputs
from kd.networks import output_shape
from kd.samplers import token_index
from kd.targets.base import TargetTransform
from kd.targets.reduced import expanded, top_logits
from kd.teacher.frozen import FrozenTeacher, TrainingContext

FORMAT = 1
RESIDENT = 256 << 20  # bytes of a file's rows up to which they are read into the device's memory
AUTOMATIC = 1 << 30  # bytes up to which outputs are kept where the user chose nothing
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
    "top_k": "another number of classes per sample",
    "temperature": "another temperature, at which the rest is joined",
}


def student_index(data: Any) -> Tensor:
    """The samples that the student trains on, ``(M,)`` int64, increasing."""
    return data.index if hasattr(data, "index") else torch.arange(data.num_train)


def is_indexed(data: Any) -> bool:
    """Whether training samples are found by index."""
    return hasattr(data, "indexed_loader")


def subset_outputs(context: TrainingContext) -> TeacherOutputs:
    """The teacher on all of the student's samples, un-augmented, for objectives and targets that need to know them.

    For text each token is a sample.
    """
    logits, labels, indices = [], [], []
    for batch, output in context.logits(context.loader(student_index(context.data), clean=True)):
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
    def check(self, context: TrainingContext) -> None:
        """Raises a ValueError, before anything is trained, if the outputs cannot be had in this context."""

    @abstractmethod
    def fill(self, context: TrainingContext) -> None:
        """Prepares the outputs; called at the start of every training."""

    @abstractmethod
    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """The teacher's logits, ``(B, C)``, for text ``(B, T, C)``, of what the student sees, ``(B, ...)``.

        Samples have indices ``(B,)``, and come in the pass number ``visit``.
        """


class OnlineOutputs(OutputSource):
    """The teacher runs in every step, on the very tensor that the student sees: right under any augmentation."""

    def __init__(self) -> None:
        self._teacher: FrozenTeacher | None = None

    def check(self, context: TrainingContext) -> None:
        """Nothing can be wrong."""

    def fill(self, context: TrainingContext) -> None:
        """Takes the teacher."""
        self._teacher = context.teacher

    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """Runs the teacher."""
        assert self._teacher is not None
        return self._teacher(view)


class CachedOutputs(OutputSource):
    """The teacher's outputs are computed once and kept by sample index.

    They are those of :class:`OnlineOutputs` up to rounding where what the student sees depends on the index alone, or,
    with ``data.augmentations``, on the index and the number of the augmentation: matrix products may round differently
    in batches of another size.

    Args:
        folder: of a memory-mapped file for all samples of the pool, which students of all fractions share, in turn or
            at a time; the first one writes it. One folder holds the outputs of one teacher on one kind of data. None
            keeps those of the student's samples in memory.
        dtype: of what is kept.
        top_k: keep the largest logits of each sample, and one for all others; None keeps all. The rest's probability is
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
            raise ValueError(f"top_k={top_k}: must be at least 1; None keeps all classes")
        self.folder = folder
        self.dtype: Literal["float32", "float16"] = dtype
        self.top_k = top_k
        self.clean = clean
        self._num_classes = 0
        # For each augmentation, by name: what is kept of the student's samples, or files of the whole pool.
        self._kept: list[dict[str, IndexedValues]] = []
        self._files: dict[str, NDArray[Any]] = {}
        self._augmentations = 1

    def check(self, context: TrainingContext) -> None:
        """Refuses a cache of outputs that do not depend on the index alone, and a folder of another identity."""
        if reason := not_exact(context.data, clean=self.clean):
            raise ValueError(f"outputs=CachedOutputs: {reason}; or take OnlineOutputs")
        if self.clean and not context.data.deterministic_views:
            rank_zero_warn(
                "clean=True of CachedOutputs: the teacher sees un-augmented samples and the student augmented ones, "
                "which is known to overfit"
            )
        if self.folder is not None and (found := _read_sidecar(Path(self.folder))) is not None:
            _check_identity(Path(self.folder), found["facts"], self.facts(context))

    def facts(self, context: TrainingContext) -> dict[str, Any]:
        """What the outputs depend on, in plain values: the identity of a file."""
        random = not self.clean and not context.data.deterministic_views
        return {
            "teacher": context.teacher.fingerprint,
            "data": context.data.fingerprint(),
            "clean": self.clean and not context.data.deterministic_views,
            "augmentations": context.augmentations if random else 1,
            "augmentation_seed": context.data.facts()["seeds"]["augmentation"] if random else None,
            "precision": str(context.trainer.precision),
            "dtype": self.dtype,
            "top_k": self.top_k,
            "temperature": None if self.top_k is None else context.temperature,
        }

    def fill(self, context: TrainingContext) -> None:
        """Computes the outputs, or finds them."""
        self._augmentations = 1 if self.clean else context.augmentations
        self._kept, self._files = [{} for _ in range(self._augmentations)], {}
        index = student_index(context.data)
        if self.folder is None:
            for number, own, parts in self._parts(context, index):
                self._keep(context, index, number, own, parts)
            return
        path = Path(self.folder)
        rank_zero_info(f"The teacher's outputs on {context.data.num_train} samples are kept in {path}.")
        facts = self.facts(context)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / ".lock").acquire()  # waits for a process that writes; a dead one's lock is gone
        except OSError as error:
            raise ValueError(f"folder={path}: cannot be written to ({error.strerror}); give another one") from error
        with lock:
            found = _read_sidecar(path) or self._write(path, facts, context)
        _check_identity(path, found["facts"], facts)
        self._num_classes = found["num_classes"]
        files = {name: _open(path, name, shape) for name, shape in found["shapes"].items()}
        if sum(file.nbytes // file.shape[1] for file in files.values()) * len(index) > RESIDENT:
            self._kept, self._files = [], files
            return
        own = index.to(context.trainer.strategy.root_device)
        for number in range(self._augmentations):
            rows = {name: torch.from_numpy(file[number, index.numpy()]) for name, file in files.items()}
            self._keep(context, index, number, own, {name: part.to(own.device) for name, part in rows.items()})

    def __call__(self, view: Tensor, index: Tensor, visit: int) -> Tensor:
        """Looks the samples up."""
        number = visit % self._augmentations
        if self._kept:
            return self._decode({name: values.take(index) for name, values in self._kept[number].items()})
        where = index.cpu().numpy()
        found = {name: torch.from_numpy(file[number, where]) for name, file in self._files.items()}
        return self._decode({name: part.to(view.device, non_blocking=True) for name, part in found.items()})

    def _keep(
        self, context: TrainingContext, index: Tensor, number: int, own: Tensor, parts: Mapping[str, Tensor]
    ) -> None:
        """Keeps values of the samples ``own`` under an augmentation, in memory for the samples ``index``."""
        kept = self._kept[number]
        for name, part in parts.items():
            if name not in kept:
                kept[name] = IndexedValues(context.data.num_train, index, part.device)
            kept[name].put(own.to(part.device), part)

    def _write(self, path: Path, facts: dict[str, Any], context: TrainingContext) -> dict[str, Any]:
        """Writes the outputs of the whole pool; the sidecar last, which makes them valid."""
        for stray in path.glob(".*.tmp"):
            stray.unlink()
        count = context.data.num_train
        files: dict[str, np.memmap[Any, Any]] = {}
        for number, index, parts in self._parts(context, torch.arange(count)):
            for name, part in parts.items():
                if name not in files:
                    shape = (self._augmentations, count, *part.shape[1:])
                    kind = np.dtype(str(part.dtype).removeprefix("torch."))
                    files[name] = np.lib.format.open_memmap(_temporary(path, name), "w+", kind, shape)
                files[name][number, index.cpu().numpy()] = part.cpu().numpy()
        shapes = {name: list(file.shape) for name, file in files.items()}
        for name, file in files.items():
            file.flush()
            with _temporary(path, name).open("rb") as stored:
                os.fsync(stored.fileno())
            os.replace(_temporary(path, name), path / f"{name}.npy")
        content = {"key": key(facts), "facts": facts, "shapes": shapes, "num_classes": self._num_classes}
        with replacing(path / SIDECAR) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return content

    def _parts(self, context: TrainingContext, index: Tensor) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """Number of the augmentation, indices and what is kept of them, batch by batch."""
        kind = torch.float16 if self.dtype == "float16" else torch.float32
        for number in range(self._augmentations):
            for batch, output in context.logits(context.loader(index, visit=number, clean=self.clean)):
                logits = output.float()
                self._num_classes = logits.shape[-1]
                if self.top_k is None or self.top_k >= self._num_classes:
                    yield number, batch["index"], {"values": logits.to(kind)}
                    continue
                values, classes, rest = top_logits(logits.flatten(0, -2), self.top_k, context.temperature)
                shape = (*logits.shape[:-1], -1)
                joined = torch.cat([values, rest[:, None]], dim=1).to(kind).view(shape)
                yield number, batch["index"], {"values": joined, "classes": classes.to(torch.int32).view(shape)}

    def _decode(self, kept: dict[str, Tensor]) -> Tensor:
        """Logits ``(B, ..., C)`` in float32."""
        values = kept["values"].float()
        if "classes" not in kept:
            return values
        flat, classes = values.flatten(0, -2), kept["classes"].flatten(0, -2).long()
        return expanded(flat[:, :-1], classes, flat[:, -1], self._num_classes).view(*values.shape[:-1], -1)


def not_exact(data: Any, clean: bool = False) -> str | None:
    """Why outputs cannot be kept by index, with the remedy; None if they can."""
    if not is_indexed(data):
        return "the data have no sample index; use DataFraction or ImageDataModule"
    if clean or data.deterministic_views or getattr(data, "augmentations", None):
        return None
    return "the training views are random; set augmentations of DataFraction to keep a number of them"


def automatic(context: TrainingContext, num_outputs: int) -> OutputSource:
    """The source of outputs unless the user chooses: in memory if small and equal up to rounding, otherwise online.

    ``num_outputs`` is how many numbers the teacher returns for a sample.
    """
    if not_exact(context.data) is not None:
        return OnlineOutputs()
    size = len(student_index(context.data)) * context.augmentations * num_outputs * 4
    return CachedOutputs() if size <= AUTOMATIC else OnlineOutputs()


def choose_outputs(
    context: TrainingContext,
    wanted: OutputSource | None,
    shape: tuple[int, ...],
    logits: bool,
    features: bool,
    subset: bool,
) -> OutputSource | None:
    """Where the teacher's outputs come from; None where features make the teacher run in every step anyway.

    Args:
        context: where they are wanted.
        wanted: the user's choice; None is :func:`automatic`.
        shape: of one sample.
        logits: whether the objective reads the teacher's logits.
        features: whether features are compared in every step.
        subset: whether objective or target looks at the teacher on the whole subset.

    Raises:
        ValueError: if the outputs that are wanted cannot be had.
    """
    if features and not isinstance(wanted, OnlineOutputs | None):
        raise ValueError(
            f"outputs={type(wanted).__name__}: features need the teacher in every step; leave outputs at None"
        )
    chosen = None
    if logits and not features:
        count = torch.Size(output_shape(context.teacher.network, shape)[1:]).numel()
        chosen = wanted or automatic(context, count)
        chosen.check(context)
    if subset and not is_indexed(context.data):
        raise ValueError(
            f"data={type(context.data).__name__}: have no sample index, and objective or target looks at the whole "
            "subset; use DataFraction"
        )
    return chosen


def prepare_targets(
    context: TrainingContext, outputs: OutputSource | None, objective: Objective, target: TargetTransform
) -> None:
    """Fills the source of outputs, and shows the teacher's outputs on the whole subset to those that need them."""
    with torch.no_grad():
        if outputs is not None:
            outputs.fill(context)
        if objective.needs_subset or (objective.needs_teacher and target.needs_subset):
            found = subset_outputs(context)
            objective.prepare(found)
            target.prepare(found, objective.temperature)


def visit_of(batch: Mapping[str, Any], data: Any, epoch: int) -> int:
    """Number of a batch's pass; a loader of another project makes one in each epoch, and does not number them."""
    visit: int = batch.get("visit", 0 if is_indexed(data) else epoch)
    return visit


def key(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the identity of a file: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **facts}, sort_keys=True).encode()).hexdigest()


def _check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first fact in which a file's identity is not the one wanted."""
    for name, value in wanted.items():
        if found.get(name) != value:
            # of a fingerprint the first digits do
            there, here = (each[:12] if isinstance(each, str) else each for each in (found.get(name), value))
            raise ValueError(
                f"folder={path}: holds outputs of {DIFFERENT[name]} ({there} there, {here} here); give another folder, "
                "or remove this one"
            )


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """The description of a folder's outputs; None if it holds none."""
    try:
        content = json.loads((path / SIDECAR).read_text(encoding="utf-8"))
        whole = content["key"] == key(content["facts"]) and content["shapes"] and content["num_classes"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"folder={path}: its {SIDECAR} is damaged; remove the folder")
    return dict(content)


def _open(path: Path, name: str, shape: list[int]) -> NDArray[Any]:
    """A file of a cache, mapped into memory."""
    try:
        file: NDArray[Any] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"folder={path}: {name}.npy cannot be read ({error}); remove the folder") from error
    if list(file.shape) != shape:
        raise ValueError(f"folder={path}: {name}.npy is not of its {SIDECAR}; remove the folder")
    return file


def _temporary(path: Path, name: str) -> Path:
    return path / f".{name}.npy.tmp"
