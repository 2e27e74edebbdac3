"""Transforms that keep some of the teacher's probabilities and level the others: its confidence, or its first classes.

The levelled entries share what is left of the probability evenly. In logits that is ``T log mean exp(u / T)`` over
them, which tends to their mean as T grows; no logarithm of a small probability is taken, and no clamp is needed.
"""

import math

import torch
from torch import Tensor

from dinopl.core.precision import at_least_float32
from kd.targets.base import TargetTransform, Visit


def top_logits(teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` largest logits; the others are replaced by one value that keeps their joint probability.

    At an infinite temperature that value keeps the mean of the logits.

    Returns:
        The largest logits in descending order ``(B, k)``, their classes ``(B, k)`` int64, and the logit of each other
        class ``(B,)``, which with ``k = C`` is of no class.
    """
    teacher = at_least_float32(teacher)
    order = teacher.argsort(dim=1, descending=True, stable=True)  # of equal logits the first class is the largest
    values = teacher.gather(1, order)
    others = values[:, k:] if k < teacher.shape[1] else values[:, -1:]
    return values[:, :k], order[:, :k], log_mean_exp(others, temperature)


def expanded(values: Tensor, classes: Tensor, rest: Tensor, num_classes: int) -> Tensor:
    """Logits ``(B, num_classes)`` of what :func:`top_logits` returned."""
    return rest[:, None].repeat(1, num_classes).scatter(1, classes, values)


def log_mean_exp(logits: Tensor, temperature: float) -> Tensor:
    """``T log(mean_c exp(logits_c / T))``, for infinite T the mean: ``(B, C)`` to ``(B,)``."""
    if math.isinf(temperature):
        return logits.mean(dim=1)
    return temperature * (torch.logsumexp(logits / temperature, dim=1) - math.log(logits.shape[1]))


class TopClasses(TargetTransform):
    """The teacher's ``k`` largest probabilities; the others share the rest evenly.

    Args:
        k: how many are kept. From the number of classes on, all are.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k={k}: {type(self).__name__} keeps at least 1 class")
        self.k = k

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """See :func:`top_logits`."""
        num_classes = teacher.shape[1]
        return expanded(*top_logits(teacher, min(self.k, num_classes), temperature), num_classes)


class UniformRest(TopClasses):
    """The teacher's largest probability; the others share the rest evenly: confidence, and nothing else."""

    def __init__(self) -> None:
        super().__init__(k=1)
