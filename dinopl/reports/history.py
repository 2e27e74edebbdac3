"""What a run logged over time: the columns of ``metrics.csv``, and steps converted to epochs."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class History:
    """Rows of ``metrics.csv`` by column. Rows differ in what they hold: an absent value is None.

    Attributes:
        columns: values by column name, all of the same length.
    """

    columns: dict[str, list[float | None]]

    @classmethod
    def read(cls, path: str | Path) -> "History":
        """Reads a CSV file of numbers; a last line without its line end was cut short and is left out.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        text = Path(path).read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        names = list(rows[0]) if rows else []
        return cls({name: [_number(row.get(name)) for row in rows] for name in names if name is not None})

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)

    def rows(self, *names: str) -> list[tuple[float, ...]]:
        """Values of several columns, from the rows that have them all; empty if a column is missing."""
        if any(name not in self.columns for name in names):
            return []
        return list(_complete(zip(*(self.columns[name] for name in names), strict=True)))

    def steps_per_epoch(self) -> float:
        """Optimiser steps an epoch, as far as the rows tell.

        A probe point says it outright: it has both the steps taken and the epochs completed. Else a row logged at step
        ``s`` (from 0) of epoch ``e`` (from 0) says that an epoch has at least ``(s + 1) / (e + 1)`` steps, which is
        exact for the rows that end an epoch.
        """
        if points := [(step, epochs) for step, epochs in self.rows("step", "probe/epoch") if step and epochs]:
            step, epochs = points[-1]
            return step / epochs
        return max(((step + 1) / (epoch + 1) for step, epoch in self.rows("step", "epoch")), default=1.0)


def _number(text: str | None) -> float | None:
    """A finite number, or None for anything else."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _complete(rows: Iterator[tuple[float | None, ...]]) -> Iterator[tuple[float, ...]]:
    for row in rows:
        values = tuple(value for value in row if value is not None)
        if len(values) == len(row):
            yield values
