"""The figure of a report: metrics against an option, or against a number in their names, with bands over seeds."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dinopl.core.files import replacing
from dinopl.core.statistics import Summary
from dinopl.reports.groups import VARIANT, Group
from dinopl.reports.metrics import place
from dinopl.reports.options import canonical, shown
from dinopl.reports.views.figure import COLOURS, GREY, INK, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = Literal["sd", "interval"]
Scale = Literal["linear", "log", "symlog", "categorical"]

FORMATS = (".png", ".pdf", ".svg")
LOG_FROM = 100.0  # ratio of the largest to the smallest positive value: more than two decades


class Point(NamedTuple):
    """A mean over seeds at a place on the horizontal axis; ``x`` is None for a level that holds along the axis."""

    x: Any
    summary: Summary


@dataclass(frozen=True)
class Line:
    """What is drawn in one colour.

    Attributes:
        metric: whose values these are; the panel.
        label: of the legend; empty if there is one line only.
        points: in the order of the axis.
        variant: name of the variant, if the lines are variants of a study.
    """

    metric: str
    label: str
    points: list[Point]
    variant: str | None = None


class Mark(NamedTuple):
    """A value from elsewhere, such as a paper: at ``x``, or along the whole axis; of a variant, or of all."""

    metric: str
    value: float
    x: Any = None
    variant: str | None = None


def lines_of(groups: Sequence[Group], metrics: Sequence[str], x: str, level: float = 0.95) -> list[Line]:
    """A line a metric and combination of the other options.

    Args:
        groups: by options, ``x`` among them or not.
        metrics: names, or differences.
        x: an option that the groups are by; or else a key of the metrics' names: with "length",
            ``test/loss/length=64`` is a point of ``test/loss`` at 64, and metrics without it are passed over.
        level: of the intervals.
    """
    lines = _against_option if x in groups[0].values else _against_key
    found = lines(groups, metrics, x, level)
    return [line for line in found if any(point.summary.n for point in line.points)]


def _against_option(groups: Sequence[Group], metrics: Sequence[str], x: str, level: float) -> list[Line]:
    others = [name for name in groups[0].values if name != x]
    rows: dict[str, list[Group]] = {}
    for group in groups:
        rows.setdefault(canonical([group.values[name] for name in others]), []).append(group)
    return [
        Line(
            metric,
            row[0].label(others),
            [Point(group.values[x], group.summary(metric, level)) for group in row],
            row[0].values.get(VARIANT) if x != VARIANT else None,
        )
        for metric in metrics
        for row in rows.values()
    ]


def _against_key(groups: Sequence[Group], metrics: Sequence[str], x: str, level: float) -> list[Line]:
    families: dict[str, list[tuple[float, str]]] = {}
    for metric in metrics:
        if found := place(metric, x):
            families.setdefault(found.family, []).append((found.number, metric))
    return [
        Line(
            family,
            group.label(group.values),
            [Point(number, group.summary(metric, level)) for number, metric in sorted(members)],
            group.values.get(VARIANT),
        )
        for family, members in families.items()
        for group in groups
    ]


def marks_of(reference: Mapping[str, Any], variants: Sequence[str] = ()) -> list[Mark]:
    """Reads reference values: a number a metric, or a mapping from values of x, from variants, or from both.

    Args:
        reference: such as ``{"probe/student/linear": {"0": 0.52, "1": 0.446}}``.
        variants: names that are variants'; other keys are values of x.
    """
    return [mark for metric, value in reference.items() for mark in _marks(Mark(metric, 0.0), value, variants)]


def _marks(mark: Mark, value: Any, variants: Sequence[str]) -> list[Mark]:
    if isinstance(value, Mapping):
        return [
            below
            for key, item in value.items()
            for below in _marks(mark._replace(**{"variant" if key in variants else "x": key}), item, variants)
        ]
    return [mark._replace(value=float(value))] if isinstance(value, int | float) else []


def scale_of(values: Iterable[Any], log: bool = False) -> Scale:
    """How to lay values along an axis.

    Args:
        values: those that are to be shown.
        log: whether they are known to be spread over a logarithmic range.

    Returns:
        "categorical" if any is no number; "log" if asked for, or if they span more than two decades; "symlog" instead,
        if there is a zero among them; else "linear".
    """
    found = [value for value in values if value is not None]
    if not found or any(isinstance(value, bool) or not isinstance(value, int | float) for value in found):
        return "categorical"
    positive = [value for value in found if value > 0]
    wide = log or (bool(positive) and max(positive) / min(positive) > LOG_FROM)
    if not wide or min(found) < 0 or not positive:
        return "linear"
    return "log" if min(found) > 0 else "symlog"


def band_of(summary: Summary, band: Band) -> tuple[float, float] | None:
    """The two ends of a band around a mean; None below two seeds."""
    if summary.mean is None or summary.sd is None or summary.interval is None:
        return None
    if band == "interval":
        return summary.interval.low, summary.interval.high
    return summary.mean - summary.sd, summary.mean + summary.sd


def report_figure(
    lines: Sequence[Line],
    x: str,
    band: Band = "sd",
    marks: Sequence[Mark] = (),
    log: bool = False,
    level: float = 0.95,
) -> "Figure":
    """A panel a metric, a line a variant, a band over seeds, stars for values from elsewhere.

    Args:
        lines: from :func:`lines_of`, at least one.
        x: what stands on the horizontal axis.
        band: mean ± standard deviation, or the interval of the mean.
        marks: from :func:`marks_of`; those of metrics without a panel are passed over.
        log: whether ``x`` is known to be spread over a logarithmic range.
        level: of the lines' intervals, for the note on what the bands are.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(line.metric for line in lines))
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.6 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    labels = list(dict.fromkeys(line.label for line in lines))
    axis = _Axis.of(lines, log)
    for axes, metric in zip(panels, metrics, strict=False):
        shown_here = [line for line in lines if line.metric == metric]
        for line in shown_here:
            _draw(axes, line, axis, band, labels.index(line.label))
        for mark in marks:
            if mark.metric == metric:
                _draw_mark(axes, mark, axis, shown_here, labels)
        _finish(axes, metric, x, axis)
    for axes in panels[len(metrics) :]:
        axes.remove()
    figure.supxlabel(_note(lines, band, level, bool(marks)), fontsize=8, color=GREY)
    if labels != [""]:
        handles = [_handle(label, number) for number, label in enumerate(labels)]
        columns = _columns(labels, figure.get_figwidth())
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _columns(labels: Sequence[str], width: float) -> int:
    """In how many columns a legend fits into so many inches: its columns are as wide as the longest label."""
    inches = 0.5 + 0.075 * max(map(len, labels))  # a handle, and letters of nine points
    return max(1, min(len(labels), 4, int(width / inches)))


class _Axis(NamedTuple):
    scale: Scale
    values: list[Any]

    @classmethod
    def of(cls, lines: Sequence[Line], log: bool) -> "_Axis":
        found = {canonical(point.x): point.x for line in lines for point in line.points if point.x is not None}
        return cls(scale_of(found.values(), log), list(found.values()))

    def at(self, x: Any) -> float | None:
        """Where a value stands; None for one that has no place, as a word on an axis of numbers."""
        if self.scale == "categorical":
            places = [shown(value) for value in self.values]
            return float(places.index(shown(x))) if shown(x) in places else None
        try:
            return float(x)
        except (TypeError, ValueError):
            return None


def _draw(axes: "Axes", line: Line, axis: _Axis, band: Band, number: int) -> None:
    """A level across the axis for points without a place, a curve and its band for the others."""
    style = _style(number)
    xs: list[float] = []
    means: list[float] = []
    lows: list[float] = []
    highs: list[float] = []
    for x, summary in line.points:
        if summary.mean is None:
            continue
        at = None if x is None else axis.at(x)
        if at is None:
            axes.axhline(summary.mean, color=style["color"], linestyle="--", linewidth=1.3)
            continue
        low, high = band_of(summary, band) or (math.nan, math.nan)  # a single seed leaves a gap
        for values, value in zip((xs, means, lows, highs), (at, summary.mean, low, high), strict=True):
            values.append(value)
    if axis.scale == "categorical":
        errors = [[m - low for m, low in zip(means, lows, strict=True)]]
        errors += [[high - m for m, high in zip(means, highs, strict=True)]]
        aside = [x + 0.08 * (number % 5 - 2) for x in xs]  # bars of several lines beside one another
        axes.errorbar(aside, means, yerr=errors, linestyle="none", capsize=3, label=line.label, **style)
    else:
        axes.plot(xs, means, linewidth=1.6, label=line.label, **style)
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.18, linewidth=0)


def _draw_mark(axes: "Axes", mark: Mark, axis: _Axis, lines: Sequence[Line], labels: Sequence[str]) -> None:
    of_variant = [line.label for line in lines if mark.variant is not None and line.variant == mark.variant]
    colour = _style(labels.index(of_variant[0]))["color"] if of_variant else INK
    at = None if mark.x is None else axis.at(mark.x)
    if mark.x is None:
        axes.axhline(mark.value, color=colour, linestyle=":", linewidth=1.2)
    elif at is not None:
        axes.plot(
            [at], [mark.value], marker="*", markersize=10, color=colour, linestyle="none", markeredgecolor="white"
        )


def _finish(axes: "Axes", metric: str, x: str, axis: _Axis) -> None:
    axes.set_title(metric, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x)
    if axis.scale == "categorical":
        axes.set_xticks(range(len(axis.values)), [shown(value) for value in axis.values])
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
    elif axis.scale == "symlog":  # the part around zero is as narrow as the smallest value allows
        axes.set_xscale("symlog", linthresh=min(value for value in axis.values if value > 0))
    else:
        axes.set_xscale(axis.scale)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelsize=9)


def _note(lines: Sequence[Line], band: Band, level: float, marks: bool) -> str:
    """What bands and marks are, for the foot of the figure."""
    counts = sorted({point.summary.n for line in lines for point in line.points if point.summary.n})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    around = {"sd": "mean ± standard deviation", "interval": f"mean and its {100 * level:g} % interval"}[band]
    told = f"{around} over {seeds} seeds" if counts[-1] > 1 else "one seed"
    return told + ("; stars and dotted lines: reference values" if marks else "")


def _style(number: int) -> dict[str, Any]:
    again = number // len(COLOURS)  # a colour comes back with another marker
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + again) % len(MARKERS)],
        "markersize": 5,
    }


def _handle(label: str, number: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linewidth=1.6, label=label or "all", **_style(number))


def save_report_figure(
    figure: "Figure", path: str | Path, lines: Sequence[Line], x: str, marks: Sequence[Mark] = ()
) -> tuple[Path, Path]:
    """Writes a figure and, beside it under the same name, the CSV that it was drawn from.

    Its columns are the metric, the line, x, the number of seeds, mean, standard deviation, both ends of the interval,
    and the source: "runs", or "reference" for values from elsewhere.

    Args:
        figure: from :func:`report_figure`.
        path: ends in ".png", ".pdf" or ".svg"; its folder is made if need be.
        lines: that the figure shows.
        x: the name of the column with the places.
        marks: that the figure shows.

    Returns:
        The figure's path and the CSV's.

    Raises:
        ValueError: if ``path`` has another ending.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a figure ends in one of {', '.join(FORMATS)}; the CSV goes beside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])
    metrics = {line.metric for line in lines}
    with (
        replacing(path.with_suffix(".csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["metric", "line", x, "n", "mean", "sd", "low", "high", "source"])
        writer.writerows(_row(line, point) for line in lines for point in line.points)
        writer.writerows(
            [mark.metric, mark.variant, mark.x, None, mark.value, None, None, None, "reference"]
            for mark in marks
            if mark.metric in metrics
        )
    return path, path.with_suffix(".csv")


def _row(line: Line, point: Point) -> list[Any]:
    n, mean, sd, interval = point.summary
    x = point.x if point.x is None or isinstance(point.x, int | float | str) else shown(point.x)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return [line.metric, line.label, x, n, mean, sd, low, high, "runs"]
