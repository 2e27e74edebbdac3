"""A sequence run: how well it answers at each length, with how many iterations, and its controls.

After section 4.4 and figures 3 and 11 of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). Metrics are named
``SPLIT/MEASURE/length=L``; accuracies are fractions, iterations a mean over sequences and layers. What differs in the
figures: the accuracy of whole sequences is shown beside that of tokens, and the lengths trained on are shaded.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dinopl.reports.figures import COLOURS, GREY, MARKERS, finish, new_figure
from dinopl.reports.run import Run
from dinopl.reports.tables import aligned, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

family = "SequenceModeling"
x = "length"
headline: Mapping[str, str] = {}

SPLITS = {"test": "test split", "val": "validation split"}
COLUMNS = {
    "token_accuracy": "token accuracy",
    "sequence_accuracy": "sequence accuracy",
    "iterations": "iterations",
    "iterated_sequence_accuracy": "iterated accuracy",
    "iterations_capped": "not converged",
}
# What makes two runs comparable: equal data, and training as long.
AS_LONG = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches")

_NAME = re.compile(r"(?P<split>test|val)/(?P<measure>.+)/length=(?P<length>\d+)")


def applies(run: Run) -> bool:
    """Whether there is a sequence accuracy at some length."""
    return any("sequence_accuracy" in by_length(run.metrics, split) for split in SPLITS)


def words(name: str) -> tuple[str, str] | None:
    """Titles of lengths, iterations and the shares of sequences."""
    split, _, measure = name.partition("/")
    if name == "length":
        return "sequence length", "tokens"
    if split in SPLITS and measure in COLUMNS:
        return f"{COLUMNS[measure]}, {SPLITS[split]}", "" if measure == "iterations" else "%"
    return None


def table(run: Run) -> str:
    """The table of :func:`sequence_table`."""
    return sequence_table(run.metrics)


def figures(run: Run) -> dict[str, "Figure"]:
    """Accuracy against length beside the run's controls, and iterations, where there are any."""
    found = by_length(run.metrics, "test")
    drawn = {"accuracy": accuracy_figure(run, other_layers(run))} if "sequence_accuracy" in found else {}
    return drawn | ({"iterations": iterations_figure(run)} if "iterations" in found else {})


def by_length(metrics: Mapping[str, float | None], split: str) -> dict[str, dict[int, float | None]]:
    """``{measure: {length: value}}`` of a split, by increasing length.

    Args:
        metrics: named ``SPLIT/MEASURE/length=L``; other names are passed over.
        split: "test" or "val".
    """
    found: dict[str, dict[int, float | None]] = {}
    for name, value in metrics.items():
        if (match := _NAME.fullmatch(name)) and match["split"] == split:
            found.setdefault(match["measure"], {})[int(match["length"])] = value
    return {measure: dict(sorted(values.items())) for measure, values in found.items()}


def sequence_table(metrics: Mapping[str, float | None]) -> str:
    """Rows are lengths; columns are the accuracies of tokens and sequences, iterations, and the iteration's accuracy.

    Behind them stand the shares that a task reports of itself.

    "Sequence accuracy" is that of the model's own solver; "iterated accuracy" that of the answers at which the counted
    iteration stopped, so that a tolerance that stops too early shows.

    Args:
        metrics: named as :func:`by_length` takes them.

    Returns:
        Aligned plain text, one block per split that has metrics; one line that says so if none has. Columns that the
        model does not have (an LSTM iterates nothing) are left out, and so is the share of sequences that had not
        converged at the cap where it is 0; a value that is missing is shown as "-".
    """
    blocks = []
    for split, title in SPLITS.items():
        found = by_length(metrics, split)
        columns = {measure: name for measure, name in COLUMNS.items() if measure in found}
        if not any(found.get("iterations_capped", {}).values()):
            columns.pop("iterations_capped", None)
        for measure in found:  # what the task itself makes of the answers, a share
            if measure not in (*COLUMNS, "loss") and not measure.startswith("iterations"):
                columns[measure] = measure.replace("_", " ")
        rows = [["length", *columns.values()]]
        for length in sorted({length for measure in columns for length in found[measure]}):
            values = {measure: found[measure].get(length) for measure in columns}
            counts = {m: "-" if v is None else f"{v:.1f}" for m, v in values.items() if m == "iterations"}
            rows.append([str(length), *(counts.get(measure) or rounded(v) for measure, v in values.items())])
        if found:
            blocks.append(f"Accuracy by length, {title}\n" + aligned(rows))
    return "\n\n".join(blocks) or "no sequence results"


def layer_name(run: Run) -> str:
    """The layer that a run trained, and how many if there are several; "?" if its configuration lacks it."""
    arguments = run.config.get("model", {}).get("init_args", {})
    layer = arguments.get("layer")
    path = layer.get("class_path", "?") if isinstance(layer, dict) else str(layer or "?")
    count = arguments.get("n_layers", 1)
    return path.rsplit(".", 1)[-1] + (f", {count} layers" if count != 1 else "")


def other_layers(run: Run) -> list[Run]:
    """The controls of a run: finished runs in the folder beside it that trained another layer on the same data.

    Data options and the length of training must be equal; seeds, widths and learning rates may differ. Of several runs
    of one layer the one with the best token accuracy on the validation split counts. None for anything but a ``fit``.
    """
    best: dict[str, tuple[float, Run]] = {}
    beside = (path for path in run.path.parent.iterdir() if path != run.path and (path / "results.json").is_file())
    for path in sorted(beside) if run.command == "fit" else ():
        other = Run.load(path, history=False)
        ended = (other.command, other.status) == ("fit", "finished")
        tested = "sequence_accuracy" in by_length(other.metrics, "test")
        name = layer_name(other)
        if not (ended and tested and _training(other) == _training(run)) or name == layer_name(run):
            continue
        known = by_length(other.metrics, "val").get("token_accuracy", {}).values()
        values = [value for value in known if value is not None]
        accuracy = sum(values) / len(values) if values else -1.0
        if name not in best or accuracy > best[name][0]:
            best[name] = accuracy, other
    return [best[name][1] for name in sorted(best)]


def _training(run: Run) -> tuple[Any, ...]:
    trainer = run.config.get("trainer") or {}
    return run.config.get("data"), *(trainer.get(option) for option in AS_LONG)


def accuracy_figure(run: Run, others: Sequence[Run] = ()) -> "Figure":
    """Sequence accuracy (left) and token accuracy (right) on the test split against length.

    The label of the run's line is the name of its metric; those of other runs, dashed, have the layer's name before it.

    Args:
        run: with test metrics.
        others: to compare with, such as :func:`other_layers`.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    from matplotlib.lines import Line2D

    figure = new_figure(9.6, 3.9)
    shown = [run, *others]
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure in zip(panels, ("sequence_accuracy", "token_accuracy"), strict=True):
        for index, drawn in enumerate(shown):
            label = f"test/{measure}" if drawn is run else f"{layer_name(drawn)}: test/{measure}"
            _draw(axes, drawn, measure, label, index)
        _finish(axes, run, COLUMNS[measure].capitalize(), "accuracy on the test split (%)", percent=True)
        axes.set_ylim(-0.03, 1.03)
        axes.label_outer()
    handles: list[Any] = [Line2D([], [], label=layer_name(drawn), **_style(i)) for i, drawn in enumerate(shown)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize=9)
    return figure


def iterations_figure(run: Run) -> "Figure":
    """Iterations against length: the mean over sequences and layers, and each layer's where there are several.

    The thin dotted line is as many iterations as tokens. Labels are the names of metrics.

    Args:
        run: with ``test/iterations/length=L``.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    figure = new_figure(5.6, 3.9)
    axes = figure.subplots()
    found = by_length(run.metrics, "test")
    for index, measure in enumerate(name for name in found if name == "iterations" or name.startswith("iterations/")):
        _draw(axes, run, measure, f"test/{measure}", index)
    lengths = list(found.get("iterations", {}))
    axes.plot(lengths, lengths, label="_as many as tokens", color=GREY, linestyle=":", linewidth=1.0)
    _finish(axes, run, "Iterations to the fixed point", "iterations (dotted: one per token)")
    axes.set_ylim(bottom=0)
    if len(axes.get_lines()) > 2:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _style(index: int) -> dict[str, Any]:
    """The run's own line first: solid; the dashed ones of the others go above it, so that none hides another."""
    style = {"linestyle": "-", "linewidth": 2.0} if index == 0 else {"linestyle": "--", "linewidth": 1.3}
    return style | {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4.5}


def _draw(axes: "Axes", run: Run, measure: str, label: str, index: int) -> None:
    values = by_length(run.metrics, "test").get(measure, {})
    points = [(length, value) for length, value in values.items() if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **_style(index))


def _finish(axes: "Axes", run: Run, title: str, label: str, percent: bool = False) -> None:
    """Lengths below the axis, the trained ones shaded: up to the longest of the run's configuration."""
    lengths = list(by_length(run.metrics, "test").get("sequence_accuracy", {}))
    trained = (run.config.get("data") or {}).get("init_args", {}).get("train_length")
    finish(axes, title, "sequence length in tokens (shaded: trained on)", label, percent)
    axes.set_xticks(lengths)
    axes.set_xlim(0, 1.04 * max(lengths, default=1))
    if trained:
        axes.axvspan(0, max(trained) if isinstance(trained, list) else trained, color="#EEEEEE", zorder=0)
