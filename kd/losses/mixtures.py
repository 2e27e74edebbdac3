"""Objectives made of others: label and distillation mixed by weight, by sample, or weighted by confidence.

``label_weight`` is the weight of the labels, as in the authors' early code: 1 is label training, 0 pure distillation.
Choosing the loss by whether the label is among the teacher's first classes is from that code too. The weighting by
confidence is the importance-weighting control of "Born-Again Neural Networks" (Furlanello et al., ICML 2018).
"""

import torch
from torch import Tensor

from dinopl.core.precision import at_least_float32
from kd.losses.base import Distillation, Objective, TeacherOutputs, check_fraction, check_temperature
from kd.losses.kl import KLDistillation
from kd.losses.labels import LabelCrossEntropy, label_cross_entropy


class Mixture(Objective):
    """``label_weight`` times the labels' objective plus ``1 - label_weight`` times the distillation's.

    At 0 and at 1 the other objective is not computed at all, and at 1 no teacher is needed.

    Args:
        label_weight: from 0, pure distillation, to 1, labels only.
        distillation: what is learnt from the teacher; by default ``KLDistillation``.
        labels: what is learnt from the labels; by default ``LabelCrossEntropy``.
    """

    def __init__(
        self, label_weight: float, distillation: Objective | None = None, labels: Objective | None = None
    ) -> None:
        super().__init__()
        check_fraction(label_weight, self, "label_weight")
        self.label_weight = label_weight
        self.distillation = distillation or KLDistillation()
        self.labels = labels or LabelCrossEntropy()
        weighted = ((label_weight, self.labels), (1 - label_weight, self.distillation))
        used = [objective for weight, objective in weighted if weight]
        self.needs_teacher = any(objective.needs_teacher for objective in used)
        self.needs_subset = any(objective.needs_subset for objective in used)
        self.temperature = self.distillation.temperature

    def prepare(self, outputs: TeacherOutputs) -> None:
        """Prepares both."""
        self.labels.prepare(outputs)
        self.distillation.prepare(outputs)

    def forward(self, student: Tensor, teacher: Tensor | None, label: Tensor) -> Tensor:
        """The weighted sum, or one of the two alone."""
        if self.label_weight == 1:
            return self.labels(student, teacher, label)
        distilled = self.distillation(student, teacher, label)
        if self.label_weight == 0:
            return distilled
        return self.label_weight * self.labels(student, teacher, label) + (1 - self.label_weight) * distilled


class WhereTeacherKnows(Distillation):
    """Distillation where the label is among the teacher's ``k`` first classes, the labels elsewhere.

    Args:
        k: how many of the teacher's classes count.
        distillation: what is learnt where it knows; by default ``KLDistillation``.
        labels: what is learnt elsewhere; by default ``LabelCrossEntropy``.
    """

    def __init__(self, k: int = 3, distillation: Objective | None = None, labels: Objective | None = None) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1 in WhereTeacherKnows")
        self.k = k
        self.distillation = distillation or KLDistillation()
        self.labels = labels or LabelCrossEntropy()
        self.needs_subset = self.distillation.needs_subset or self.labels.needs_subset
        self.temperature = self.distillation.temperature

    def prepare(self, outputs: TeacherOutputs) -> None:
        """Prepares both."""
        self.labels.prepare(outputs)
        self.distillation.prepare(outputs)

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """One of the two for each sample."""
        knows = among_first(teacher, label, self.k)
        return torch.where(knows, self.distillation(student, teacher, label), self.labels(student, teacher, label))


def among_first(teacher: Tensor, label: Tensor, k: int) -> Tensor:
    """Whether fewer than ``k`` logits are above the label's: ``(B, C)`` and ``(B,)`` to ``(B,)`` bool."""
    of_label = teacher.gather(1, label[:, None])
    return (teacher > of_label).sum(dim=1) < k


class ConfidenceWeighted(Distillation):
    """Cross-entropy to the labels, each sample weighted by the teacher's largest probability.

    Args:
        temperature: divides the teacher's logits.
        over_batch: divide the weights by their mean over the batch, as the paper does, and not over the subset, which
            keeps a sample's loss independent of the rest of its batch.
    """

    def __init__(self, temperature: float = 1.0, over_batch: bool = False) -> None:
        super().__init__()
        check_temperature(temperature, self)
        self.temperature = temperature
        self.over_batch = over_batch
        self.needs_subset = not over_batch
        self._mean: float | None = None

    def prepare(self, outputs: TeacherOutputs) -> None:
        """Takes the mean confidence over the subset."""
        total = sum(float(confidence(part.logits, self.temperature).double().sum()) for part in outputs.parts())
        self._mean = total / len(outputs.logits)

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """``w * cross-entropy`` with weights w of mean 1."""
        weight = confidence(teacher, self.temperature)
        mean = weight.mean() if self.over_batch else self._mean
        if self.over_batch and torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = torch.stack(
                [weight.sum(), weight.new_tensor(float(len(weight)))]
            )  # the batch is that of all processes
            torch.distributed.all_reduce(sums)
            mean = sums[0] / sums[1]
        if mean is None:
            raise RuntimeError(
                "call prepare() before the first step: ConfidenceWeighted takes its mean from the subset"
            )
        return weight / mean * label_cross_entropy(student, label)


def confidence(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Largest probability of the tempered output: ``(B, C)`` to ``(B,)``."""
    return torch.softmax(at_least_float32(logits) / temperature, dim=1).amax(dim=1)
