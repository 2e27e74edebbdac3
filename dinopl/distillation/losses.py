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
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.divergences import cross_entropy_and_kl, cross_entropy_of_probs, kl_of_probs, mean_squared_error
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
        raise ValueError(f"pairing={pairing}: must be one of {', '.join(admits)}")
    pairs = [(i, j) for i in range(teacher_views) for j in range(student_views) if admits[pairing](i, j)]
    if not pairs:
        raise ValueError(
            f"pairing={pairing}: leaves no pair of {teacher_views} teacher and {student_views} student views; "
            "choose another pairing or more views"
        )
    return pairs


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature`` in at least float32; at 1, the paper's temperature, no pass over them is made."""
    logits = at_least_float32(logits)
    return logits if temperature == 1 else logits / temperature


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
                raise ValueError(f"{side}_temperature={temperature}: must be positive; 1 leaves the logits as they are")
        self.pairing: Pairing = pairing
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    @abstractmethod
    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """The distance of one pair of views, to be minimised.

        Args:
            student: logits over their temperature, ``(B, m)``.
            log_p: their log-softmax.
            teacher: logits over their temperature, ``(B, m)``.
            log_q: their log-softmax.
            q: their softmax.

        Returns:
            ``(B,)``: one value per sample.
        """

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Loss and KL divergence, each a mean over the pairs of views.

        Args:
            student: logits of each of the student's views, ``(B, m)`` each.
            teacher: likewise.

        Returns:
            The loss, and the KL divergence of the student from the teacher without gradient, which is the same quantity
            whatever the loss: one value per sample, ``(B,)`` each.

        Raises:
            ValueError: if the pairing leaves no pair.
        """
        pairs = view_pairs(len(teacher), len(student), self.pairing)
        s = [tempered(logits, self.student_temperature) for logits in student]
        t = [tempered(logits, self.teacher_temperature) for logits in teacher]
        if type(self) is CrossEntropyViews and len(pairs) == 1:
            return cross_entropy_and_kl(s[pairs[0][1]], t[pairs[0][0]])
        # Once per view, in however many pairs it is.
        log_p, log_q = [F.log_softmax(x, dim=-1) for x in s], [F.log_softmax(x, dim=-1) for x in t]
        # softmax, not exp(log_softmax): rounding log q to float32 would move sum(q) away from 1 by 1e-6 / 2
        q = [F.softmax(x, dim=-1) for x in t]
        loss = torch.stack([self.distance(s[j], log_p[j], t[i], log_q[i], q[i]) for i, j in pairs])
        with torch.no_grad():
            kl = torch.stack([kl_of_probs(log_p[j], log_q[i], q[i]) for i, j in pairs])
        return loss.mean(dim=0), kl.mean(dim=0)


class CrossEntropyViews(ViewLoss):
    """Cross-entropy of the student's softmax to the teacher's: the paper's loss."""

    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """``-sum q log p``; see :func:`dinopl.core.divergences.cross_entropy`."""
        return cross_entropy_of_probs(log_p, q)


class KLViews(ViewLoss):
    """KL divergence of the student's softmax from the teacher's: the cross-entropy without its constant."""

    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """``sum q (log q - log p)``; see :func:`dinopl.core.divergences.kl_divergence`."""
        return kl_of_probs(log_p, log_q, q)


class MSEViews(ViewLoss):
    """Mean squared difference of the logits, after the temperatures; the KL is reported all the same.

    A student that starts at its teacher stays there for ever, the gradient being exactly zero, as long as both networks
    compute the same batch: an output that was kept from another one (``cache_teacher: true``) may differ by rounding.
    """

    zero_gradient_at_teacher: ClassVar[bool] = True

    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """``mean (student - teacher)^2``; see :func:`dinopl.core.divergences.mean_squared_error`."""
        return mean_squared_error(student, teacher)
