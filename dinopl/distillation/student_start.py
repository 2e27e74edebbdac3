"""Student initialisations, from the teacher itself to an independent draw.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), section 4: how close the student starts to its
teacher decides how much it learns. What differs from the published code: correcting the variance there also rescales
parameters that every draw starts at the same constant, such as BatchNorm weights; here they are left alone, and
``rescale_constants=True`` gives the code's behaviour.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from dinopl.core.checkpoints import load_network
from dinopl.core.random import stream_seed
from dinopl.distillation.network import Network, copy_buffers, copy_state

Draw = Callable[[int], Network]
"""Draws a fresh network from a seed."""
N = TypeVar("N", bound=nn.Module)


def interpolate(teacher: Tensor, independent: Tensor, alpha: float, *, preserve_variance: bool = True) -> Tensor:
    """``(1 - alpha) teacher + alpha independent``, over ``sqrt((1 - alpha)^2 + alpha^2)``.

    The division keeps the variance of two draws of equal variance.

    Args:
        teacher: any shape.
        independent: same shape, drawn from the same distribution.
        alpha: 0 is the teacher, 1 the independent draw, both bit by bit.
        preserve_variance: whether to divide.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: if ``alpha`` is outside [0, 1] or the shapes differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be in [0, 1]; 0 is the teacher, 1 an independent draw")
    return combine(teacher, independent, 1 - alpha, alpha, preserve_variance)


def neighbourhood(teacher: Tensor, independent: Tensor, eps: float, *, preserve_variance: bool = True) -> Tensor:
    """``teacher + eps independent``, over ``sqrt(1 + eps^2)``; arguments as of :func:`interpolate`.

    Raises:
        ValueError: if ``eps`` is negative or not finite, or the shapes differ.
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps}: must be finite and at least 0; 0 is the teacher")
    return combine(teacher, independent, 1, eps, preserve_variance)


def combine(teacher: Tensor, independent: Tensor, a: float, b: float, preserve_variance: bool) -> Tensor:
    """``a teacher + b independent``, over ``sqrt(a^2 + b^2)`` if the variance is to be preserved."""
    if teacher.shape != independent.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)} and draw {tuple(independent.shape)} must have one shape")
    if 0 in (a, b):  # bit by bit, and 0 times infinity is not 0
        return (teacher if a else independent).clone()
    mixed = a * teacher + b * independent
    return mixed / math.hypot(a, b) if preserve_variance else mixed


@torch.no_grad()
def combine_networks(
    teacher: N,
    independent: N,
    mix: Callable[..., Tensor],
    *,
    preserve_variance: bool = True,
    rescale_constants: bool = False,
) -> N:
    """``mix`` for every parameter of two networks of one architecture; buffers are the teacher's.

    Args:
        teacher: is not changed.
        independent: a fresh draw; is not changed.
        mix: :func:`interpolate` with an ``alpha``, or :func:`neighbourhood` with an ``eps``.
        preserve_variance: whether to correct the variance.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights),
            which have no variance to preserve. The paper's published code does.

    Returns:
        A new network with storage of its own; what it trains is what ``independent`` trains.
    """
    student = copy.deepcopy(independent)
    start = dict(teacher.named_parameters())
    for name, own in student.named_parameters():
        preserve = preserve_variance and (rescale_constants or not is_constant(own, start[name]))
        own.copy_(mix(start[name], own, preserve_variance=preserve))
    copy_buffers(teacher, student)
    return student


def is_constant(fresh: Tensor, other: Tensor) -> bool:
    """Whether a parameter starts at a constant, judged by a ``fresh`` draw of it.

    All its entries are equal; a single entry must also equal the ``other`` draw's, or it would be constant by itself.
    """
    if fresh.numel() == 1:
        return bool((fresh == other).all())
    return bool((fresh == fresh.flatten()[:1]).all())


class StudentStart(ABC):
    """Where the student starts."""

    @abstractmethod
    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A student that shares no storage with ``teacher``, trainable where a fresh draw is.

        Args:
            teacher: is not changed.
            draw: draws a fresh network of the same architecture from a seed.
        """


class TeacherCopy(StudentStart):
    """Start at the teacher: a copy of its parameters and buffers, the paper's setting."""

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A copy of ``teacher``."""
        student = draw(_student_seed(None))  # a draw, not a deep copy: the teacher's parameters are all frozen
        copy_state(teacher, student)
        return student


class IndependentStart(StudentStart):
    """Start at an independent draw.

    Args:
        seed: of the draw. None: the stream "student" of the run's seed, which is never the teacher's.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A fresh network."""
        return draw(_student_seed(self.seed))


class InterpolatedStart(StudentStart):
    """Start between the teacher and an independent draw: :func:`interpolate` for every parameter.

    Args:
        alpha: 0 starts at the teacher, 1 at the independent draw, with its buffers.
        seed: of the independent draw. None: the stream "student" of the run's seed.
        preserve_variance: whether to divide by ``sqrt((1 - alpha)^2 + alpha^2)``, as the paper does.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights),
            as the paper's published code does.

    Raises:
        ValueError: if ``alpha`` is outside [0, 1].
    """

    def __init__(
        self, alpha: float, seed: int | None = None, preserve_variance: bool = True, rescale_constants: bool = False
    ) -> None:
        interpolate(torch.empty(0), torch.empty(0), alpha)  # refuses a wrong alpha here, not when networks are built
        self.alpha = alpha
        self.seed = seed
        self.options = {"preserve_variance": preserve_variance, "rescale_constants": rescale_constants}

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A network between ``teacher`` and a fresh one."""
        independent = draw(_student_seed(self.seed))
        if self.alpha == 1:
            return independent
        return combine_networks(teacher, independent, partial(interpolate, alpha=self.alpha), **self.options)


class NeighbourhoodStart(StudentStart):
    """Start at the teacher plus ``eps`` times an independent draw: :func:`neighbourhood` for every parameter.

    Args:
        eps: 0 starts at the teacher.
        seed: of the independent draw. None: the stream "student" of the run's seed.
        preserve_variance: whether to divide by ``sqrt(1 + eps^2)``.
        rescale_constants: as of ``InterpolatedStart``.

    Raises:
        ValueError: if ``eps`` is negative or not finite.
    """

    def __init__(
        self, eps: float, seed: int | None = None, preserve_variance: bool = True, rescale_constants: bool = False
    ) -> None:
        neighbourhood(torch.empty(0), torch.empty(0), eps)  # refuses a wrong eps here, not when networks are built
        self.eps = eps
        self.seed = seed
        self.options = {"preserve_variance": preserve_variance, "rescale_constants": rescale_constants}

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A network near ``teacher``."""
        independent = draw(_student_seed(self.seed))
        return combine_networks(teacher, independent, partial(neighbourhood, eps=self.eps), **self.options)


class CheckpointStart(StudentStart):
    """Start at a network of an earlier run.

    Args:
        path: a checkpoint of ``SelfDistillation`` with the same encoder and head. It is read when the networks are
            built.
        which: that run's ``student`` or its ``teacher``.
    """

    def __init__(self, path: str | Path, which: Literal["student", "teacher"] = "student") -> None:
        self.path = path
        self.which: Literal["student", "teacher"] = which

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """The network of the checkpoint; FileNotFoundError or ValueError if that is missing or of another kind."""
        student = draw(_student_seed(None))
        load_network(student, self.path, self.which, f"path={self.path}")
        return student


def _student_seed(seed: int | None) -> int:
    return stream_seed("student") if seed is None else seed
