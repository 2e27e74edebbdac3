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
from dinopl.core.seeds import stream_seed
from dinopl.distillation.network import Network, copy_buffers, copy_state

Draw = Callable[[int], Network]
"""Draws a fresh network from a seed."""
N = TypeVar("N", bound=nn.Module)


def interpolate(teacher: Tensor, independent: Tensor, alpha: float, *, preserve_variance: bool = True) -> Tensor:
    """Parameters between the teacher's and an independent draw.

    Computes ``(1 - alpha) * teacher + alpha * independent``; with ``preserve_variance`` divided by
    ``sqrt((1 - alpha)**2 + alpha**2)``, so that two draws of equal variance keep it.

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
    check_alpha(alpha)
    _check_shapes(teacher, independent)
    if alpha in (0, 1):
        return (independent if alpha else teacher).clone()
    mixed = (1 - alpha) * teacher + alpha * independent
    return mixed / math.hypot(1 - alpha, alpha) if preserve_variance else mixed


def neighbourhood(teacher: Tensor, independent: Tensor, eps: float, *, preserve_variance: bool = True) -> Tensor:
    """Parameters in the teacher's neighbourhood.

    Computes ``teacher + eps * independent``; with ``preserve_variance`` divided by ``sqrt(1 + eps**2)``.

    Args:
        teacher: any shape.
        independent: same shape, drawn from the same distribution.
        eps: 0 is the teacher, bit by bit.
        preserve_variance: whether to divide.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: if ``eps`` is negative or not finite, or the shapes differ.
    """
    check_eps(eps)
    _check_shapes(teacher, independent)
    if eps == 0:
        return teacher.clone()
    mixed = teacher + eps * independent
    return mixed / math.hypot(1, eps) if preserve_variance else mixed


def check_alpha(alpha: float) -> None:
    """Raises a ValueError unless ``alpha`` is in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"--model.student.alpha must be in [0, 1], not {alpha}; 0 is the teacher, 1 a draw of its own")


def check_eps(eps: float) -> None:
    """Raises a ValueError unless ``eps`` is finite and at least 0."""
    if not 0 <= eps < math.inf:
        raise ValueError(f"--model.student.eps must be finite and at least 0, not {eps}; 0 is the teacher")


def _check_shapes(teacher: Tensor, independent: Tensor) -> None:
    if teacher.shape != independent.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)} and draw {tuple(independent.shape)} must have one shape")


def interpolate_networks(
    teacher: N, independent: N, alpha: float, *, preserve_variance: bool = True, rescale_constants: bool = False
) -> N:
    """``interpolate`` for every parameter of two networks of one architecture.

    Buffers are not interpolated: they are the teacher's, except that alpha = 1 is the independent draw altogether.

    Args:
        teacher: is not changed.
        independent: a fresh draw; is not changed.
        alpha: 0 is the teacher, 1 the independent draw.
        preserve_variance: whether to correct the variance.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights),
            which have no variance to preserve. The paper's published code does.

    Returns:
        A new network with storage of its own; what it trains is what ``independent`` trains.
    """
    mix = partial(interpolate, alpha=alpha)
    student = _mixed(teacher, independent, mix, preserve_variance, rescale_constants)
    if alpha < 1:
        copy_buffers(teacher, student)
    return student


def neighbourhood_network(
    teacher: N, independent: N, eps: float, *, preserve_variance: bool = True, rescale_constants: bool = False
) -> N:
    """``neighbourhood`` for every parameter of two networks of one architecture; buffers are the teacher's.

    Args:
        teacher: is not changed.
        independent: a fresh draw; is not changed.
        eps: 0 is the teacher.
        preserve_variance: whether to correct the variance.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights).

    Returns:
        A new network with storage of its own; what it trains is what ``independent`` trains.
    """
    mix = partial(neighbourhood, eps=eps)
    student = _mixed(teacher, independent, mix, preserve_variance, rescale_constants)
    copy_buffers(teacher, student)
    return student


@torch.no_grad()
def _mixed(
    teacher: N, independent: N, mix: Callable[..., Tensor], preserve_variance: bool, rescale_constants: bool
) -> N:
    student = copy.deepcopy(independent)
    start = dict(teacher.named_parameters())
    for name, own in student.named_parameters():
        preserve = preserve_variance and (rescale_constants or not is_constant(own, start[name]))
        own.copy_(mix(start[name], own, preserve_variance=preserve))
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
        student = draw(_student_seed(None))  # a draw, not a deep copy: the teacher has forgotten what is trainable
        copy_state(teacher, student)
        return student


class IndependentStart(StudentStart):
    """Start at an independent draw.

    Args:
        seed: of the draw. Null: the stream "student" of the run's seed, which is never the teacher's.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A fresh network."""
        return draw(_student_seed(self.seed))


class InterpolatedStart(StudentStart):
    """Start between the teacher and an independent draw.

    Args:
        alpha: 0 starts at the teacher, 1 at the independent draw.
        seed: of the independent draw. Null: the stream "student" of the run's seed.
        preserve_variance: whether to divide by ``sqrt((1 - alpha)^2 + alpha^2)``, as the paper does.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights),
            as the paper's published code does.

    Raises:
        ValueError: if ``alpha`` is outside [0, 1].
    """

    def __init__(
        self, alpha: float, seed: int | None = None, preserve_variance: bool = True, rescale_constants: bool = False
    ) -> None:
        check_alpha(alpha)
        self.alpha = alpha
        self.seed = seed
        self.preserve_variance = preserve_variance
        self.rescale_constants = rescale_constants

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A network between ``teacher`` and a fresh one."""
        return interpolate_networks(
            teacher,
            draw(_student_seed(self.seed)),
            self.alpha,
            preserve_variance=self.preserve_variance,
            rescale_constants=self.rescale_constants,
        )


class NeighbourhoodStart(StudentStart):
    """Start at the teacher plus ``eps`` times an independent draw.

    Args:
        eps: 0 starts at the teacher.
        seed: of the independent draw. Null: the stream "student" of the run's seed.
        preserve_variance: whether to divide by ``sqrt(1 + eps^2)``.
        rescale_constants: whether that also divides parameters that are constant in a fresh draw (BatchNorm weights),
            as the paper's published code does.

    Raises:
        ValueError: if ``eps`` is negative or not finite.
    """

    def __init__(
        self, eps: float, seed: int | None = None, preserve_variance: bool = True, rescale_constants: bool = False
    ) -> None:
        check_eps(eps)
        self.eps = eps
        self.seed = seed
        self.preserve_variance = preserve_variance
        self.rescale_constants = rescale_constants

    def __call__(self, teacher: Network, draw: Draw) -> Network:
        """A network near ``teacher``."""
        return neighbourhood_network(
            teacher,
            draw(_student_seed(self.seed)),
            self.eps,
            preserve_variance=self.preserve_variance,
            rescale_constants=self.rescale_constants,
        )


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
        load_network(student, self.path, self.which, option="--model.student.path")
        return student


def _student_seed(seed: int | None) -> int:
    return stream_seed("student") if seed is None else seed
