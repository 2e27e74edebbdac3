"""A progress bar whose refresh follows the clock, and that prints plain lines where there is no terminal."""

import math
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

PLAIN_SECONDS = 30.0


class RunProgress(TQDMProgressBar):
    """Lightning's bar, drawn a few times a second instead of at every step, with the time left of the whole training.

    Away from a terminal (a log file, a pipe, a batch job) a bar is a mess of carriage returns: there it prints one line
    an epoch, and within long epochs one every half minute.

    Args:
        seconds: shortest time between two drawings.
        plain: print lines instead of a bar; None does so where standard output is no terminal.

    Raises:
        ValueError: if ``seconds`` is negative.
    """

    def __init__(self, seconds: float = 0.2, plain: bool | None = None) -> None:
        super().__init__(refresh_rate=1)
        if seconds < 0:
            raise ValueError(f"seconds={seconds}: must be at least 0, which draws every step")
        self.plain = not sys.stdout.isatty() if plain is None else plain
        self._seconds = PLAIN_SECONDS if self.plain else seconds
        self._drawn = time.monotonic()
        self._began: tuple[float, int] | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether a bar is drawn."""
        return super().is_enabled and not self.plain

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What is logged for the bar, and in training the time that is left of it."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.training and (left := self.seconds_left(trainer)) is not None:
            metrics["left"] = str(timedelta(seconds=round(left)))
        return metrics

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Time for the remaining steps, at the pace since training began, all pauses included; None if unbounded."""
        if self._began is None:
            return None
        began, first = self._began
        taken, total = trainer.global_step - first, trainer.estimated_stepping_batches
        if taken < 1 or math.isinf(total):
            return None
        return (time.monotonic() - began) / taken * max(0, total - trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the clock of an earlier training."""
        super().on_train_start(trainer, pl_module)
        self._began = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the estimate, just before the first step."""
        super().on_train_epoch_start(trainer, pl_module)
        self._began = self._began or (time.monotonic(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws if it is time, and at the end of the epoch."""
        due = self._due()
        if self.plain and due:
            self._print_line(trainer, pl_module, f"step {batch_idx + 1}/{self.total_train_batches}")
        elif due or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draws if it is time, and the last batch."""
        if self._due() or args[3] + 1 == self.val_progress_bar.total:
            super().on_validation_batch_end(trainer, *args, **kwargs)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draws if it is time, and the last batch."""
        if self._due() or args[3] + 1 == self.test_progress_bar.total:
            super().on_test_batch_end(trainer, *args, **kwargs)

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draws if it is time, and the last batch."""
        if self._due() or args[3] + 1 == self.predict_progress_bar.total:
            super().on_predict_batch_end(trainer, *args, **kwargs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the epoch's metrics."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.plain:
            self._print_line(trainer, pl_module, "done")

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._drawn < self._seconds:
            return False
        self._drawn = now
        return True

    def _print_line(self, trainer: Trainer, pl_module: LightningModule, place: str) -> None:
        if trainer.is_global_zero:
            metrics = self.get_metrics(trainer, pl_module).items()
            shown = [
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics
            ]
            bound = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
            print("  ".join([f"epoch {trainer.current_epoch + 1}{bound}", place, *shown]), flush=True)
