"""What every objective is: one loss per sample, from the logits of student and teacher and the label.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., 2025) compares objectives on
the same samples, so all of them have one interface and are interchangeable. Losses are computed in at least float32,
also under autocast, and are not averaged here: the mean over the batch is the module's business.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dinopl.core.precision import at_least_float32


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher on every sample that the student trains on, un-augmented; the tensors may be memory-mapped."""

    logits: Tensor
    """``(M, C)``, in any floating-point precision."""
    label: Tensor
    """The class that the student is given, ``(M,)`` int64."""
    index: Tensor
    """Position of each sample in its data set, ``(M,)`` int64, each once."""

    def parts(self, rows: int = 16384) -> Iterator["TeacherOutputs"]:
        """The same in parts of at most ``rows`` samples, so that no pass needs all of them in memory."""
        for start in range(0, len(self.logits), rows):
            part = slice(start, start + rows)
            yield TeacherOutputs(self.logits[part], self.label[part], self.index[part])


class Objective(nn.Module, ABC):
    """A loss for each sample.

    Attributes:
        needs_teacher: whether ``forward`` reads the teacher's logits.
        needs_subset: whether ``prepare`` must be called before the first step. Where neither is true, no teacher need
            be there at all.
        needs_features: whether it trains nothing by itself, so that objectives on features must be given.
        temperature: at which the teacher's logits become a target; infinite where the logits themselves are compared.
            A target transform keeps at this temperature what it promises to keep.
    """

    needs_teacher: bool = True
    needs_subset: bool = False
    temperature: float = 1.0
    needs_features: bool = False

    def __init__(self) -> None:
        super().__init__()  # not nn.Module's own, which takes any option

    def prepare(self, outputs: TeacherOutputs) -> None:
        """Takes what it needs of the teacher's outputs on the student's samples, un-augmented.

        To be called at the start of every fit, a resumed one included: what it keeps is not part of a checkpoint.
        """

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor | None, label: Tensor) -> Tensor:
        """The loss of each sample, ``(B,)``, in at least float32.

        Args:
            student: the student's logits, ``(B, C)``.
            teacher: the teacher's logits, ``(B, C)``, possibly transformed; None where ``needs_teacher`` is false.
            label: classes, ``(B,)`` int64.
        """


class LabelObjective(Objective):
    """An objective that reads labels only."""

    needs_teacher = False

    def forward(self, student: Tensor, teacher: Tensor | None, label: Tensor) -> Tensor:
        """The loss of each sample; the teacher's logits are ignored."""
        return self.supervise(at_least_float32(student), label)

    @abstractmethod
    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """Losses ``(B,)`` of logits ``(B, C)`` in at least float32 and classes ``(B,)``."""


class Distillation(Objective):
    """An objective that reads the teacher's logits, which never receive a gradient."""

    def forward(self, student: Tensor, teacher: Tensor | None, label: Tensor) -> Tensor:
        """The loss of each sample; ValueError if the teacher's logits are missing, or not of the student's shape."""
        if teacher is None:
            raise ValueError(f"objective={type(self).__name__}: needs a teacher; give one, or take LabelCrossEntropy")
        if teacher.shape != student.shape:
            raise ValueError(
                f"teacher={tuple(teacher.shape)}: the shape of the student's logits is {tuple(student.shape)}; both "
                "need one logit per class"
            )
        return self.distil(at_least_float32(student), at_least_float32(teacher.detach()), label)

    @abstractmethod
    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Losses ``(B,)`` of two sets of logits ``(B, C)`` in at least float32 and classes ``(B,)``."""


def check_temperature(value: float, owner: object, *, name: str = "temperature", infinite: bool = False) -> None:
    """Raises a ValueError unless ``value`` is above 0, and finite unless ``infinite`` is allowed."""
    if not value > 0 or (value == float("inf") and not infinite):
        finite = "" if infinite else " and finite"
        raise ValueError(
            f"{name}={value}: must be above 0{finite} in {type(owner).__name__}; 1 leaves the logits as they are"
        )


def check_fraction(value: float, owner: object, name: str) -> None:
    """Raises a ValueError unless ``value`` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: must be from 0 to 1 in {type(owner).__name__}")
