"""The loggers of a run folder: Lightning's CSV and TensorBoard loggers, writing directly into a given folder.

What differs: rows go to the disk by the clock and not one by one, which would cost a short step a good part of its
time, most of it spent on TensorBoard's writer thread; and there is no ``hparams.yaml``, as ``config.yaml`` holds more.
"""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from dinopl.core.files import replacing


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

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Adds one row."""
        super().log_metrics(dict(metrics), step)
        self.last.update({name: float(value) for name, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Writes nothing."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the rows if it is time."""
        if time.monotonic() - self._saved >= self.seconds:
            self._write()
            self._saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rows, at the end of a stage and after an exception, which a full disk then does not hide."""
        try:
            self._write()
        except OSError as error:
            if status == "success":
                raise
            rank_zero_warn(f"{self.save_dir}: the last rows of metrics.csv are lost: {error.strerror or error}")

    def _write(self) -> None:
        """Adds the columns of new metrics, then the rows; Lightning's writer would truncate the file, then fill it."""
        if self._experiment is None:  # nothing was logged, and the folder may not be there yet
            return
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


class EventsFile(TensorBoardLogger):
    """TensorBoard events in the folder itself.

    Args:
        folder: where the file goes.
        seconds: how old a row may get before it is on the disk.
    """

    def __init__(self, folder: Path, seconds: float = 5.0) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)
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
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rows and closes the file; a later row opens a second one."""
        if self._rows or self._experiment is not None:  # otherwise the folder may not be there yet
            self._write()
            self.experiment.close()

    def _write(self) -> None:
        rows, self._rows, self._saved = self._rows, [], time.monotonic()
        for metrics, step, walltime in rows:
            for name, value in metrics.items():
                self.experiment.add_scalar(name, value, step, walltime)
        self.experiment.flush()
