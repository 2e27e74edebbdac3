"""Cross-entropy, Kullback-Leibler divergence and entropy of softmax outputs, and the distance of logits.

All take logits ``(..., m)`` of ``m`` classes, return one value per sample, ``(...)``, and are computed in at least
float32; ``*_of_probs`` take what softmax and log-softmax gave, for callers that need it more than once, and
``cross_entropy_and_kl`` gives both in one pass over the logits. The KL divergence is ``sum q (log q - log p)``, not
cross-entropy minus entropy: the KL of interest in "Random Teachers are Good Teachers" (1e-7 to 1e-4) would drown in the
rounding of two numbers near 11.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinopl.core.precision import at_least_float32


def tempered(logits: Tensor, temperature: float, centre: Tensor | None = None) -> Tensor:
    """``(logits - centre) / temperature`` in at least float32.

    Without a centre and at temperature 1, the paper's setting, no pass over the logits is made.
    """
    logits = at_least_float32(logits)
    if centre is not None:
        logits = logits - centre
    return logits if temperature == 1 else logits / temperature


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


BLOCK = 1 << 16  # numbers of each tensor at work at once on a core, 256 KB: so that they stay in its cache
LARGE = 1 << 20  # from how many numbers on that is worth while


def is_large(rows: Tensor) -> bool:
    """Whether a matrix is worth going through in blocks: on a CPU, and larger than its caches."""
    return rows.ndim == 2 and rows.numel() > LARGE and rows.device.type == "cpu"


def row_blocks(rows: Tensor) -> Iterator[slice]:
    """Rows of a matrix in blocks that stay in the cache."""
    step = max(1, BLOCK * torch.get_num_threads() // rows.shape[1])
    return (slice(start, start + step) for start in range(0, len(rows), step))


class BlockwiseCrossEntropy(torch.autograd.Function):
    """Cross-entropy and KL divergence, block of rows by block; the gradient is taken on the way."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """One value of each per sample, ``(B,)``, of logits ``(B, m)``."""
        loss, kl = student.new_empty(len(student)), student.new_empty(len(student))
        residual = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        for block in row_blocks(student):
            log_p, log_q = F.log_softmax(student[block], dim=-1), F.log_softmax(teacher[block], dim=-1)
            q = F.softmax(teacher[block], dim=-1)
            loss[block], kl[block] = cross_entropy_of_probs(log_p, q), kl_of_probs(log_p, log_q, q)
            if residual is not None:  # p sum(q) - q: the sum is 1 but for rounding, as in autograd's derivative
                torch.sub(log_p.exp_().mul_(q.sum(dim=-1, keepdim=True)), q, out=residual[block])
        ctx.save_for_backward(student, teacher, residual)
        ctx.mark_non_differentiable(kl)
        return loss, kl

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, grad_kl: Tensor) -> tuple[Tensor | None, None]:
        """``(p sum(q) - q)`` times the gradient of each sample's cross-entropy."""
        student, teacher, residual = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            q = F.softmax(teacher, dim=-1)
            residual = F.softmax(student, dim=-1) * q.sum(dim=-1, keepdim=True) - q
        return residual * grad_loss[:, None], None


def cross_entropy_and_kl(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy, and the KL divergence without gradient.

    With many logits (65,536 per sample, say) the separate functions make some twenty passes over a CPU's memory, and as
    many allocations; here the softmax outputs of a block of rows stay in the cache. Few logits, another device, and a
    teacher with a gradient take the separate functions.

    Args:
        student: logits, ``(B, m)``.
        teacher: logits, ``(B, m)``.

    Returns:
        One value of each per sample, ``(B,)``.

    Example:
        >>> logits = torch.zeros(2, 4)
        >>> [value.tolist() for value in cross_entropy_and_kl(logits, logits)]
        [[1.3862943649291992, 1.3862943649291992], [0.0, 0.0]]
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if is_large(student) and student.dtype == teacher.dtype and not teacher.requires_grad:
        loss, kl = BlockwiseCrossEntropy.apply(student, teacher)
        return loss, kl
    log_p, log_q, q = F.log_softmax(student, -1), F.log_softmax(teacher, -1), F.softmax(teacher, -1)
    return cross_entropy_of_probs(log_p, q), kl_of_probs(log_p.detach(), log_q.detach(), q.detach())
