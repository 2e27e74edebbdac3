"""Optuna's storage: its journal file by default, any of its databases by URL."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dinopl.core.errors import UserMistake

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def need_optuna() -> None:
    """Raises ``UserMistake`` unless Optuna is installed."""
    try:
        import optuna
    except ImportError:
        raise UserMistake("dinopl sweep needs Optuna: pip install 'dinopl[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str | None, journal: Path) -> "BaseStorage":
    """Opens a storage.

    Args:
        url: of a database, such as ``sqlite:///study.db``; None for the journal.
        journal: path of the journal file.

    Raises:
        UserMistake: if Optuna is not installed or the database cannot be opened.
    """
    need_optuna()
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        return RDBStorage(url)
    except Exception as error:  # of whatever driver; the URL may hold a password and is not shown
        raise UserMistake(
            f"--storage: cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]}); give a URL that "
            "Optuna takes, such as sqlite:////absolute/path/study.db, or leave it out for a journal file."
        ) from error


def mend(journal: Path) -> None:
    """Cuts off a last line that a full disk or a lost machine left unfinished, and that nobody could read past."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not journal.exists() or _ends_well(journal):
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        if not _ends_well(journal):
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
    finally:
        with contextlib.suppress(RuntimeError):  # somebody took it for a dead one's
            lock.release()


def _ends_well(journal: Path) -> bool:
    with journal.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
