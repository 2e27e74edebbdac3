"""What the modules of all families share: optimiser, schedule and its length, the mark of the family in checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from dinopl.core.optimizer import follow_given, given_options, rehearse, training_length
from dinopl.core.schedules import WarmupConstant
from dinopl.core.trust import CheckedLoading


class BaseModule(CheckedLoading, LightningModule):
    """A module of one family; a subclass adds its networks and its training step.

    Args:
        optimizer: makes the optimiser from groups of parameters.
        lr_scheduler: makes the learning-rate schedule. One with ``total_steps`` None gets the length of the whole
            training, in units of the interval.
        lr_scheduler_interval: whether the schedule moves every optimiser step or every epoch. ``ReduceLROnPlateau`` on
            a metric of the validation moves every epoch, since there is no new value in between.

    Attributes:
        family: what checkpoints are marked with, so that another family refuses them.
        monitored: the metric that a schedule watches unless it names one.
    """

    family: ClassVar[str]
    monitored: ClassVar[str] = "val/loss"

    def __init__(
        self,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None,
        lr_scheduler_interval: Literal["step", "epoch"],
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self._given: dict[str, Any] | None = None

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is made of: the trained parameters, in groups by weight decay."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over the trained parameters, and its schedule where there is one.

        Raises:
            ValueError: if the schedule's length is left to a training without end, or is less than the training; if
                optimiser or schedule cannot take a step.
        """
        optimizer = self.optimizer(self.parameter_groups())
        if self.lr_scheduler is None:
            self._given = given_options(optimizer, None)
            rehearse(self.optimizer, None, optimizer)
            return optimizer
        scheduler: Any = self.lr_scheduler(optimizer)
        monitor = getattr(scheduler, "monitor", self.monitored)  # read only of a schedule that watches something
        interval = self.lr_scheduler_interval
        if isinstance(scheduler, ReduceLROnPlateau) and not monitor.startswith("train/"):
            interval = "epoch"
        open_ended = getattr(scheduler, "total_steps", 0) is None
        warmup = scheduler.warmup_steps if isinstance(scheduler, WarmupConstant) else 0
        limited = isinstance(scheduler, OneCycleLR)  # which fails beyond its last step
        length = training_length(self.trainer, interval) if open_ended or warmup or limited else None
        if limited and (length is None or length > scheduler.total_steps):
            raise ValueError(
                f"lr_scheduler.total_steps={scheduler.total_steps}: the training has {length or 'no end, in'} "
                f"{interval}s; give as many, or another schedule"
            )
        if open_ended and length is None:
            raise ValueError(
                "total_steps=None: the whole training, which has no end; give a number, or the training an end by "
                "max_epochs or max_steps"
            )
        if length is not None and warmup >= length + (not open_ended):
            rank_zero_info(
                f"warmup_steps={warmup}: the whole training has {length} {interval}{'' if length == 1 else 's'}, "
                "and the full learning rate is never reached; use a shorter warm-up, or train longer"
            )
        if open_ended:
            scheduler.total_steps = length
        self._given = given_options(optimizer, scheduler)
        rehearse(self.optimizer, self.lr_scheduler, optimizer, length if open_ended else None)
        schedule: Any = {"scheduler": scheduler, "interval": interval, "monitor": monitor}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @staticmethod
    def weighted(loss: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """A mean over this process's samples, as its part in the mean over the samples of all processes.

        Args:
            loss: the mean over the batch.
            batch: with "share" where it is not 1: its size times the number of processes, over that of all of them; a
                number, or a scalar tensor, which is not read on the host.
        """
        share: float | Tensor = batch.get("share", 1.0)
        return loss if not isinstance(share, Tensor) and share == 1.0 else loss * share

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Marks the checkpoint with its family, and with the options that its optimiser and schedule were made with."""
        checkpoint.setdefault("dinopl", {})["family"] = self.family
        if self._given is not None:
            checkpoint["dinopl"]["optimizer"] = self._given

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a checkpoint of the same family, or one that another project wrote.

        A training that goes on has the checkpoint's state of optimiser and schedule, and its own options of them.

        Raises:
            ValueError: if it is another family's, or of another optimiser.
        """
        ours = checkpoint.get("dinopl") or {}
        found = ours.get("family")
        if found not in (None, self.family):
            raise ValueError(f"ckpt_path: a checkpoint of {found}, and the model is {self.family}; give one of that")
        if self._trainer is not None and self._trainer.training and checkpoint.get("optimizer_states"):
            optimizer = self.optimizer(self.parameter_groups())
            scheduler = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
            follow_given(checkpoint, ours.get("optimizer"), optimizer, scheduler)
