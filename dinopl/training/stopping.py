"""A run that is asked to stop does so after the batch in hand, and leaves a checkpoint that it goes on from exactly.

What differs from Lightning: SIGTERM saves before it ends the run, and SIGHUP does the same; nothing is saved, and no
other process is spoken to, within a signal handler, which runs in the middle of a step; and under SLURM the checkpoint
of a job that is put back into the queue lies in the run's own folder. Lightning keeps it in ``default_root_dir``, and
starts every other job from there that has the same one (Lightning#12369, #13773, #16639, #20347).
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dinopl.training.run_folder import RunFolder, folder_of


class Stopped(SIGTERMException):
    """The run was asked to stop by a signal, and has.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)  # the exit code of a shell for what a signal has ended
        self.signum = signum


def slurm_job() -> str | None:
    """The id of the SLURM job that this process is of, with its index in an array; None outside of any."""
    job, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{index}" if job and index else os.environ.get("SLURM_JOB_ID", "")
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return name if re.fullmatch(r"\d+(_\d+)?", name) and not interactive else None


def ignore_checkpoints_of_other_jobs(trainer: Trainer) -> None:
    """Keeps a trainer from starting with whatever ``hpc_ckpt_N.ckpt`` lies in its ``default_root_dir`` under SLURM."""

    class Own(_CheckpointConnector):
        _hpc_resume_path = None

    trainer._checkpoint_connector = Own(trainer)


class GracefulStop(Callback):
    """Ends a run on SIGTERM, SIGHUP, and under SLURM on SIGUSR1, with ``checkpoints/last.ckpt`` in the run's folder.

    During training the batch in hand is finished first; a validation is left after its batch, and a resumed run starts
    it anew. With several processes all stop after the same batch, whichever of them got the signal, and a validation is
    finished. A second signal does not wait. Where there is nothing to finish, as in a test, the run ends at once. Then
    ``Stopped`` is raised, from which the command makes the exit code: 143 after SIGTERM, 129 after SIGHUP, 138 after a
    SIGUSR1 that put the job back into the queue. Where that fails, the run goes on.

    List it after all callbacks that change with a batch. A trainer without checkpoint callbacks saves nothing. SIGHUP
    stays ignored where it is, as under ``nohup``. An end of another process of the run raises ``ProcessDied``.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._training = False
        self._before: dict[int, Any] = {}
        self._group: Any = None
        self._others: list[Any] = []
        self.requeue_signal: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the place of Lightning's handlers, until Lightning would have taken its own back."""
        self._asked, self._training, self._group = 0, False, None
        if trainer.world_size > 1:  # flags go through memory, so that no GPU is waited for
            own = torch.distributed.get_backend() != "gloo"
            self._group = torch.distributed.new_group(backend="gloo") if own else None
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
            self._others = getattr(trainer.strategy.launcher, "procs", [])
            watch_processes(trainer)
        if threading.current_thread() is not threading.main_thread():
            return
        environment: Any = trainer._accelerator_connector.cluster_environment
        signals = [signal.SIGTERM]
        if os.name == "posix" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        self.requeue_signal = None
        if slurm_job() and getattr(environment, "auto_requeue", True):
            known = environment.requeue_signal if isinstance(environment, SLURMEnvironment) else None
            self.requeue_signal = known or signal.SIGUSR1
            signals.append(self.requeue_signal)
        self._before = {signum: signal.getsignal(signum) for signum in signals}
        for signum in signals:
            signal.signal(signum, self.ask)
        connector = trainer._signal_connector
        connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        connector.teardown = self.release  # type: ignore[method-assign]

    def ask(self, signum: int, frame: Any) -> None:
        """The handler: notes the signal while a batch is in hand, and stops at once otherwise."""
        if self._training and not self._asked:
            self._asked = signum
        elif not self._asked or signum != self.requeue_signal:
            for process in self._others:
                process.send_signal(signum)
            self.release()
            raise Stopped(signum)

    def release(self) -> None:
        """Gives the signals back to who had them."""
        before, self._before = self._before, {}
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, a signal waits for the batch."""
        self._training = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stops if asked to; checkpoint callbacks come after this one."""
        asked = self._asked
        if trainer.world_size > 1:
            flag = torch.tensor(asked)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
            asked = int(flag)
        if asked:
            self.stop(trainer, asked)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stops if asked to, in one process; several need not have equally many batches here."""
        if self._asked and trainer.world_size == 1 and trainer.state.fn == TrainerFn.FITTING:
            self.stop(trainer, self._asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was asked to stop after its last batch has nothing left to save."""
        self._training = False
        if self._asked:
            raise Stopped(self._asked)

    def stop(self, trainer: Trainer, signum: int) -> None:
        """Saves, and ends the run or, where the job cannot be put back into the queue, does not.

        Raises:
            Stopped: to end it.
        """
        folder = folder_of(trainer)
        if folder is not None and trainer.checkpoint_callbacks:
            trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
        if signum == self.requeue_signal:
            done = False
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which SLURM sends to a job that goes back into the queue
            if trainer.is_global_zero:
                with contextlib.suppress(OSError):
                    done = subprocess.run(["scontrol", "requeue", slurm_job() or ""], check=False).returncode == 0
            if not trainer.strategy.broadcast(done):
                rank_zero_warn("the job could not be put back into the queue by scontrol; its run goes on")
                signal.signal(signal.SIGTERM, self.ask)
                self._asked = 0
                return
        self._training = False
        raise Stopped(signum)


def death_of_another(trainer: Trainer, seconds: float = 0.0) -> str | None:
    """How another process of this machine's part of a run has ended before its time; None if none has.

    Args:
        trainer: of the run.
        seconds: how long to wait for one to end.
    """
    processes = getattr(trainer.strategy.launcher, "procs", [])
    deadline = time.monotonic() + seconds
    while True:
        for number, process in enumerate(processes, 1):
            if code := process.poll():
                how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"
                return f"process {number} of {trainer.world_size} has ended with {how}"
        if trainer.local_rank and _PARENT and os.getppid() != _PARENT[0]:
            return f"the first of {trainer.world_size} processes has ended"
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.1)


# The process that started this one, as it was when the run was set up: the first one, or a launcher.
_PARENT: list[int] = []


def watch_processes(trainer: Trainer, patience: float = 10.0) -> None:
    """Lets a run end when one of its processes on this machine has died, for which the others may wait for ever.

    Lightning 2.6 kills the first process then, which leaves no word and no status, and no process watches the first
    one. Here all have some time to end by themselves, as most do by the error that the lost connection raises.

    Args:
        trainer: of the run.
        patience: that time, in seconds.
    """
    threads = {thread.name: thread for thread in threading.enumerate()}
    if "process-watch" in threads:
        return
    _PARENT[:] = [os.getppid()]
    if observer := threads.get("child-process-observer"):
        observer._run = lambda: True  # type: ignore[attr-defined]

    def watch() -> None:
        while (how := death_of_another(trainer, 1.0)) is None:
            pass
        time.sleep(patience)
        for run in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(run, RunFolder):
                run.record_failure()
        if trainer.global_rank == 0:
            sys.stderr.write(f"dinopl: error: {how}\n")
        for process in getattr(trainer.strategy.launcher, "procs", []):
            process.kill()
        os._exit(1)

    threading.Thread(target=watch, name="process-watch", daemon=True).start()
