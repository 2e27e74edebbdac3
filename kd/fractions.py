"""Nested stratified fractions of a data set, and labels with noise that is nested with them.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., arXiv 2510.15516): the same
student is trained on growing parts of a pool, on labels or on a teacher's outputs. What differs from the first author's
early code, which draws each part with ``numpy.random.choice`` by itself: a smaller part is contained in every larger
one, every class has its proportional share to within one sample at every size, and nothing depends on earlier draws.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from dinopl.core.random import integers, sample_keys, stream_seed, uniform
from dinopl.data.subsets import class_sequence, first_of_each_class


def preference(count: int, seed: int, first: Tensor | None = None) -> Tensor:
    """The samples ``0..count-1`` in the order in which growing subsets take them, ``(count,)`` int64.

    Which of two samples comes earlier depends on their numbers and the seed alone; those of ``first``, ``(k,)`` int64,
    come before all others.
    """
    order = sample_keys(seed, 0, torch.arange(count)).argsort(stable=True)
    if first is None:
        return order
    early = torch.zeros(count, dtype=torch.bool)
    early[first] = True
    # both parts in the same order, so that a subset of the first samples depends on the seed alone, too
    return torch.cat([order[early[order]], order[~early[order]]])


def draw_subset(
    label: Tensor | None, count: int, size: int, seed: int, *, first: Tensor | None = None, nested: bool = True
) -> Tensor:
    """A subset of ``size`` samples; with the same seed those of any smaller size are among them.

    Args:
        label: class of each sample, ``(count,)`` integers: each class has its proportional share, rounded down or up.
            None draws without regard to classes.
        count: number of samples to draw from.
        size: number of samples to draw, 1 to ``count``.
        seed: which samples of a class come first.
        first: samples that are taken before any other, ``(k,)`` int64: a subset of the same labels. A smaller subset
            is then part of it, a larger one contains it.
        nested: whether subsets of one seed are nested. Otherwise each size has a draw of its own.

    Returns:
        Samples in increasing order, ``(size,)`` int64.

    Raises:
        ValueError: if ``size`` is out of range, or ``label`` has another length than ``count``.
    """
    if not 1 <= size <= count or (label is not None and label.shape != (count,)):
        shape = None if label is None else tuple(label.shape)
        raise ValueError(f"size={size}: cannot be drawn of {count} samples with labels of shape {shape}")
    order = preference(count, seed if nested else stream_seed(f"size/{size}", seed), first)
    if label is None:
        return order[:size].sort().values
    return first_of_each_class(order, label, size)


def covering_size(label: Tensor) -> int:
    """The size from which on a stratified subset of a pool has every class; ``label`` is ``(count,)`` integers."""
    counts = torch.unique(label, return_counts=True)[1]
    _, earliest = np.unique(class_sequence(counts.tolist(), len(label)), return_index=True)
    return int(earliest.max()) + 1


def noisy_labels(label: Tensor, rate: float, num_classes: int, seed: int) -> Tensor:
    """Labels ``(count,)`` int64, each replaced with probability ``rate`` by another class, all being equally likely.

    Whether and by what a label is replaced depends on the seed and the sample's index alone, so every subset agrees on
    it; what is replaced at one rate is replaced by the same class at every higher one.
    """
    keys = sample_keys(seed, 0, torch.arange(len(label)))
    replaced = uniform(keys, 0, 1)[0] < rate
    step = 1 + integers(keys, 1, [num_classes - 1])[0]
    return torch.where(replaced, (label + step) % num_classes, label)


def index_digest(index: Tensor) -> str:
    """SHA-1 of sample numbers as little-endian int64: 40 hexadecimal digits, the same on every machine."""
    return hashlib.sha1(index.cpu().numpy().astype("<i8").tobytes()).hexdigest()
