"""Writing files that appear whole or not at all; a file that is replaced stays until its successor is whole.

The successor is written beside the file, since a rename is atomic only within one file system, and is on the disk
before it takes the file's name: a process that is killed, a full disk or a power failure leaves the old file.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` at the end of the block, unless that raised.

    Temporary files of writers that were killed are removed by the next one that writes to the same ``path``.

    Args:
        path: the file to write; its folder must exist. A device or pipe, such as ``/dev/stdout``, is written to as it
            is. A symbolic link is replaced, and what it points to is kept.
    """
    if path.parent.as_posix() in ("/dev", "/dev/fd") or (path.exists() and not path.is_file()):
        yield path
        return
    prefix, suffix = f".{path.name}.", ".tmp"
    temporary = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    try:
        _lock(descriptor)  # held while this process lives: what can be locked has no writer any more
        for stray in path.parent.glob(f"{_escaped(prefix)}*{suffix}"):
            if stray != temporary:
                _remove_abandoned(stray)
        yield temporary
        with temporary.open("rb") as file:  # not the descriptor: the writer may have put a new file there
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # without this, which some systems refuse, a crash may undo the rename
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _escaped(text: str) -> str:
    """A text as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _lock(descriptor: int) -> bool:
    """Locks a file without waiting; False where that fails, or where the system has no such locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(path: Path) -> None:
    """Removes a temporary file whose writer is gone, which its lock shows."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if _lock(file.fileno()):
            path.unlink(missing_ok=True)
