"""Neural collapse: how far features shrink to their class means, and class means to a simplex.

"Prevalence of neural collapse during the terminal phase of deep learning training" (Papyan, Han and Donoho, PNAS 2020).
With class means ``mu_c``, their mean ``mu_G``, ``m_c = mu_c - mu_G``, the covariances ``Sigma_W`` within and
``Sigma_B`` between classes, and the classifier's rows ``W``, all five numbers are 0 where the collapse is complete.
"""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from dinopl.core.precision import at_least_float32
from kd.metrics.sampled import SampledMetric


def neural_collapse(
    features: Tensor, label: Tensor, num_classes: int, weight: Tensor | None, prediction: Tensor
) -> dict[str, Tensor]:
    """Measures neural collapse.

    Args:
        features: what the classifier gets, ``(n, d)``; best in float64.
        label: ``(n,)`` int64.
        num_classes: C, at least 2.
        weight: the classifier's rows, ``(C, d)``; None where there is no linear classifier.
        prediction: the class that the classifier predicts, ``(n,)`` int64.

    Returns:
        Scalars by name, not numbers where a class has fewer than two samples, ``nc3`` also where there is no
        ``weight``:

        - ``nc1``: ``tr(Sigma_W pinv(Sigma_B)) / C``, how far samples spread around their class mean;
        - ``nc2_norm``: ``std_c ||m_c|| / mean_c ||m_c||``, how unequal the lengths of the class means are;
        - ``nc2_angle``: ``mean |cos(m_c, m_c') + 1 / (C - 1)|`` over pairs of classes, how far from a simplex their
          angles are;
        - ``nc3``: ``|| W / ||W|| - M / ||M|| ||`` with rows ``m_c`` in M, W less its mean row: classifier against class
          means;
        - ``nc4``: share of samples that classifier and nearest class mean put into different classes.
    """
    nan = features.new_full((), torch.nan)
    counts = torch.bincount(label, minlength=num_classes)
    if counts.min() < 2:
        return dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"), nan)
    means = features.new_zeros(num_classes, features.shape[1]).index_add_(0, label, features) / counts[:, None]
    centred = means - means.mean(dim=0)
    norms = torch.linalg.vector_norm(centred, dim=1)
    cosines = (centred @ centred.T) / (norms[:, None] * norms)
    off_diagonal = ~torch.eye(num_classes, dtype=torch.bool, device=features.device)
    classifier = nan
    if weight is not None:
        rows = weight - weight.mean(dim=0)
        unit_rows, unit_means = (matrix / torch.linalg.matrix_norm(matrix) for matrix in (rows, centred))
        classifier = torch.linalg.matrix_norm(unit_rows - unit_means)
    return {
        "nc1": within_over_between(features - means[label], centred),
        "nc2_norm": norms.std(correction=0) / norms.mean(),
        "nc2_angle": (cosines + 1 / (num_classes - 1))[off_diagonal].abs().mean(),
        "nc3": classifier,
        "nc4": (torch.cdist(features, means).argmin(dim=1) != prediction).to(features.dtype).mean(),
    }


def within_over_between(residuals: Tensor, centred: Tensor) -> Tensor:
    """``tr(Sigma_W pinv(Sigma_B)) / C``, without a matrix as wide as the features.

    ``Sigma_B = A A^T`` with ``A = M^T / sqrt(C)`` has the pseudo-inverse ``A (A^T A)^{-2} A^T``, and ``A^T A`` is only
    as large as there are classes.

    Args:
        residuals: features less their class mean, ``(n, d)``.
        centred: class means less their mean, ``(C, d)``.
    """
    classes = len(centred)
    between = centred / classes**0.5
    values, vectors = torch.linalg.eigh(between @ between.T)
    kept = values > values[-1] * classes * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    projected = (residuals @ between.T) @ vectors * inverse
    return projected.square().sum() / (len(residuals) * classes)


class NeuralCollapse(SampledMetric):
    """The five measures of :func:`neural_collapse`, by name.

    Args:
        num_classes: C.
        limit: samples that are looked at at most.
    """

    weight: Tensor

    def __init__(self, num_classes: int, limit: int = 20_000, **options: Any) -> None:
        super().__init__(("feature_columns", "class_column", "predicted_column"), limit, **options)
        self.num_classes = num_classes
        self.add_state("weight", default=torch.empty(0), dist_reduce_fx=itemgetter(0))  # of the first process

    def update(
        self, index: Tensor, student: Tensor, label: Tensor, student_features: Tensor, weight: Tensor | None = None
    ) -> None:
        """Adds samples.

        Args:
            index: of the samples, ``(B,)`` int64.
            student: logits, ``(B, C)``.
            label: ``(B,)`` int64.
            student_features: what the classifier gets, ``(B, d)``.
            weight: the classifier's rows, ``(C, d)``, the same in every call.
        """
        features = at_least_float32(student_features)
        self.keep(index, feature_columns=features, class_column=label, predicted_column=student.argmax(dim=1))
        if weight is not None:
            self.weight = weight.detach()

    def compute(self) -> dict[str, Tensor]:
        """The measures, by name."""
        features, label, prediction = self.kept().values()
        weight = self.weight.double().cpu() if self.weight.numel() else None
        return neural_collapse(features, label, self.num_classes, weight, prediction)
