"""Permutations and normal numbers as functions of (seed, sample index, visit).

The keys are those of the augmentation (:mod:`dinopl.core.random`), where the visit may differ from sample to sample.
"""

import math

import torch
from torch import Tensor

from dinopl.core.random import derived_keys, mix, sample_keys, uniform


def visit_keys(seed: int, index: Tensor, visit: int | Tensor = 0) -> Tensor:
    """One key a sample and visit.

    Args:
        seed: of the stream.
        index: ``(B,)`` int64.
        visit: one number, or ``(B,)`` int64.

    Returns:
        ``(B,)`` int64, on the device of ``index``.
    """
    visits = torch.as_tensor(visit, dtype=torch.int64, device=index.device)
    return mix(sample_keys(seed, 0, index) + mix(visits))


def permutations(keys: Tensor, length: int) -> Tensor:
    """A random order of ``0 .. length - 1`` for each key: ``(B,)`` to ``(B, length)`` int64."""
    return derived_keys(keys, 0, length).argsort(dim=0, stable=True).T


def normal(keys: Tensor, count: int) -> Tensor:
    """Independent standard normal numbers by Box and Muller: ``(B,)`` keys to ``(B, count)`` float32."""
    radius, angle = uniform(keys, 0, 2 * count).view(2, count, -1)
    return ((-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)).T
