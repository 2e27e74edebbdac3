"""Writing files that appear whole or not at all; a file that is replaced stays until its successor is whole.

The successor is written beside the file, since a rename is atomic only within one file system, and is on the disk
before it takes the file's name: a process that is killed, a full disk or a power failure leaves the old file.
"""

import contextlib
import glob
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; it becomes ``path`` at the end of the block, unless that raised.

    What a killed writer left is removed by the next one on the same machine that writes to the same ``path``.

    Args:
        path: the file to write; its folder must exist. A device or pipe, such as ``/dev/stdout``, is written to as it
            is. A symbolic link is replaced, and what it points to is kept.
    """
    if path.parent.as_posix() in ("/dev", "/dev/fd") or (path.exists() and not path.is_file()):
        yield path
        return
    prefix = f".{path.name}.{socket.gethostname()}-"  # a process's number says nothing on another machine
    temporary = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    try:
        for stray in path.parent.glob(f"{glob.escape(prefix)}*.tmp") if os.name == "posix" else ():
            writer = stray.name.removeprefix(prefix).partition("-")[0]
            with contextlib.suppress(OSError, ValueError):
                try:
                    os.kill(int(writer), 0)  # does nothing to a process that is alive, even another user's
                except ProcessLookupError:
                    stray.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # without this, which some systems refuse, a crash may undo the rename
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cannot_write(path: Path, reason: str) -> str:
    """The message for a folder that cannot be written to."""
    return f"cannot write to {path}: {reason}; choose another folder as default_root_dir"


def why_not_writable(folder: Path) -> str | None:
    """Why ``folder`` could not be made or written to, as far as it shows without writing; None if nothing does."""
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        return cannot_write(folder, error.strerror or str(error))
    if not existing.is_dir():
        return cannot_write(folder, f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        return cannot_write(folder, f"no permission to write in {existing}")
    return None
