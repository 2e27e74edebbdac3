"""What a student learns instead of the samples' labels: noisy labels, random logits, or the image itself.

The data wrappers of the published code of "Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), for
training without a teacher (``SelfDistillation(supervised=True)``). What differs: noise belongs to a sample's index, so
it depends on neither the order nor the number of workers; what is resampled is drawn once for each pass over the data.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dinopl.core.random import integers, sample_keys, uniform
from dinopl.core.types import ImageBatch


def noisy_labels(label: Tensor, ratio: float, num_classes: int, seed: int) -> Tensor:
    """Labels ``(N,)`` of which ``round(N ratio)`` are replaced by a class drawn evenly, which may be their own."""
    keys = sample_keys(seed, 0, torch.arange(len(label)))
    chosen = keys.argsort(stable=True)[: round(len(label) * ratio)]  # hashes in order: a random permutation
    return label.index_copy(0, chosen, integers(keys[chosen], 0, [num_classes])[0].to(label))


def normal(keys: Tensor, count: int) -> Tensor:
    """``count`` standard normal numbers for each key, ``(B, count)``, by the formula of Box and Muller."""
    radius, angle = uniform(keys, 0, 2 * count).view(2, count, -1)
    return ((-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)).mT


class Targets(ABC):
    """Replaces the targets of training batches."""

    everywhere = True
    """Whether validation and test batches are changed too."""

    def labels(self, label: Tensor, num_classes: int, seed: int) -> Tensor:
        """The labels of all training samples, ``(N,)`` int64: what is drawn once."""
        return label

    @abstractmethod
    def __call__(self, batch: ImageBatch, num_classes: int, seed: int) -> ImageBatch:
        """A batch with what is to be learned.

        Args:
            batch: is not changed.
            num_classes: of the data.
            seed: of the split's noise.
        """


class LabelNoise(Targets):
    """Some training labels are replaced by a class drawn evenly, which may be the right one.

    Args:
        ratio: share of the labels, exact to one sample; the changed share is ``ratio (1 - 1 / classes)``.
        resample: whether each label is replaced with that probability in every pass anew.

    Raises:
        ValueError: if the ratio is outside [0, 1].
    """

    everywhere = False

    def __init__(self, ratio: float, resample: bool = False) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio={ratio}: must be in [0, 1]; 0 changes no label")
        self.ratio, self.resample = ratio, resample

    def labels(self, label: Tensor, num_classes: int, seed: int) -> Tensor:
        """Labels with noise, unless that is resampled."""
        return label if self.resample else noisy_labels(label, self.ratio, num_classes, seed)

    def __call__(self, batch: ImageBatch, num_classes: int, seed: int) -> ImageBatch:
        """Replaces labels of this pass, if noise is resampled."""
        if not self.resample:
            return batch
        keys = sample_keys(seed, batch.get("visit", 0), batch["index"])
        replaced = uniform(keys, 1, 1)[0] < self.ratio
        return {**batch, "label": torch.where(replaced, integers(keys, 0, [num_classes])[0], batch["label"])}


class LogitNoise(Targets):
    """Random logits as targets: ``N(0, 1) / sqrt(C) / temperature`` for each of ``C`` classes, of norm about 1.

    Args:
        temperature: divides them.
        num_classes: number of logits, the head's; None: the number of classes of the data.
        resample: whether they are drawn in every pass anew.

    Raises:
        ValueError: if the temperature is not positive, or ``num_classes`` is below 1.
    """

    def __init__(self, temperature: float = 1.0, num_classes: int | None = None, resample: bool = False) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be positive; 1 gives logits of norm about 1")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: must be at least 1; None takes that of the data")
        self.temperature, self.num_classes, self.resample = temperature, num_classes, resample

    def __call__(self, batch: ImageBatch, num_classes: int, seed: int) -> ImageBatch:
        """Adds the logits ``(B, C)``."""
        count = self.num_classes or num_classes
        keys = sample_keys(seed, batch.get("visit", 0) if self.resample else 0, batch["index"])
        return {**batch, "target": normal(keys, count) / math.sqrt(count) / self.temperature}


class InputTargets(Targets):
    """The first view itself, flattened, as the logits to learn: an autoencoder."""

    def __call__(self, batch: ImageBatch, num_classes: int, seed: int) -> ImageBatch:
        """Adds the pixels ``(B, C H W)``."""
        return {**batch, "target": batch["views"][0].flatten(1)}
