"""Distances between what student and teacher predict, over pairs of views.

"Random Teachers are Good Teachers", section 3 and appendix E.3. What differs from the published code: the KL divergence
is ``sum q (log q - log p)`` instead of cross-entropy minus entropy, because the KL of interest (1e-7 to 1e-4) would
drown in the rounding of two numbers near 11. In float32 with 65536 outputs a sample's KL is still right to about 1e-6
only; the errors of samples are independent, so the mean of many is better. The gradients are autograd's on purpose: a
student that starts at its teacher has the gradient zero and leaves it only through the rounding of
``softmax(s) * sum(q) - q``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import eq, ne
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.divergences import mean_squared_error
from dinopl.core.precision import at_least_float32

Pairing = Literal["same", "opposite", "all"]


def view_pairs(teacher_views: int, student_views: int, pairing: Pairing = "same") -> list[tuple[int, int]]:
    """Which teacher view is compared with which student view.

    Views are numbered alike on both sides: view i of the teacher is the same crop as view i of the student.

    Args:
        teacher_views: number of views that the teacher sees.
        student_views: number of views that the student sees.
        pairing: ``same``: equal numbers only; ``opposite``: different numbers only; ``all``: every pair.

    Returns:
        Pairs ``(teacher view, student view)``, the teacher's in the outer loop.

    Raises:
        ValueError: if no pair is left, or the pairing is unknown.
    """
    admits: dict[str, Callable[[int, int], bool]] = {"same": eq, "opposite": ne, "all": lambda i, j: True}
    if pairing not in admits:
        raise ValueError(f"--model.loss.pairing must be one of {', '.join(admits)}, not {pairing!r}")
    pairs = [(i, j) for i in range(teacher_views) for j in range(student_views) if admits[pairing](i, j)]
    if not pairs:
        raise ValueError(
            f"--model.loss.pairing: {pairing!r} leaves no pair of {teacher_views} teacher and {student_views} student "
            "views; choose another pairing or more views"
        )
    return pairs


class Prediction(NamedTuple):
    """The student's side of one view: logits and their log-softmax, ``(B, m)`` each."""

    logits: Tensor
    log_probs: Tensor


class Target(NamedTuple):
    """The teacher's side of one view: logits, their log-softmax and softmax, ``(B, m)`` each."""

    logits: Tensor
    log_probs: Tensor
    probs: Tensor


class ViewTerms(NamedTuple):
    """What a loss over views returns, one value a sample, ``(B,)`` each."""

    loss: Tensor
    """To be minimised."""
    kl: Tensor
    """KL divergence of the student from the teacher, without gradient; the same quantity whatever the loss."""


def predict(logits: Tensor, temperature: float = 1.0) -> Prediction:
    """The student's side of a pair, from logits ``(..., m)``; each view needs it once."""
    logits = _tempered(logits, temperature)
    return Prediction(logits, F.log_softmax(logits, dim=-1))


def target(logits: Tensor, temperature: float = 1.0) -> Target:
    """The teacher's side of a pair, from logits ``(..., m)``; each view needs it once."""
    logits = _tempered(logits, temperature)
    # softmax, not exp(log_softmax): rounding log q to float32 would move sum(q) away from 1 by 1e-6 / 2
    return Target(logits, F.log_softmax(logits, dim=-1), F.softmax(logits, dim=-1))


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    logits = at_least_float32(logits)
    return logits if temperature == 1 else logits / temperature


def _cross_entropy(student: Prediction, teacher: Target) -> Tensor:
    return -(teacher.probs * student.log_probs).sum(dim=-1)


def _kl_divergence(student: Prediction, teacher: Target) -> Tensor:
    return (teacher.probs * (teacher.log_probs - student.log_probs)).sum(dim=-1)


class ViewLoss(nn.Module, ABC):
    """Mean over pairs of views of a distance between student and teacher logits.

    Args:
        pairing: which views are compared: ``same``, ``opposite`` (different views only) or ``all``.
        student_temperature: the student's logits are divided by it.
        teacher_temperature: the teacher's logits are divided by it.

    Raises:
        ValueError: if a temperature is not positive.
    """

    zero_gradient_at_teacher: ClassVar[bool] = False
    """Whether the gradient is exactly 0, and not by rounding only, where the logits are equal bit for bit."""

    def __init__(
        self, pairing: Pairing = "same", student_temperature: float = 1.0, teacher_temperature: float = 1.0
    ) -> None:
        super().__init__()
        for side, temperature in (("student", student_temperature), ("teacher", teacher_temperature)):
            if not temperature > 0:
                raise ValueError(
                    f"--model.loss.{side}_temperature must be positive, not {temperature}; 1 leaves logits as they are"
                )
        self.pairing: Pairing = pairing
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    @abstractmethod
    def pair(self, student: Prediction, teacher: Target) -> ViewTerms:
        """Loss and KL of one pair of views, ``(B,)`` each."""

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> ViewTerms:
        """Loss and KL of each sample.

        Args:
            student: logits of each of the student's views, ``(B, m)`` each.
            teacher: logits of each of the teacher's views, ``(B, m)`` each.

        Raises:
            ValueError: if the pairing leaves no pair.
        """
        pairs = view_pairs(len(teacher), len(student), self.pairing)
        predictions = [predict(logits, self.student_temperature) for logits in student]
        targets = [target(logits, self.teacher_temperature) for logits in teacher]
        terms = [self.pair(predictions[j], targets[i]) for i, j in pairs]
        return ViewTerms(*(torch.stack(values).mean(dim=0) for values in zip(*terms, strict=True)))


class CrossEntropyViews(ViewLoss):
    """Cross-entropy of the student's softmax to the teacher's: the paper's loss.

    Args:
        pairing: which views are compared: ``same``, ``opposite`` (different views only) or ``all``.
        student_temperature: the student's logits are divided by it.
        teacher_temperature: the teacher's logits are divided by it.
    """

    def pair(self, student: Prediction, teacher: Target) -> ViewTerms:
        """Cross-entropy and KL of one pair of views."""
        with torch.no_grad():
            kl = _kl_divergence(student, teacher)
        return ViewTerms(_cross_entropy(student, teacher), kl)


class KLViews(ViewLoss):
    """KL divergence of the student's softmax from the teacher's: the cross-entropy without its constant.

    Args:
        pairing: which views are compared: ``same``, ``opposite`` (different views only) or ``all``.
        student_temperature: the student's logits are divided by it.
        teacher_temperature: the teacher's logits are divided by it.
    """

    def pair(self, student: Prediction, teacher: Target) -> ViewTerms:
        """KL of one pair of views, with and without gradient."""
        kl = _kl_divergence(student, teacher)
        return ViewTerms(kl, kl.detach())


class MSEViews(ViewLoss):
    """Mean squared difference of the logits, after the temperatures; the KL is reported all the same.

    A student that starts at its teacher stays there for ever, the gradient being exactly zero, as long as both networks
    compute the same batch: an output that was kept from another one (``cache_teacher: true``) may differ by rounding.

    Args:
        pairing: which views are compared: ``same``, ``opposite`` (different views only) or ``all``.
        student_temperature: the student's logits are divided by it.
        teacher_temperature: the teacher's logits are divided by it.
    """

    zero_gradient_at_teacher: ClassVar[bool] = True

    def pair(self, student: Prediction, teacher: Target) -> ViewTerms:
        """Mean squared error and KL of one pair of views."""
        with torch.no_grad():
            kl = _kl_divergence(student, teacher)
        return ViewTerms(mean_squared_error(student.logits, teacher.logits), kl)
