"""The figures of a sequence run: accuracy against length, and iterations against length.

After figures 3 and 11 of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). What differs: the accuracy of whole
sequences is shown beside that of tokens, and the lengths that were trained on are shaded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dinopl.reports.run import Run
from dinopl.reports.views.figure import COLOURS, GREY, INK, MARKERS
from dinopl.reports.views.sequences import COLUMNS, by_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What makes two runs comparable: equal data, and training as long.
AS_LONG = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches")


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
    best: dict[str, Run] = {}
    beside = (path for path in run.path.parent.iterdir() if path != run.path and (path / "results.json").is_file())
    for path in sorted(beside) if run.command == "fit" else ():
        other = Run.load(path, history=False)
        name = layer_name(other)
        if not (_is_control(other, run) and name != layer_name(run)):
            continue
        if name not in best or _validation_accuracy(other) > _validation_accuracy(best[name]):
            best[name] = other
    return [best[name] for name in sorted(best)]


def _is_control(other: Run, run: Run) -> bool:
    return (
        (other.command, other.status) == ("fit", "finished")
        and "sequence_accuracy" in by_length(other.metrics, "test")
        and _training(other) == _training(run)
    )


def _training(run: Run) -> tuple[Any, ...]:
    trainer = run.config.get("trainer") or {}
    return run.config.get("data"), *(trainer.get(option) for option in AS_LONG)


def _validation_accuracy(run: Run) -> float:
    values = [value for value in by_length(run.metrics, "val").get("token_accuracy", {}).values() if value is not None]
    return sum(values) / len(values) if values else -1.0


def accuracy_figure(run: Run, others: Sequence[Run] = ()) -> "Figure":
    """Sequence accuracy (left) and token accuracy (right) on the test split against length.

    The label of the run's line is the name of its metric; those of other runs, dashed, have the layer's name before it.

    Args:
        run: with test metrics.
        others: to compare with, such as :func:`other_layers`.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    figure = _empty_figure((9.6, 3.9))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure in zip(panels, ("sequence_accuracy", "token_accuracy"), strict=True):
        for index, shown in enumerate([run, *others]):
            label = f"test/{measure}" if shown is run else f"{layer_name(shown)}: test/{measure}"
            _draw(axes, shown, measure, label, _style(index))
        axes.set_title(COLUMNS[measure].capitalize(), loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.4g}")
        _finish(axes, run)
    panels[0].set_ylabel("accuracy on the test split (%)")
    _legend(figure, [layer_name(shown) for shown in (run, *others)])
    return figure


def iterations_figure(run: Run) -> "Figure":
    """Iterations against length: the mean over sequences and layers, and each layer's where there are several.

    The thin dotted line is as many iterations as tokens. Labels are the names of metrics.

    Args:
        run: with ``test/iterations/length=L``.

    Returns:
        A figure on an Agg canvas; pyplot is not involved.
    """
    figure = _empty_figure((5.6, 3.9))
    axes = figure.subplots()
    found = by_length(run.metrics, "test")
    for index, measure in enumerate(name for name in found if name == "iterations" or name.startswith("iterations/")):
        _draw(axes, run, measure, f"test/{measure}", _style(index))
    lengths = list(found.get("iterations", {}))
    axes.plot(lengths, lengths, label="_as many as tokens", color=GREY, linestyle=":", linewidth=1.0)
    axes.set_title("Iterations to the fixed point", loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylabel("iterations (dotted: one a token)")
    axes.set_ylim(bottom=0)
    _finish(axes, run)
    if len(axes.get_lines()) > 2:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _empty_figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(index: int) -> dict[str, Any]:
    """The run's own line first: solid; the dashed ones of the others go above it, so that none hides another."""
    style = {"linestyle": "-", "linewidth": 2.0} if index == 0 else {"linestyle": "--", "linewidth": 1.3}
    return style | {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4.5}


def _draw(axes: "Axes", run: Run, measure: str, label: str, style: dict[str, Any]) -> None:
    values = by_length(run.metrics, "test").get(measure, {})
    points = [(length, value) for length, value in values.items() if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _finish(axes: "Axes", run: Run) -> None:
    """Lengths below the axis, the trained ones shaded."""
    lengths = list(by_length(run.metrics, "test").get("sequence_accuracy", {}))
    axes.set_xticks(lengths)
    axes.set_xlim(0, 1.04 * max(lengths, default=1))
    axes.set_xlabel("length (shaded: trained on)")
    if trained := _longest_trained(run):
        axes.axvspan(0, trained, color="#EEEEEE", zorder=0)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelsize=9)


def _longest_trained(run: Run) -> int | None:
    """The longest training length, from the run's configuration."""
    option = (run.config.get("data") or {}).get("init_args", {}).get("train_length")
    return max(option) if isinstance(option, list) else option


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [Line2D([], [], label=name, **_style(index)) for index, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 6), frameon=False, fontsize=9)
