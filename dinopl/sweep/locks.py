"""Who holds what: locks that a dead process gives up, and timestamps for machines that do not see each other's locks.

A file is locked with ``flock``, which the kernel releases however its holder ends. Not every file system tells other
machines of such a lock; so the file also names its holder, who renews its time of modification, and which another
machine believes for as long as it is fresh.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HOLDER = ".holder"
BEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # twelve beats: network file systems may show an old time for up to a minute


def machine() -> str:
    """This machine since it was started: its name, and where the kernel has one the number of this start."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.is_file() else ''}"


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[float]:
    """Waits for a lock on a file, and gives the file system's own time.

    Where the file system has no locks, nothing is waited for: what is done inside must then bear company.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _flock(file, wait=True)
        os.utime(path)
        yield path.stat().st_mtime


def _flock(file: IO[str], wait: bool = False) -> bool | None:
    """True for a lock, False if somebody else has it, None if there are no locks here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


_HELD: set[IO[str]] = set()


def _let_go() -> None:
    """In a forked process, such as one that loads data: it must not keep a lock that its parent has died with."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


class Hold:
    """A folder that is held, from ``take`` until ``release`` or the end of the process."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        _HELD.add(file)
        self._released = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def take(cls, folder: Path, now: float) -> "Hold | None":
        """Holds a folder; None if somebody else does.

        Args:
            folder: made if need be.
            now: the file system's time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / HOLDER).open("a+")
        locked = _flock(file)
        if locked is False or _believed(file, now, locked is True):
            file.close()
            return None
        file.truncate(0)
        file.write(json.dumps({"machine": machine(), "pid": os.getpid(), "locked": locked is True}))
        file.flush()
        return cls(file)

    def release(self) -> None:
        """Gives the folder up. What the file says is taken back first, since others may not see the lock."""
        self._released.set()
        _HELD.discard(self._file)
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # the folder is gone, or the file was just closed
                os.utime(self._file.fileno())


def is_held(folder: Path, now: float) -> bool | None:
    """Whether somebody holds a folder; None if nobody ever did.

    Args:
        folder: of a run.
        now: the file system's time.
    """
    try:
        file = (folder / HOLDER).open("r+")
    except FileNotFoundError:
        return None
    with file:
        locked = _flock(file)
        return locked is False or _believed(file, now, locked is True)


def holder(folder: Path) -> dict[str, Any]:
    """What the holder of a folder says of itself; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / HOLDER).read_text()))
    return {}


def _believed(file: IO[str], now: float, locked: bool) -> bool:
    """Whether a file that could be locked names somebody who holds it nevertheless: elsewhere, and not long ago."""
    file.seek(0)
    text = file.read()
    if not text:
        return False
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    if locked and said.get("locked") and said.get("machine") == machine():
        return False
    return now - os.fstat(file.fileno()).st_mtime < STALE_SECONDS
