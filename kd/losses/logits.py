"""Objectives that compare logits: mean squared error, its centred form, its label control, and parts of it.

The mean is over classes, as in the authors' early code. What differs: the label control's magnitude divides by the
``C - 1`` other classes, whatever C is, and is known before training starts, where that code divided by 9 and estimated
it while it trained.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dinopl.core.divergences import centred_mean_squared_error, mean_squared_error
from dinopl.core.precision import at_least_float32
from dinopl.core.random import stream_seed
from kd.losses.base import Distillation, LabelObjective, TeacherOutputs


def one_hot_mean_squared_error(student: Tensor, label: Tensor, magnitude: float) -> Tensor:
    """``mean_c (student_c - magnitude * onehot(label)_c)^2``, ``(B,)``: labels as logits."""
    return mean_squared_error(student, magnitude * F.one_hot(label, student.shape[1]).to(student))


def logit_margin(logits: Tensor) -> Tensor:
    """How far the largest logit is above the mean of the ``C - 1`` others: ``(B, C)`` to ``(B,)``."""
    logits = at_least_float32(logits)
    largest = logits.amax(dim=1)
    return largest - (logits.sum(dim=1) - largest) / (logits.shape[1] - 1)


def hard_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """``-log softmax(student)_k``, ``(B,)``, where k is the teacher's class: the index of its largest logit."""
    return F.cross_entropy(at_least_float32(student), teacher.argmax(dim=1), reduction="none")


def extreme_classes(teacher: Tensor, k: int) -> Tensor:
    """The classes of the ``k - k // 2`` largest and the ``k // 2`` smallest logits: ``(B, C)`` to ``(B, k)``."""
    order = teacher.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, : k - k // 2], order[:, order.shape[1] - k // 2 :]], dim=1)


class LogitMSE(Distillation):
    """Mean squared error between the logits.

    Args:
        centred: subtract each sample's mean logit first, on both sides.
    """

    temperature = float("inf")

    def __init__(self, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`centred_mean_squared_error` and :func:`dinopl.core.divergences.mean_squared_error`."""
        return (centred_mean_squared_error if self.centred else mean_squared_error)(student, teacher)


class PartialLogitMSE(Distillation):
    """Mean squared error over some of the logits.

    Args:
        k: how many logits of each sample are compared.
        choice: ``extremes``: the teacher's largest and smallest, half each; ``random``: the same random classes for all
            samples.
        seed: of the random classes; None takes the stream "classes" of the run's seed.
    """

    temperature = float("inf")

    def __init__(self, k: int, choice: Literal["extremes", "random"] = "extremes", seed: int | None = None) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1 in PartialLogitMSE")
        self.k = k
        self.choice: Literal["extremes", "random"] = choice
        self.seed = stream_seed("classes") if seed is None else seed

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """The mean over the chosen classes; ValueError if there are fewer than ``k``."""
        if self.k > teacher.shape[1]:
            raise ValueError(f"k={self.k}: is above the number of classes, {teacher.shape[1]}; LogitMSE compares all")
        if self.choice == "extremes":
            classes = extreme_classes(teacher, self.k)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            same = torch.randperm(teacher.shape[1], generator=generator)[: self.k]
            classes = same.to(teacher.device).expand(len(teacher), -1)
        return mean_squared_error(student.gather(1, classes), teacher.gather(1, classes))


class OneHotMSE(LabelObjective):
    """Mean squared error to a one-hot vector of the teacher's magnitude: the label control of ``LogitMSE``.

    Args:
        magnitude: the label's logit. None: how far the teacher's largest logit is above the mean of the others, on
            average over the subset; a given number needs no teacher.
    """

    def __init__(self, magnitude: float | None = None) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.needs_subset = magnitude is None

    def prepare(self, outputs: TeacherOutputs) -> None:
        """Measures the magnitude, unless it was given."""
        if self.needs_subset:
            total = sum(float(logit_margin(part.logits).double().sum()) for part in outputs.parts())
            self.magnitude = total / len(outputs.logits)

    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """See :func:`one_hot_mean_squared_error`."""
        if self.magnitude is None:
            raise RuntimeError("call prepare() before the first step: OneHotMSE takes its magnitude from the teacher")
        return one_hot_mean_squared_error(student, label, self.magnitude)


class HardTeacher(Distillation):
    """Cross-entropy to the teacher's class."""

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`hard_cross_entropy`."""
        return hard_cross_entropy(student, teacher)
