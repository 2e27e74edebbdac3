"""Table and figure of a label-training or distillation run: how well it classifies, and how true to its teacher it is.

After the measures of "Revisiting Knowledge Distillation" (Lanzillotta et al., 2025). Metrics are named
``SPLIT/MEASURE``; accuracies and agreement are fractions. "subset" are the student's own samples, un-augmented.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dinopl.reports.run import Run
from dinopl.reports.views.figure import COLOURS, GREY, INK
from dinopl.reports.views.table import aligned, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = {"test": "test", "val": "validation", "subset": "own samples"}
MEASURES = {
    "accuracy": "accuracy (%)",
    "agreement": "agreement with the teacher (%)",
    "nll": "NLL (nats)",
    "kl": "KL from the teacher (nats)",
    "ece": "calibration error (%)",
    "cka": "feature CKA with the teacher",
}
PERCENT = ("accuracy", "agreement", "ece")


def has_classifier(metrics: Mapping[str, float | None]) -> bool:
    """Whether a classifier was measured on some split."""
    return any({f"{split}/nll", f"{split}/brier"} <= metrics.keys() for split in SPLITS)


def classifier_table(metrics: Mapping[str, float | None]) -> str:
    """Rows are measures, columns splits; and a line about the teacher, where there is one.

    Args:
        metrics: named ``SPLIT/MEASURE``; other names are passed over, but for ``teacher/accuracy``.

    Returns:
        Aligned plain text. A value that is missing is shown as "-"; a measure that no split has is left out.
    """
    splits = [split for split in SPLITS if f"{split}/nll" in metrics]
    rows = [["student", *(SPLITS[split] for split in splits)]]
    for measure, title in MEASURES.items():
        values = [metrics.get(f"{split}/{measure}") for split in splits]
        if any(value is not None for value in values):
            rows.append([title, *(_cell(measure, value) for value in values)])
    teacher = metrics.get("teacher/accuracy")
    said = "" if teacher is None else f"\nteacher's test accuracy: {percent(teacher)} %"
    return aligned(rows) + said


def classifier_figure(run: Run) -> "Figure":
    """Accuracy and agreement (left) and loss (right) of the training batches, against optimiser steps.

    Every line's label is the name of its metric, and its data are the metric's values.

    Args:
        run: finished or not.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw(left, run, ("train/accuracy", "train/agreement"), "Training batches", "share of the batch (%)")
    left.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.4g}")
    _draw(right, run, ("train/loss",), "Training loss", "loss")
    return figure


def _draw(axes: "Axes", run: Run, names: tuple[str, ...], title: str, label: str) -> None:
    for name, colour in zip(names, COLOURS, strict=False):
        if line := run.history.rows("step", name):
            axes.plot(*zip(*line, strict=True), label=name, color=colour, linewidth=1.3)
    if not axes.get_lines():
        axes.text(0.5, 0.5, "no points yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
    elif len(names) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY, labelsize=9)


def _cell(measure: str, value: float | None) -> str:
    if measure in PERCENT:
        return percent(value)
    return "-" if value is None or value != value else f"{value:.3f}"
