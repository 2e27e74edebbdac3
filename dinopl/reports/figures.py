"""Figures: how they look, and the report's own, metrics against an option or a number in their names, over seeds."""

import csv
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dinopl.core.files import replacing
from dinopl.core.statistics import Summary
from dinopl.reports.metrics import place
from dinopl.reports.options import number, shown
from dinopl.reports.views import all_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from dinopl.reports.groups import Group

Band = Literal["sd", "interval"]
Scale = Literal["linear", "log", "symlog", "categorical"]

FORMATS = (".png", ".pdf", ".svg")
LOG_FROM = 100.0  # ratio of the largest to the smallest positive value: more than two decades
COLUMNS = ("metric", "line", "x", "n", "mean", "sd", "low", "high", "source", "variant")

# Okabe and Ito: safe for colour-blind eyes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")  # so that lines differ without colour too
INK, GREY = "#222222", "#777777"

# Titles of axes for what any family may have: the last part of an option's name, and the measures of a split.
OPTIONS = {
    "lr": ("learning rate", ""),
    "seed_everything": ("seed", ""),
    "max_epochs": ("length of training", "epochs"),
    "max_steps": ("length of training", "optimiser steps"),
    "batch_size": ("batch size", "samples"),
    "epoch": ("epoch", ""),
    "step": ("optimiser step", ""),
}
SPLITS = {"train": "training", "val": "validation split", "test": "test split"}
UNITS = {"accuracy": "%", "nll": "nats", "kl": "nats", "duration_s": "s"}


def axis_words(name: str) -> tuple[str, str]:
    """The title of an axis and its unit ("" for none) for a metric, a difference ``A - B``, an option or a key."""
    first, minus, second = name.partition(" - ")
    if minus:
        (one, unit), (other, _) = axis_words(first), axis_words(second)
        return f"{one}, minus {other}", "percentage points" if unit == "%" else unit
    if found := next((found for view in all_views() if (found := view.words(name))), None):
        return found
    split, _, measure = name.partition("/")
    if measure and split in SPLITS:
        unit = next((unit for end, unit in UNITS.items() if measure.split("/")[0].endswith(end)), "")
        return f"{measure.replace('_', ' ').replace('/', ', ').replace('=', ' ')}, {SPLITS[split]}", unit
    *above, last = name.split(".")
    text = " ".join([*above[-1:], last]) if above[1:] else last
    return OPTIONS.get(last) or (text.replace("_", " ").replace("/", " "), "")


def axis_title(name: str) -> str:
    """A title with its unit, such as "sequence accuracy, test split (%)"."""
    text, unit = axis_words(name)
    return f"{text} ({unit})" if unit else text


def new_figure(width: float, height: float) -> "Figure":
    """A figure of so many inches on an Agg canvas; pyplot is not involved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(axes: "Axes", title: str, x: str, y: str, percent: bool = False) -> None:
    """What all panels share: titles, a light grid, no box; a panel without lines says so.

    Args:
        axes: with everything drawn.
        title: of the panel; may be empty.
        x: title of the horizontal axis.
        y: of the vertical one.
        percent: whether values are fractions to show in percent.
    """
    if not axes.has_data():
        axes.text(0.5, 0.5, "no points yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if percent:
        axes.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.4g}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelsize=9)


def save_figure(figure: "Figure", path: str | Path, x: str = "epoch") -> Path:
    """Writes a figure as PNG and, beside it under the same name, the CSV of its lines: metric, epoch, value.

    Args:
        figure: whose lines have metrics' names for labels; one whose label begins with "_" is no data, left out.
        path: of the PNG; its folder is made if need be.
        x: what stands on the horizontal axis, the name of the CSV's second column.

    Returns:
        The path of the PNG.

    Raises:
        ValueError: if ``path`` does not end in ".png".
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path={str(path)!r} must end in .png: the CSV goes beside it")
    _write_image(figure, path)
    with replacing(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", x, "value"])
        for line in (line for axes in figure.axes for line in axes.get_lines()):
            if not str(line.get_label()).startswith("_"):
                writer.writerows([line.get_label(), *point] for point in np.asarray(line.get_xydata()).tolist())
    return path


def _write_image(figure: "Figure", path: Path) -> None:
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        matplotlib.rc_context({"pdf.fonttype": 42}),
    ):  # publishers refuse the default, Type 3
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])


def row_of(metric: str, line: str, x: Any, summary: Summary, variant: str | None = None) -> dict[str, Any]:
    """A point of a figure: a mean over seeds at ``x``, or along the whole axis where that is None."""
    low, high = summary.interval[:2] if summary.interval else (None, None)
    numbers = {"n": summary.n, "mean": summary.mean, "sd": summary.sd, "low": low, "high": high}
    return {"metric": metric, "line": line, "x": x, **numbers, "source": "runs", "variant": variant}


def framed(rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Points of a figure, from :func:`row_of`, in the order to draw them; lines without any value are left out.

    Returns:
        A frame with the columns ``metric`` (the panel), ``line`` (its label), ``x``, ``n``, ``mean``, ``sd``, ``low``
        and ``high`` (ends of the interval), ``source`` ("runs", or "reference" for values from elsewhere), ``variant``.
    """
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(COLUMNS), dtype=object)
    frame[["mean", "sd", "low", "high"]] = frame[["mean", "sd", "low", "high"]].astype(float)
    frame["n"] = frame["n"].astype("Int64")
    frame["order"] = frame.groupby(["metric", "line"], sort=False, dropna=False).ngroup()
    frame.loc[frame["source"] == "reference", "order"] = len(frame)
    known = frame.groupby("order")["mean"].transform("count") > 0
    return frame[known].sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)


def points_of(groups: Sequence["Group"], metrics: Sequence[str], x: str, level: float = 0.95) -> "DataFrame":
    """A line per metric and combination of the other options, as :func:`framed` has them.

    Args:
        groups: by options, ``x`` among them or not.
        metrics: names, or differences.
        x: an option that the groups are by; or else a key of the metrics' names: with "length",
            ``test/loss/length=64`` is a point of ``test/loss`` at 64, and metrics without it are passed over.
        level: of the intervals.
    """
    is_option = x in groups[0].values
    others = [name for name in groups[0].values if name != x]
    panels: dict[str, list[tuple[float, str]]] = {}
    for metric in metrics:
        if found := (metric, 0.0) if is_option else place(metric, x):
            panels.setdefault(found[0], []).append((found[1], metric))
    return framed(
        row_of(
            panel,
            group.label(others),
            group.values[x] if is_option else at,
            group.summary(metric, level),
            group.values.get("variant") if x != "variant" else None,
        )
        for panel, members in panels.items()
        for at, metric in sorted(members)
        for group in groups
    )


def reference_rows(reference: Mapping[str, Any], variants: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Values from elsewhere, as rows of :func:`framed`.

    Args:
        reference: a number per metric, or a mapping from values of x, from variants, or from both, such as
            ``{"probe/student/linear": {"0": 0.52, "1": 0.446}}``.
        variants: names that are variants'; other keys are values of x.
    """
    rows: list[dict[str, Any]] = []

    def read(value: Any, facts: dict[str, Any]) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                read(item, facts | ({"line": key, "variant": key} if key in variants else {"x": key}))
        elif isinstance(value, int | float):
            rows.append(facts | {"mean": float(value), "source": "reference"})

    for metric, value in reference.items():
        read(value, {"metric": metric, "line": None, "x": None, "variant": None})
    return rows


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


def report_figure(points: "DataFrame", x: str, band: Band = "sd", log: bool = False, level: float = 0.95) -> "Figure":
    """A panel per metric, a line per variant with a band over seeds, stars for values from elsewhere.

    Args:
        points: from :func:`points_of` or :func:`framed`; reference values of metrics without runs are passed over.
        x: what stands on the horizontal axis.
        band: mean ± standard deviation, or the interval of the mean.
        log: whether ``x`` is known to be spread over a logarithmic range.
        level: of the intervals, for the note on what the bands are.

    Returns:
        A figure on an Agg canvas; pyplot is not involved. Artists are labelled as in ``points``.
    """
    from matplotlib.lines import Line2D

    runs, marks = points[points["source"] == "runs"], points[points["source"] == "reference"]
    metrics, labels = list(runs["metric"].unique()), list(runs["line"].unique())
    entries = list(map(_entry, labels)) if labels != [""] else []
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    width = 4.6 * columns + 0.6
    longest = 0.5 + 0.075 * max(map(len, entries), default=0)  # inches: a handle, and letters of nine points
    beside = len(entries) * longest > width  # a legend is one row above the panels or, where that is too long, a column
    figure = new_figure(width + beside * longest, max(3.6 * rows + 0.5, beside * 0.22 * len(entries)))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    values = {shown(value): value for value in runs["x"] if value is not None}
    scale = scale_of(map(number, values.values()), log)
    for axes, metric in zip(panels, metrics, strict=False):
        for line, part in runs[runs["metric"] == metric].groupby("line", sort=False):
            _draw(axes, part, values, scale, band, labels.index(line))
        for mark in marks[marks["metric"] == metric].itertuples():
            known = runs[(runs["metric"] == metric) & (runs["variant"] == mark.variant)]["line"]
            colour = _style(labels.index(known.iloc[0]))["color"] if mark.variant and len(known) else INK
            at = _place(mark.x, values, scale)
            if mark.x is None:
                axes.axhline(mark.mean, color=colour, linestyle=":", linewidth=1.2)
            elif at is not None:
                axes.plot([at], [mark.mean], "*", markersize=10, color=colour, markeredgecolor="white")
        title, unit = axis_title(metric), axis_words(metric)[1]
        finish(axes, "", axis_title(x), textwrap.fill(title, 44), percent=unit in ("%", "percentage points"))
        if scale == "categorical":
            axes.set_xticks(range(len(values)), list(values))
            axes.set_xlim(-0.5, len(values) - 0.5)
        elif scale == "symlog":  # the part around zero is as narrow as the smallest value allows
            axes.set_xscale("symlog", linthresh=min(value for value in values.values() if value > 0))
        else:
            axes.set_xscale(scale)
    for axes in panels[len(metrics) :]:
        axes.remove()
    counts = sorted({int(n) for n in runs["n"] if n > 0})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    around = {"sd": "mean ± standard deviation", "interval": f"mean and its {100 * level:g} % interval"}[band]
    note = f"{around} over {seeds} seeds" if counts[-1] > 1 else "one seed"
    note += "; stars and dotted lines: reference values" if len(marks) else ""
    figure.supxlabel(note, fontsize=8, color=GREY)
    if entries:
        handles: list[Any] = [
            Line2D([], [], linewidth=1.6, label=e or "all", **_style(i)) for i, e in enumerate(entries)
        ]
        look: dict[str, Any] = {"handles": handles, "frameon": False, "fontsize": 9}
        if beside:
            figure.legend(loc="outside right upper", ncols=1, **look)
        else:
            figure.legend(loc="outside upper center", ncols=len(entries), **look)
    return figure


def _entry(label: str) -> str:
    """A line's label for a legend: options by their titles, "learning rate = 0.1" for "model.optimizer.lr=0.1"."""
    parts = [part.partition("=") for part in label.split(", ")]
    return ", ".join(f"{axis_words(name)[0]} = {value}" if equals else name for name, equals, value in parts)


def _place(value: Any, values: Mapping[str, Any], scale: Scale) -> float | None:
    """Where a value stands; None for one that has no place, as a word on an axis of numbers."""
    if scale == "categorical":
        return float(list(values).index(shown(value))) if shown(value) in values else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _draw(axes: "Axes", line: "DataFrame", values: Mapping[str, Any], scale: Scale, band: Band, index: int) -> None:
    """A level across the axis for points without a place, a curve and its band for the others."""
    style, label = _style(index), line["line"].iloc[0]
    line = line[line["mean"].notna()]
    places: list[Any] = [_place(x, values, scale) for x in line["x"]]
    line = line.assign(at=places)
    for level in line[line["at"].isna()]["mean"]:
        axes.axhline(level, color=style["color"], linestyle="--", linewidth=1.3)
    line = line[line["at"].notna()]
    xs, means = line["at"].astype(float), line["mean"]
    if band == "sd":
        lows, highs = means - line["sd"], means + line["sd"]  # a single seed leaves a gap
    else:
        lows, highs = line["low"], line["high"]
    if scale == "categorical":
        beside = xs + 0.08 * (index % 5 - 2)  # bars of several lines beside one another
        errors = [(means - lows).tolist(), (highs - means).tolist()]
        axes.errorbar(beside.tolist(), means.tolist(), yerr=errors, linestyle="none", capsize=3, label=label, **style)
    else:
        axes.plot(xs.tolist(), means.tolist(), linewidth=1.6, label=label, **style)
        axes.fill_between(xs.tolist(), lows.tolist(), highs.tolist(), color=style["color"], alpha=0.18, linewidth=0)


def _style(index: int) -> dict[str, Any]:
    again = index // len(COLOURS)  # a colour comes back with another marker
    marker = MARKERS[(index + again) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker, "markersize": 5}


def save_report_figure(figure: "Figure", path: str | Path, points: "DataFrame", x: str) -> tuple[Path, Path]:
    """Writes a figure and, beside it under the same name, the CSV that it was drawn from.

    Its columns are the metric, the line, x, the number of seeds, mean, standard deviation, both ends of the interval,
    and the source: "runs", or "reference" for values from elsewhere.

    Args:
        figure: from :func:`report_figure`.
        path: ends in ".png", ".pdf" or ".svg"; its folder is made if need be.
        points: that the figure shows.
        x: the name of the column with the places.

    Returns:
        The figure's path and the CSV's.

    Raises:
        ValueError: if ``path`` has another ending.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a figure ends in one of {', '.join(FORMATS)}; the CSV goes beside it")
    _write_image(figure, path)
    drawn = points[points["metric"].isin(points["metric"][points["source"] == "runs"])].drop(columns="variant")
    places = [at if at is None or isinstance(at, int | float | str) else shown(at) for at in drawn["x"]]
    drawn = drawn.assign(x=pd.Series(places, drawn.index, dtype=object)).rename(columns={"x": x})
    with replacing(path.with_suffix(".csv")) as temporary:
        drawn.to_csv(temporary, index=False, encoding="utf-8")
    return path, path.with_suffix(".csv")
