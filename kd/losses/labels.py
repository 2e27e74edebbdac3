"""Objectives without a teacher: labels, tempered or smoothed, and the teacher that is made of labels alone.

The study's section on objectives; label smoothing is Szegedy et al. (2016), the virtual teacher is "Revisiting
Knowledge Distillation via Label Smoothing Regularization" (Yuan et al., CVPR 2020). What differs: the virtual teacher
is defined on probabilities, so that its target sums to 1 and keeps every entry above 0; ``variant="code"`` is what the
published code computes, up to its constant factor.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dinopl.core.divergences import kl_divergence
from dinopl.core.precision import at_least_float32
from kd.losses.base import LabelObjective, check_fraction, check_temperature


def label_cross_entropy(student: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    """``-log softmax(student / temperature)_label``, ``(B,)``, without a factor ``temperature**2``."""
    return F.cross_entropy(at_least_float32(student) / temperature, label, reduction="none")


def smoothed_cross_entropy(
    student: Tensor, label: Tensor, smoothing: float = 0.1, over: Literal["all", "others"] = "all"
) -> Tensor:
    """``-sum_c q_c log softmax(student)_c``, ``(B,)``; q takes ``smoothing`` from the label and spreads it evenly.

    It goes to ``all`` classes, so that the label keeps ``1 - smoothing + smoothing / C`` (torch's convention), or to
    the ``others``, so that it keeps ``1 - smoothing``.
    """
    log_probs = F.log_softmax(at_least_float32(student), dim=1)
    num_classes = student.shape[1]
    rest = smoothing / (num_classes if over == "all" else num_classes - 1)
    kept = 1 - (num_classes - 1) * rest
    of_label = log_probs.gather(1, label[:, None]).squeeze(1)
    return -(kept - rest) * of_label - rest * log_probs.sum(dim=1)


def virtual_teacher(label: Tensor, num_classes: int, confidence: float) -> Tensor:
    """Probabilities ``(B, C)`` with ``confidence`` on the label and the rest spread evenly over the other classes."""
    rest = (1 - confidence) / (num_classes - 1)
    probs = torch.full((len(label), num_classes), rest, device=label.device)
    return probs.scatter(1, label[:, None], confidence)


def virtual_distillation(
    student: Tensor,
    label: Tensor,
    confidence: float = 0.9,
    temperature: float = 20.0,
    variant: Literal["paper", "code"] = "paper",
) -> Tensor:
    """Distillation from the virtual teacher v of :func:`virtual_teacher`, ``(B,)``; T is the temperature.

    ``paper``: ``T^2 KL(v_T || softmax(student / T))`` with ``v_T`` proportional to ``v^(1/T)``. ``code``:
    ``KL(softmax(v / T) || softmax(student))``, where probabilities are taken for logits.
    """
    student = at_least_float32(student)
    teacher = virtual_teacher(label, student.shape[1], confidence).to(student)
    if variant == "code":
        return kl_divergence(student, teacher / temperature)
    return temperature**2 * kl_divergence(student / temperature, teacher.log() / temperature)


class LabelCrossEntropy(LabelObjective):
    """Cross-entropy to the labels: label training, which every other objective is compared with.

    Args:
        temperature: divides the student's logits. Other values than 1 are the control for the student's temperature.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature, self)
        self.temperature = temperature

    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """See :func:`label_cross_entropy`."""
        return label_cross_entropy(student, label, self.temperature)


class LabelSmoothing(LabelObjective):
    """Cross-entropy to smoothed labels.

    Args:
        smoothing: how much of the label's probability is spread evenly.
        over: what it is spread over: ``all`` classes, the label's included, or the ``others`` only.
    """

    def __init__(self, smoothing: float = 0.1, over: Literal["all", "others"] = "all") -> None:
        super().__init__()
        check_fraction(smoothing, self, "smoothing")
        self.smoothing = smoothing
        self.over: Literal["all", "others"] = over

    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """See :func:`smoothed_cross_entropy`."""
        return smoothed_cross_entropy(student, label, self.smoothing, self.over)


class FeaturesAlone(LabelObjective):
    """Nothing at the output: what trains the student is its ``features``, and its head learns nothing.

    The first half of the early code's recipe for features; the second is a new head on the frozen rest,
    :func:`kd.features.refit_head`.
    """

    needs_features = True

    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """Zeros that are a function of the logits, so that every parameter has a gradient."""
        return student.sum(dim=1) * 0


class VirtualTeacher(LabelObjective):
    """Distillation from a teacher that knows the label and nothing else (Tf-KD).

    Args:
        confidence: its probability of the label; the others share the rest evenly.
        temperature: of both sides, with the factor temperature squared.
        variant: ``paper`` for the formula, ``code`` for what the published code computes, which gives the student no
            temperature.
    """

    def __init__(
        self, confidence: float = 0.9, temperature: float = 20.0, variant: Literal["paper", "code"] = "paper"
    ) -> None:
        super().__init__()
        check_temperature(temperature, self)
        if not 0 < confidence < 1:
            raise ValueError(
                f"confidence={confidence}: must be above 0 and below 1; LabelCrossEntropy is the limit at 1"
            )
        self.confidence = confidence
        self.temperature = temperature
        self.variant: Literal["paper", "code"] = variant

    def supervise(self, student: Tensor, label: Tensor) -> Tensor:
        """See :func:`virtual_distillation`."""
        return virtual_distillation(student, label, self.confidence, self.temperature, self.variant)
