"""Teacher rules: how the teacher is made, and how it moves during training.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), sections 3 and 4: the teacher stays at its random
initialisation. In the paper it is always in eval mode, so that each of its BatchNorm layers, never updated, is the
identity, while the student trains with batch statistics; here that is the default of an explicit option.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from torch import nn

from dinopl.core.checkpoints import load_network
from dinopl.core.random import stream_seed
from dinopl.distillation.network import Network
from dinopl.distillation.student_start import Draw

BatchNormMode = Literal["eval", "train"]


class TeacherRule(ABC):
    """How the teacher is made and how it moves; a rule keeps no tensors, each method gets the teacher's network."""

    @abstractmethod
    def draw(self, draw: Draw) -> Network:
        """The teacher, in eval mode and without trainable parameters; ``draw`` gives a fresh network for a seed."""

    @abstractmethod
    def set_mode(self, teacher: Network, training: bool = True) -> None:
        """Sets the teacher's mode for training steps, or else for validation, test and prediction."""

    @abstractmethod
    def after_step(self, teacher: Network, student: Network, step: int) -> None:
        """Called after each step of the optimiser; ``step`` counts them from 1."""

    @abstractmethod
    def after_epoch(self, teacher: Network, student: Network, epoch: int) -> None:
        """Called after each epoch; the first has ``epoch`` 0."""

    @property
    @abstractmethod
    def static(self) -> bool:
        """Whether the teacher's output depends on its input alone, so that it can be cached."""


class FrozenTeacher(TeacherRule):
    """A teacher that never moves: a random draw, or a network of an earlier run.

    Args:
        seed: of the draw. None: the stream "teacher" of the run's seed.
        checkpoint: a checkpoint of ``SelfDistillation`` with the same encoder and head, instead of a draw. It is read
            when the networks are built.
        which: that run's ``student`` or its ``teacher``.
        batch_norm: ``eval``: BatchNorm always uses the running averages and never updates them, so nothing in the
            teacher ever changes. ``train``: in training steps BatchNorm normalises with the statistics of the batch and
            updates its running averages, which serve in validation; the parameters still never change.
    """

    def __init__(
        self,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        which: Literal["student", "teacher"] = "teacher",
        batch_norm: BatchNormMode = "eval",
    ) -> None:
        self.seed = seed
        self.checkpoint = checkpoint
        self.which: Literal["student", "teacher"] = which
        self.batch_norm: BatchNormMode = batch_norm

    def draw(self, draw: Draw) -> Network:
        """The drawn or loaded teacher; FileNotFoundError or ValueError if the checkpoint cannot serve."""
        teacher = draw(stream_seed("teacher") if self.seed is None else self.seed)
        if self.checkpoint is not None:
            load_network(teacher, self.checkpoint, self.which, f"checkpoint={self.checkpoint}")
        return teacher.requires_grad_(False).eval()

    def set_mode(self, teacher: Network, training: bool = True) -> None:
        """Eval mode, except for BatchNorm layers in training steps under ``batch_norm="train"``."""
        set_batch_norm_mode(teacher, training and self.batch_norm == "train")

    def after_step(self, teacher: Network, student: Network, step: int) -> None:
        """Does nothing: the teacher is frozen."""

    def after_epoch(self, teacher: Network, student: Network, epoch: int) -> None:
        """Does nothing: the teacher is frozen."""

    @property
    def static(self) -> bool:
        """True unless BatchNorm mixes the samples of a batch."""
        return self.batch_norm == "eval"


def set_batch_norm_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Eval mode for all of ``module`` but its BatchNorm layers, which use batch statistics if so asked.

    With batch statistics they also update their running averages, as torch's BatchNorm does.
    """
    module.eval()
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)):
            layer.train(batch_statistics)
