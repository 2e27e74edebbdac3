"""How alike two networks are: centred kernel alignment and plain alignment of features, distance of parameters.

"Similarity of Neural Network Representations Revisited" (Kornblith et al., ICML 2019). What differs from the first
author's early code of "Revisiting Knowledge Distillation": both networks see the same un-augmented images in one pass,
and the samples of all processes are taken together instead of averaging one value per process.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinopl.core.precision import at_least_float32
from kd.features.kernels import kernel_cka
from kd.metrics.sampled import SampledMetric
from kd.samplers import token_index


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """``||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)`` of the centred features ``A`` and ``B``: a scalar from 0 to 1.

    It is blind to rotation and scale. The cost is that of ``n * d^2``; see :func:`gram_cka` for few samples.

    Args:
        first: features, ``(n, d)``.
        second: features of the same samples, ``(n, e)``.

    Returns:
        Not a number where all features of one are equal.
    """
    a, b = (_scaled(features - features.mean(dim=0)) for features in (first, second))
    cross, of_a, of_b = (torch.linalg.matrix_norm(x.T @ y) for x, y in ((a, b), (a, a), (b, b)))
    return cross.square() / (of_a * of_b)


def gram_cka(first: Tensor, second: Tensor) -> Tensor:
    """The same from the samples' Gram matrices, at the cost of ``n^2 * d``.

    Args:
        first: features, ``(n, d)``.
        second: features of the same samples, ``(n, e)``.
    """
    a, b = (_scaled(features - features.mean(dim=0)) for features in (first, second))
    constant = (a == 0).all() | (b == 0).all()
    return torch.where(constant, torch.nan, kernel_cka(a @ a.T, b @ b.T))


def cka(first: Tensor, second: Tensor) -> Tensor:
    """CKA in the cheaper of its two forms, :func:`linear_cka` and :func:`gram_cka`, which agree.

    Args:
        first: features, ``(n, d)``.
        second: features of the same samples, ``(n, e)``.
    """
    wide = max(first.shape[1], second.shape[1]) > len(first)
    return (gram_cka if wide else linear_cka)(first, second)


def cka_matrix(features: Sequence[Tensor]) -> Tensor:
    """CKA of each of R networks with each: which students came to the same features, whoever their teacher was.

    Args:
        features: of the same n samples, one ``(n, d)`` a network; widths may differ, dtype and device may not.

    Returns:
        ``(R, R)``, symmetric; not a number in row and column of a network whose features are all equal.
    """
    matrix = features[0].new_empty(len(features), len(features))
    for i, j in combinations_with_replacement(range(len(features)), 2):
        matrix[i, j] = matrix[j, i] = cka(features[i], features[j])
    return matrix


def feature_alignment(first: Tensor, second: Tensor) -> Tensor:
    """``tr(A B^T) / sqrt(tr(A A^T) tr(B B^T))``: the cosine of the two feature matrices, not centred.

    A rotation of one changes it, so it compares networks of one architecture, such as one before and after training.

    Args:
        first: features, ``(n, d)``.
        second: features of the same samples, ``(n, e)``.

    Returns:
        A scalar from -1 to 1; not a number where the widths differ.
    """
    if first.shape != second.shape:
        return first.new_full((), torch.nan)
    a, b = _scaled(first), _scaled(second)
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def parameter_distance(first: nn.Module, second: nn.Module) -> Tensor:
    """Euclidean distance of all parameters, taken as one vector, in float64.

    Args:
        first: a network.
        second: another one, on the same device.

    Returns:
        A scalar; not a number where names or shapes of the parameters differ.
    """
    one, other = (dict(network.named_parameters()) for network in (first, second))
    if {name: p.shape for name, p in one.items()} != {name: p.shape for name, p in other.items()}:
        return torch.tensor(torch.nan, dtype=torch.float64)
    squares = [(one[name].detach().double() - other[name].detach().double()).square().sum() for name in one]
    return torch.stack(squares).sum().sqrt()


class FeatureAlignment(SampledMetric):
    """``cka`` and ``feature_alignment`` between student and teacher, on the same samples.

    Args:
        limit: samples that are compared at most.
        normalize_rows: whether each feature vector is scaled to norm 1 first.
    """

    def __init__(self, limit: int = 2000, normalize_rows: bool = False, **options: Any) -> None:
        super().__init__(("student_columns", "teacher_columns"), limit, **options)
        self.normalize_rows = normalize_rows

    def update(self, index: Tensor, student_features: Tensor, teacher_features: Tensor) -> None:
        """Adds samples.

        Args:
            index: of the samples, ``(B,)`` int64.
            student_features: ``(B, d)``, or ``(B, T, d)`` for text, whose tokens then are the samples.
            teacher_features: ``(B, e)`` or ``(B, T, e)``.
        """
        if student_features.ndim == 3:
            index = token_index(index, student_features.shape[1])
        student, teacher = (
            at_least_float32(features).flatten(0, -2) for features in (student_features, teacher_features)
        )
        self.keep(index, student_columns=student, teacher_columns=teacher)

    def compute(self) -> dict[str, Tensor]:
        """Both values, by name."""
        student, teacher = self.kept().values()
        if self.normalize_rows:
            student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        return {"cka": cka(student, teacher), "feature_alignment": feature_alignment(student, teacher)}


def _scaled(features: Tensor) -> Tensor:
    """Features with a largest entry of 1, so that no square over- or underflows; alignment is blind to scale."""
    largest = features.abs().amax()
    return features / torch.where(largest > 0, largest, 1)
