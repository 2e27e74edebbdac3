"""Stops a run whose loss is no longer finite, before the optimiser moves.

Lightning trains on with a NaN loss to the last epoch, overwrites the last good checkpoint, and ends with exit code 0.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from dinopl.core.errors import DivergenceError

REMEDY = "lower the learning rate, clip gradients (gradient_clip_val) or raise the precision (32-true)"


def not_finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are NaN or infinite, with their values."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if not math.isfinite(value)}


def poisoned(state: Mapping[str, Any], parameters: Iterable[str]) -> list[str]:
    """Names of the tensors of a state that a run cannot recover from.

    NaN is poison anywhere, infinity in a parameter only: buffers such as attention masks hold it on purpose.

    Args:
        state: a ``state_dict``; what is not a floating-point tensor is passed over.
        parameters: names of the entries that are parameters.
    """
    parameters = set(parameters)
    floats = {name: x for name, x in state.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return [name for name, x in floats.items() if bool((~x.isfinite() if name in parameters else x.isnan()).any())]


class FiniteGuard(Callback):
    """Raises ``DivergenceError`` before an optimiser step whose loss is not finite.

    The loss is checked once per optimiser step, after the backward pass: with gradient accumulation the losses of all
    micro-batches together. This costs one read from the device per step, and with several processes the reduction of a
    flag, so that all of them stop. Independently of it no checkpoint is written that holds NaN, or infinite parameters:
    the last good one stays, also where ``every_n_steps`` let a few steps pass, and a diverged run saves nothing on its
    way out. (A ``ModelCheckpoint(save_weights_only=True)`` calls no callback, and saves anything.) With fp16 and a
    gradient scaler, gradients are not checked: there they overflow now and then, by design.

    Args:
        every_n_steps: check every n-th optimiser step only.
        check_gradients: check the norm of the gradient too; finds a finite loss with a NaN gradient one step earlier.

    Raises:
        ValueError: if ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 1, check_gradients: bool = False) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: must be at least 1, which checks every step")
        self.every_n_steps = every_n_steps
        self.check_gradients = check_gradients
        self._loss: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets what an aborted run left."""
        self._loss = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keeps the sum over micro-batches: it is finite only if each of them is. Nothing is read from the device."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the loss that was kept, and the gradient if asked to."""
        loss, self._loss = self._loss, None
        if trainer.global_step % self.every_n_steps:
            return
        seen = {} if loss is None else {"loss": loss}
        if self.check_gradients and trainer.scaler is None:
            seen["gradient norm"] = gradient_norm(optimizer)
        found = not_finite(seen)
        if trainer.strategy.reduce_boolean_decision(bool(found), all=False):
            cause = ", ".join(f"{name} is {value}" for name, value in found.items())
            cause = cause or "another process's loss is not finite"
            terms = ", ".join(f"{name}={value}" for name, value in not_finite(trainer.callback_metrics).items())
            logged = f"; logged: {terms}" if terms else ""
            rates = {float(group["lr"]) for each in trainer.optimizers for group in each.param_groups}
            rate = ", ".join(f"{rate:g}" for rate in sorted(rates))
            place = f"step {trainer.global_step} (epoch {trainer.current_epoch})"
            raise DivergenceError(
                f"{place}: {cause}{logged}; learning rate {rate}. Stopped before the optimiser moved: {REMEDY}"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuses a poisoned state, so that the checkpoint before it stays."""
        names = poisoned(checkpoint["state_dict"], (name for name, _ in pl_module.named_parameters()))
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            place = f"step {trainer.global_step} (epoch {trainer.current_epoch})"
            raise DivergenceError(f"{place}: not finite: {shown or 'the state'}. No checkpoint was written: {REMEDY}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keeps checkpoint callbacks from saving a diverged run on its way out."""
        if isinstance(exception, FloatingPointError):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    callback.save_on_exception = False


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Norm of the gradient over all parameters of an optimiser, a scalar; NaN or infinite if any entry is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
