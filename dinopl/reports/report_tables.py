"""The tables of a report: groups of runs against metrics, for the terminal and for Markdown, and a CSV row a run."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinopl.core.files import replacing
from dinopl.core.statistics import Summary
from dinopl.reports.collection import OTHERS, Trial
from dinopl.reports.groups import VARIANT, Group
from dinopl.reports.metrics import metric_value, names_of
from dinopl.reports.options import SEED, shown
from dinopl.reports.views.table import aligned


@dataclass(frozen=True)
class Table:
    """Text in columns.

    Attributes:
        index: columns that tell rows apart, by their headings.
        cells: the other columns.
    """

    index: dict[str, list[str]]
    cells: dict[str, list[str]]

    def text(self, width: int = 100) -> str:
        """Aligned plain text. Columns of one family, such as lengths, get a block under its name.

        Args:
            width: columns that do not fit go to a further block.
        """
        blocks = [
            "\n".join([*([title] if title else []), aligned(list(zip(*columns, strict=True)))])
            for title, family in _families(self.cells)
            for columns in _fitting(self._columns(self.index), self._columns(family), width)
        ]
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """A Markdown table."""
        columns = [*self._columns(self.index), *self._columns(self.cells)]
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in zip(*columns, strict=True))
        rule = ["---"] * len(self.index) + ["---:"] * len(self.cells)
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])

    @staticmethod
    def _columns(named: Mapping[str, Sequence[str]]) -> list[list[str]]:
        return [[name, *cells] for name, cells in named.items()]


def _families(cells: Mapping[str, list[str]]) -> list[tuple[str, dict[str, list[str]]]]:
    """Columns that stand alone, without a title; then those named ``FAMILY/KEY=VALUE``, where a family has several."""
    families: dict[str, list[str]] = {}
    for name in cells:
        family, _, last = name.rpartition("/")
        if "=" in last and " - " not in name:
            families.setdefault(family, []).append(name)
    several = {family: names for family, names in families.items() if len(names) > 1}
    alone = {name: column for name, column in cells.items() if not any(name in names for names in several.values())}
    blocks = [("", alone)] if alone or not several else []
    return blocks + [(title, {n.rpartition("/")[2]: cells[n] for n in names}) for title, names in several.items()]


def _fitting(index: list[list[str]], cells: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """The cells' columns in as few blocks as fit, each with the index before it."""
    block: list[list[str]] = []
    for column in cells:
        if block and _width([*index, *block, column]) > width:
            yield [*index, *block]
            block = []
        block.append(column)
    yield [*index, *block]


def _width(columns: Iterable[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def summary_table(groups: Sequence[Group], metrics: Sequence[str]) -> Table:
    """A row a group: its options, how many seeds have finished and how else runs ended, mean ± deviation over seeds.

    A cell with fewer seeds than ``n``, since some of their values are null, says how many; "-" has none.

    Args:
        groups: by the same options, at least one.
        metrics: names, or differences ``A - B``.
    """
    index = {name: [shown(group.values[name]) for group in groups] for name in groups[0].values}
    index["n"] = [str(group.seeds) for group in groups]
    for status in ("diverged", *OTHERS):
        counts = [group.statuses()[status] for group in groups]
        if any(counts):
            index[status] = [str(count) for count in counts]
    return Table(index, {metric: _means(groups, metric) for metric in metrics})


def _means(groups: Sequence[Group], metric: str) -> list[str]:
    summaries = [group.summary(metric) for group in groups]
    places = decimals(summaries)
    cells = []
    for group, summary in zip(groups, summaries, strict=True):
        few = f" (n={summary.n})" if 0 < summary.n < group.seeds else ""
        cells.append(mean_and_deviation(summary, places) + few)
    return cells


def difference_table(pairs: Sequence[tuple[Group, Group | None]], metrics: Sequence[str], level: float = 0.95) -> Table:
    """A row a group: the mean difference from its baseline over shared seeds, with its interval.

    Args:
        pairs: groups with their baselines; a group without one has no row.
        metrics: names, or differences ``A - B``.
        level: of the intervals.
    """
    compared = [(group, baseline) for group, baseline in pairs if baseline is not None]
    index = {name: [shown(group.values[name]) for group, _ in compared] for name in pairs[0][0].values}
    cells = {}
    for metric in metrics:
        summaries = [group.difference(baseline, metric, level) for group, baseline in compared]
        places = decimals(summaries)
        cells[metric] = [mean_and_interval(summary, places) for summary in summaries]
    return Table(index, cells)


def decimals(summaries: Iterable[Summary]) -> int:
    """Decimal places for a column: enough for two digits of the smallest deviation, but four at most.

    Where all means are below 0.01, it is as many as show four digits of the largest.
    """
    found = [summary for summary in summaries if summary.mean is not None]
    largest = max((abs(summary.mean or 0.0) for summary in found), default=0.0)
    most = 4 if largest >= 0.01 else 3 - _exponent(largest)
    needed = [1 - _exponent(summary.sd) if summary.sd else 3 - _exponent(summary.mean or 0.0) for summary in found]
    return min(max([0, *needed]), most)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def mean_and_deviation(summary: Summary, places: int) -> str:
    """``0.7720 ± 0.0092``, without the deviation of a single value; "-" without values."""
    if summary.mean is None:
        return "-"
    deviation = "" if summary.sd is None else f" ± {summary.sd:.{places}f}"
    return f"{summary.mean:.{places}f}{deviation}"


def mean_and_interval(summary: Summary, places: int) -> str:
    """``+0.084 [+0.051, +0.117] (n=3)``, without the interval of a single value; "-" without values."""
    if summary.mean is None:
        return "-"
    interval = summary.interval
    between = f" [{interval.low:+.{places}f}, {interval.high:+.{places}f}]" if interval else ""
    return f"{summary.mean:+.{places}f}{between} (n={summary.n})"


def write_runs(path: str | Path, trials: Sequence[Trial], options: Sequence[str], metrics: Sequence[str] = ()) -> Path:
    """Writes a CSV with a row a trial.

    Columns are the run's folder, its status, the number of earlier attempts, the seed and the options by their dotted
    names, the duration in seconds, and metrics by theirs. Null and absent values are empty. Diverged runs have their
    last values; so have runs that were interrupted.

    Args:
        path: of the file; its folder is made if need be.
        trials: in the order of the rows.
        options: dotted names, or "variant".
        metrics: names, or differences; by default all that any run has.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = list(metrics) or names_of(trial.run.metrics for trial in trials if trial.run)
    columns = [VARIANT] * (VARIANT in options) + [SEED] + [name for name in options if name not in (VARIANT, SEED)]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "status", "earlier_attempts", *columns, "duration_s", *found])
        for trial in trials:
            values = [trial.seed if name == SEED else trial.value(name) for name in columns]
            writer.writerow([trial.path, trial.status, trial.earlier, *map(_cell, values), *_results(trial, found)])
    return path


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else shown(value)


def _results(trial: Trial, metrics: Sequence[str]) -> list[float | None]:
    if trial.run is None:
        return [None] * (1 + len(metrics))
    return [trial.run.duration_s, *(metric_value(trial.run.metrics, name) for name in metrics)]
