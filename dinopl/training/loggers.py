"""The loggers of a run folder: Lightning's CSV and TensorBoard loggers, writing directly into a given folder.

What differs: rows go to the disk by the clock and not one by one, which would cost a short step a good part of its
time, most of it spent on TensorBoard's writer thread; and there is no ``hparams.yaml``, as ``config.yaml`` holds more.
"""

import csv
import errno
import os
import time
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from dinopl.core.files import replacing


class FolderGoneError(FileNotFoundError):
    """The folder that a run writes to is not there any more; it is not made once more, as its files are lost."""


class MetricsFile(CSVLogger):
    """``metrics.csv`` in the folder itself; it also notes the last value of every metric.

    Args:
        folder: where the file goes.
        last: filled with the last value of every metric that is logged.
        seconds: how old a row may get before it is on the disk.
    """

    def __init__(self, folder: Path, last: dict[str, float] | None = None, seconds: float = 1.0) -> None:
        super().__init__(save_dir=folder, name=None, version="")
        self.last = {} if last is None else last
        self.seconds = seconds
        self._saved = time.monotonic()
        self._rows = 0
        self._folder = 0

    def begin(self, rows: int | None = 0) -> None:
        """Begins the file; one that is there keeps its first ``rows`` rows, None for all of them."""
        path, old, names = Path(self.save_dir) / "metrics.csv", [], []
        aside = path.with_name(".metrics.csv.before")  # since Lightning's writer removes what it finds
        if path.is_file():
            os.replace(path, aside)
        if aside.is_file():
            with aside.open(newline="") as file:
                reader = csv.DictReader(file)
                old, names = list(reader)[:rows], list(reader.fieldnames or ())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it would remove
            writer: Any = self.experiment
        if old:
            writer.metrics_keys = names
            with replacing(path) as temporary, temporary.open("w", newline="") as new:
                columns = csv.DictWriter(new, fieldnames=names)
                columns.writeheader()
                columns.writerows(old)
        aside.unlink(missing_ok=True)
        self._rows, self._folder = len(old), os.stat(path.parent).st_ino

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Adds one row."""
        super().log_metrics(dict(metrics), step)
        self._rows += 1
        self.last.update({name: float(value) for name, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Writes nothing."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the rows if it is time."""
        if time.monotonic() - self._saved >= self.seconds:
            self.write()
            self._saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rows, at the end of a stage and after an exception, which a full disk then does not hide."""
        try:
            self.write()
        except FolderGoneError:
            if status == "success":
                raise
        except OSError as error:
            if status == "success":
                raise
            rank_zero_warn(f"{self.save_dir}: the last rows of metrics.csv are lost: {error.strerror or error}")

    def write(self) -> int:
        """Adds the columns of new metrics, then the rows; Lightning's writer would truncate the file, then fill it.

        Returns:
            The number of rows in the file.

        Raises:
            FolderGoneError: if the folder is not there any more, or is another one.
        """
        if self._experiment is None:  # nothing was logged, and the folder may not be there yet
            return self._rows
        folder = Path(self.save_dir)
        if not folder.is_dir() or os.stat(folder).st_ino != (self._folder or os.stat(folder).st_ino):
            raise FolderGoneError(errno.ENOENT, "the run's folder was deleted or replaced in mid-run", str(folder))
        writer: Any = self.experiment
        names, path = sorted(set(writer.metrics_keys).union(*writer.metrics)), Path(writer.metrics_file_path)
        if names != writer.metrics_keys and path.is_file():
            with path.open(newline="") as old:
                rows = list(csv.DictReader(old))
            with replacing(path) as temporary, temporary.open("w", newline="") as new:
                columns = csv.DictWriter(new, fieldnames=names)
                columns.writeheader()
                columns.writerows(rows)
            writer.metrics_keys = names
        super().save()
        return self._rows


class EventsFile(TensorBoardLogger):
    """TensorBoard events in the folder itself.

    Args:
        folder: where the file goes.
        seconds: how old a row may get before it is on the disk.
        first_step: from which on rows of earlier files in the folder do not count; None is all of them count.
    """

    def __init__(self, folder: Path, seconds: float = 5.0, first_step: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, purge_step=first_step)
        self.seconds = seconds
        self._saved = time.monotonic()
        self._rows: list[tuple[Mapping[str, Tensor | float], int | None, float]] = []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Adds one row."""
        self._rows.append((metrics, step, time.time()))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Writes nothing."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the rows if it is time."""
        if self._rows and time.monotonic() - self._saved >= self.seconds:
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rows and closes the file; a later row opens a second one."""
        if status != "success" and not Path(self.save_dir).is_dir():
            return  # TensorBoard's thread would say so in a traceback of its own
        if not self._rows and self._experiment is None:  # the folder may not be there yet
            return
        try:
            self.write()
            self.experiment.close()
        except OSError as error:
            if status == "success":
                raise
            rank_zero_warn(f"{self.save_dir}: the last events are lost: {error.strerror or error}")

    def write(self) -> None:
        """Writes the rows."""
        rows, self._rows, self._saved = self._rows, [], time.monotonic()
        for metrics, step, walltime in rows:
            for name, value in metrics.items():
                self.experiment.add_scalar(name, value, step, walltime)
        self.experiment.flush()
