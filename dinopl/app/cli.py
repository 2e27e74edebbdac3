"""The runs: one LightningCLI for the three families.

What it adds to Lightning's: options beat files and files beat the checkpoint; a swapped class starts from its own
defaults; one run folder a run, made only once everything is set up; a user's mistake is one line.
"""

import contextlib
import inspect
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

import dinopl.module  # noqa: F401  (the families: their classes are found by short name once imported)
from dinopl.app.compose import (
    Arguments,
    Config,
    differences,
    drop_replaced,
    explicit_paths,
    merge,
    read_config,
    reset_defaults,
)
from dinopl.app.errors import UserMistake
from dinopl.app.messages import innermost, one_line
from dinopl.app.quiet import quiet
from dinopl.app.summary import show_differences, show_summary
from dinopl.callbacks import ExactResume, FiniteGuard, PredictionWriter, RunFolder, RunProgress
from dinopl.checkpoints import load_checkpoint
from dinopl.data import ImageDataModule  # noqa: F401

# What a constructor or `setup` raises when the user can put it right.
MISTAKES = (ValueError, FileNotFoundError, MisconfigurationException)

# What one part must know of another. A link whose source or target a chosen class lacks is left out.
LINKS = {
    "data.image_shape": "model.init_args.image_shape",
    "data.num_classes": "model.init_args.num_classes",
}


class Parser(LightningArgumentParser):
    """Lightning's parser, whose complaint is one line, and which takes no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False, "print_config": None} | kwargs))  # the command prints it

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the complaint as a ``UserMistake``; a parser within the parser leaves that to the outer one."""
        if not self.exit_on_error:
            super().error(message, ex)
        trainer = (f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters)
        top = ("model", "data", "trainer", "seed_everything", "ckpt_path", "name", "threads", "config", "print_config")
        raise UserMistake(one_line(message, [*top, *trainer])) from ex


class DinoplCLI(LightningCLI):
    """LightningCLI in subclass mode, over a composed configuration.

    Args:
        arguments: the command line, taken apart.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # the run folder keeps the configuration
            seed_everything_default=0,
            trainer_defaults={"default_root_dir": "runs", "use_distributed_sampler": False},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # our checkpoints hold plain values only
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The runs, and what the command itself passes to each."""
        skip = {"model", "datamodule", "dataloaders", "return_predictions"}
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
        for source, target in LINKS.items():
            parser.link_arguments(source, target, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Composes the layers, parses them, and settles what a replaced class left behind."""
        files = [read_config(file) for file in self.arguments.files]
        path = self.arguments.value("ckpt_path") or merged_value(files, "ckpt_path")
        family, checkpoint = checkpoint_layer(path, self.arguments.subcommand) if path else (None, {})
        composed: Config = {}
        for layer in [checkpoint, *files]:
            composed = merge(composed, layer)
        composed = drop_replaced(composed, self.arguments)
        explicit = explicit_paths(composed, self.arguments)
        text = ["--config", yaml.safe_dump(composed, sort_keys=False)] if composed else []
        self.config = parser.parse_args([self.arguments.subcommand, *text, *self.arguments.options])
        chosen = self.config[self.arguments.subcommand]
        reset_defaults(chosen, explicit)
        if family not in (None, class_name(chosen.model)):
            raise UserMistake(
                f"--ckpt_path {path}: a checkpoint of {family}, and the model is {class_name(chosen.model)}; give a "
                f"checkpoint of that, or --model {family}."
            )
        chosen.name = chosen.name or self._default_name()
        if self.arguments.print_config:
            sys.stdout.write(yaml.safe_dump(self.plain_config(), sort_keys=False, allow_unicode=True))
            raise SystemExit(0)
        if checkpoint:
            show_differences(differences(checkpoint, self.plain_config()))

    def _default_name(self) -> str:
        if self.arguments.files:
            return Path(self.arguments.files[0]).stem
        return class_name(self.config[self.arguments.subcommand].model)

    def plain_config(self) -> Config:
        """The complete configuration as plain values."""
        command = self.arguments.subcommand
        dumped = self._parser(command).dump(self.config[command], skip_unset=False)
        config: Config = yaml.safe_load(dumped)
        return config

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what their constructors refuse is the user's mistake."""
        chosen = self.config[self.arguments.subcommand]
        if chosen.threads is not None:
            if chosen.threads < 1:
                raise UserMistake(f"--threads {chosen.threads}: must be at least 1; leave it out for torch's choice.")
            torch.set_num_threads(chosen.threads)
        try:
            super().instantiate_classes()
        except MISTAKES as error:
            raise UserMistake(innermost(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Injects the family-blind callbacks; Lightning's own default logger stays out."""
        config = self._get(self.config_init, "trainer")
        chosen = self.config[self.arguments.subcommand]
        self.run_folder = RunFolder(chosen.name, self.plain_config(), chosen.seed_everything)
        callbacks = [self.run_folder, FiniteGuard(), ExactResume(), *(config.callbacks or [])]
        if config.enable_progress_bar is not False:
            callbacks.append(RunProgress())
        if self.arguments.subcommand == "predict":
            callbacks.append(PredictionWriter())
        if config.enable_checkpointing is not False and not config.fast_dev_run:
            callbacks.append(ModelCheckpoint(filename="last", enable_version_counter=False))
        logger = False if config.logger in (None, True) else config.logger
        try:
            return super().instantiate_trainer(callbacks=callbacks, logger=logger, **kwargs)
        except MISTAKES as error:
            raise UserMistake(f"--trainer: {error}") from error

    def fit(self, **kwargs: Any) -> None:
        """Trains, then tests the last step's weights."""
        with self._mistakes_before_the_run():
            self.trainer.fit(**kwargs)
            if self.config.fit.test_after_fit and not self.config.fit.trainer.fast_dev_run:
                self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        show_summary(self.run_folder)

    def validate(self, **kwargs: Any) -> None:
        """Losses and probes on the split held out of the training data."""
        self._evaluate(self.trainer.validate, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Losses and probes on the test split."""
        self._evaluate(self.trainer.test, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Embeddings and logits, to ``predictions.npz``."""
        self._evaluate(self.trainer.predict, return_predictions=False, **kwargs)

    def _evaluate(self, evaluate: Any, **kwargs: Any) -> None:
        with self._mistakes_before_the_run():
            evaluate(**kwargs)
        show_summary(self.run_folder)

    @contextlib.contextmanager
    def _mistakes_before_the_run(self) -> Iterator[None]:
        """Until the run folder is made, errors of the kinds that ``setup`` raises are the user's mistakes."""
        try:
            yield
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None  # Lightning would leave with 0
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning left it ignored
            raise KeyboardInterrupt from None
        except (*MISTAKES, RuntimeError) as error:
            if self.run_folder.created or not _is_mistake(error):
                raise
            raise UserMistake(_first_line(error)) from error


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
    with quiet():
        return DinoplCLI(arguments)


def class_name(node: Any) -> str:
    """The name of the class that a parsed node stands for."""
    return str(node.class_path.rsplit(".", 1)[-1])


def merged_value(files: Sequence[Config], key: str) -> Any:
    """The value of a top-level key in the last file that has it."""
    return next((file[key] for file in reversed(files) if key in file), None)


def checkpoint_layer(path: str, command: str) -> tuple[str | None, Config]:
    """The family of a checkpoint, and its configuration as far as the command takes it over.

    ``fit`` takes all of it. The others take model, data and seed: devices and folders belong to the machine. A
    checkpoint made without the command has neither.

    Raises:
        UserMistake: if the file is missing or is no checkpoint, or is a word such as ``last``, which needs a folder.
    """
    if path in ("last", "best", "hpc"):
        raise UserMistake(
            f"--ckpt_path {path}: each run has its own folder; name the file, such as "
            "runs/random_teacher/TIME/checkpoints/last.ckpt."
        )
    try:
        ours = load_checkpoint(path).get("dinopl", {})
    except MISTAKES as error:
        raise UserMistake(str(error)) from error
    config: Config = ours.get("config") or {}
    keep = config.keys() if command == "fit" else ("model", "data", "seed_everything")
    return ours.get("family"), {key: config[key] for key in keep if key in config and key != "ckpt_path"}


def _is_mistake(error: BaseException) -> bool:
    """Of RuntimeErrors, only weights that do not fit are a user's mistake."""
    return isinstance(error, MISTAKES) or "loading state_dict" in str(error)


def _first_line(error: BaseException) -> str:
    """What to tell: an error's text; of weights that do not fit, the first misfit and the remedy."""
    text = str(error)
    if "loading state_dict" not in text:
        return text
    misfit = next((line.strip() for line in text.splitlines()[1:] if line.strip()), text)
    return f"--ckpt_path: the weights do not fit the configured model: {misfit} Use the run's own config.yaml."
