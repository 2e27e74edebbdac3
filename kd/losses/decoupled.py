"""Decoupled distillation: the teacher's confidence in the label, and its knowledge about the other classes.

"Decoupled Knowledge Distillation" (Zhao et al., CVPR 2022). With tempered outputs p of the teacher and q of the
student, the KL divergence splits exactly into ``TCKD + (1 - p_label) * NCKD``: the divergence of the pair (label,
rest), and that of the distributions over the other classes alone. DKD weighs the two parts freely; a weight of 0
removes one.
"""

import torch
from torch import Tensor

from dinopl.core.divergences import kl_divergence
from dinopl.core.precision import at_least_float32
from kd.losses.base import Distillation, check_temperature


def target_class_kl(student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the pairs (probability of the label, of the rest), teacher first, unscaled: ``(B,)``."""

    def pair(logits: Tensor) -> Tensor:
        tempered = at_least_float32(logits) / temperature
        rest = without_class(tempered, label).logsumexp(dim=1, keepdim=True)
        return torch.cat([tempered.gather(1, label[:, None]), rest], dim=1)

    return kl_divergence(pair(student), pair(teacher))


def non_target_kl(student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the distributions over the classes other than the label, teacher first, unscaled: ``(B,)``."""
    student, teacher = (without_class(at_least_float32(x) / temperature, label) for x in (student, teacher))
    return kl_divergence(student, teacher)


def without_class(x: Tensor, label: Tensor) -> Tensor:
    """``(B, C)`` to ``(B, C - 1)``: each row without the entry of its label, in the order of the classes."""
    return x.gather(1, other_classes(label, x.shape[1]))


def other_classes(label: Tensor, num_classes: int) -> Tensor:
    """All classes but the label, in ascending order: ``(B,)`` to ``(B, C - 1)``."""
    classes = torch.arange(num_classes - 1, device=label.device).expand(len(label), -1)
    return classes + (classes >= label[:, None])


class DecoupledKL(Distillation):
    """Weighted sum of the divergence on the label and that on the other classes, times the temperature squared.

    Args:
        target_weight: of the pair (label, rest).
        non_target_weight: of the other classes among themselves, the dark knowledge.
        temperature: divides the logits of both.
    """

    def __init__(self, target_weight: float = 1.0, non_target_weight: float = 1.0, temperature: float = 20.0) -> None:
        super().__init__()
        check_temperature(temperature, self)
        if not (min(target_weight, non_target_weight) >= 0 and max(target_weight, non_target_weight) > 0):
            raise ValueError(
                f"target_weight={target_weight}: must be at least 0, as non_target_weight={non_target_weight}, and not "
                "both 0"
            )
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight
        self.temperature = temperature

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """``T^2 (target_weight * TCKD + non_target_weight * NCKD)``; a part of weight 0 is not computed."""
        parts = ((self.target_weight, target_class_kl), (self.non_target_weight, non_target_kl))
        terms = [weight * part(student, teacher, label, self.temperature) for weight, part in parts if weight]
        return self.temperature**2 * torch.stack(terms).sum(dim=0)
