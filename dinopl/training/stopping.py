"""A run that is asked to stop does so after the batch in hand, and leaves a checkpoint that it goes on from exactly.

What differs from Lightning: SIGTERM saves before it ends the run, and SIGHUP does the same; a signal handler, which
runs in the middle of a step, neither saves nor communicates with other processes; and under SLURM the checkpoint of a
job that is put back into the queue lies in the run's own folder. Lightning keeps it in ``default_root_dir``, and starts
every other job from there that has the same one (Lightning#12369, #13773, #16639, #20347).
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

import lightning
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
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


# Every private member of Lightning that this file uses, as found in Lightning 2.6.4 to 2.6.6, each with the reason why
# nothing public serves. All are reached through ``private``, which refuses another Lightning that has them no more.
PRIVATE = {
    "_checkpoint_connector._hpc_resume_path": "under SLURM, decides alone whether ckpt_path=None is another job's file",
    "_accelerator_connector.cluster_environment": "strategies of one device do not hand on what the user configured",
    "_signal_connector.register_signal_handlers": "comes after every `setup`, and would replace our handlers",
    "_signal_connector.teardown": "ends each stage, also one that failed; no hook of callbacks does",
    "fit_loop.epoch_loop._broadcast_sigterm_tensor": "waits for the GPU in each step; no option leaves it out",
}


def private(trainer: Trainer, path: str) -> tuple[Any, str]:
    """The owner of a private member of Lightning's, and the member's name.

    Args:
        trainer: from which the path starts.
        path: a key of ``PRIVATE``.

    Raises:
        ValueError: if the installed Lightning has no such member.
    """
    *owners, name = path.split(".")
    owner: Any = trainer
    for each in owners:
        owner = getattr(owner, each, None)
    if not hasattr(type(owner), name) and name not in getattr(owner, "__dict__", {}):
        raise ValueError(
            f"lightning={lightning.__version__}: has no Trainer.{path}, without which a run cannot be stopped safely; "
            "install lightning 2.6"
        )
    return owner, name


def ignore_checkpoints_of_other_jobs(trainer: Trainer) -> None:
    """Keeps a trainer from starting with whatever ``hpc_ckpt_N.ckpt`` lies in its ``default_root_dir`` under SLURM."""
    connector, name = private(trainer, "_checkpoint_connector._hpc_resume_path")
    connector.__class__ = type("Own", (type(connector),), {name: None})  # a property, which an instance cannot replace


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
        self.parent: int | None = None
        self.requeue_signal: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Installs our handlers instead of Lightning's; restores the previous ones at teardown.

        Raises:
            ValueError: if the installed Lightning lacks a member of ``PRIVATE``.
        """
        self._asked, self._training, self._group = 0, False, None
        if trainer.world_size > 1:  # flags go through memory, so that no GPU is waited for
            own = torch.distributed.get_backend() != "gloo"
            self._group = torch.distributed.new_group(backend="gloo") if own else None
            setattr(*private(trainer, "fit_loop.epoch_loop._broadcast_sigterm_tensor"), lambda: None)
            # Which process started this one, the first one or a launcher; another one later means that it has ended.
            self.parent = self.parent or os.getppid()
            watch_processes(trainer)
            self._others = getattr(trainer.strategy.launcher, "procs", [])
        if threading.current_thread() is not threading.main_thread():
            return
        environment: Any = getattr(*private(trainer, "_accelerator_connector.cluster_environment"))
        replaced = [
            (private(trainer, "_signal_connector.register_signal_handlers"), lambda: None),
            (private(trainer, "_signal_connector.teardown"), self.release),
        ]
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
        for (connector, name), function in replaced:
            setattr(connector, name, function)

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
        """Restores the previous handlers."""
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
            trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=False)
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
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from outside
    parent = next((callback.parent for callback in callbacks if isinstance(callback, GracefulStop)), None)
    deadline = time.monotonic() + seconds
    while True:
        for number, process in enumerate(processes, 1):
            if code := process.poll():
                how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"
                return f"process {number} of {trainer.world_size} has ended with {how}"
        if trainer.local_rank and parent and os.getppid() != parent:
            return f"the first of {trainer.world_size} processes has ended"
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.1)


def watch_processes(trainer: Trainer, patience: float = 10.0) -> None:
    """Lets a run end when one of its processes on this machine has died, for which the others may wait for ever.

    Lightning 2.6 kills the first process then, without a message or a status, and no process watches the first one.
    Here all have some time to end by themselves, as most do by the error that the lost connection raises.

    Args:
        trainer: of the run.
        patience: that time, in seconds.
    """
    if "process-watch" in (thread.name for thread in threading.enumerate()):
        return
    launcher: Any = trainer.strategy.launcher
    if watched := getattr(launcher, "procs", None):
        launcher.procs = list(watched)
        watched.clear()  # the list of Lightning's own observer, which ends when it has no process to watch

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
