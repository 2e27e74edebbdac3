"""A report on many runs: which groups, which metrics, compared with what, against what on a figure's axis."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinopl.core.statistics import BOOTSTRAP_FROM
from dinopl.reports.figures import framed, points_of, reference_rows
from dinopl.reports.frame import ENDED, OTHERS, runs
from dinopl.reports.groups import VARIANT, Group, baseline_of, group, paths_by_seed
from dinopl.reports.metrics import headline, keys_of, matching
from dinopl.reports.options import number, option_name, shown
from dinopl.reports.tables import as_latex, as_markdown, as_text, difference_table, summary_table
from dinopl.reports.views import all_views

if TYPE_CHECKING:
    from pandas import DataFrame


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


@dataclass(frozen=True)
class Report:
    """Groups of runs and what is said of them.

    Attributes:
        source: studies by name, or else folders.
        runs: the frame of ``dinopl.reports.runs``.
        groups: of runs that differ in their seed.
        metrics: those that are shown; none if no run has finished.
        baseline: option and value that differences are taken from.
        level: of intervals.
        chosen: whether the options that the groups are by were asked for.
    """

    source: str
    runs: "DataFrame"
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
            by: dotted options, or "variant", whose values make the groups; None takes all that differ but for the seed.
            metrics: names, globs, or differences ``A - B``; by default those of :func:`headline`, after the study's.
            baseline: ``OPTION=VALUE``, or a value that one option only has, such as a variant's name.
            level: of intervals, between 0 and 1.

        Raises:
            FileNotFoundError: if there are no runs.
            ValueError: if a file is damaged, a name is unknown (``UnknownNameError``), or ``level`` is out of range.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level}: give a number between 0 and 1, such as 0.95.")
        by = None if by is None else [option_name(name) for name in by]
        frame = runs(paths, keep=by or ())
        known = {*frame.attrs["options"], VARIANT}
        for name in by or ():
            if name not in known:
                raise UnknownNameError(f"by={name}: no run has this option", name, known)
        groups = group(frame, by)
        source = ", ".join([study["name"] for study in frame.attrs["studies"]] or map(str, paths))
        compared = None if baseline is None else _baseline(groups, baseline)
        return cls(source, frame, groups, chosen_metrics(frame, metrics), compared, level, by is not None)

    def heading(self) -> list[str]:
        """Lines on how many runs there are, what the numbers are, and what was left out."""
        attempts, evaluations = int(self.runs["earlier_attempts"].sum()), self.runs.attrs["evaluations"]
        found = self.runs["status"].value_counts()
        counts = [f"{found[status]} {status}" for status in (*ENDED, *OTHERS) if status in found]
        lines = [f"{self.source}: {_plural(len(self.runs), 'run')}: {', '.join(counts)}"]
        if self.metrics:
            lines.append("mean ± standard deviation over n seeds")
        if within := self.groups[0].within:
            lines.append(
                f"averaged within each seed over {', '.join(within)}; a seed that lacks one of these is left out"
            )
        if paths := [name for name in paths_by_seed(self.runs) if name not in self.groups[0].values]:
            lines.append(f"{', '.join(paths)} differs with the seed only")
        if attempts:
            lines.append(f"left out: {_plural(attempts, 'earlier attempt')} at these runs")
        if evaluations:
            lines.append(f"left out: {_plural(evaluations, 'run')} of validate, test or predict")
        return lines

    def tables(self) -> list[tuple[str, "DataFrame"]]:
        """Tables with their titles: means; differences, if there is a baseline; reference values, if there are any."""
        import pandas as pd

        tables = [("", summary_table(self.groups, self.metrics, ("diverged", *OTHERS)))]
        if self.baseline:
            option, value = self.baseline
            pairs = [(member, baseline_of(member, self.groups, option, value)) for member in self.groups]
            title = (
                f"difference from {option}={shown(value)}, paired over shared seeds: mean [{100 * self.level:g} % "
                f"interval] (n pairs); Student's t below {BOOTSTRAP_FROM} pairs, else percentile bootstrap"
            )
            tables.append((title, difference_table(pairs, self.metrics, self.level)))
        if rows := [row for row in self._references() if row["metric"] in self.metrics]:
            places = {"variant": [row["variant"] for row in rows], "at": [row["x"] for row in rows]}
            given = {
                name: list(map(shown, values)) for name, values in places.items() if any(v is not None for v in values)
            }
            index = {"metric": [row["metric"] for row in rows], **given}
            values = {"value": [f"{row['mean']:.4g}" for row in rows]}
            tables.append(("reference values", pd.DataFrame(index | values, dtype=object).set_index(list(index))))
        return tables

    def text(self, width: int = 120) -> str:
        """The report for a terminal of some width."""
        return self._laid_out("\n".join(self.heading()), lambda table: as_text(table, width))

    def markdown(self) -> str:
        """The report in Markdown."""
        first, *rest = self.heading()
        return self._laid_out("\n".join([first, "", *(f"- {line}" for line in rest)]).strip(), as_markdown)

    def latex(self) -> str:
        """The report as LaTeX tables of the package ``booktabs``; headings and titles are comments."""
        return self._laid_out(
            "\n".join(f"% {line}" for line in ("needs \\usepackage{booktabs}", *self.heading())), as_latex, "% "
        )

    def _laid_out(self, heading: str, layout: Callable[["DataFrame"], str], before: str = "") -> str:
        parts = [part for title, table in self.tables() for part in (title and before + title, layout(table)) if part]
        return "\n\n".join([heading, *parts])

    def plot(self, x: str | None = None) -> tuple["DataFrame", str, bool]:
        """What a figure is to show.

        Args:
            x: an option that the groups are by, or a key in the metrics' names, such as "length"; by default what the
                study says, or else the option with the most values, or else the key. Where the study says which options
                have lines, and others were not asked for, values are averaged over the rest.

        Returns:
            The points, as ``points_of`` has them, reference values after them; what stands on the horizontal axis; and
            whether it is known to be spread over a logarithmic range.

        Raises:
            ValueError: if there is nothing to draw, or no such ``x`` (``UnknownNameError``).
        """
        studies, options = self.runs.attrs["studies"], self.groups[0].values
        if not self.metrics:
            raise ValueError("no run has finished, there is nothing to draw.")
        choices = [*options, *keys_of(self.metrics)]
        if not x and not choices:
            raise ValueError("the runs differ in no option; give more runs, or name an option that rows are to be by.")
        said = [study["x"] for study in studies if study["x"] in choices]
        counts = {
            name: len({shown(member.values[name]) for member in self.groups}) for name in options if name != VARIANT
        }
        x = option_name(x) if x else said[0] if said else max(counts, key=counts.__getitem__, default=choices[-1])
        if x not in choices:
            raise UnknownNameError(f"x={x}: neither an option that rows are by, nor a key of the metrics", x, choices)
        by = [] if self.chosen else [name for study in studies for name in study["by"]]
        drawn = group(self.runs, [*by, *([x] if x in options else [])]) if by else self.groups
        points = points_of(drawn, self.metrics, x, self.level)
        if points.empty:
            raise ValueError(f"x={x}: none of the metrics has a value along it; name others.")
        rows: list[Any] = points.to_dict("records")
        for view in all_views():
            if view.family in set(self.runs["family"]) and hasattr(view, "panels"):
                rows += view.panels(drawn, self.metrics, x, self.level)
        rows += self._references()
        return framed(rows), x, any(x in study["log"] for study in studies)

    def _references(self) -> list[dict[str, Any]]:
        studies = self.runs.attrs["studies"]
        return [row for study in studies for row in reference_rows(study["reference"], study["variants"])]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def chosen_metrics(runs: "DataFrame", patterns: Sequence[str] = ()) -> list[str]:
    """The metrics of finished runs that patterns stand for; without patterns the studies' and the headline.

    Raises:
        UnknownNameError: if no finished run has what a pattern names.
    """
    names = runs.attrs["measured"]
    if not patterns:
        first = [study["metric"] for study in runs.attrs["studies"] if study["metric"] in names]
        return list(dict.fromkeys([*first, *headline(names)]))
    found: list[str] = []
    for pattern in patterns if names else ():
        matched = matching(pattern, names)
        if not matched:
            raise UnknownNameError(f"metrics={pattern}: no finished run has it", pattern, names)
        found += matched
    return list(dict.fromkeys(found))


def _baseline(groups: Sequence[Group], text: str) -> tuple[str, Any]:
    """Option and value that ``OPTION=VALUE``, or a value alone, stands for."""
    by = list(groups[0].values)
    option, equals, value = text.partition("=")
    option = option_name(option)
    if equals and option not in by:
        raise UnknownNameError(f"baseline={text}: rows are not by {option}", option, by)
    given = value if equals else text
    wanted = shown(None if given == "null" else number(given))
    names = [option] if equals else by
    found = {name: m.values[name] for m in groups for name in names if shown(m.values[name]) == wanted}
    if len(found) != 1:
        reason = f"{' and '.join(found)} have this value, give OPTION=VALUE" if found else "no row has this value"
        rows = {name: dict.fromkeys(shown(member.values[name]) for member in groups) for name in by}
        known = "; ".join(f"{name}={', '.join(values)}" for name, values in rows.items()) or "no other rows"
        raise ValueError(f"baseline={text}: {reason}; rows have {known}.")
    return next(iter(found.items()))
