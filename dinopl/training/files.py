"""What is written to a run's folder: whole checkpoints, plain values, and errors of the file system in one line."""

import contextlib
import io
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dinopl.__about__ import __version__
from dinopl.core.files import cannot_write, replacing


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and replace an older one only when they are whole.

    Lightning's own way writes to the folder for temporary files, and copies from there where that is another file
    system: a process killed meanwhile leaves neither the old checkpoint nor the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``; a path of a remote file system is left to Lightning.

        Raises:
            OSError: if the file cannot be written; what was there before is kept.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch, writing to a file, hides what the system says of a full disk
        torch.save(checkpoint, content)
        with replacing(target) as temporary:
            temporary.write_bytes(content.getbuffer())


def make_checkpoints_atomic(trainer: Trainer) -> None:
    """Lets a trainer write checkpoints as ``AtomicCheckpoints`` does, whichever callback asks for them.

    A ``CheckpointIO`` plugin of the user's stays, as do strategies that write checkpoints themselves.
    """
    strategy = trainer.strategy
    with contextlib.suppress(NotImplementedError):  # a strategy without any such plugin
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AtomicCheckpoints()


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line that names the folder and the remedy.

    Raises:
        ValueError: for every ``OSError`` inside the block (read-only, no space, a file in the way).
    """
    try:
        yield
    except OSError as error:
        raise ValueError(cannot_write(path, error.strerror or str(error))) from error


def versions() -> dict[str, str | None]:
    """Versions of this package and of what its numbers depend on; None for what is not installed.

    All but torch's, whose own string names the CUDA build too, come from the packages' metadata: nothing is imported.
    """
    found: dict[str, str | None] = {"dinopl": __version__, "torch": str(torch.__version__)}
    for package in ("torchvision", "lightning", "torchmetrics", "numpy"):
        found[package] = None
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return {**found, "python": platform.python_version()}


def plain(value: Any, where: str = "config") -> Any:
    """Copy of a nested value that holds nothing but dict, list, str, int, float, bool and None.

    Tuples become lists; keys and strings of derived types become plain strings.

    Args:
        value: nested containers with plain values.
        where: how an error names the value.

    Raises:
        ValueError: for any other type.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"{where}: is a {type(value).__name__}; give plain values (numbers, strings, lists, dicts, None)")


def finite(value: Any) -> Any:
    """Copy of a plain value in which every float that is not finite is None, as JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
