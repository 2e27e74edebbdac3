"""Downloads that are either complete or absent, also when two processes start them or one is killed."""

import contextlib
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from dinopl.data.sources.base import one_line

# What a connection, a wrong sum or a damaged archive raises; torchvision checks the sums of what it fetches.
BROKEN = (OSError, RuntimeError, EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def fetch_once(
    name: str, folder: Path, root: Path, complete: Callable[[], bool], fetch: Callable[[Path], object]
) -> None:
    """Fetches a data set into a folder beside its place, then moves it there.

    Args:
        name: of the data set, for messages.
        folder: where its files will be: below ``root``, or ``root`` itself. Of what is fetched, only what belongs there
            is kept; archives beside it are not.
        root: the folder of all data sets; made if it is not there, and removed again if the download fails.
        complete: whether the data are there already; asked again once the lock is held.
        fetch: downloads the data set into the root that it is given.

    Raises:
        FileNotFoundError: if the download fails or an archive is damaged, with the folder where the data may be put by
            hand. Nothing is kept of it, so the next call fetches all of it again.
    """
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = root / f".{name}.lock"
        with FileLock(lock), contextlib.ExitStack() as leaving:
            leaving.callback(remove, lock)  # while it is held; a process that waits for it locks a new one
            if not complete():
                staging = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix=".download-", dir=root)))
                try:
                    fetch(staging)
                except BROKEN as error:
                    files = sorted(staging.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)
                    at = f" at {files[-1].name}" if files else ""
                    raise OSError(f"({one_line(error)}){at}") from error
                parts = folder.relative_to(root).parts
                for source in [staging / parts[0]] if parts else list(staging.iterdir()):
                    move_into(source, root / source.name)
    except OSError as error:
        for path in made:
            remove(path)
        reason = str(error) if str(error).startswith("(") else f"({one_line(error)})"
        raise FileNotFoundError(
            f"{name}: no usable data in {folder} and the download failed {reason}; put the data there, or "
            "point root or $DINOPL_DATA at the folder above"
        ) from error


def remove(path: Path) -> None:
    """Removes a file or an empty folder where the system allows it: Windows keeps an open file."""
    with contextlib.suppress(OSError):
        path.rmdir() if path.is_dir() else path.unlink()


def move_into(source: Path, target: Path) -> None:
    """Moves a file or folder in one step; into a folder that is there already, file by file."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            move_into(entry, target / entry.name)
    else:
        os.replace(source, target)
