"""Metrics of predictions: how good they are, how well calibrated, and how close to the teacher's.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516) and "Does
Knowledge Distillation Really Work?" (Stanton et al., NeurIPS 2021): accuracy says little about whether a student
follows its teacher, so agreement and distances between predictive distributions are measured beside it. All are at
temperature 1, over all samples and processes: sums are kept and divided at the end, never means of batches averaged.

Logits are ``(..., C)`` and labels ``(...)``; for text each token counts as a sample.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_calibration_error

from dinopl.core.divergences import centred_mean_squared_error, entropy, kl_divergence, mean_squared_error
from dinopl.core.precision import at_least_float32


def negative_log_likelihood(logits: Tensor, label: Tensor) -> Tensor:
    """``-log softmax(logits)_label``: ``(..., C)`` and ``(...)`` to ``(...)``, in at least float32."""
    logs = F.log_softmax(at_least_float32(logits), dim=-1)
    return -logs.gather(-1, label.unsqueeze(-1)).squeeze(-1)


def brier_score(logits: Tensor, label: Tensor) -> Tensor:
    """``sum_c (softmax(logits)_c - [c = label])^2``, from 0 to 2: ``(..., C)`` and ``(...)`` to ``(...)``."""
    probabilities = F.softmax(at_least_float32(logits), dim=-1)
    return (probabilities - F.one_hot(label, logits.shape[-1])).square().sum(dim=-1)


def hellinger_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``||sqrt(p) - sqrt(q)||_2 / sqrt(2)`` of the softmax outputs, 0 to 1, of logits ``(..., C)`` to ``(...)``."""
    # Halves of log-probabilities, not roots of probabilities: what underflows is then what does not matter.
    p, q = (F.log_softmax(at_least_float32(logits), dim=-1).div(2).exp() for logits in (student, teacher))
    return torch.linalg.vector_norm(p - q, dim=-1) / 2**0.5


def probability_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``||p - q||_2`` of the softmax outputs: ``(..., C)`` logits of each to ``(...)``."""
    p, q = (F.softmax(at_least_float32(logits), dim=-1) for logits in (student, teacher))
    return torch.linalg.vector_norm(p - q, dim=-1)


def calibration_error(logits: Tensor, label: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error, from 0 to 1: ``sum_b n_b / n |accuracy_b - confidence_b|`` over bins of equal width.

    Logits are ``(..., C)``, labels ``(...)``; samples are sorted into bins by the confidence, the largest probability.
    """
    classes = logits.shape[-1]
    error: Tensor = multiclass_calibration_error(*_confidences(logits, label), num_classes=classes, n_bins=bins)
    return error


class ClassAgreement(MulticlassAccuracy):
    """Share of samples on which two classifications agree."""

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, average="micro", validate_args=False, **options)


class LabelAccuracy(ClassAgreement):
    """Share of samples whose largest logit is the label's."""

    def update(self, student: Tensor, label: Tensor) -> None:
        """Adds samples: logits ``(..., C)``, classes ``(...)``."""
        super().update(student.argmax(dim=-1).flatten(), label.flatten())


class Agreement(ClassAgreement):
    """Share of samples whose largest logit is the teacher's."""

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Adds samples: logits ``(..., C)`` of both."""
        super().update(student.argmax(dim=-1).flatten(), teacher.argmax(dim=-1).flatten())


class ExpectedCalibrationError(MulticlassCalibrationError):
    """See :func:`calibration_error`; it keeps two numbers per sample.

    Args:
        num_classes: C.
        bins: number of bins.
    """

    def __init__(self, num_classes: int, bins: int = 15, **options: Any) -> None:
        super().__init__(num_classes, n_bins=bins, norm="l1", validate_args=False, **options)

    def update(self, student: Tensor, label: Tensor) -> None:
        """Adds samples: logits ``(..., C)``, classes ``(...)``."""
        super().update(*_confidences(student, label))


class SampleMean(MeanMetric):
    """Mean over samples; a value that is not a number makes the mean so, instead of being left out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nan_strategy="disable", **options)


class LabelMean(SampleMean):
    """Mean of a ``value`` of logits and labels."""

    value: Callable[[Tensor, Tensor], Tensor]

    def update(self, student: Tensor, label: Tensor) -> None:  # type: ignore[override]
        """Adds samples: logits ``(..., C)``, classes ``(...)``."""
        super().update(self.value(student, label))


class TeacherMean(SampleMean):
    """Mean of a ``value`` of the student's and the teacher's logits."""

    value: Callable[[Tensor, Tensor], Tensor]

    def update(self, student: Tensor, teacher: Tensor) -> None:  # type: ignore[override]
        """Adds samples: logits ``(..., C)`` of both."""
        super().update(self.value(student, teacher))


class NegativeLogLikelihood(LabelMean):
    """Mean of :func:`negative_log_likelihood`, in nats."""

    value = staticmethod(negative_log_likelihood)


class BrierScore(LabelMean):
    """Mean of :func:`brier_score`."""

    value = staticmethod(brier_score)


class PredictiveEntropy(SampleMean):
    """Mean entropy of the softmax output, in nats."""

    def update(self, student: Tensor) -> None:  # type: ignore[override]
        """Adds samples: logits ``(..., C)``."""
        super().update(entropy(student))


class PredictiveKL(TeacherMean):
    """Mean of ``KL(teacher || student)`` of the softmax outputs, in nats."""

    value = staticmethod(kl_divergence)


class HellingerDistance(TeacherMean):
    """Mean of :func:`hellinger_distance`."""

    value = staticmethod(hellinger_distance)


class ProbabilityDistance(TeacherMean):
    """Mean of :func:`probability_distance`."""

    value = staticmethod(probability_distance)


class LogitError(TeacherMean):
    """Mean squared difference of the logits."""

    value = staticmethod(mean_squared_error)


class CentredLogitError(TeacherMean):
    """Mean squared difference of the logits less each sample's mean."""

    value = staticmethod(centred_mean_squared_error)


def _confidences(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities ``(n, C)`` and classes ``(n,)``; nothing above 1, which would be taken for logits."""
    return F.softmax(at_least_float32(logits), dim=-1).clamp(max=1).flatten(0, -2), label.flatten()
