"""A report on many runs: which groups, which metrics, compared with what, against what on a figure's axis."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dinopl.core.statistics import BOOTSTRAP_FROM
from dinopl.reports.collection import ENDED, OTHERS, Collection, collect
from dinopl.reports.groups import VARIANT, Group, baseline_of, group, paths_by_seed
from dinopl.reports.metrics import headline, keys_of, matching, names_of
from dinopl.reports.options import number, option_name, shown
from dinopl.reports.report_figures import Line, Mark, lines_of, marks_of
from dinopl.reports.report_tables import Table, difference_table, summary_table


class UnknownNameError(ValueError):
    """A name that no run has.

    Args:
        message: what is wrong with it.
        name: as it was given.
        known: names that there are.
    """

    def __init__(self, message: str, name: str, known: Iterable[str]) -> None:
        super().__init__(message)
        self.name = name
        self.known = sorted(known)


class Plot(NamedTuple):
    """What a figure shows.

    Attributes:
        x: what is on the horizontal axis.
        lines: means over seeds.
        marks: values from elsewhere.
        log: whether ``x`` is known to be spread over a logarithmic range.
    """

    x: str
    lines: list[Line]
    marks: list[Mark]
    log: bool


@dataclass(frozen=True)
class Report:
    """Groups of runs and what is told of them.

    Attributes:
        source: studies by name, or else folders.
        collection: the runs.
        groups: of runs that differ in their seed.
        metrics: those that are shown; none if no run has finished.
        baseline: option and value that differences are taken from.
        level: of intervals.
        chosen: whether the options that tell groups apart were asked for.
    """

    source: str
    collection: Collection
    groups: list[Group]
    metrics: list[str]
    baseline: tuple[str, Any] | None = None
    level: float = 0.95
    chosen: bool = False

    @classmethod
    def of(
        cls,
        paths: Sequence[str | Path],
        by: Sequence[str] | None = None,
        metrics: Sequence[str] = (),
        baseline: str | None = None,
        level: float = 0.95,
    ) -> "Report":
        """Reads runs and puts them into groups.

        Args:
            paths: studies, folders of runs, run folders.
            by: dotted options, or "variant", that tell groups apart; None takes all that differ but for the seed.
            metrics: names, globs, or differences ``A - B``; by default those of :func:`headline`, after the study's.
            baseline: ``OPTION=VALUE``, or a value that one option only has, such as a variant's name.
            level: of intervals, between 0 and 1.

        Raises:
            FileNotFoundError: if there are no runs.
            ValueError: if a file is damaged, a name is unknown (``UnknownNameError``), or ``level`` is out of range.
        """
        if not 0 < level < 1:
            raise ValueError(f"--level {level}: give a number between 0 and 1, such as 0.95.")
        by = None if by is None else [option_name(name) for name in by]
        collection = collect(paths, keep=by or ())
        _check_options(by or (), collection)
        source = ", ".join([study.name for study in collection.studies] or map(str, paths))
        groups = group(collection, by)
        compared = None if baseline is None else _baseline(groups, baseline)
        return cls(source, collection, groups, _metrics(collection, metrics), compared, level, by is not None)

    def heading(self) -> list[str]:
        """Lines on how many runs there are, what the numbers are, and what was left out."""
        counts = [f"{n} {status}" for status in (*ENDED, *OTHERS) if (n := self.collection.count(status))]
        lines = [f"{self.source}: {_plural(len(self.collection.trials), 'run')}: {', '.join(counts)}"]
        if self.metrics:
            lines.append("mean ± standard deviation over n seeds")
        if within := self.groups[0].within:
            lines.append(
                f"averaged within each seed over {', '.join(within)}; a seed that lacks one of these is left out"
            )
        if paths := [name for name in paths_by_seed(self.collection) if name not in self.groups[0].values]:
            lines.append(f"{', '.join(paths)} differs with the seed only")
        if earlier := sum(trial.earlier for trial in self.collection.trials):
            lines.append(f"left out: {_plural(earlier, 'earlier attempt')} at these runs")
        if evaluations := self.collection.evaluations:
            lines.append(f"left out: {_plural(evaluations, 'run')} of validate, test or predict")
        return lines

    def tables(self) -> list[tuple[str, Table]]:
        """Tables with their titles: means; differences, if there is a baseline; reference values, if there are any."""
        tables = [("", summary_table(self.groups, self.metrics))]
        if self.baseline:
            tables.append(self._differences(*self.baseline))
        if marks := [mark for mark in self._marks() if mark.metric in self.metrics]:
            tables.append(("reference values", _reference_table(marks)))
        return tables

    def _differences(self, option: str, value: Any) -> tuple[str, Table]:
        pairs = [(member, baseline_of(member, self.groups, option, value)) for member in self.groups]
        title = (
            f"difference from {option}={shown(value)}, paired over shared seeds: mean [{100 * self.level:g} % interval]"
            f" (n pairs); Student's t below {BOOTSTRAP_FROM} pairs, else percentile bootstrap"
        )
        return title, difference_table(pairs, self.metrics, self.level)

    def text(self, width: int = 120) -> str:
        """The report for a terminal of some width."""
        return self._laid_out("\n".join(self.heading()), lambda table: table.text(width))

    def markdown(self) -> str:
        """The report in Markdown."""
        first, *rest = self.heading()
        return self._laid_out("\n".join([first, "", *(f"- {line}" for line in rest)]).strip(), Table.markdown)

    def _laid_out(self, heading: str, layout: Callable[[Table], str]) -> str:
        blocks = [part for title, table in self.tables() for part in (title, layout(table)) if part]
        return "\n\n".join([heading, *blocks])

    def plot(self, x: str | None = None) -> Plot:
        """What a figure is to show.

        Args:
            x: an option that the groups are by, or a key in the metrics' names, such as "length"; by default what the
                study says, or else the option with the most values, or else the key. Where the study says which options
                have lines, and others were not asked for, values are averaged over the rest.

        Raises:
            ValueError: if there is nothing to draw, or no such ``x`` (``UnknownNameError``).
        """
        if not self.metrics:
            raise ValueError("--figure: no run has finished, there is nothing to draw.")
        choices = [*self.groups[0].values, *keys_of(self.metrics)]
        x = option_name(x) if x else self._default_x(choices)
        if x not in choices:
            raise UnknownNameError(f"--x {x}: neither an option that rows are by, nor a key of the metrics", x, choices)
        lines = lines_of(self._drawn(x), self.metrics, x, self.level)
        if not lines:
            raise ValueError(f"--x {x}: none of the metrics has a value along it; name others with --metric.")
        return Plot(x, lines, self._marks(), any(x in study.log for study in self.collection.studies))

    def _drawn(self, x: str) -> list[Group]:
        by = [] if self.chosen else [name for study in self.collection.studies for name in study.by]
        options = dict.fromkeys([*by, x] if x in self.groups[0].values else by)
        return group(self.collection, list(options)) if by else self.groups

    def _default_x(self, choices: Sequence[str]) -> str:
        said = [study.x for study in self.collection.studies if study.x in choices]
        if not choices:
            raise ValueError("--figure: the runs differ in no option; give more runs, or name one with --by.")
        by = [name for name in self.groups[0].values if name != VARIANT]
        counts = {name: len({shown(member.values[name]) for member in self.groups}) for name in by}
        return said[0] or "" if said else max(counts, key=lambda name: counts[name]) if counts else choices[-1]

    def _marks(self) -> list[Mark]:
        return [mark for study in self.collection.studies for mark in marks_of(study.reference, study.variants)]


def _reference_table(marks: Sequence[Mark]) -> Table:
    places = {"variant": [mark.variant for mark in marks], "at": [mark.x for mark in marks]}
    told = {name: list(map(shown, values)) for name, values in places.items() if any(x is not None for x in values)}
    index = {"metric": [mark.metric for mark in marks], **told}
    return Table(index, {"value": [f"{mark.value:.4g}" for mark in marks]})


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _check_options(names: Iterable[str], collection: Collection) -> None:
    known = {name for trial in collection.trials for name in trial.settings} | {VARIANT}
    for name in names:
        if name not in known:
            raise UnknownNameError(f"--by {name}: no run has this option", name, known)


def _metrics(collection: Collection, patterns: Sequence[str]) -> list[str]:
    """The metrics that patterns stand for, in finished runs."""
    names = names_of(trial.run.metrics for trial in collection.trials if trial.run and trial.status == "finished")
    if not patterns:
        first = [study.metric for study in collection.studies if study.metric in names]
        return list(dict.fromkeys([*(name for name in first if name), *headline(names)]))
    found: list[str] = []
    for pattern in patterns if names else ():
        matched = matching(pattern, names)
        if not matched:
            raise UnknownNameError(f"--metric {pattern}: no finished run has it", pattern, names)
        found += matched
    return list(dict.fromkeys(found))


def _baseline(groups: Sequence[Group], text: str) -> tuple[str, Any]:
    """Option and value that ``OPTION=VALUE``, or a value alone, stands for."""
    by = list(groups[0].values)
    option, equals, value = text.partition("=")
    option = option_name(option)
    if equals and option not in by:
        raise UnknownNameError(f"--baseline {text}: rows are not by {option}", option, by)
    given = value if equals else text
    wanted = shown(None if given == "null" else number(given))
    names = [option] if equals else by
    found = {name: m.values[name] for m in groups for name in names if shown(m.values[name]) == wanted}
    if len(found) != 1:
        reason = f"{' and '.join(found)} have this value, give OPTION=VALUE" if found else "no row has this value"
        raise ValueError(f"--baseline {text}: {reason}; rows have {_values(groups)}.")
    return next(iter(found.items()))


def _values(groups: Sequence[Group]) -> str:
    """What there is to choose from: each option with its values."""
    values = {name: dict.fromkeys(shown(member.values[name]) for member in groups) for name in groups[0].values}
    return "; ".join(f"{name}={', '.join(shown_values)}" for name, shown_values in values.items()) or "no other rows"
