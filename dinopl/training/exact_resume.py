"""Exact resumption: a resumed run draws the numbers and sees the batches that it would have, wherever it stopped.

Lightning's checkpoints hold no random state and no accumulated gradients; a run resumed from one drops other units,
shuffles otherwise, and ends elsewhere. And a training loader that is set up before the checkpoint's loops are restored
never gets its state: the first batches of the epoch come once more.
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

    A checkpoint from the middle of an accumulation also holds the gradients so far. And a training loader that was set
    up early is set up again, with its state.

    Covered: a run resumed with as many processes as before; on the CPU bit for bit, on CUDA as far as kernels are
    deterministic. At an epoch's end the order of samples must come from torch's global generator, as that of
    ``RandomSampler`` does, or from seed and epoch alone, and the seeds of loader workers from that generator. In the
    middle of an epoch the loader must have ``state_dict`` and ``load_state_dict``, as all of ours have.

    Not covered: other loaders in the middle of an epoch, of which Lightning warns; a checkpoint saved between a batch
    and the validation that follows it, since Lightning leaves out that validation and, at an epoch's last batch, the
    end of the epoch; numbers that a module's ``on_fit_start`` or ``train_dataloader`` draw from the global generators;
    persistent workers; generators that a model owns; gradients that a strategy shards.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._pending_before_loader = False
        self._gradients: dict[str, Tensor] = {}
        self._watched: dict[str, Tensor] = {}
        self._owed = False
        self._epoch_over = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a fit that never started was to take up."""
        self._pending, self._gradients, self._watched, self._owed = None, {}, {}, False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds ``"random_states"``: one entry a process, and whether the epoch was over."""
        own = random_states(trainer.strategy.root_device)
        if not self._epoch_over and accumulating(trainer):
            parameters = pl_module.named_parameters()
            own["gradients"] = {name: p.grad.detach().cpu() for name, p in parameters if p.grad is not None}
        states = [own]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, own)
            states = gathered
        checkpoint[KEY] = {"epoch_over": self._epoch_over, "processes": states, **_watched(trainer)}

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up other states: when they were saved, the loader iterator had drawn its numbers already."""
        self._epoch_over = False
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

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that a checkpoint is from inside an epoch from now on."""
        self._epoch_over = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that it is from an epoch's end; checkpoint callbacks come after this one."""
        self._epoch_over = True
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
