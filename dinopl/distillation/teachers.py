"""Teacher rules: how the teacher is made, and how it moves during training.

"Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023), sections 3 and 4: the teacher stays at its random
initialisation. In the paper it is always in eval mode, so that each of its BatchNorm layers, never updated, is the
identity, while the student trains with batch statistics; here that is the default of an explicit option.

The teacher of DINO (Caron et al., ICCV 2021) is the exponential moving average of its student; one that is the student
of an earlier epoch is between the two. What differs from the published code: values are copied and never shared, where
there the first copy made both networks one; and the average moves once for each optimiser step, not for each batch of
an accumulation.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dinopl.core.checkpoints import load_network
from dinopl.core.random import stream_seed
from dinopl.core.schedules import Schedule, Scheduled, numbers_of
from dinopl.distillation.network import Network
from dinopl.distillation.student_start import Draw
from dinopl.encoders.common import BATCH_NORMS

BatchNormMode = Literal["eval", "train"]
MovingBatchNorm = Literal["from_data", "from_student"]


class TeacherRule(Scheduled, ABC):
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


class DrawnTeacher(TeacherRule):
    """A teacher that starts at a random draw, or at a network of an earlier run.

    Args:
        seed: of the draw. None: the stream "teacher" of the run's seed.
        checkpoint: a checkpoint of ``SelfDistillation`` with the same encoder and head, instead of a draw. It is read
            when the networks are built.
        which: that run's ``student`` or its ``teacher``.
    """

    def __init__(
        self,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        which: Literal["student", "teacher"] = "teacher",
    ) -> None:
        self.seed = seed
        self.checkpoint = checkpoint
        self.which: Literal["student", "teacher"] = which

    def draw(self, draw: Draw) -> Network:
        """The drawn or loaded teacher; FileNotFoundError or ValueError if the checkpoint cannot serve."""
        teacher = draw(stream_seed("teacher") if self.seed is None else self.seed)
        if self.checkpoint is not None:
            load_network(teacher, self.checkpoint, self.which, f"checkpoint={self.checkpoint}")
        return teacher.requires_grad_(False).eval()


class FrozenTeacher(DrawnTeacher):
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
        super().__init__(seed, checkpoint, which)
        self.batch_norm: BatchNormMode = batch_norm

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


class MovingTeacher(DrawnTeacher):
    """A teacher that follows its student.

    Args:
        seed: of the draw. None: the stream "teacher" of the run's seed.
        checkpoint: a checkpoint of ``SelfDistillation`` with the same encoder and head, instead of a draw. It is read
            when the networks are built.
        which: that run's ``student`` or its ``teacher``.
        batch_norm: ``from_data``: the running averages of BatchNorm are what the teacher's own training steps make of
            them. ``from_student``: they follow the student's, by the rule that the parameters follow.
        eval_mode: whether BatchNorm uses the running averages in training steps too, and leaves them as they are.
            Otherwise it normalises by the batch there, and updates them.

    Raises:
        ValueError: for ``from_student`` without ``eval_mode``.
    """

    def __init__(
        self,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        which: Literal["student", "teacher"] = "teacher",
        batch_norm: MovingBatchNorm = "from_data",
        eval_mode: bool = False,
    ) -> None:
        super().__init__(seed, checkpoint, which)
        if batch_norm == "from_student" and not eval_mode:
            raise ValueError(
                "batch_norm=from_student: needs eval_mode=True; otherwise BatchNorm normalises by the teacher's own "
                "batches and overwrites what it took from the student"
            )
        self.batch_norm: MovingBatchNorm = batch_norm
        self.eval_mode = eval_mode

    def set_mode(self, teacher: Network, training: bool = True) -> None:
        """Eval mode, except for BatchNorm layers in training steps unless ``eval_mode``."""
        set_batch_norm_mode(teacher, training and not self.eval_mode)

    @property
    def static(self) -> bool:
        """False: the teacher moves."""
        return False

    def approach(self, teacher: Network, student: Network, momentum: float) -> None:
        """Moves the teacher's parameters to the student's: see :func:`moving_average`.

        Running averages of BatchNorm likewise if they are ``from_student``, whose counts of batches are copied.
        """
        moving_average(list(teacher.parameters()), list(student.parameters()), momentum)
        if self.batch_norm == "from_student":
            own, new = list(batch_norm_buffers(teacher)), list(batch_norm_buffers(student))
            floating = [(a, b) for a, b in zip(own, new, strict=True) if a.is_floating_point()]
            moving_average([a for a, _ in floating], [b for _, b in floating], momentum)
            for mine, theirs in zip(own, new, strict=True):
                if not mine.is_floating_point():
                    mine.copy_(theirs)


class EMATeacher(MovingTeacher):
    """The exponential moving average of the student: ``theta_T <- m theta_T + (1 - m) theta_S`` after each step.

    Args:
        momentum: m, a number or a schedule of it. DINO's is ``CosineSchedule(0.996, 1)``.
        seed: of the draw that it starts at; None: the stream "teacher" of the run's seed.
        checkpoint: a checkpoint of ``SelfDistillation`` with the same encoder and head, instead of a draw. It is read
            when the networks are built.
        which: that run's ``student`` or its ``teacher``.
        batch_norm: ``from_data``: the running averages of BatchNorm are what the teacher's own training steps make of
            them. ``from_student``: they follow the student's, by the rule that the parameters follow.
        eval_mode: whether BatchNorm uses the running averages in training steps too, and leaves them as they are.
            Otherwise it normalises by the batch there, and updates them.

    Raises:
        ValueError: if the momentum leaves [0, 1], or for ``from_student`` without ``eval_mode``.
    """

    momentum: float

    def __init__(
        self,
        momentum: float | Schedule = 0.996,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        which: Literal["student", "teacher"] = "teacher",
        batch_norm: MovingBatchNorm = "from_data",
        eval_mode: bool = False,
    ) -> None:
        super().__init__(seed, checkpoint, which, batch_norm, eval_mode)
        for value in numbers_of(momentum):
            if not 0 <= value <= 1:
                raise ValueError(f"momentum={value}: must be in [0, 1]; 1 is a teacher that stays, 0 the student")
        self.follow(momentum=momentum)

    def after_step(self, teacher: Network, student: Network, step: int) -> None:
        """Moves the average by one step."""
        self.approach(teacher, student, self.momentum)

    def after_epoch(self, teacher: Network, student: Network, epoch: int) -> None:
        """Does nothing: the average moves in each step."""


class PreviousEpochTeacher(MovingTeacher):
    """The student as it was at the end of an epoch.

    Args:
        every: after how many epochs the teacher becomes the student; in between it stays.
        seed: of the draw that it starts at; None: the stream "teacher" of the run's seed.
        checkpoint: a checkpoint of ``SelfDistillation`` with the same encoder and head, instead of a draw. It is read
            when the networks are built.
        which: that run's ``student`` or its ``teacher``.
        batch_norm: ``from_data``: the running averages of BatchNorm are what the teacher's own training steps make of
            them. ``from_student``: they follow the student's, by the rule that the parameters follow.
        eval_mode: whether BatchNorm uses the running averages in training steps too, and leaves them as they are.
            Otherwise it normalises by the batch there, and updates them.

    Raises:
        ValueError: if ``every`` is below 1, or for ``from_student`` without ``eval_mode``.
    """

    def __init__(
        self,
        every: int = 1,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        which: Literal["student", "teacher"] = "teacher",
        batch_norm: MovingBatchNorm = "from_data",
        eval_mode: bool = False,
    ) -> None:
        super().__init__(seed, checkpoint, which, batch_norm, eval_mode)
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1; that is after each epoch")
        self.every = every

    def after_step(self, teacher: Network, student: Network, step: int) -> None:
        """Does nothing: the teacher moves between epochs."""

    def after_epoch(self, teacher: Network, student: Network, epoch: int) -> None:
        """Copies the student after every ``every`` epochs."""
        if (epoch + 1) % self.every == 0:
            self.approach(teacher, student, 0.0)


@torch.no_grad()
def moving_average(average: list[Tensor], new: list[Tensor], momentum: float) -> None:
    """``a <- momentum a + (1 - momentum) b`` in place, for each pair of tensors; momentum 0 copies bit by bit."""
    if momentum == 0:
        for a, b in zip(average, new, strict=True):
            a.copy_(b)
    elif average:
        get_ema_multi_avg_fn(momentum)(average, new, 0)  # type: ignore[no-untyped-call]


def batch_norm_buffers(module: nn.Module) -> Iterator[Tensor]:
    """The running averages and counts of all BatchNorm layers, in their order."""
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            yield from layer.buffers(recurse=False)


def set_batch_norm_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Eval mode for all of ``module`` but its BatchNorm layers, which use batch statistics if so asked.

    With batch statistics they also update their running averages, as torch's BatchNorm does.
    """
    module.eval()
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train(batch_statistics)
