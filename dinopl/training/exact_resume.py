"""Random states in checkpoints: a resumed run draws the numbers that it would have drawn.

Lightning's checkpoints hold weights, optimisers, schedules and counters, but no random state; a run resumed from one
drops other units, shuffles otherwise, and ends elsewhere.
"""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

KEY = "random_states"


def random_states(device: torch.device) -> dict[str, Any]:
    """State of every generator that a training step may draw from, as plain values and tensors.

    Args:
        device: of the training; the state of its own generator is included if it is a CUDA device.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Puts every generator back to where ``random_states`` found it.

    Args:
        states: what ``random_states`` gave.
        device: of the training.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


class ExactResume(Callback):
    """Stores the random states of every process in each checkpoint and takes them up again when a fit resumes.

    Covered: a run resumed from a checkpoint of an epoch's end, with as many processes as before; on one CPU bit for
    bit (Python, NumPy, torch; CUDA's states are restored too, but its kernels need not be deterministic). The order of
    samples is covered where the sampler draws from torch's global generator, as ``RandomSampler`` does, or depends on
    seed and epoch alone; loader workers are, as far as their seeds come from that generator.

    Not covered: the order of samples in a checkpoint from the middle of an epoch, unless the loader itself resumes
    where it was; numbers that a module's ``on_fit_start`` or ``train_dataloader`` draw from the global generators;
    persistent workers; generators that a model owns.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._pending_before_loader = False
        self._epoch_over = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a fit that never started was to take up."""
        self._pending = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds ``"random_states"``: one entry a process, and whether the epoch was over."""
        states = [random_states(trainer.strategy.root_device)]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        checkpoint[KEY] = {"epoch_over": self._epoch_over, "processes": states}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps this process's entry for the start of the fit, after everything that still draws numbers by then."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        saved = checkpoint.get(KEY, {"epoch_over": True, "processes": []})
        found = len(saved["processes"])
        if found != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint holds random states of {found} processes and this run has {trainer.world_size}: "
                "it resumes with other random numbers"
            )
            return
        self._pending, self._pending_before_loader = saved["processes"][trainer.global_rank], saved["epoch_over"]
        if trainer.strategy.restore_checkpoint_after_setup:  # then on_fit_start has passed
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up the states of an epoch's end: the next number drawn is the one of the new loader iterator."""
        if self._pending_before_loader:
            self._restore(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up other states: when they were saved, the loader iterator had drawn its numbers already."""
        self._epoch_over = False
        self._restore(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that a checkpoint is from inside an epoch from now on."""
        self._epoch_over = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that it is from an epoch's end; checkpoint callbacks come after this one."""
        self._epoch_over = True

    def _restore(self, trainer: Trainer) -> None:
        states, self._pending = self._pending, None
        if states is not None:
            restore_random_states(states, trainer.strategy.root_device)
