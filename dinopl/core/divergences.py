"""Cross-entropy, Kullback-Leibler divergence and entropy of softmax outputs, and the distance of logits.

All take logits ``(..., m)`` of ``m`` classes, return one value per sample, ``(...)``, and are computed in at least
float32; ``*_of_probs`` take what softmax and log-softmax gave, for callers that need it more than once. The KL
divergence is ``sum q (log q - log p)``, not cross-entropy minus entropy: the KL of interest in "Random Teachers are
Good Teachers" (1e-7 to 1e-4) would drown in the rounding of two numbers near 11.
"""

import torch.nn.functional as F
from torch import Tensor

from dinopl.core.precision import at_least_float32


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """``-sum_c q_c log p_c`` with ``q = softmax(teacher)`` and ``p = softmax(student)``."""
    # softmax, not exp(log_softmax): rounding log q to float32 would move sum(q) away from 1 by 1e-6 / 2
    q = F.softmax(at_least_float32(teacher), dim=-1)
    return cross_entropy_of_probs(F.log_softmax(at_least_float32(student), dim=-1), q)


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum_c q_c (log q_c - log p_c)`` with ``q = softmax(teacher)`` and ``p = softmax(student)``.

    Exactly 0 for equal logits. Its gradient in the student is that of the cross-entropy.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    log_p, log_q = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return kl_of_probs(log_p, log_q, F.softmax(teacher, dim=-1))


def cross_entropy_of_probs(log_p: Tensor, q: Tensor) -> Tensor:
    """``-sum_c q_c log p_c`` of log-probabilities and probabilities."""
    return -(q * log_p).sum(dim=-1)


def kl_of_probs(log_p: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
    """``sum_c q_c (log q_c - log p_c)``; ``q`` is not ``exp(log_q)``, see above."""
    return (q * (log_q - log_p)).sum(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """``-sum_c p_c log p_c`` with ``p = softmax(logits)``."""
    logits = at_least_float32(logits)
    return -(F.softmax(logits, dim=-1) * F.log_softmax(logits, dim=-1)).sum(dim=-1)


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_c (student_c - teacher_c)^2``; value and gradient are exactly 0 for equal logits."""
    return (at_least_float32(student) - at_least_float32(teacher)).square().mean(dim=-1)


def centred_mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits less each sample's mean: blind to shifts, as softmax is."""
    difference = at_least_float32(student) - at_least_float32(teacher)
    return (difference - difference.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
