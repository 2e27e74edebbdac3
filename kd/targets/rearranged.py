"""Transforms that reorder the teacher's logits or add noise to them: which class is which, and how firmly.

Permuting the logits other than the largest keeps the shape of the target and takes away what it says about the wrong
classes: "dark knowledge with permuted predictions" of "Born-Again Neural Networks" (Furlanello et al., ICML 2018).
"""

from typing import Literal

from torch import Tensor

from dinopl.core.precision import at_least_float32
from dinopl.core.random import stream_seed
from kd.losses.decoupled import other_classes
from kd.targets.base import TargetTransform, Visit, normal, permutations, visit_keys


def permute_non_targets(teacher: Tensor, keys: Tensor) -> Tensor:
    """Logits ``(B, C)`` with the largest in place and the others in a random order; equal keys give equal orders."""
    others = other_classes(teacher.argmax(dim=1), teacher.shape[1])
    order = permutations(keys, teacher.shape[1] - 1)
    return teacher.scatter(1, others, teacher.gather(1, others.gather(1, order)))


def swap_largest(teacher: Tensor, label: Tensor) -> Tensor:
    """Logits ``(B, C)`` with the largest entry and the label's exchanged, so that the teacher is right."""
    largest, label = teacher.argmax(dim=1, keepdim=True), label[:, None]
    return teacher.scatter(1, largest, teacher.gather(1, label)).scatter(1, label, teacher.gather(1, largest))


class PermutedNonTargets(TargetTransform):
    """The teacher's logits with all but the largest in a random order.

    Args:
        per: what has an order of its own: each ``sample``, each ``visit`` of each sample, or each ``class`` (the
            teacher's), whose similarities to the others are then consistent, but wrong.
        seed: of the orders; None takes the stream "target/permutation" of the run's seed.
    """

    def __init__(self, per: Literal["sample", "visit", "class"] = "sample", seed: int | None = None) -> None:
        self.per: Literal["sample", "visit", "class"] = per
        self.needs_index = per != "class"
        self.seed = stream_seed("target/permutation") if seed is None else seed

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """See :func:`permute_non_targets`."""
        owner = teacher.argmax(dim=1) if self.per == "class" else index
        return permute_non_targets(teacher, visit_keys(self.seed, owner, visit if self.per == "visit" else 0))


class CorrectedTeacher(TargetTransform):
    """The teacher's logits, where it errs with its largest logit and the label's exchanged."""

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """See :func:`swap_largest`."""
        return swap_largest(teacher, label)


class NoisyLogits(TargetTransform):
    """The teacher's logits plus independent normal noise.

    Args:
        sigma: standard deviation of the noise.
        per_visit: draw again at each visit of a sample.
        seed: of the noise; None takes the stream "target/noise" of the run's seed.
    """

    needs_index = True

    def __init__(self, sigma: float, per_visit: bool = False, seed: int | None = None) -> None:
        if not sigma >= 0:
            raise ValueError(f"sigma={sigma}: must be at least 0; 0 adds no noise")
        self.sigma = sigma
        self.per_visit = per_visit
        self.seed = stream_seed("target/noise") if seed is None else seed

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """``teacher + sigma * noise``."""
        keys = visit_keys(self.seed, index, visit if self.per_visit else 0)
        return at_least_float32(teacher) + self.sigma * normal(keys, teacher.shape[1])
