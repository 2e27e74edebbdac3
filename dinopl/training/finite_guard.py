"""Stops a run whose loss is no longer finite before anything of it is saved, or leaves out the step.

On a CPU, and wherever steps may be left out, it stops before the optimiser moves. On a GPU it otherwise looks at the
loss ``LAG`` steps later, when the optimiser has moved up to that many times.

Lightning trains on with a NaN loss to the last epoch, overwrites the last good checkpoint, and ends with exit code 0.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
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


def first_names(names: Sequence[str]) -> str:
    """The first three of some names, and how many more there are; empty without any."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


LAG = 4  # steps by which the host looks at a GPU's losses later, so that it never waits for the step in hand


def delay_on(device: torch.device) -> int:
    """By how many steps a loss on ``device`` is looked at later: none on a CPU, where looking costs nothing."""
    return LAG if device.type == "cuda" else 0


def to_host(values: Tensor) -> Callable[[], Tensor]:
    """Starts copying ``values`` from a GPU, and returns what waits for the copy; nothing waits before."""
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait


class FiniteGuard(Callback):
    """Raises ``DivergenceError`` once a step's loss is not finite, or leaves out the step.

    On a CPU, or with ``max_skipped``, that is before the optimiser moves; on a GPU without it up to four steps later.
    The loss is checked once per optimiser step, after the backward pass: with gradient accumulation the losses of all
    micro-batches together. With several processes a flag is reduced, so that all of them stop. On a GPU the host does
    not wait for the loss: it looks at it four steps later, when it has long arrived, and before every validation, end
    of an epoch and checkpoint; so what a diverging run does in these steps is not scored and not saved. Independently
    of it no checkpoint is written that holds NaN, or infinite parameters: the last good one stays, also where
    ``every_n_steps`` let a few steps pass, and a diverged run saves nothing on its way out. (A
    ``ModelCheckpoint(save_weights_only=True)`` calls no callback, and saves anything.) With fp16 and a gradient scaler,
    gradients are not checked: there they overflow now and then, by design. Weights that are not finite are neither
    validated nor tested nor used to predict: ``DivergenceError`` names them.

    Args:
        every_n_steps: check every n-th optimiser step only.
        check_gradients: check the norm of the gradient too; finds a finite loss with a NaN gradient one step earlier.
        max_skipped: leave out so many steps of a training whose loss is not finite, and stop at the next one; the
            parameters and the optimiser's state stay as they were. On a GPU the host then waits for each step.

    Raises:
        ValueError: if ``every_n_steps`` is below 1, or ``max_skipped`` below 0, or some are to be skipped while not
            every step is checked.
    """

    def __init__(self, every_n_steps: int = 1, check_gradients: bool = False, max_skipped: int = 0) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: must be at least 1, which checks every step")
        if max_skipped < 0 or (max_skipped and every_n_steps > 1):
            raise ValueError(f"max_skipped={max_skipped}: must be at least 0, and 0 where not every step is checked")
        self.every_n_steps = every_n_steps
        self.check_gradients = check_gradients
        self.max_skipped = max_skipped
        self.skipped = 0
        self._loss: Tensor | None = None
        self._late: deque[tuple[str, list[str], Callable[[], Tensor]]] = deque()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts skipped steps from 0, unless a checkpoint is resumed."""
        if stage == "fit":
            self.skipped = 0

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out, where any were."""
        return {"skipped": self.skipped} if self.skipped else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.skipped = int(state_dict["skipped"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets what an aborted run left."""
        self._loss = None
        self._late.clear()

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
        place = f"step {trainer.global_step} (epoch {trainer.current_epoch})"
        delay = delay_on(trainer.strategy.root_device)
        if delay and not self.max_skipped:
            values = torch.stack([value.float() for value in seen.values()])
            if trainer.world_size > 1:  # on the device, in the order of its other work: every process stops at one step
                bad = (~values.isfinite()).any().float()
                torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
                values = torch.cat([values, torch.where(bad > 0, math.nan, 0.0)[None]])
            self._late.append((place, list(seen), to_host(values)))
            self.look(trainer, delay)
            return
        found = not_finite(seen)
        if not trainer.strategy.reduce_boolean_decision(bool(found), all=False):
            return
        if self.skipped == self.max_skipped:
            self.refuse(trainer, place, found, "before the optimiser moved")
        self.skipped += 1
        names = poisoned(pl_module.state_dict(), (name for name, _ in pl_module.named_parameters()))
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            self.refuse(trainer, place, found, f"as the step cannot be left out: {first_names(names)} is not finite")
        if trainer.scaler is None:  # a scaler leaves out by itself what is not finite
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # a step without a gradient leaves a parameter and its state alone
        cause = ", ".join(f"{name} is {value}" for name, value in found.items()) or "another process's loss"
        rank_zero_warn(f"{place}: {cause}; the step is left out ({self.skipped} of {self.max_skipped})")

    def look(self, trainer: Trainer, youngest: int = 0) -> None:
        """Looks at the losses of a GPU that are at least ``youngest`` steps old.

        Raises:
            DivergenceError: if one is not finite.
        """
        while len(self._late) > youngest:
            place, names, wait = self._late.popleft()
            values = wait()
            if not bool(values.isfinite().all()):
                self._late.clear()
                found = not_finite(dict(zip(names, values, strict=False)))
                self.refuse(trainer, place, found, f"at step {trainer.global_step}, and nothing was saved since")

    def refuse(self, trainer: Trainer, place: str, found: Mapping[str, float], when: str) -> None:
        """Raises a ``DivergenceError`` that says where, what was found, what was logged, and what to do."""
        cause = ", ".join(f"{name} is {value}" for name, value in found.items())
        cause = cause or "another process's loss is not finite"
        terms = ", ".join(f"{name}={value}" for name, value in not_finite(trainer.callback_metrics).items())
        logged = f"; logged: {terms}" if terms else ""
        rates = {float(group["lr"]) for each in trainer.optimizers for group in each.param_groups}
        rate = ", ".join(f"{rate:g}" for rate in sorted(rates))
        left_out = f" {self.skipped} steps were left out before." if self.skipped else ""
        raise DivergenceError(f"{place}: {cause}{logged}; learning rate {rate}. Stopped {when}: {REMEDY}{left_out}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at what has not been looked at; outside of a fit, at the weights."""
        self.look(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            return
        if names := poisoned(pl_module.state_dict(), (name for name, _ in pl_module.named_parameters())):
            shown = first_names(names)
            raise DivergenceError(f"not finite: {shown}. Such weights answer nothing; use an earlier checkpoint")

    on_test_start = on_predict_start = on_validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at what has not been looked at."""
        self.look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuses a poisoned state, so that the checkpoint before it stays."""
        self.look(trainer)
        names = poisoned(checkpoint["state_dict"], (name for name, _ in pl_module.named_parameters()))
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            shown = first_names(names)
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
