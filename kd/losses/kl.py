"""Objectives that compare tempered softmax outputs: Kullback-Leibler in both directions, Jensen-Shannon.

"Distilling the Knowledge in a Neural Network" (Hinton et al., 2015). With ``p_T(z) = softmax(z / T)``, student logits z
and teacher logits u, the factor ``T^2`` keeps gradients comparable between temperatures: the gradient of
``T^2 KL(p_T(u) || p_T(z))`` is ``T (p_T(z) - p_T(u))``, and for large T the loss tends to half the mean squared
difference of the centred logits, which is what ``temperature=inf`` computes.
"""

import math

import torch
from torch import Tensor

from dinopl.core.divergences import centred_mean_squared_error, cross_entropy, kl_divergence
from dinopl.core.precision import at_least_float32
from kd.losses.base import Distillation, check_temperature


def kl_distillation(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 20.0,
    student_temperature: float | None = None,
    scaled: bool = True,
) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, summed over classes: ``(B, C)`` of each to ``(B,)``.

    In float32 the value loses digits from about T = 1000 on, the gradient does not; ``inf`` is exact.

    Args:
        student: logits.
        teacher: logits.
        temperature: T. ``inf`` is the limit: half the mean squared difference of the centred logits.
        student_temperature: the student's, where it differs; 1 is transformed teacher matching.
        scaled: whether to multiply by ``T^2``.

    Raises:
        ValueError: if an infinite temperature is to be the teacher's alone, or unscaled.
    """
    if math.isinf(temperature):
        if student_temperature is not None or not scaled:
            raise ValueError(
                f"temperature={temperature}: needs the factor T^2 and the same temperature on both sides; leave "
                "student_temperature at None and scaled at True, or give a finite temperature"
            )
        return 0.5 * centred_mean_squared_error(student, teacher)
    of_student = temperature if student_temperature is None else student_temperature
    loss = kl_divergence(at_least_float32(student) / of_student, at_least_float32(teacher) / temperature)
    return temperature**2 * loss if scaled else loss


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 20.0) -> Tensor:
    """``-T^2 sum_c softmax(teacher / T)_c log softmax(student / T)_c``, ``(B,)``: the KL's gradient, another value."""
    return temperature**2 * cross_entropy(
        at_least_float32(student) / temperature, at_least_float32(teacher) / temperature
    )


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 20.0) -> Tensor:
    """``T^2 KL(softmax(student / T) || softmax(teacher / T))``: logits ``(B, C)`` of each to ``(B,)``."""
    return kl_distillation(teacher, student, temperature)


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 20.0) -> Tensor:
    """``T^2 (KL(p || m) + KL(q || m)) / 2``, at most ``T^2 log 2``, of the tempered outputs p, q and their mean m."""
    p, q = (torch.log_softmax(at_least_float32(x) / temperature, dim=1) for x in (student, teacher))
    mean = torch.logaddexp(p, q) - math.log(2)
    return temperature**2 * (kl_divergence(mean, p) + kl_divergence(mean, q)) / 2


class KLDistillation(Distillation):
    """KL divergence of the student from the teacher at a temperature: distillation as it is usually meant.

    Args:
        temperature: divides the logits of both. ``.inf`` compares centred logits, the limit of high temperatures.
        student_temperature: the student's own, if not the same; 1 with ``scaled: false`` is the asymmetric objective
            (transformed teacher matching).
        scaled: multiply by the temperature squared, which keeps gradients comparable between temperatures.
    """

    def __init__(
        self, temperature: float = 20.0, student_temperature: float | None = None, scaled: bool = True
    ) -> None:
        super().__init__()
        check_temperature(temperature, self, infinite=student_temperature is None and scaled)
        if student_temperature is not None:
            check_temperature(student_temperature, self, name="student_temperature")
        self.temperature = temperature
        self.student_temperature = student_temperature
        self.scaled = scaled

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`kl_distillation`."""
        return kl_distillation(student, teacher, self.temperature, self.student_temperature, self.scaled)


class SoftCrossEntropy(Distillation):
    """Cross-entropy to the teacher's tempered output, times the temperature squared.

    Args:
        temperature: divides the logits of both.
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        check_temperature(temperature, self)
        self.temperature = temperature

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`soft_cross_entropy`."""
        return soft_cross_entropy(student, teacher, self.temperature)


class ReverseKL(Distillation):
    """KL divergence of the teacher from the student, times the temperature squared: it seeks modes.

    Args:
        temperature: divides the logits of both. ``.inf`` compares centred logits.
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        check_temperature(temperature, self, infinite=True)
        self.temperature = temperature

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`reverse_kl`."""
        return reverse_kl(student, teacher, self.temperature)


class JensenShannon(Distillation):
    """Jensen-Shannon divergence of the tempered outputs, times the temperature squared.

    Args:
        temperature: divides the logits of both.
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        check_temperature(temperature, self)
        self.temperature = temperature

    def distil(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """See :func:`jensen_shannon`."""
        return jensen_shannon(student, teacher, self.temperature)
