"""The figure of a distillation run: how well the student probes over time, and how far it is from its teacher.

After figure 1 of "Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023). What differs: all probes are shown,
and input and teacher beside the student.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinopl.core.files import replacing
from dinopl.reports.run import Run
from dinopl.reports.views.table import SPLITS, SUBJECTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)  # Okabe and Ito: safe for colour-blind eyes
MARKERS = ("o", "s", "^", "D", "v", "P")  # so that colour is not needed to tell probes apart
STYLES: dict[str, dict[str, Any]] = {
    "student": {"linestyle": "-", "linewidth": 1.8},
    "teacher": {"linestyle": "--", "linewidth": 1.3},
    "input": {"linestyle": ":", "linewidth": 1.0},
}
INK, GREY = "#222222", "#777777"


def distillation_figure(run: Run) -> "Figure":
    """Probe accuracies (left) and training KL (right) against epochs.

    Every line's label is the name of its metric, and its data are the metric's values (accuracies as fractions). The
    test split is shown, or the validation split if the run has no points on the test split. A panel without data says
    so.

    Args:
        run: finished or not.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    probes = _draw_accuracies(left, run)
    _draw_kl(right, run)
    end = max([1.0, *(float(np.max(line.get_xdata())) for axes in (left, right) for line in axes.get_lines())])
    for axes in (left, right):
        _finish(axes, end)
    if probes:
        figure.legend(
            handles=_legend(probes), loc="outside lower center", ncols=len(probes) + 3, frameon=False, fontsize=9
        )
    return figure


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])
    with (
        replacing(path.with_suffix(".csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["metric", x, "value"])
        for line in (line for axes in figure.axes for line in axes.get_lines()):
            if not str(line.get_label()).startswith("_"):
                writer.writerows([line.get_label(), *point] for point in np.asarray(line.get_xydata()).tolist())
    return path


def _draw_accuracies(axes: "Axes", run: Run) -> list[str]:
    """Draws a line a probe and subject; returns the probes."""
    points = [name.split("/") for name in run.history.columns if name.startswith(("probe/", "probe_val/"))]
    drawn = [point for point in points if len(point) == 3 and point[1] in SUBJECTS]
    prefix = next((prefix for prefix in SPLITS if any(point[0] == prefix for point in drawn)), "probe")
    # as the table has them: in the order in which the run names its probes, else by name
    named = [name.split("/")[2] for name in run.metrics if name.startswith(f"{prefix}/student/")]
    probes = list(dict.fromkeys([*named, *sorted(probe for first, _, probe in drawn if first == prefix)]))
    for index, probe in enumerate(probes):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for subject, style in STYLES.items():
            name = f"{prefix}/{subject}/{probe}"
            if line := run.history.rows("probe/epoch", name):
                shape: dict[str, Any] = {"marker": marker, "markersize": 4.5} if subject == "student" else {}
                axes.plot(*zip(*line, strict=True), label=name, color=colour, **style, **shape)
    axes.set_title("Probe accuracy", loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylabel(f"accuracy on the {SPLITS[prefix]} (%)")
    axes.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.4g}")
    return probes


def _draw_kl(axes: "Axes", run: Run) -> None:
    """Draws the training KL at the epoch where each step began; a KL of 0 (the start) has no place on a log axis."""
    steps = run.history.steps_per_epoch()
    line = [(step / steps, kl) for step, kl in run.history.rows("step", "train/kl") if kl > 0]
    axes.set_yscale("log")
    if line:
        axes.plot(*zip(*line, strict=True), label="train/kl", color=INK, linewidth=1.1)
    axes.set_title("Distance of the outputs", loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylabel("KL(teacher ‖ student) in training (nats)")


def _finish(axes: "Axes", end: float) -> None:
    from matplotlib.ticker import MaxNLocator

    if not axes.get_lines():
        axes.text(0.5, 0.5, "no points yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
    axes.set_xlabel("epoch")
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelsize=9)


def _legend(probes: list[str]) -> list[object]:
    """Handles: a colour and marker a probe, a line style a subject."""
    from matplotlib.lines import Line2D

    handles: list[object] = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=5, label=probe)
        for i, probe in enumerate(probes)
    ]
    return handles + [Line2D([], [], color=GREY, label=subject, **style) for subject, style in STYLES.items()]
