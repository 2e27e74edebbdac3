"""What is shown of a run once it has ended: each family's table and figures, chosen by the metrics that a run has.

A family joins by one more :class:`ResultView` in ``VIEWS``.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dinopl.reports.run import Run
from dinopl.reports.views.classifiers import classifier_figure, classifier_table, has_classifier
from dinopl.reports.views.figure import distillation_figure
from dinopl.reports.views.sequence_figures import accuracy_figure, iterations_figure, other_layers
from dinopl.reports.views.sequences import by_length, has_sequences, sequence_table
from dinopl.reports.views.table import distillation_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ResultView(NamedTuple):
    """One way to look at a run.

    Attributes:
        applies: whether the run has what this view shows.
        table: plain text for the terminal.
        figures: by the name that they are saved under, as far as there is something to draw.
        x: what stands on the figures' horizontal axes; the name of a column in their CSV files.
    """

    applies: Callable[[Run], bool]
    table: Callable[[Run], str]
    figures: Callable[[Run], dict[str, "Figure"]]
    x: str


def _probes(run: Run) -> bool:
    return any(name.startswith(("probe/student", "probe_val/student")) for name in run.metrics)


def _probe_figures(run: Run) -> dict[str, "Figure"]:
    return {"probes": distillation_figure(run)} if run.history.rows("probe/epoch") else {}


def _length_figures(run: Run) -> dict[str, "Figure"]:
    found = by_length(run.metrics, "test")
    figures = {}
    if "sequence_accuracy" in found:
        figures["accuracy"] = accuracy_figure(run, other_layers(run))
    if "iterations" in found:
        figures["iterations"] = iterations_figure(run)
    return figures


def _training_figure(run: Run) -> dict[str, "Figure"]:
    return {"training": classifier_figure(run)} if run.history.rows("step", "train/loss") else {}


VIEWS = (
    ResultView(_probes, lambda run: distillation_table(run.metrics), _probe_figures, "epoch"),
    ResultView(
        lambda run: has_sequences(run.metrics), lambda run: sequence_table(run.metrics), _length_figures, "length"
    ),
    ResultView(
        lambda run: has_classifier(run.metrics), lambda run: classifier_table(run.metrics), _training_figure, "step"
    ),
)


def views_of(run: Run) -> list[ResultView]:
    """The views that a run has something for."""
    return [view for view in VIEWS if view.applies(run)]
