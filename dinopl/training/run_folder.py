"""One folder per run, whatever logger the user chose.

A folder ``<default_root_dir>/<name>/<time>-<random>`` holds ``config.yaml``, ``metrics.csv``, TensorBoard events,
``results.json`` and ``checkpoints/``. What differs from Lightning: the folder belongs to the run and not to a logger,
two runs never share one, and nothing is on the disk before every ``setup`` has passed: a mistake leaves nothing behind.
"""

import contextlib
import json
import os
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dinopl.core.files import cannot_write, replacing, why_not_writable
from dinopl.training.files import finite, make_checkpoints_atomic, one_line_errors, plain, versions
from dinopl.training.loggers import EventsFile, MetricsFile

JOB = "job.json"  # of a run under SLURM: whose folder it is, and the starts of the job that have written to it

Status = Literal["finished", "interrupted", "diverged", "failed"]


def status_of(exception: BaseException) -> Status:
    """How a run ended that raised ``exception``; a SIGTERM interrupts, as Ctrl-C does."""
    if isinstance(exception, KeyboardInterrupt | SIGTERMException):
        return "interrupted"
    return "diverged" if isinstance(exception, FloatingPointError) else "failed"


def choose_folder(root: str, name: str) -> Path:
    """A folder name that no other run has: the time for people, random bits against collisions.

    The bits come from the system and not from a seeded generator, so that two runs with one seed do not meet.

    Args:
        root: the Trainer's ``default_root_dir``.
        name: what the run is called.
    """
    return Path(root).absolute() / name / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


class RunFolder(Callback):
    """Gives a run its own folder and records the run in it.

    ``fit`` starts a new folder; ``validate``, ``test`` and ``predict`` of the same Trainer continue in it if the stage
    before finished, and have their own otherwise. A ``ModelCheckpoint`` without ``dirpath`` saves to ``checkpoints/``
    in the folder. List it before callbacks that log or write. With several processes rank zero writes and every rank
    knows ``path``; with launchers that spawn or fork, the parent process does not learn it.

    ``results.json`` holds the last value of every metric that was logged in the folder's stages, to a logger or not,
    and before them in the ``fit`` whose checkpoint this one continues; under "stages" those that ended normally; and
    under "data" and "model" what the method ``facts`` of data module and module returns, in plain values, where there
    is one.

    Args:
        name: first part of the folder's name, under the Trainer's ``default_root_dir``.
        config: the complete configuration, in plain values, for ``config.yaml``, ``results.json`` and checkpoints.
        seed: the run's seed, for ``results.json``; None takes what ``seed_everything`` was called with.

    Attributes:
        path: the folder, from ``setup`` on; None before.
        created: whether it is on the disk. An error before that is the user's and left nothing behind.
        status: how the last stage ended; None before.

    Raises:
        ValueError: if ``name`` is empty or leaves the root, or ``config`` holds anything but plain values; in ``setup``
            or at the start, if the folder cannot be written to.
    """

    def __init__(self, name: str = "run", config: dict[str, Any] | None = None, seed: int | None = None) -> None:
        if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"name={name}: must be a relative name without '..', such as digits")
        self.name, self.config, self.seed = name, plain(config), seed
        self.path: Path | None = None
        self.created = False
        self.status: Status | None = None
        self._metrics: dict[str, float] = {}
        self._earlier: dict[str, float] = {}
        self._facts: dict[str, Any] = {}
        self._clock = 0.0
        self._loggers: list[Any] = []
        self._checkpoints: list[ModelCheckpoint] = []
        self._job: dict[str, Any] | None = None
        self._continued: Path | None = None
        self._rows: int | None = None
        self._step: int | None = None

    def continue_job(self, root: str, job: str) -> Path | None:
        """Makes a fit the next part of a SLURM job's run, which was put back into the queue; to be called before it.

        The run is that of the same job, name and configuration that this start of the job has not continued yet, the
        oldest of several. Its folder is then continued: metrics go on after those that the checkpoint knows of.

        Args:
            root: the Trainer's ``default_root_dir``.
            job: its id, as ``dinopl.training.stopping.slurm_job`` gives it.

        Returns:
            The checkpoint to fit from; None to start from the beginning, in a new folder or in the one that has none.
        """
        start = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self._job = {"slurm": job, "cluster": os.environ.get("SLURM_CLUSTER_NAME"), "starts": [start]}
        self._continued = None
        for path in sorted(Path(root).absolute().joinpath(self.name).glob(f"*/{JOB}")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
                known = json.loads(path.read_text())
                config = path.with_name("config.yaml")
                same = self.config is None or yaml.safe_load(config.read_text()) == self.config
                if same and known | {"starts": 0} == self._job | {"starts": 0} and known["starts"][-1] < start:
                    self._job["starts"] = [*known["starts"], start]
                    self._continued = path.parent
                    checkpoint = path.parent / "checkpoints" / "last.ckpt"
                    return checkpoint if checkpoint.is_file() else None
        return None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Decides where the folder will be, and has all checkpoints written there or elsewhere appear whole."""
        make_checkpoints_atomic(trainer)
        goes_on = self.status == "finished" and any(logger in self._loggers for logger in trainer.loggers)
        if stage != "fit" and goes_on:
            return
        path, problem = "", None
        if trainer.is_global_zero:
            root = trainer.default_root_dir
            path = str(self._continued or choose_folder(root, self.name))
            remote = cannot_write(Path(root), "not a folder of this machine")
            problem = remote if "://" in root else why_not_writable(Path(path))
        path, problem = trainer.strategy.broadcast((path, problem))
        if problem is not None:
            raise ValueError(problem)
        self.path, self.created, self.status = Path(path), False, None
        others = [logger for logger in trainer.loggers if logger not in self._loggers]
        self._loggers = [MetricsFile(self.path), EventsFile(self.path)]  # for callbacks that ask for one in their setup
        trainer.loggers = [*others, *self._loggers]
        savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        self._checkpoints = [saver for saver in savers if saver.dirpath is None or saver in self._checkpoints]
        for saver in self._checkpoints:
            saver.dirpath = str(self.path / "checkpoints")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder."""
        self._start(trainer, pl_module, "fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, unless it is there."""
        self._start(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, unless it is there."""
        self._start(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, unless it is there."""
        self._start(trainer, pl_module, "predict")

    def _start(self, trainer: Trainer, pl_module: LightningModule, command: str) -> None:
        if self.created or self.path is None:
            return
        self._metrics = dict(self._earlier) if command == "fit" else {}
        self._clock = time.monotonic()
        seed = os.environ.get("PL_GLOBAL_SEED") if self.seed is None else self.seed
        source = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        self._facts = {
            "seed": None if seed is None else int(seed),
            "versions": versions(),
            "command": command,
            "family": getattr(pl_module, "family", None),
            "stages": [],
            "resumed_from": source if source is None or "://" in source else os.path.abspath(source),
            "started": _now(),
        }
        for name, owner in (("data", getattr(trainer, "datamodule", None)), ("model", pl_module)):
            if callable(facts := getattr(owner, "facts", None)):
                self._facts[name] = plain(facts(), name)
        continued, self._continued = command == "fit" and self._continued is not None, None
        metrics_file: Any = self._loggers[0]
        metrics_file.last = self._metrics
        if continued:  # rows that the checkpoint does not know of are made again
            events_file = EventsFile(self.path, first_step=self._step if source else 0)
            trainer.loggers = [events_file if logger is self._loggers[1] else logger for logger in trainer.loggers]
            self._loggers[1] = events_file
        problem = None
        if trainer.is_global_zero:
            try:
                with one_line_errors(self.path):
                    self.path.mkdir(parents=True, exist_ok=continued)
                    metrics_file.begin(self._rows if source else 0)
                    if self.config is not None:
                        with replacing(self.path / "config.yaml") as temporary:
                            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
                            temporary.write_text(text, encoding="utf-8")
                    if command == "fit" and self._job is not None:
                        self._facts["job"] = self._job
                        with replacing(self.path / JOB) as temporary:
                            temporary.write_text(json.dumps(self._job) + "\n")
            except ValueError as error:
                problem = str(error)
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:  # raised on every rank, so that none waits for the others
            raise ValueError(problem)
        self.created = True
        for logger in trainer.loggers:
            if logger not in self._loggers and self.config is not None:
                logger.log_hyperparams(self.config)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes over the metrics, and lets the checkpoint callbacks keep their best score in another folder."""
        self._earlier = dict(checkpoint.get("dinopl", {}).get("metrics") or {})
        self._rows, self._step = checkpoint.get("dinopl", {}).get("rows"), checkpoint.get("global_step")
        for saver in self._checkpoints:
            state = checkpoint.get("callbacks", {}).get(saver.state_key)
            if state is not None:
                state["dirpath"] = saver.dirpath

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds configuration, versions, the folder's name and the metrics, in plain values, under ``"dinopl"``."""
        about = {"config": self.config, "versions": versions(), "run": None if self.path is None else self.path.name}
        about |= {"metrics": dict(self._metrics), "directory": os.getcwd()}  # where relative paths begin
        if trainer.is_global_zero and self.created:
            # What a run that goes on from here does not log again must be on the disk.
            about["rows"], _ = (logger.write() for logger in self._loggers)
        checkpoint["dinopl"] = checkpoint.get("dinopl", {}) | about

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the results of a stage that ended normally."""
        if self.created:
            self._note(trainer)
            self.status = "finished"
            self._facts["stages"].append(stage)
            if trainer.is_global_zero:
                self._write_results()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes what is known of a stage that failed; an error in this never hides the exception itself."""
        self.status = status_of(exception)
        if not self.created:
            return
        if trainer.world_size == 1:  # otherwise reading a metric may wait for ranks that are gone
            with contextlib.suppress(Exception):
                self._note(trainer)
        try:
            if trainer.is_global_zero:
                self._write_results()
        except ValueError as error:
            if not isinstance(exception, OSError):
                rank_zero_warn(str(error))

    def record_failure(self) -> None:
        """Writes ``results.json`` of a run that has failed in another process, unless there is one."""
        if self.created and self.path is not None and not (self.path / "results.json").exists():
            self.status = "failed"
            with contextlib.suppress(ValueError):
                self._write_results()

    def withdraw(self) -> None:
        """Removes the folder of a run that was refused before it logged or saved anything.

        The folder of a SLURM job stays once the job has started twice.
        """
        if not self.created or self.path is None or (self._job is not None and len(self._job["starts"]) > 1):
            return
        names = ("config.yaml", "results.json", JOB)
        made = [*(self.path / name for name in names), *self.path.glob("events.out.tfevents.*")]
        if set(self.path.glob("*")) <= set(made):
            for file in made:
                file.unlink(missing_ok=True)
            self.created = False
            for folder in (self.path, self.path.parent):
                with contextlib.suppress(OSError):  # there are other runs
                    folder.rmdir()

    def _note(self, trainer: Trainer) -> None:
        self._metrics.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    def _write_results(self) -> None:
        assert self.path is not None
        results = {
            "status": self.status,
            "metrics": self._metrics,
            **self._facts,
            "finished": _now(),
            "duration_s": round(time.monotonic() - self._clock, 3),
            "config": self.config,
        }
        with one_line_errors(self.path), replacing(self.path / "results.json") as temporary:
            temporary.write_text(json.dumps(finite(results), indent=2, allow_nan=False) + "\n")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def folder_of(trainer: Trainer) -> Path | None:
    """The folder of the run that ``trainer`` is at; None without a ``RunFolder`` callback or before its ``setup``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from outside
    return next((callback.path for callback in callbacks if isinstance(callback, RunFolder)), None)
