"""A frozen teacher: a network with an identity and a test accuracy of its own, and what it is used in.

A teacher is no part of the student's module: it is in no optimiser and no checkpoint, is never put into training mode,
and its parameters never change. What identifies it is a hash of its weights and its architecture. Where an accuracy is
recorded for it, that is compared with what it reaches on the data at hand, so that a teacher that was loaded wrongly,
or that sees other data than it was trained on, is found before a student learns from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from dinopl.core.random import seeded
from dinopl.core.types import as_batch
from dinopl.data.indexed import digest
from kd.networks import Shape, output_shape
from kd.samplers import SelectedSampler

FAMILY = "KnowledgeDistillation"
Batches = Callable[[], Iterable[Any]]


class FrozenTeacher:
    """A frozen network, held outside the registry of modules.

    Args:
        network: maps what the student sees to logits ``(..., C)``.
        recorded: its accuracy on the test data as it was recorded, a fraction; None where nothing was.
        source: where it comes from, for results.
        tolerance: how far the accuracy measured may be from the one recorded.

    Attributes:
        network: in eval mode; nothing in it requires a gradient.
        measured: accuracy on the test data at hand, once ``check_accuracy`` was called.
        fingerprint: once ``adapt`` was called.
    """

    def __init__(self, network: nn.Module, recorded: float | None, source: str, tolerance: float) -> None:
        self.network = network.requires_grad_(False).eval()
        self.recorded = recorded
        self.source = source
        self.tolerance = tolerance
        self.measured: float | None = None
        self.fingerprint = ""

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, without a graph."""
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def check_accuracy(self, correct: float, total: float) -> None:
        """Compares its accuracy, ``correct`` of ``total`` test samples, with the one recorded.

        Raises:
            ValueError: if the two are too far apart.
        """
        self.measured = correct / total
        if self.recorded is not None and abs(self.measured - self.recorded) > self.tolerance + 1e-9:
            raise ValueError(
                f"teacher={self.source}: gets {self.measured:.4f} of the test samples right, and {self.recorded:.4f} "
                "is recorded for it; give the data that it was trained on, or another checkpoint (its option tolerance "
                "says how far the two may be apart)"
            )

    def adapt(self, adapt: Callable[[nn.Module], nn.Module]) -> None:
        """Takes the network that ``adapt`` gives, most often its own, and identifies it."""
        self.network = adapt(self.network).requires_grad_(False).eval()
        self.fingerprint = fingerprint(self.network)

    def facts(self) -> dict[str, Any]:
        """What a result must say about it, in plain values."""
        return {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "recorded_accuracy": self.recorded,
            "measured_accuracy": self.measured,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
        }


class Teacher(ABC):
    """Where a teacher comes from.

    Args:
        accuracy: its test accuracy, a fraction, to be compared with what it reaches here; None takes the one that its
            source records, if any.
        tolerance: how far the two may be apart, a fraction.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, accuracy: float | None = None, tolerance: float = 0.002) -> None:
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy={accuracy}: must be a fraction from 0 to 1; None takes the recorded one")
        if not tolerance >= 0:
            raise ValueError(f"tolerance={tolerance}: must be at least 0; 0.002 is the default")
        self.accuracy = accuracy
        self.tolerance = tolerance

    @abstractmethod
    def load(self, shape: Shape, num_classes: int) -> tuple[nn.Module, float | None, str]:
        """Builds the network for the student's samples and classes, and reads its weights, on the CPU.

        Returns:
            The network, which maps what the student sees to logits ``(..., C)``; its recorded accuracy on the test
            data, None where nothing is recorded; and where it comes from, for results.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: if a file cannot serve.
        """

    def finish(self, network: nn.Module, batches: Batches, num_classes: int) -> nn.Module:
        """The part of loading that needs data; most teachers need none.

        ``batches`` gives the teacher's training samples, un-augmented and labelled, on the network's device.
        """
        return network


def load_teacher(
    source: Teacher | None, needs: Sequence[object], student: nn.Module, shape: Shape, num_classes: int
) -> FrozenTeacher | None:
    """A frozen teacher, on the CPU; None where there is no source, and none of the objectives ``needs`` one.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file cannot serve, student and teacher share parameters, or there is none and one is needed.
    """
    if source is None:
        if needs:
            who = type(needs[0]).__name__
            raise ValueError(f"teacher=None: {who} needs a teacher; give RunTeacher with the path of a run, or another")
        return None
    network, recorded, name = source.load(shape, num_classes)
    if {id(part) for part in network.parameters()} & {id(part) for part in student.parameters()}:
        raise ValueError(
            f"teacher={type(source).__name__}: has parameters of the student, which would be frozen with it; make a "
            "network for each, or give the teacher a copy.deepcopy"
        )
    return FrozenTeacher(network, recorded, name, source.tolerance)


class TrainingContext:
    """What a teacher is used in.

    Args:
        teacher: whose outputs are wanted.
        trainer: gives device and precision.
        data: the data module.
        temperature: the objective's.
    """

    def __init__(self, teacher: FrozenTeacher, trainer: Trainer, data: Any, temperature: float) -> None:
        self.teacher = teacher
        self.trainer = trainer
        self.data = data
        self.temperature = temperature

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

    def loader(self, index: Tensor, *, visit: int = 0, clean: bool = False) -> Iterable[Any]:
        """Training samples once, with the labels that the student is given.

        Args:
            index: which, ``(n,)`` int64.
            visit: which augmentation.
            clean: un-augmented, instead of as training sees them.
        """
        if not clean and hasattr(self.data, "augmentations"):
            return self.data.cache_dataloader(visit, selected=len(index) < self.data.num_train)
        size = self.data.eval_batch_size if clean else self.data.batch_size
        sampler = SelectedSampler(index, size, visit=visit)
        return self.data.indexed_loader(sampler, augment=not clean, label=self.data.train_label)

    def teacher_batches(self) -> Iterable[Any]:
        """The teacher's training samples once, un-augmented and with their labels."""
        index = self.data.teacher_index if hasattr(self.data, "teacher_index") else torch.arange(self.data.num_train)
        return self.loader(index, clean=True)

    def test_counts(self) -> tuple[float, float]:
        """How many test samples the teacher gets right, and of how many, over all processes."""
        strategy = self.trainer.strategy
        with seeded(0):  # a loader that draws leaves no trace in the run's generators
            batches = (strategy.batch_to_device(as_batch(batch)) for batch in self.data.test_dataloader())
            counts = count_correct(self.teacher, batches)
        counted = torch.tensor(counts, dtype=torch.float32, device=strategy.root_device)
        correct, total = strategy.reduce(counted, reduce_op="sum").tolist()
        return correct, total


def prepare_teacher(
    context: TrainingContext,
    source: Teacher,
    adapt: Callable[[nn.Module], nn.Module],
    shape: Shape,
    num_classes: int,
    *,
    compared: bool,
    check_accuracy: bool,
) -> None:
    """Makes a loaded teacher ready to teach: on its device, finished, checked, adapted, identified, converted.

    Args:
        context: the teacher, its device, and the data.
        source: where it came from.
        adapt: gives the network whose logits are the target; most often the same.
        shape: of the student's samples.
        num_classes: of the student.
        compared: whether its logits are compared with the student's, so that it needs the same classes.
        check_accuracy: whether its accuracy on the test data is measured.

    Raises:
        ValueError: if it has other classes, or another accuracy than is recorded.
    """
    teacher, trainer = context.teacher, context.trainer
    network = teacher.network.to(trainer.strategy.root_device)
    teacher.network = source.finish(network, context.teacher_batches, num_classes)
    classes = output_shape(teacher.network, shape)[-1]
    if compared:
        check_classes(classes, num_classes, teacher.source)
    if check_accuracy and classes == num_classes and hasattr(context.data, "test_dataloader"):
        teacher.check_accuracy(*context.test_counts())  # of its own outputs: adapted ones may be wrong on purpose
    teacher.adapt(adapt)
    # the identity is of the weights as they were stored, whatever the precision of this training
    teacher.network = trainer.precision_plugin.convert_module(teacher.network)


def check_identity(teacher: FrozenTeacher | None, recorded: str | None) -> None:
    """Raises a ValueError unless a teacher, or none, is the one that a checkpoint was trained with."""
    found = None if teacher is None else teacher.fingerprint
    if found != recorded:
        here, there = (each[:12] if each else "none" for each in (found, recorded))
        raise ValueError(f"teacher={here}: the checkpoint was trained with {there}; give that teacher")


def check_classes(teacher: int, student: int, source: str) -> None:
    """Raises a ValueError unless teacher and student have as many classes."""
    if teacher != student:
        raise ValueError(
            f"teacher={source}: has {teacher} classes, and the student {student}; give a teacher of the same classes"
        )


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, bit by bit, and of its architecture as it prints: 64 hexadecimal digits."""
    tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    return digest(tensors, {"architecture": repr(network)})


def count_correct(network: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> tuple[int, int]:
    """How many samples a classifier, of logits ``(..., C)``, gets right, and of how many; batches are on its device."""
    correct, total = 0, 0
    with torch.no_grad():
        for batch in map(as_batch, batches):
            right = network(batch["views"][0]).argmax(dim=-1) == batch["label"]
            correct, total = correct + int(right.sum()), total + right.numel()
    return correct, total
