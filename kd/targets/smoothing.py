"""Label smoothing that is matched to the teacher: as uncertain as it is on average, and nothing else of it.

If distillation were label smoothing, a smoothing of the teacher's own strength would do as well ("Revisiting Knowledge
Distillation via Label Smoothing Regularization", Yuan et al., CVPR 2020).
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from dinopl.core.divergences import entropy
from dinopl.core.precision import at_least_float32
from kd.losses.base import TeacherOutputs
from kd.losses.mixtures import confidence
from kd.targets.base import TargetTransform, Visit

_LEAST = 1e-12  # smoothing of a teacher that is certain in its own precision: its logits must stay finite


def smoothing_of_entropy(value: float, num_classes: int) -> float:
    """The smoothing e, 0 to 1, at which ``(1 - e) onehot + e / C`` has the entropy ``value`` in nats, by bisection."""

    def entropy_at(e: float) -> float:
        kept, rest = 1 - e + e / num_classes, e / num_classes
        return -kept * math.log(kept) - (num_classes - 1) * rest * math.log(rest)

    low, high = _LEAST, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if entropy_at(middle) < value else (low, middle)
    return low


def smoothing_of_confidence(value: float, num_classes: int) -> float:
    """The smoothing e at which the largest entry of ``(1 - e) onehot + e / C`` is ``value``, from 1 / C to 1."""
    return min(max((1 - value) * num_classes / (num_classes - 1), _LEAST), 1.0)


def smoothed_logits(label: Tensor, num_classes: int, smoothing: float, temperature: float) -> Tensor:
    """Logits ``(B, C)`` whose softmax at ``temperature`` is ``(1 - smoothing) onehot(label) + smoothing / C``."""
    # log(1 - e + e/C) - log(e/C), which is exact for small e
    margin = temperature * math.log1p((1 - smoothing) * num_classes / smoothing)
    logits = torch.full((len(label), num_classes), -margin / num_classes, dtype=torch.float64, device=label.device)
    return logits.scatter(1, label[:, None], margin * (num_classes - 1) / num_classes)


class MatchedSmoothing(TargetTransform):
    """Smoothed labels, the same smoothing for all samples, matched to a mean of the teacher over the subset."""

    needs_subset = True

    def __init__(self) -> None:
        self.smoothing: float | None = None

    def prepare(self, outputs: TeacherOutputs, temperature: float) -> None:
        """Finds the smoothing; ValueError if the objective compares logits, which smoothed labels do not have."""
        if math.isinf(temperature):
            raise ValueError(
                f"temperature={temperature}: {type(self).__name__} needs an objective with a finite temperature; "
                "KLDistillation has one"
            )
        total = sum(float(self.measure(part.logits.double(), temperature).sum()) for part in outputs.parts())
        self.smoothing = self.solve(total / len(outputs.logits), outputs.logits.shape[1])

    @abstractmethod
    def measure(self, logits: Tensor, temperature: float) -> Tensor:
        """What is matched, of each sample: ``(B, C)`` to ``(B,)``."""

    @abstractmethod
    def solve(self, value: float, num_classes: int) -> float:
        """The smoothing whose target has the value."""

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """See :func:`smoothed_logits`."""
        if self.smoothing is None:
            raise RuntimeError(f"call prepare() before the first step: {type(self).__name__} is matched to the subset")
        target = smoothed_logits(label, teacher.shape[1], self.smoothing, temperature)
        return target.to(at_least_float32(teacher).dtype)


class EntropyMatchedSmoothing(MatchedSmoothing):
    """Label smoothing whose target has the teacher's mean entropy over the subset, at the objective's temperature."""

    def measure(self, logits: Tensor, temperature: float) -> Tensor:
        """Entropy in nats."""
        return entropy(logits / temperature)

    def solve(self, value: float, num_classes: int) -> float:
        """See :func:`smoothing_of_entropy`."""
        return smoothing_of_entropy(value, num_classes)


class ConfidenceMatchedSmoothing(MatchedSmoothing):
    """Label smoothing whose target has the teacher's mean largest probability over the subset, at that temperature."""

    def measure(self, logits: Tensor, temperature: float) -> Tensor:
        """Largest probability."""
        return confidence(logits, temperature)

    def solve(self, value: float, num_classes: int) -> float:
        """See :func:`smoothing_of_confidence`."""
        return smoothing_of_confidence(value, num_classes)
