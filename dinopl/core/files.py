"""Writing files so that a reader never meets half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` at the end of the block, unless that raised."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def cannot_write(path: Path, reason: str) -> str:
    """The message for a folder that cannot be written to."""
    return f"cannot write to {path}: {reason}; choose another folder with --trainer.default_root_dir DIR"


def obstacle(folder: Path) -> str | None:
    """Why ``folder`` could not be made or written to, found out without touching the disk; None if nothing is seen."""
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        return cannot_write(folder, error.strerror or str(error))
    if not existing.is_dir():
        return cannot_write(folder, f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        return cannot_write(folder, f"no permission to write in {existing}")
    return None
