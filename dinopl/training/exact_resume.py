"""Exact resumption: a resumed run draws the numbers and sees the batches that it would have, wherever it stopped.

Lightning's checkpoints hold no random state and no accumulated gradients; a run resumed from one drops other units,
shuffles otherwise, and ends elsewhere. A training loader that is set up before the checkpoint's loops are restored
never gets its state: the first batches of the epoch come once more. And from a checkpoint that was saved after a batch,
Lightning goes on with the next one: what was still to come of that batch is lost, which is its row of metrics, the
validation that follows it and, at an epoch's last batch, the end of the epoch.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from dinopl.core.optimizer import forget_training_loader

KEY = "random_states"


def random_states(device: torch.device) -> dict[str, Any]:
    """State of every generator that a training step on ``device`` may draw from, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Puts every generator back to the ``states`` that ``random_states`` gave."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


class ExactResume(Callback):
    """Stores the random states of every process in each checkpoint and takes them up again when a fit resumes.

    A checkpoint from the middle of an accumulation also holds the gradients so far. A training loader that was set up
    early is set up again, with its state. What was to come of the batch after which the checkpoint was saved comes
    first; a validation in which it was saved starts anew, with the numbers that it began with.

    Covered: a run resumed with as many processes as before; on the CPU bit for bit, on CUDA as far as kernels are
    deterministic. At an epoch's end the order of samples must come from torch's global generator, as that of
    ``RandomSampler`` does, or from seed and epoch alone, and the seeds of loader workers from that generator. In the
    middle of an epoch the loader must have ``state_dict`` and ``load_state_dict``, as all of ours have.

    Not covered: other loaders in the middle of an epoch, of which Lightning warns; means over an epoch of what a
    module logs in each training step (``on_epoch=True``), where the epoch is resumed within; numbers that a module's
    ``on_fit_start`` or ``train_dataloader`` draw from the global generators; persistent workers; generators that a
    model owns; gradients that a strategy shards.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._pending_before_loader = False
        self._gradients: dict[str, Tensor] = {}
        self._watched: dict[str, Tensor] = {}
        self._owed = False
        self._epoch_over = True
        self._place: str | None = None
        self._row: dict[str, float] = {}
        self._before_validation: dict[str, Any] | None = None
        self._extended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a fit that never started was to take up."""
        self._pending, self._gradients, self._watched, self._owed = None, {}, {}, False
        self._place, self._row, self._before_validation, self._extended = None, {}, None, False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds ``"random_states"``: one entry a process, and what of epoch, validation and batch was over."""
        loop: Any = trainer.fit_loop.epoch_loop
        own = dict(self._before_validation or random_states(trainer.strategy.root_device))
        if not self._epoch_over and accumulating(trainer):
            parameters = pl_module.named_parameters()
            own["gradients"] = {name: p.grad.detach().cpu() for name, p in parameters if p.grad is not None}
        states = [own]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, own)
            states = gathered
        checkpoint[KEY] = {"epoch_over": self._epoch_over, "processes": states, **_watched(trainer)}
        progress, connector = loop.batch_progress.current, trainer._logger_connector
        if self._before_validation is not None:
            checkpoint[KEY]["place"] = "validation"
        elif trainer.validating:
            checkpoint[KEY]["place"] = "validated"
        elif progress.processed > progress.completed:
            checkpoint[KEY]["place"] = "batch"
            if connector.should_update_logs and not accumulating(trainer):
                checkpoint[KEY]["row"] = {name: float(value) for name, value in connector.metrics["log"].items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps this process's entry for the start of the fit, after everything that still draws numbers by then."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for (
            stopper
        ) in trainer.early_stopping_callbacks:  # whose state holds an option, which would win over the one given
            if state := checkpoint.get("callbacks", {}).get(stopper.state_key):
                state["patience"] = stopper.patience
        saved = checkpoint.get(KEY, {"epoch_over": True, "processes": []})
        found = len(saved["processes"])
        if found != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint holds random states of {found} processes and this run has {trainer.world_size}: "
                "it resumes with other random numbers"
            )
            return
        self._watched, self._owed = saved.get("watched", {}), saved.get("owed", False)
        self._place, self._row = saved.get("place"), saved.get("row", {})
        self._extended = self._place is not None and checkpoint.get("global_step") == trainer.max_steps
        own = saved["processes"][trainer.global_rank]
        self._gradients = own.get("gradients", {})
        self._pending, self._pending_before_loader = own, saved["epoch_over"]
        if trainer.strategy.restore_checkpoint_after_setup:  # then on_fit_start has passed
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up the states of an epoch's end: the next number drawn is the one of the new loader iterator."""
        if trainer.ckpt_path is not None:
            forget_training_loader(trainer)
        if self._pending_before_loader:
            self._restore(trainer)
        if self._extended:  # or else the loop of epochs does not begin, and what is left of the last batch is lost
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up other states: when they were saved, the loader iterator had drawn its numbers already."""
        self._epoch_over = False
        fit: Any = trainer.fit_loop
        over = self._pending is not None and self._pending_before_loader
        if trainer.fit_loop._combined_loader_states_to_load:  # set up early by what came after this callback
            forget_training_loader(trainer)
            if self._pending_before_loader:
                self._restore(trainer)
            trainer.fit_loop.setup_data()
        if not self._pending_before_loader:
            self._restore(trainer)
        self._pending = None
        if self._owed:
            self._step_watching(_watching(trainer), self._watched)
        gradients, self._gradients = self._gradients, {}
        for name, parameter in pl_module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)
        if self._place is not None:
            self.finish_batch(trainer)
        elif fit.restarting and over:
            # With a limit of steps, Lightning 2.6 takes an epoch that is over for one that was interrupted at its end.
            fit.epoch_progress.increment_completed()
            fit._restarting, fit._restart_stage = False, "resumed_on_epoch_end"
            fit.epoch_loop.restarting, fit.epoch_loop._restart_stage = False, "none"

    def finish_batch(self, trainer: Trainer) -> None:
        """Goes back to where the checkpoint was saved in its batch, and logs the batch's row.

        Lightning 2.6 counts the batch as done on loading (``_TrainingEpochLoop.reset``), with its epoch where it is the
        last one (``FitLoop.reset``), and runs no validation but one that it takes for interrupted (``advance``).
        """
        fit: Any = trainer.fit_loop
        loop = fit.epoch_loop
        validation, batch = loop.val_loop, loop.batch_progress
        place, self._place, row, self._row = self._place, None, self._row, {}
        due = place != "validated" and loop._should_check_val_fx(fit._data_fetcher)
        ends = self._extended or batch.is_last_batch or batch.current.processed >= trainer.num_training_batches
        if place == "batch" and batch.is_last_batch and fit.restarted_mid_epoch:
            for epochs in (fit.epoch_progress.total, fit.epoch_progress.current):
                epochs.processed -= 1
                epochs.completed -= 1
        if row:
            trainer._logger_connector.log_metrics(row)  # type: ignore[arg-type]  # of numbers, which it makes of tensors
        if not (due or ends) or (place == "validated" and not self._extended):
            return
        if place == "batch":
            batch.increment_completed()
            loop._restart_stage = "restarted_on_last"
        if due:
            if place == "validation":  # which starts anew
                for count in ("ready", "started", "processed", "completed"):
                    begun = getattr(validation.batch_progress.current, count)
                    setattr(
                        validation.batch_progress.total, count, getattr(validation.batch_progress.total, count) - begun
                    )
            validation._restarting = False
            validation._restart_stage = "restarted_mid_evaluation"
        else:  # the epoch's end is next: no batch is left
            validation._has_run, batch.is_last_batch = True, True
            loop._batches_that_stepped += not accumulating(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the random states, for a checkpoint that is saved within this validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._before_validation = random_states(trainer.strategy.root_device)
            self._shorten(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets them; checkpoint callbacks come after this one."""
        self._before_validation = None

    def _shorten(self, trainer: Trainer) -> None:
        if self._extended:
            trainer.fit_loop.epoch_loop.max_steps -= 1
        self._extended = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that a checkpoint is from inside an epoch from now on."""
        self._epoch_over = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that it is from an epoch's end; checkpoint callbacks come after this one."""
        self._epoch_over = True
        self._shorten(trainer)
        if trainer.fit_loop.epoch_loop.restarting:  # no batch was left of the epoch
            trainer.fit_loop.epoch_loop.restarting = False
        if trainer.fit_loop.restarting:  # Lightning leaves those out that watch a metric, in the epoch resumed in
            due = _watching(trainer, trainer.current_epoch)
            self._step_watching(due, self._watched | trainer.callback_metrics)

    def _step_watching(self, schedules: list[Any], metrics: Mapping[str, Tensor]) -> None:
        for config in schedules:
            if config.monitor in metrics:
                config.scheduler.step(metrics[config.monitor])
        self._watched, self._owed = {}, False

    def _restore(self, trainer: Trainer) -> None:
        if self._pending is not None:
            restore_random_states(self._pending, trainer.strategy.root_device)


def _watching(trainer: Trainer, epoch: int | None = None) -> list[Any]:
    """Schedules that move by a metric at the end of ``epoch``, or of some epochs."""
    found = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau and c.interval == "epoch"]
    return [c for c in found if epoch is None or (epoch + 1) % c.frequency == 0]


def _watched(trainer: Trainer) -> dict[str, Any]:
    """The metrics that such schedules will get, as far as they are known, and whether the epoch is over without it."""
    names = {config.monitor for config in _watching(trainer, trainer.current_epoch)} & trainer.callback_metrics.keys()
    progress: Any = trainer.fit_loop.epoch_progress.current
    return {
        "watched": {name: trainer.callback_metrics[name].detach().cpu() for name in names},
        "owed": progress.processed > progress.completed,
    }


def accumulating(trainer: Trainer) -> bool:
    """Whether the last batch's gradients wait for those of the next."""
    loop: Any = trainer.fit_loop.epoch_loop
    return bool(loop._should_accumulate())
