"""Metrics of features: how alike two networks are, and how far the features of one have collapsed to class means.

Alignment is "Similarity of Neural Network Representations Revisited" (Kornblith et al., ICML 2019). What differs from
the first author's early code of "Revisiting Knowledge Distillation": both networks see the same un-augmented images in
one pass, and the samples of all processes are taken together instead of averaging one value per process.

Neural collapse is "Prevalence of neural collapse during the terminal phase of deep learning training" (Papyan, Han and
Donoho, PNAS 2020). With class means ``mu_c``, their mean ``mu_G``, ``m_c = mu_c - mu_G``, the covariances ``Sigma_W``
within and ``Sigma_B`` between classes, and the classifier's rows ``W``, all five numbers are 0 where the collapse is
complete.

No running sum gives these numbers, so samples are kept until all data have been seen. Which ones follows from their
index alone: those whose hashed index is smallest. So the choice is the same for any batch size and number of processes,
a sample that two processes saw counts once, and a data set that is sorted by class is not cut off after its first
classes.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from dinopl.core.precision import at_least_float32
from dinopl.core.random import sample_keys
from kd.features.kernels import kernel_cka
from kd.samplers import token_index

_KEYS = "keys"


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """``||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)`` of the centred features ``A`` and ``B``: a scalar from 0 to 1.

    Features are ``(n, d)`` and ``(n, e)`` of the same samples. It is blind to rotation and scale, and not a number
    where all features of one are equal. The cost is that of ``n * d^2``; see :func:`gram_cka` for few samples.
    """
    a, b = (_scaled(features - features.mean(dim=0)) for features in (first, second))
    cross, of_a, of_b = (torch.linalg.matrix_norm(x.T @ y) for x, y in ((a, b), (a, a), (b, b)))
    return cross.square() / (of_a * of_b)


def gram_cka(first: Tensor, second: Tensor) -> Tensor:
    """The same from the samples' Gram matrices, at the cost of ``n^2 * d``."""
    a, b = (_scaled(features - features.mean(dim=0)) for features in (first, second))
    constant = (a == 0).all() | (b == 0).all()
    return torch.where(constant, torch.nan, kernel_cka(a @ a.T, b @ b.T))


def cka(first: Tensor, second: Tensor) -> Tensor:
    """CKA in the cheaper of its two forms, :func:`linear_cka` and :func:`gram_cka`, which agree."""
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
    """``tr(A B^T) / sqrt(tr(A A^T) tr(B B^T))``: the cosine of two feature matrices ``(n, d)``, not centred.

    A rotation of one changes it, so it compares networks of one architecture, such as one before and after training.
    From -1 to 1; not a number where the widths differ.
    """
    if first.shape != second.shape:
        return first.new_full((), torch.nan)
    a, b = _scaled(first), _scaled(second)
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def parameter_distance(first: nn.Module, second: nn.Module) -> Tensor:
    """Euclidean distance of all parameters, taken as one vector, in float64, of networks on one device.

    Not a number where names or shapes of the parameters differ.
    """
    one, other = (dict(network.named_parameters()) for network in (first, second))
    if {name: p.shape for name, p in one.items()} != {name: p.shape for name, p in other.items()}:
        return torch.tensor(torch.nan, dtype=torch.float64)
    squares = [(one[name].detach().double() - other[name].detach().double()).square().sum() for name in one]
    return torch.stack(squares).sum().sqrt()


def _scaled(features: Tensor) -> Tensor:
    """Features with a largest entry of 1, so that no square over- or underflows; alignment is blind to scale."""
    largest = features.abs().amax()
    return features / torch.where(largest > 0, largest, 1)


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
    as large as there are classes. ``residuals`` are features less their class mean, ``(n, d)``, ``centred`` the class
    means less their mean, ``(C, d)``.
    """
    classes = len(centred)
    between = centred / classes**0.5
    values, vectors = torch.linalg.eigh(between @ between.T)
    kept = values > values[-1] * classes * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    projected = (residuals @ between.T) @ vectors * inverse
    return projected.square().sum() / (len(residuals) * classes)


class SampledMetric(Metric):
    """A metric of at most ``limit`` samples of the data.

    Args:
        columns: names of what is kept of each sample.
        limit: how many samples at most.

    Raises:
        ValueError: if the limit is below 2.
    """

    full_state_update = False

    def __init__(self, columns: tuple[str, ...], limit: int, **options: Any) -> None:
        super().__init__(**options)
        if limit < 2:
            raise ValueError(f"limit={limit}: must be at least 2 samples in {type(self).__name__}")
        self.columns = columns
        self.limit = limit
        for name in (_KEYS, *columns):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, index: Tensor, **values: Tensor) -> None:
        """Adds samples of the indices ``(n,)`` int64, one tensor ``(n, ...)`` for each column."""
        for name, value in {_KEYS: sample_keys(0, 0, index), **values}.items():
            getattr(self, name).append(value.detach())
        if sum(map(len, getattr(self, _KEYS))) > 2 * self.limit:
            for name, value in self._chosen().items():
                setattr(self, name, [value])

    def kept(self) -> dict[str, Tensor]:
        """What was kept, by column, on the CPU; floating-point values in float64."""
        chosen = {name: value.cpu() for name, value in self._chosen().items() if name != _KEYS}
        return {name: value.double() if value.is_floating_point() else value for name, value in chosen.items()}

    def _chosen(self) -> dict[str, Tensor]:
        """The samples of the smallest keys, each once, sorted by key."""
        states = {name: getattr(self, name) for name in (_KEYS, *self.columns)}
        # a list of parts; after processes were joined it is one tensor already
        joined = {name: state if isinstance(state, Tensor) else torch.cat(state) for name, state in states.items()}
        keys, order = joined[_KEYS].sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        order = order[first][: self.limit]
        return {name: value[order] for name, value in joined.items()}


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
        """Adds samples: indices ``(B,)``, features ``(B, d)``; of text ``(B, T, d)``, whose tokens are the samples."""
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
        """Adds samples: indices, logits, classes, what the classifier gets ``(B, d)``, and its rows ``(C, d)``."""
        features = at_least_float32(student_features)
        self.keep(index, feature_columns=features, class_column=label, predicted_column=student.argmax(dim=1))
        if weight is not None:
            self.weight = weight.detach()

    def compute(self) -> dict[str, Tensor]:
        """The measures, by name."""
        features, label, prediction = self.kept().values()
        weight = self.weight.double().cpu() if self.weight.numel() else None
        return neural_collapse(features, label, self.num_classes, weight, prediction)
