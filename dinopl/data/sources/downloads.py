"""Downloads that are either complete or absent, also when two processes start them or one is killed."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dinopl.data.sources.base import one_line


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
        FileNotFoundError: if the download fails, with the folder where the data may be put by hand.
    """
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock"):
            if not complete():
                _fetch_and_move(folder.relative_to(root).parts, root, fetch)
    except (OSError, RuntimeError) as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise FileNotFoundError(
            f"{name}: no usable data in {folder} and the download failed ({one_line(error)}); put the data there, or "
            "point --data.root or $DINOPL_DATA at the folder above."
        ) from error


def _fetch_and_move(parts: tuple[str, ...], root: Path, fetch: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging:
        fetch(Path(staging))
        for source in [Path(staging, parts[0])] if parts else list(Path(staging).iterdir()):
            move_into(source, root / source.name)


def move_into(source: Path, target: Path) -> None:
    """Moves a file or folder in one step; into a folder that is there already, file by file."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            move_into(entry, target / entry.name)
    else:
        os.replace(source, target)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lets one process of a machine in at a time, where the system has such locks; the kernel frees a dead one's.

    Two processes that get in all the same fetch twice, each into a folder of its own, and the last one's files stay.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
