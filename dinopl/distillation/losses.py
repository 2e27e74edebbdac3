"""Distances between what student and teacher predict, over pairs of views.

"Random Teachers are Good Teachers", section 3 and appendix E.3. What differs from the published code: the KL divergence
is ``sum q (log q - log p)`` instead of cross-entropy minus entropy, because the KL of interest (1e-7 to 1e-4) would
drown in the rounding of two numbers near 11. In float32 with 65536 outputs a sample's KL is still right to about 1e-6
only; the errors of samples are independent, so the mean of many is better. The gradients are autograd's on purpose: a
student that starts at its teacher has the gradient zero and leaves it only through the rounding of
``softmax(s) * sum(q) - q``.

Centre and temperatures are those of DINO (Caron et al., ICCV 2021): ``(logits - centre) / temperature``, and the centre
moves to the batch's mean after it was used. The paper's setting has no centre and temperatures of 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import eq, ne
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.divergences import (
    cross_entropy_and_kl,
    cross_entropy_of_probs,
    entropy,
    kl_of_probs,
    mean_squared_error,
    tempered,
)
from dinopl.core.precision import at_least_float32
from dinopl.core.schedules import Schedule, Scheduled, numbers_of

Pairing = Literal["same", "opposite", "all"]


def view_pairs(
    teacher_views: int | Sequence[int], student_views: int | Sequence[int], pairing: Pairing = "same"
) -> list[tuple[int, int]]:
    """Which teacher view is compared with which student view.

    Args:
        teacher_views: the numbers of the views that the teacher sees; a count ``n`` means the views 0 to ``n - 1``.
        student_views: likewise; a number means the same crop on both sides.
        pairing: ``same``: equal numbers only; ``opposite``: different numbers only; ``all``: every pair.

    Returns:
        Pairs of places among the teacher's and among the student's views, the teacher's in the outer loop.

    Raises:
        ValueError: if no pair is left, or the pairing is unknown.
    """
    admits: dict[str, Callable[[int, int], bool]] = {"same": eq, "opposite": ne, "all": lambda i, j: True}
    if pairing not in admits:
        raise ValueError(f"pairing={pairing}: must be one of {', '.join(admits)}")
    teacher, student = (range(n) if isinstance(n, int) else n for n in (teacher_views, student_views))
    pairs = [(i, j) for i, t in enumerate(teacher) for j, s in enumerate(student) if admits[pairing](t, s)]
    if not pairs:
        raise ValueError(
            f"pairing={pairing}: leaves no pair of {len(teacher)} teacher and {len(student)} student views; "
            "choose another pairing or more views"
        )
    return pairs


class ViewLoss(Scheduled, nn.Module, ABC):
    """Mean over pairs of views of a distance between student and teacher logits.

    Args:
        pairing: which views are compared: ``same``, ``opposite`` (different views only) or ``all``.
        student_temperature: the student's logits, less its centre, are divided by it; a number, or a schedule of it.
        teacher_temperature: likewise, of the teacher.
        student_centre_momentum: how much of its centre the student keeps in each step; None: it has no centre.
        teacher_centre_momentum: likewise, of the teacher; DINO's value is 0.9.

    Attributes:
        student_centre: ``(m,)``, a buffer; None without one, and until the first step.
        teacher_centre: likewise.

    Raises:
        ValueError: if a temperature is not positive, or a momentum outside [0, 1].
    """

    student_temperature: float
    teacher_temperature: float
    student_centre_momentum: float | None
    teacher_centre_momentum: float | None
    student_centre: Tensor | None
    teacher_centre: Tensor | None

    zero_gradient_at_teacher: ClassVar[bool] = False
    """Whether the gradient is exactly 0, and not by rounding only, where the logits are equal bit for bit."""

    def __init__(
        self,
        pairing: Pairing = "same",
        student_temperature: float | Schedule = 1.0,
        teacher_temperature: float | Schedule = 1.0,
        student_centre_momentum: float | Schedule | None = None,
        teacher_centre_momentum: float | Schedule | None = None,
    ) -> None:
        super().__init__()
        for side, number in (("student", student_temperature), ("teacher", teacher_temperature)):
            for value in numbers_of(number):
                if not value > 0:
                    raise ValueError(f"{side}_temperature={value}: must be positive; 1 leaves the logits as they are")
        for side, momentum in (("student", student_centre_momentum), ("teacher", teacher_centre_momentum)):
            for value in numbers_of(momentum):
                if not 0 <= value <= 1:
                    raise ValueError(f"{side}_centre_momentum={value}: must be in [0, 1]; None is no centre")
            self.register_buffer(f"{side}_centre", None)
        self.register_load_state_dict_pre_hook(make_room_for_centres)  # type: ignore[no-untyped-call]
        self.pairing: Pairing = pairing
        self.follow(
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            student_centre_momentum=student_centre_momentum,
            teacher_centre_momentum=teacher_centre_momentum,
        )

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

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Sequence[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss and KL divergence, each a mean over the pairs of views.

        Args:
            student: logits of each of the student's views, ``(B, m)`` each.
            teacher: likewise.
            pairs: places ``(teacher view, student view)`` that are compared; None: those of the pairing.

        Returns:
            The loss, and the KL divergence of the student from the teacher without gradient, which is the same quantity
            whatever the loss: one value per sample, ``(B,)`` each.

        Raises:
            ValueError: if the pairing leaves no pair.
        """
        pairs = view_pairs(len(teacher), len(student), self.pairing) if pairs is None else pairs
        s = [tempered(logits, self.student_temperature, self.student_centre) for logits in student]
        t = [tempered(logits, self.teacher_temperature, self.teacher_centre) for logits in teacher]
        return self.mean_over_pairs(s, t, pairs)

    def mean_over_pairs(
        self, s: Sequence[Tensor], t: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Loss and KL divergence of logits less centre, over temperature; arguments and results as of ``forward``."""
        # Once per view, in however many pairs it is.
        log_p, log_q = [F.log_softmax(x, dim=-1) for x in s], [F.log_softmax(x, dim=-1) for x in t]
        # softmax, not exp(log_softmax): rounding log q to float32 would move sum(q) away from 1 by 1e-6 / 2
        q = [F.softmax(x, dim=-1) for x in t]
        compared = self.compared(pairs, len(s))
        loss = torch.stack([self.distance(s[j], log_p[j], t[i], log_q[i], q[i]) for i, j in compared])
        with torch.no_grad():
            kl = torch.stack([kl_of_probs(log_p[j], log_q[i], q[i]) for i, j in pairs])
        return loss.mean(dim=0), kl.mean(dim=0)

    def entropy(self, side: Literal["student", "teacher"], logits: Sequence[Tensor]) -> Tensor:
        """Entropy of a network's softmax, after centre and temperature: ``(B, m)`` of each view to ``(V, B)``."""
        centre, temperature = getattr(self, f"{side}_centre"), getattr(self, f"{side}_temperature")
        return entropy(tempered(torch.stack(list(logits)), temperature, centre))

    def compared(self, pairs: Sequence[tuple[int, int]], student_views: int) -> Sequence[tuple[int, int]]:
        """The pairs that the loss is a mean over: those given."""
        return pairs

    @torch.no_grad()
    def update_centres(self, student: Sequence[Tensor], teacher: Sequence[Tensor], share: float = 1.0) -> None:
        """Moves each centre to the mean of its logits: ``c <- momentum c + (1 - momentum) mean``, after they were used.

        The mean is over views and over the samples of all processes.

        Args:
            student: logits of each of the student's views, ``(B, m)`` each, before centre and temperature.
            teacher: likewise.
            share: the size of this process's batch times the number of processes, over that of all of them.
        """
        for side, momentum, logits in (
            ("student", self.student_centre_momentum, student),
            ("teacher", self.teacher_centre_momentum, teacher),
        ):
            if momentum is None:
                continue
            mean = torch.stack([at_least_float32(view).mean(dim=0) for view in logits]).mean(dim=0) * share
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(mean)
                mean /= torch.distributed.get_world_size()
            if getattr(self, f"{side}_centre") is None:
                setattr(self, f"{side}_centre", torch.zeros_like(mean))
            getattr(self, f"{side}_centre").mul_(momentum).add_(mean, alpha=1 - momentum)

    def label_logits(self, label: Tensor, classes: int) -> Tensor:
        """Logits ``(B, classes)`` of labels ``(B,)``, whose softmax is the label's one-hot vector.

        In float32 exactly so at a teacher's temperature of up to about 90; above, other classes are more than 0.
        """
        return 1e4 * F.one_hot(label, classes).to(torch.get_default_dtype())


def make_room_for_centres(loss: ViewLoss, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Gives a loss that is about to be loaded the centres that were saved: they have no size before the first step."""
    for side in ("student", "teacher"):
        saved = state_dict.get(f"{prefix}{side}_centre")
        if saved is not None and getattr(loss, f"{side}_centre_momentum") is not None:
            setattr(loss, f"{side}_centre", torch.zeros_like(saved))


class CrossEntropyViews(ViewLoss):
    """Cross-entropy of the student's softmax to the teacher's: the paper's loss."""

    def mean_over_pairs(
        self, s: Sequence[Tensor], t: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """As of every loss; one pair of views, the paper's setting, takes one pass over the logits."""
        if len(pairs) > 1:
            return super().mean_over_pairs(s, t, pairs)
        return cross_entropy_and_kl(s[pairs[0][1]], t[pairs[0][0]])

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

    Without weight decay and without BatchNorm a student that starts at its teacher stays there for ever, the gradient
    being exactly zero, as long as both networks compute the same batch: an output that was kept from another one
    (``cache_teacher: true``) may differ by rounding. Weight decay, which AdamW has by default, moves the student
    without any gradient; BatchNorm of the batch differs from that of a teacher in eval mode.
    """

    zero_gradient_at_teacher: ClassVar[bool] = True

    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """``mean (student - teacher)^2``; see :func:`dinopl.core.divergences.mean_squared_error`."""
        return mean_squared_error(student, teacher)

    def label_logits(self, label: Tensor, classes: int) -> Tensor:
        """The one-hot vectors ``(B, classes)`` of labels ``(B,)``, which the logits are compared with."""
        return F.one_hot(label, classes).to(torch.get_default_dtype())


class EntropyViews(ViewLoss):
    """Entropy of the student's softmax, the published code's ``H_pred``; the teacher is used for the KL alone."""

    def compared(self, pairs: Sequence[tuple[int, int]], student_views: int) -> Sequence[tuple[int, int]]:
        """Each view of the student once, whatever the pairs."""
        return [(0, j) for j in range(student_views)]

    def distance(self, student: Tensor, log_p: Tensor, teacher: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """``-sum p log p``; see :func:`dinopl.core.divergences.entropy`."""
        return cross_entropy_of_probs(log_p, log_p.exp())
