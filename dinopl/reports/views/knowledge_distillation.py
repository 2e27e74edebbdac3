"""A label-training or distillation run: how well it classifies, and how true to its teacher it is.

After the measures of "Revisiting Knowledge Distillation" (Lanzillotta et al., 2025). Metrics are named
``SPLIT/MEASURE``; accuracies and agreement are fractions. "subset" are the student's own samples, un-augmented.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dinopl.reports.figures import COLOURS, finish, new_figure, row_of
from dinopl.reports.groups import baseline_of
from dinopl.reports.run import Run
from dinopl.reports.tables import aligned, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dinopl.reports.groups import Group

family = "KnowledgeDistillation"
x = "step"
headline: Mapping[str, str] = {}

SPLITS = {"test": "test", "val": "validation", "subset": "own samples"}
MEASURES = {
    "accuracy": ("accuracy", "%"),
    "agreement": ("agreement with the teacher", "%"),
    "nll": ("NLL", "nats"),
    "kl": ("KL from the teacher", "nats"),
    "ece": ("calibration error", "%"),
    "cka": ("feature CKA with the teacher", ""),
}
PLACES = {"test": "test split", "val": "validation split", "subset": "own samples", "train": "training batches"}
GAP = "test/accuracy over labels"
OPTIONS = {
    "data.fraction": ("fraction of the training data", ""),
    "model.objective.temperature": ("temperature", ""),
    "teacher/accuracy": ("teacher's accuracy, test split", "%"),
}


def applies(run: Run) -> bool:
    """Whether a classifier was measured on some split."""
    return any({f"{split}/nll", f"{split}/brier"} <= run.metrics.keys() for split in SPLITS)


def words(name: str) -> tuple[str, str] | None:
    """Titles of this family's measures and options."""
    split, _, measure = name.partition("/")
    if name == GAP:
        return "accuracy gained over labels, test split", "percentage points"
    if split in PLACES and measure in MEASURES:
        text, unit = MEASURES[measure]
        return f"{text}, {PLACES[split]}", unit
    return OPTIONS.get(name)


def panels(groups: Sequence["Group"], metrics: Sequence[str], x: str, level: float) -> Iterator[dict[str, Any]]:
    """The gap in accuracy over training on labels, against a fraction of the data or any other option, seed by seed.

    Args:
        groups: of a study whose variants are "labels" and others.
        metrics: that the figure shows.
        x: the option on its horizontal axis.
        level: of intervals.
    """
    if "test/accuracy" in metrics and {"variant", x} <= groups[0].values.keys() and x != "variant":
        others = [name for name in groups[0].values if name != x]
        for group in groups:
            if labels := baseline_of(group, groups, "variant", "labels"):
                gap = group.difference(labels, "test/accuracy", level)
                yield row_of(GAP, group.label(others), group.values[x], gap, group.values["variant"])


def table(run: Run) -> str:
    """The table of :func:`classifier_table`."""
    return classifier_table(run.metrics)


def figures(run: Run) -> dict[str, "Figure"]:
    """The figure of training, where something was logged."""
    return {"training": classifier_figure(run)} if run.history.rows("step", "train/loss") else {}


def classifier_table(metrics: Mapping[str, float | None]) -> str:
    """Rows are measures, columns splits; and a line about the teacher, where there is one.

    Args:
        metrics: named ``SPLIT/MEASURE``; other names are passed over, but for ``teacher/accuracy``.

    Returns:
        Aligned plain text. A value that is missing is shown as "-"; a measure that no split has is left out.
    """
    splits = [split for split in SPLITS if f"{split}/nll" in metrics]
    rows = [["student", *(SPLITS[split] for split in splits)]]
    for measure, (text, unit) in MEASURES.items():
        values = [metrics.get(f"{split}/{measure}") for split in splits]
        if any(value is not None for value in values):
            rows.append([f"{text} ({unit})" if unit == "nats" else text, *map(rounded, values)])
    teacher = metrics.get("teacher/accuracy")
    return aligned(rows) + ("" if teacher is None else f"\nteacher's test accuracy: {rounded(teacher)}")


def classifier_figure(run: Run) -> "Figure":
    """Accuracy and agreement (left) and loss (right) of the training batches, against optimiser steps.

    Every line's label is the name of its metric, and its data are the metric's values.

    Args:
        run: finished or not.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    figure = new_figure(9.6, 4.0)
    panels = figure.subplots(1, 2)
    shown = (("train/accuracy", "train/agreement"), ("train/loss",))
    titles = (("Training batches", "share of the batch (%)"), ("Training loss", "loss"))
    for axes, names, (title, label) in zip(panels, shown, titles, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            if line := run.history.rows("step", name):
                axes.plot(*zip(*line, strict=True), label=name, color=colour, linewidth=1.3)
        if len(names) > 1 and axes.get_lines():
            axes.legend(frameon=False, fontsize=9)
        finish(axes, title, "optimiser step", label, percent="%" in label)
    return figure
