"""What of the teacher a student gets to see: transforms of the teacher's logits.

"Revisiting Knowledge Distillation: The Hidden Role of Dataset Size" (Lanzillotta et al., 2025) asks which part of the
teacher's output helps; each transform here removes one part and keeps the rest.

A transform returns *logits*: those whose softmax at the objective's temperature T is the target. Probabilities or their
logarithms would serve the KL divergence only. Logits serve every objective, also those that compare logits (T is then
infinite) and those that read the arg max; the untouched teacher stays bitwise equal; a target that keeps a sum of
probabilities is exact, without a clamp; and what a cache holds is of the same kind. Logits are determined by that
up to a constant for each sample, and the constant is chosen so that most stay where the teacher had them.

Random transforms are functions of (seed, sample index, visit): the batch that a sample happens to be in, workers and
processes change nothing.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from dinopl.core.random import derived_keys, mix, sample_keys, uniform
from kd.losses.base import TeacherOutputs

Visit = int | Tensor
"""How many times samples were seen before: one number, or one of each, ``(B,)`` int64."""


class TargetTransform(ABC):
    """Teacher logits to target logits; a transform has no parameters and no state that a checkpoint would need.

    Attributes:
        needs_subset: whether ``prepare`` must be called before the first step.
        needs_index: whether it reads the samples' indices, so that each sample must have one of its own.
    """

    needs_subset: bool = False
    needs_index: bool = False

    def adapt_teacher(self, teacher: nn.Module) -> nn.Module:
        """The network whose logits are transformed: the teacher itself, unless the transform needs another.

        To be called once, before any output is computed, cached or fingerprinted. The teacher is left as it is.
        """
        return teacher

    def prepare(self, outputs: TeacherOutputs, temperature: float) -> None:  # noqa: B027 - most need nothing
        """Takes what it needs of the teacher's outputs on the student's samples, at the objective's temperature.

        To be called at the start of every fit, a resumed one included: what it keeps is not part of a checkpoint.
        """

    def check_index(self, index: Tensor) -> None:
        """Raises a ValueError if a transform that reads indices gets samples without any, whose index is -1."""
        if self.needs_index and bool((index < 0).any()):
            raise ValueError(
                f"target={type(self).__name__}: draws for each sample by its index, and these batches have none; let "
                "them be (input, label, index), or use DataFraction"
            )

    @abstractmethod
    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """The target logits of each sample, ``(B, C)``: the target is their softmax at T.

        Args:
            teacher: the teacher's logits, ``(B, C)``.
            label: the class that the student is given, ``(B,)`` int64.
            index: position of each sample in its data set, ``(B,)`` int64.
            visit: how many times the sample was seen before, one number or ``(B,)`` int64.
            temperature: the objective's T; infinite where logits are compared.
        """


class WholeTeacher(TargetTransform):
    """The teacher's logits as they are."""

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """``teacher`` itself."""
        return teacher


class TransformChain(TargetTransform):
    """Several transforms, each applied to what the one before returns.

    Args:
        transforms: in the order of application.
    """

    def __init__(self, transforms: list[TargetTransform]) -> None:
        if not transforms:
            raise ValueError("transforms=[]: TransformChain needs at least one; WholeTeacher changes nothing")
        self.transforms = transforms
        self.needs_subset = any(transform.needs_subset for transform in transforms)
        self.needs_index = any(transform.needs_index for transform in transforms)

    def adapt_teacher(self, teacher: nn.Module) -> nn.Module:
        """The teacher, adapted by each in turn."""
        for transform in self.transforms:
            teacher = transform.adapt_teacher(teacher)
        return teacher

    def prepare(self, outputs: TeacherOutputs, temperature: float) -> None:
        """Prepares each with what the ones before it return at the first visit."""
        last = max((i for i, transform in enumerate(self.transforms) if transform.needs_subset), default=-1)
        for i, transform in enumerate(self.transforms[: last + 1]):
            transform.prepare(outputs, temperature)
            if i < last:
                parts = [transform(part.logits, part.label, part.index, 0, temperature) for part in outputs.parts()]
                outputs = replace(outputs, logits=torch.cat(parts))

    def __call__(self, teacher: Tensor, label: Tensor, index: Tensor, visit: Visit, temperature: float) -> Tensor:
        """All of them in turn."""
        for transform in self.transforms:
            teacher = transform(teacher, label, index, visit, temperature)
        return teacher


def visit_keys(seed: int, index: Tensor, visit: Visit = 0) -> Tensor:
    """One key per sample and visit, ``(B,)`` int64; ``index`` is ``(B,)`` int64, ``visit`` one number or ``(B,)``."""
    visits = torch.as_tensor(visit, dtype=torch.int64, device=index.device)
    return mix(sample_keys(seed, 0, index) + mix(visits))


def permutations(keys: Tensor, length: int) -> Tensor:
    """A random order of ``0 .. length - 1`` for each key: ``(B,)`` to ``(B, length)`` int64."""
    return derived_keys(keys, 0, length).argsort(dim=0, stable=True).T


def normal(keys: Tensor, count: int) -> Tensor:
    """Independent standard normal numbers by Box and Muller: ``(B,)`` keys to ``(B, count)`` float32."""
    radius, angle = uniform(keys, 0, 2 * count).view(2, count, -1)
    return ((-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)).T
