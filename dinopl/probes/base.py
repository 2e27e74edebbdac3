"""What every probe is: a classifier trained on frozen features, and what probes share.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 3: features are judged by
how well a simple classifier does on them. The reference standardises in place after the raw probes have run; here a
probe says itself whether it standardises.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dinopl.core.precision import at_least_float32

FeatureName = Literal["encoder", "bottleneck", "logits"]
"""An output of a network: the encoder's embedding, the head's bottleneck vector, the head's logits."""


class Probe(ABC):
    """A classifier that is trained on frozen features of the training split and predicts other samples' classes.

    Args:
        name: last part of the probe's metric names, as in ``probe/student/linear``; no slash.
        standardize: whether features are standardised first, with the training split's statistics.
        features: which output of a network is probed: the encoder's, the head's bottleneck vectors, or its logits. A
            probe of the head does not probe the input.

    Attributes:
        splits_queries: whether a prediction depends on the training features and its own query alone, and training
            costs nothing: then processes share the queries, and otherwise the probes.
    """

    splits_queries: ClassVar[bool] = False
    features: FeatureName = "encoder"

    def __init__(self, name: str, standardize: bool = False, features: FeatureName = "encoder") -> None:
        if not name or "/" in name:
            raise ValueError(f"name={name}: must be a word without '/', since metric names end with it; give another")
        if features not in get_args(FeatureName):
            raise ValueError(f"features={features}: must be one of {', '.join(get_args(FeatureName))}")
        self.name = name
        self.standardize = standardize
        self.features = features

    def check_samples(self, samples: int) -> None:
        """Raises a ``ValueError`` if the probe cannot be trained on so few samples; called before anything runs."""
        if samples < 1:
            raise ValueError(f"probes: there is no sample to train {self.name!r} on; probe on more samples")

    def predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """Trains on the first two, predicts for the third.

        Args:
            train_x: training features, ``(N, D)``.
            train_y: their classes, ``(N,)`` int64 in ``[0, num_classes)``.
            x: features to classify, ``(M, D)``.
            num_classes: number of classes of the data set.
            seed: what every random draw of the probe follows from; the global generators are neither read nor moved.

        Returns:
            Predicted classes, ``(M,)`` int64, on the features' device.

        Raises:
            ValueError: if shapes do not fit together or a class is out of range.
        """
        check_features(train_x, train_y, x, num_classes)
        if self.standardize:
            train_x, x = standardize(train_x, x)
        return self.fit_predict(train_x, train_y, x, num_classes, seed)

    @abstractmethod
    def fit_predict(self, train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int, seed: int) -> Tensor:
        """As :meth:`predict`, on features that are checked and, standardised where ``standardize`` is set."""


def standardize(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features with the training split's mean 0 and standard deviation 1, each feature by itself.

    The standard deviation is the unbiased one; one below ten times the machine's epsilon counts as 1, so that a
    constant feature becomes 0 and not NaN.

    Args:
        train: ``(N, D)``; its statistics are used for all.
        *others: each ``(M, D)``.

    Returns:
        As many tensors as were given, in their order, in at least float32.
    """
    train = at_least_float32(train)
    std, mean = torch.std_mean(train, dim=0, correction=1 if len(train) > 1 else 0)
    std = torch.where(std < 10 * torch.finfo(std.dtype).eps, torch.ones_like(std), std)
    return tuple((at_least_float32(x) - mean) / std for x in (train, *others))


def check_features(train_x: Tensor, train_y: Tensor, x: Tensor, num_classes: int) -> None:
    """Refuses what a probe cannot be trained on.

    Raises:
        ValueError: if shapes do not fit together, there is no training sample, or a class is out of range.
    """
    if train_x.ndim != 2 or x.ndim != 2 or train_x.shape[1] != x.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(train_x.shape)} and {tuple(x.shape)}")
    if len(train_x) == 0 or train_y.shape != train_x.shape[:1]:
        raise ValueError(
            f"{len(train_x)} training features with labels of shape {tuple(train_y.shape)}: need N >= 1 each"
        )
    low, high = int(train_y.min()), int(train_y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels from {low} to {high} do not fit num_classes={num_classes}: give at least {high + 1}")
