"""The runs: one LightningCLI for the three families.

What it adds to Lightning's: options beat files and files beat the checkpoint; a swapped class starts from its own
defaults; one run folder a run, made only once everything is set up; a user's mistake is one line.
"""

import contextlib
import inspect
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ParallelStrategy

import dinopl.distillation.module
import dinopl.distillation.monitors  # noqa: F401  (the families: their classes are found by short name once imported)
import fprnn.baselines
import fprnn.module
import fprnn.tasks  # noqa: F401
import kd.data
import kd.features
import kd.library
import kd.module
import kd.text  # noqa: F401
from dinopl.cli.checkpoint_config import (
    Resumption,
    check_loops,
    check_resumption,
    fails_to_resume,
    read_resumption,
    without_sources,
)
from dinopl.cli.config import (
    Arguments,
    Config,
    check_bounds,
    check_nulls,
    class_name,
    differences,
    drop_replaced,
    expand_home,
    explicit_paths,
    merge,
    read_config,
    reset_defaults,
    whole_numbers,
)
from dinopl.cli.messages import (
    MISTAKES,
    construct,
    forget_failures,
    in_training,
    mistake,
    no_memory,
    no_space,
    parser_message,
    raised_by,
    unknown_metric,
)
from dinopl.cli.terminal import HeldBack, quiet, show_differences, show_summary
from dinopl.core import trust
from dinopl.core.errors import ProcessDied, UserMistake, did_you_mean
from dinopl.core.moved import flatten
from dinopl.data import ImageDataModule  # noqa: F401
from dinopl.training import ExactResume, FiniteGuard, PredictionWriter, RunFolder, RunProgress
from dinopl.training.stopping import (
    GracefulStop,
    Stopped,
    death_of_another,
    ignore_checkpoints_of_other_jobs,
    slurm_job,
)

# Top-level options, for suggestions.
OPTIONS = (
    *("model", "data", "trainer", "seed_everything", "name", "threads", "test_after_fit", "ckpt_path", "weights_only"),
    *("config", "print_config", "traceback"),
)

# Beside what jsonargparse itself denies, such as os, subprocess, pickle and importlib.
DENIED = [
    *("lightning.pytorch.core.saving", "lightning.fabric.utilities.cloud_io", "torch.load", "torch.serialization"),
    *("torch.hub", "torch.utils.cpp_extension", "torch.jit", "numpy.load", "joblib", "dill", "cloudpickle"),
]

# What a process raises whose connection to another one is lost.
_LOST = re.compile(
    r"gloo|NCCL|DistBackendError|DistNetworkError|[Cc]onnection (closed|reset|refused)|Broken pipe|Socket"
)

# Arguments of the model that are read from the data, where the model's class has them and the data know them.
LINKS = ("image_shape", "input_shape", "num_classes", "vocab_size", "num_targets")


class Parser(LightningArgumentParser):
    """Lightning's parser with errors of one line, without abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False, "print_config": None} | kwargs))  # the command prints it

    def parse_args(self, args: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parses; a null that the parser around this one handed on as text is null again.

        jsonargparse 4.53 hands on an argument of a class within a class as text, in which null is the word "None".
        """
        if not self.exit_on_error:
            args = [re.sub(r"^(--[^=]+)(?<!init_args)=None$", r"\1=null", word) for word in args]
        return super().parse_args(args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a ``UserMistake``; a parser within the parser leaves that to the outer one."""
        if not self.exit_on_error:
            super().error(message, ex)
        trainer = (f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters)
        raise UserMistake(parser_message(message, [*OPTIONS, *trainer])) from ex

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Builds the objects that a configuration describes, so that one that fails is known by its place."""
        return self.instantiate(cfg, instantiators=[(construct, object, True)], **kwargs)


class _LogsShortRuns(Callback):
    """Logs the last step of each epoch where a training has fewer steps than ``log_every_n_steps``, which logs none."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lowers the interval."""
        steps = trainer.estimated_stepping_batches
        if 0 < steps < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            in_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches  # infinite where it has no end
            trainer.log_every_n_steps = math.ceil(min(steps, in_epoch))  # type: ignore[attr-defined]


class DinoplCLI(LightningCLI):
    """LightningCLI in subclass mode, over a composed configuration.

    Args:
        arguments: files and options of the command line.
        messages: Lightning's, kept back until the run folder is made; None keeps none back.
    """

    def __init__(self, arguments: Arguments, messages: HeldBack | None = None) -> None:
        self.arguments = arguments
        self.messages = messages or HeldBack()
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # the run folder keeps the configuration
            seed_everything_default=0,
            trainer_defaults={"default_root_dir": "runs"},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # our checkpoints hold plain values only
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The runs, and what the command itself passes to each."""
        skip = {"model", "datamodule", "dataloaders", "return_predictions", "verbose"}
        return dict.fromkeys(("validate", "test", "predict"), skip) | {
            "fit": {"model", "datamodule", "train_dataloaders", "val_dataloaders"}
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of the command itself, and the links."""
        parser.add_argument("--name", type=str | None, default=None, help="First part of the run folder's path.")
        parser.add_argument(
            "--threads", type=int | None, default=None, help="CPU threads of each process; null is torch's own choice."
        )
        parser.add_argument("--test_after_fit", type=bool, default=True, help="End `fit` with the test split.")
        for name in LINKS:
            # Reads an attribute of the data, else the option given for it. A link from the attribute itself would,
            # where it is missing, print the data, and Lightning's text of a data module makes all its loaders.
            def read(data: Any, name: str = name) -> Any:
                given = self.config[self.arguments.subcommand].model.get("init_args") or {}
                return getattr(data, name, given.get(name))

            read.__name__ = f"data.{name}"
            parser.link_arguments("data", f"model.init_args.{name}", read, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Composes the layers, parses them, and gives a class that replaced another its own defaults."""
        command = self.arguments.subcommand
        files = [read_config(file) for file in self.arguments.files]
        in_files = (file["ckpt_path"] for file in reversed(files) if "ckpt_path" in file)
        path = self.arguments.value("ckpt_path") or next(in_files, None)
        self.named = trust.named_paths(files, list(self.arguments.values()))
        # A second lock behind ``dinopl.core.trust``: the parser refuses what runs commands, loads code or unpickles,
        # unless the user names it. The setting is of the whole process, so every run makes it anew.
        if "import_path_denylist" in inspect.signature(jsonargparse.set_parsing_settings).parameters:  # from 4.53 on
            allowed = sorted(name for name in self.named if name.split(".")[0] != "jsonargparse")
            jsonargparse.set_parsing_settings(import_path_denylist=DENIED, import_path_allowlist=allowed)
        start: Resumption | None = None
        if path not in (None, "null"):
            model_given = any(class_name(file.get("model")) for file in files) or bool(self.arguments.value("model"))
            with trust.admitting(self.arguments.trusted_modules, self.named):
                start = read_resumption(os.path.expanduser(str(path)), command, model_given=model_given)
        composed: Config = {}
        for layer in [start.config if start else {}, *files]:
            composed = merge(composed, layer)
        for key in composed:  # the parser passes over an unknown key with nothing below it
            if key not in OPTIONS:
                raise UserMistake(f"--config: no option {key!r}{did_you_mean(str(key), OPTIONS)}")
        for key in ("model", "data", "trainer"):
            if not isinstance(composed.get(key, {}), dict | str | None):
                raise UserMistake(f"--{key}: expected a mapping, got {composed[key]}.")
        refuse_overlay_alone(composed, self.arguments)
        composed = drop_replaced(composed, self.arguments)
        explicit = explicit_paths(composed, self.arguments)
        text = ["--config", yaml.safe_dump(composed, sort_keys=False)] if composed else []
        self.config = parser.parse_args([command, *text, *self.arguments.options])
        reset_defaults(expand_home(self.config[command]), explicit)
        self.whole_numbers = whole_numbers(self.config[command].trainer, composed, self.arguments)
        for name, number in self.whole_numbers.items():
            self.config[command].trainer[name] = number
        check_bounds(self.config[command])
        check_nulls(self.config[command], explicit - {("model", name) for name in LINKS})
        if not self.config[command].name:  # the first configuration's, or else the model's
            named = [*self.arguments.files, self.config[command].model.class_path.rpartition(".")[2]][0]
            self.config[command].name = Path(named).stem
        self.start = start
        if start:
            used = self.plain_config()
            check_resumption(start, command, used)
            show_differences(differences(start.config, used))
        if self.arguments.print_config:
            sys.stdout.write(yaml.safe_dump(self.plain_config(), sort_keys=False, allow_unicode=True))
            raise SystemExit(0)

    def plain_config(self) -> Config:
        """The complete configuration as plain values."""
        dumped = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        config: Config = dumped[self.arguments.subcommand]
        config["trainer"].update(self.whole_numbers)  # which the dump makes floats again
        return config

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what their constructors refuse is the user's mistake."""
        command = self.arguments.subcommand
        parsed, self.recorded_config = self.config, self.plain_config()
        if parsed[command].threads is not None:
            torch.set_num_threads(parsed[command].threads)
        if self.start:
            self.config = parsed.clone()
            self.config[command] = without_sources(parsed[command])
        forget_failures()
        try:
            with trust.admitting(named=self.named):
                super().instantiate_classes()
        except Exception as error:
            if (text := mistake(error, self.recorded_config, building=True)) is None:
                raise
            raise UserMistake(_with_remedy(text)) from error
        finally:
            self.config = parsed
            forget_failures()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Injects the family-blind callbacks; Lightning's own default logger stays out."""
        config = self.config_init[self.arguments.subcommand].trainer
        given = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        given = [each for each in given if each is not None]
        seed = self.config[self.arguments.subcommand].seed_everything
        self.run_folder = RunFolder(
            self.config[self.arguments.subcommand].name,
            self.recorded_config,
            torch.initial_seed() if seed is False else seed,  # what the streams derive from
        )
        ours: list[Callback] = [self.run_folder, self.messages, _LogsShortRuns()]
        ours += [own() for own in (FiniteGuard, ExactResume) if not any(isinstance(c, own) for c in given)]
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in given):
            ours.append(RunProgress())
        if self.arguments.subcommand == "predict":
            ours.append(PredictionWriter())
        if config.enable_checkpointing is not False and not config.fast_dev_run:
            ours.append(ModelCheckpoint(filename="last", enable_version_counter=False, save_on_train_epoch_end=True))
        logger = False if config.logger in (None, True) else config.logger
        stop = [] if any(isinstance(callback, GracefulStop) for callback in given) else [GracefulStop()]
        try:
            trainer = super().instantiate_trainer(callbacks=[*ours, *given, *stop], logger=logger, **kwargs)
            ignore_checkpoints_of_other_jobs(trainer)
        except (*MISTAKES, ImportError, RuntimeError, TypeError) as error:
            names = inspect.signature(Trainer.__init__).parameters  # the Trainer names its argument within the text
            words = [word for word in re.findall(r"\w+", str(error)) if word in names]
            if not words:  # or its value; or a package that one of these takes
                chosen = [name for name in ("precision", "strategy", "accelerator", "plugins", "profiler", "logger")
                          if config.get(name) not in (None, False, True, "auto")]  # fmt: skip
                text = re.sub(r"[\W_]", "", str(error).lower())
                words = [name for name in chosen if re.sub(r"[\W_]", "", str(config[name]).lower()) in text] or chosen
            raise UserMistake(f"--{'.'.join(['trainer', *words[:1]])}: {error}") from error
        sharded = isinstance(trainer.strategy, ParallelStrategy) and not isinstance(trainer.strategy, DDPStrategy)
        if sharded or isinstance(trainer.strategy, DeepSpeedStrategy):  # Lightning makes the latter one of DDP's
            raise UserMistake(
                f"--trainer.strategy: {type(trainer.strategy).__name__} shards the model, with which neither exact "
                "resumption nor the checkpoints have been tested; use ddp."
            )
        if config.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
            raise UserMistake("--trainer.sync_batchnorm true: torch synchronises batch norms on GPUs only; use false.")
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Trains, then tests the last step's weights."""
        job = None if self.config.fit.trainer.fast_dev_run else slurm_job()
        if job and (checkpoint := self.run_folder.continue_job(self.trainer.default_root_dir, job)):
            sys.stderr.write(f"job {job} goes on from {checkpoint}\n")
            kwargs |= {"ckpt_path": str(checkpoint), "weights_only": True}
        with self._reported():
            self.trainer.fit(**kwargs)
            if self.config.fit.test_after_fit and not self.config.fit.trainer.fast_dev_run:
                self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def validate(self, **kwargs: Any) -> None:
        """Losses and scores on the split held out of the training data."""
        with self._reported():
            self.trainer.validate(verbose=False, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Losses and scores on the test split."""
        with self._reported():
            self.trainer.test(verbose=False, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Writes the model's outputs to ``predictions.npz``."""
        with self._reported():
            self.trainer.predict(return_predictions=False, **kwargs)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Shows the run's results, however it ends.

        Until the run folder is made, errors of the kinds that ``setup`` raises are the user's mistakes.
        """
        try:
            if self.start:
                check_loops(self.start, self.arguments.subcommand, self.trainer)
            with trust.admitting(named=self.named):  # a teacher's file is read in `setup`
                yield
        except SystemExit as stop:
            interrupted = isinstance(stop.__context__, KeyboardInterrupt)
            if not interrupted and not isinstance(stop, Stopped):
                raise
            checkpoint = (self.run_folder.path or Path()) / "checkpoints" / "last.ckpt"
            if checkpoint.is_file() and self.trainer.is_global_zero:
                epoch = self.trainer.current_epoch + 1
                root = self.arguments.value("trainer.default_root_dir")
                words = ["--ckpt_path", str(checkpoint), *(["--trainer.default_root_dir", root] if root else [])]
                sys.stderr.write(f"stopped in epoch {epoch}; go on with: dinopl fit {shlex.join(words)}\n")
            if not interrupted:
                raise SystemExit(stop.code) from None
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning left it ignored
            raise KeyboardInterrupt from None
        except Exception as error:
            lost = self.trainer.world_size > 1 and _LOST.search(f"{type(error).__name__}: {error}")
            if lost and (how := death_of_another(self.trainer, seconds=5.0)):
                if not self.trainer.is_global_zero:
                    self.run_folder.record_failure()
                raise ProcessDied(f"{how}; the run cannot go on without it") from error
            created, folder = self.run_folder.created, str(self.run_folder.path)
            text = None if created else mistake(error, self.recorded_config)
            text = text or no_space(error, folder)
            if text is None and created and isinstance(error, OSError) and str(error.filename).startswith(folder):
                text = f"--trainer.default_root_dir: cannot write to {folder}: {error.strerror}; start again elsewhere."
            elif text is None and created and isinstance(error.__cause__, OSError) and "cannot write" in str(error):
                text = f"--trainer.default_root_dir: {error}."
            text = text or unknown_metric(error, self.trainer.callback_metrics)
            text = text or no_memory(error) or in_training(error, self.recorded_config)
            if text is None and self.start and fails_to_resume(error):
                text = f"--ckpt_path {self.start.path}: cannot be resumed from ({type(error).__name__}: {error})."
            if text is None and self.trainer.global_step == 0 and raised_by(error).startswith("lightning."):
                text = f"--trainer: {error}"  # a check that Lightning makes once it has the loaders
            if text is None:
                raise
            if self.trainer.is_global_zero:
                self.run_folder.withdraw()
            raise UserMistake(_with_remedy(text)) from error
        finally:
            failed = sys.exception() is not None
            try:
                if not isinstance(getattr(sys.exception(), "__cause__", None), OSError):  # else no folder to show
                    show_summary(self.run_folder)
            except OSError as error:
                if (text := no_space(error, self.run_folder.path)) is None:
                    raise
                if not failed:
                    raise UserMistake(text) from error


def importable_from_here() -> None:
    """Lets options name classes of modules in the working directory, as ``python -m`` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def run(command: str, tokens: Sequence[str]) -> DinoplCLI:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        command: which one.
        tokens: its options.

    Returns:
        The CLI object, with ``trainer``, ``model``, ``datamodule`` and ``run_folder``; for use in notebooks.

    Raises:
        UserMistake: what the user can put right.
    """
    arguments = Arguments.parse(command, tokens)
    importable_from_here()
    messages = HeldBack()
    # teachers' files are read while the run is set up
    with quiet(), messages.until_released(), trust.admitting(arguments.trusted_modules):
        return DinoplCLI(arguments, messages)


def refuse_overlay_alone(composed: Config, arguments: Arguments) -> None:
    """Raises if options of a model or of data are given and no class: those of an overlay that was given alone."""
    options = [tuple(path) for path, _ in arguments.pairs() if path[-1] != "help"]  # --model.help CLASS needs none
    for part in ("model", "data"):
        below = composed.get(part)
        named = isinstance(below, str) or (isinstance(below, dict) and "class_path" in below)
        if named or (part,) in options or (part, "class_path") in options:
            continue
        leaves = [path for path, _ in flatten(below, (part,))] if isinstance(below, dict) else []
        given = [path for path in [*leaves, *options] if path[0] == part and len(path) > 1]
        if given:
            name = ".".join(given[0]).removesuffix(".class_path")
            raise UserMistake(
                f"--{name}: nothing names the class of the {part}; give --{part} CLASS, or, if this is "
                "of an overlay, first a configuration that names it: --config FILE --config OVERLAY."
            )


def _with_remedy(text: str) -> str:
    """Adds the option that admits what a teacher's file may not name."""
    if trust.REFUSED not in text:
        return text
    return f"{text.rstrip('.')}, or admit a module of your own with --trusted-modules NAME."
