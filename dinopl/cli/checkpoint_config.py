"""What a checkpoint brings to a run: its family and its configuration, as the lowest layer.

A checkpoint may be of another's making, so it does not choose what is imported or called: ``dinopl.core.trust``
decides what its configuration may name. The rest must be named by a file or an option, which the user can read.
"""

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from dinopl.cli.config import Config, class_name
from dinopl.core.checkpoints import load_checkpoint
from dinopl.core.errors import UserMistake
from dinopl.core.trust import checked_run

# Arguments that name a file or a folder to read.
PATHS = ("path", "root", "folder", "checkpoint")


class Resumption(NamedTuple):
    """A checkpoint, as far as the command cares."""

    path: str
    family: str | None
    """Name of the LightningModule; None if it was made without this package."""
    config: Config
    """The configuration to start from; empty if it was made without the command."""
    epochs: int
    """How many it has been trained for; 0 if not known."""
    loops: Config
    """What Lightning counts, by loop."""


def read_resumption(path: str, command: str, *, model_given: bool) -> Resumption:
    """Reads a checkpoint's family and configuration.

    Args:
        path: the checkpoint.
        command: ``fit`` takes all of the configuration; the others take model, data, seed and name, since devices and
            folders belong to the machine.
        model_given: whether a configuration file or an option names the model. A checkpoint whose configuration may not
            be used then serves for its weights alone.

    Raises:
        UserMistake: if the file is missing, is no checkpoint, cannot be resumed from, or names foreign classes.
    """
    if path in ("last", "best", "hpc"):
        raise UserMistake(
            f"--ckpt_path {path}: each run has its own folder; name the file, such as "
            "runs/random_teacher/TIME/checkpoints/last.ckpt."
        )
    try:
        checkpoint = load_checkpoint(path)
    except (ValueError, OSError) as error:
        raise UserMistake(f"--ckpt_path {error}") from error
    ours = checkpoint.get("dinopl", {})
    config = (ours.get("config") or {}) if isinstance(ours, dict) else None
    if not isinstance(config, dict) or "pytorch-lightning_version" not in checkpoint:
        raise UserMistake(f"--ckpt_path {path}: is not a complete Lightning checkpoint; give last.ckpt of a run.")
    if command == "fit" and not checkpoint.get("optimizer_states"):
        raise UserMistake(f"--ckpt_path {path}: holds no optimiser state to resume; give last.ckpt of a run.")
    keep = config.keys() if command == "fit" else ("model", "data", "seed_everything", "name")
    try:
        kept = checked_run({key: config[key] for key in keep if key in config})
    except ValueError as error:
        if not model_given:
            raise UserMistake(
                f"--ckpt_path {path}: its configuration {error}; read the run's config.yaml and give it with --config, "
                "or admit a module of your own with --trusted-modules NAME."
            ) from error
        kept = {}
    for state in checkpoint.get("optimizer_states", []) if command == "fit" else ():
        groups = state.get("param_groups")
        whole = isinstance(state.get("state"), Mapping) and isinstance(groups, list)
        if not whole or not all(isinstance(each, Mapping) and isinstance(each.get("params"), list) for each in groups):
            raise UserMistake(f"--ckpt_path {path}: its optimiser state is damaged; give another checkpoint.")
    if isinstance(directory := ours.get("directory"), str):
        kept = _found_there(kept, Path(directory))
    epochs: Any = checkpoint  # as Lightning counts them when it resumes
    for key in ("loops", "fit_loop", "epoch_progress", "current", "processed"):
        epochs = epochs.get(key) if isinstance(epochs, Mapping) else None
    family, loops = ours.get("family"), checkpoint.get("loops") or {}
    if not isinstance(family, str | None):
        raise UserMistake(f"--ckpt_path {path}: its family is no text; give last.ckpt of a run.")
    return Resumption(path, family, kept, epochs if isinstance(epochs, int) else 0, loops)


def check_loops(resumption: Resumption, command: str, trainer: Trainer) -> None:
    """Compares what a checkpoint counts with what the Trainer is going to read there.

    Raises:
        UserMistake: if a part is missing or of another kind.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if resumption.loops:
        loop = "fit_loop" if command == "fit" else f"{command}_loop"
        pairs = [(loop, getattr(trainer, loop).state_dict(), resumption.loops.get(loop))]
    for place, ours, theirs in pairs:  # grows on the way
        if isinstance(ours, dict):
            if not isinstance(theirs, Mapping):
                raise UserMistake(f"--ckpt_path {resumption.path}: its {place} is damaged; give another checkpoint.")
            # a number may be missing: Lightning has added some
            pairs += [(key, below, theirs.get(key)) for key, below in ours.items() if below or key in theirs]
        elif theirs is not None and (type(theirs) is not type(ours) or theirs < 0):
            raise UserMistake(f"--ckpt_path {resumption.path}: its {place} is damaged; give another checkpoint.")


def fails_to_resume(error: BaseException) -> bool:
    """Whether Lightning raised an error while it took up a checkpoint."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_globals.get("__name__") == "lightning.pytorch.trainer.connectors.checkpoint_connector"
        and frame.f_code.co_name.lstrip("_").startswith(("restore", "resume"))
        for frame in frames
    )


def _found_there(config: Any, directory: Path, key: str = "") -> Any:
    """A configuration with paths that begin in the run's working directory, where they lead somewhere only there."""
    if isinstance(config, dict):
        return {name: _found_there(value, directory, name) for name, value in config.items()}
    if isinstance(config, list):
        return [_found_there(item, directory, key) for item in config]
    if not isinstance(config, str) or key not in PATHS or not config or os.path.exists(config):
        return config
    return str(directory / config) if (directory / config).exists() else config


def check_resumption(resumption: Resumption, command: str, used: Config) -> None:
    """Compares what is to be run with what the checkpoint is of.

    Raises:
        UserMistake: if the family is another one; in ``fit`` also if the optimiser is, or if training is to end earlier
            than it has already come. To end where it has come to is allowed: such a run only tests.
    """
    model = class_name(used["model"])
    if resumption.family not in (None, model):
        raise UserMistake(
            f"--ckpt_path {resumption.path}: a checkpoint of {resumption.family}, and the model is {model}; give a "
            f"checkpoint of that, or --model {resumption.family}."
        )
    models = (config.get("model", {}) for config in (resumption.config, used))
    before, now = (class_name(each.get("init_args", {}).get("optimizer")) for each in models)
    if command == "fit" and before is not None and before != now:
        raise UserMistake(
            f"--model.optimizer {now}: the checkpoint was trained with {before}, whose state does not fit; keep that."
        )
    last = used.get("trainer", {}).get("max_epochs")
    if command == "fit" and last is not None and 0 <= last < resumption.epochs:
        raise UserMistake(
            f"--trainer.max_epochs {last}: is less than the {resumption.epochs} epochs of {resumption.path}; "
            f"use {resumption.epochs + 1} or more."
        )


def without_sources(config: Any) -> Any:
    """A configuration whose networks are not read from the checkpoints of earlier runs, which may be gone.

    The checkpoint that a run goes on from holds the networks themselves.
    """
    config = config.clone()
    arguments = config.model.get("init_args") or {}
    if arguments.get("teacher.init_args.checkpoint") is not None:
        config["model.init_args.teacher.init_args.checkpoint"] = None
    if str(arguments.get("student.class_path", "")).endswith(".CheckpointStart"):
        config["model.init_args.student"] = None
    return config
