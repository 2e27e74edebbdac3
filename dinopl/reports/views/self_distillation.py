"""A self-distillation run: how well input, teacher and student probe, and how far the student is from its teacher.

The figure is after figure 1 of "Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023). What differs: all
probes are shown, and input and teacher beside the student.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinopl.reports.figures import COLOURS, GREY, INK, MARKERS, finish, new_figure
from dinopl.reports.run import Run
from dinopl.reports.tables import aligned, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

family = "SelfDistillation"
x = "epoch"
headline: Mapping[str, str] = {"test": "probe/student/", "val": "probe_val/student/"}

SUBJECTS = ("input", "teacher", "student")
SPLITS = {"probe": "test split", "probe_val": "validation split"}
STYLES: dict[str, dict[str, Any]] = {
    "student": {"linestyle": "-", "linewidth": 1.8},
    "teacher": {"linestyle": "--", "linewidth": 1.3},
    "input": {"linestyle": ":", "linewidth": 1.0},
}
PROBES = {"knn": "k-NN"}


def applies(run: Run) -> bool:
    """Whether a student was probed, or an encoder without a teacher."""
    return any(
        name.startswith((*headline.values(), *(f"{split}/encoder/" for split in SPLITS))) for name in run.metrics
    )


def words(name: str) -> tuple[str, str] | None:
    """Titles of probe accuracies, and of the student's distance from its teacher at the start."""
    match name.split("/"):
        case [split, subject, probe] if split in SPLITS and subject in SUBJECTS:
            owner = "input" if subject == "input" else f"{subject}'s features"
            return f"{PROBES.get(probe, probe.replace('_', ' '))} probe of the {owner}, {SPLITS[split]}", "%"
        case ["model.student.alpha"]:
            return "student's distance from its teacher at the start, alpha", ""
    return None


def table(run: Run) -> str:
    """The table of :func:`distillation_table`; of a run that has not finished, with the epoch of its last probe."""
    return distillation_table(run.metrics, None if run.status == "finished" else run.metrics.get("probe/epoch"))


def figures(run: Run) -> dict[str, "Figure"]:
    """The figure of the probes, where there is a point."""
    return {"probes": distillation_figure(run)} if run.history.rows("probe/epoch") else {}


def distillation_table(metrics: Mapping[str, float | None], as_of: float | None = None) -> str:
    """Rows are probes, columns are input, teacher, student and the student's gain over the teacher.

    Where an encoder was probed without a teacher, the columns are input and encoder.

    Args:
        metrics: fractions named ``probe/SUBJECT/NAME`` (test split) and ``probe_val/SUBJECT/NAME`` (validation split);
            other names are passed over.
        as_of: number of epochs after which the probes were made, for the titles; None where they belong to the end.

    Returns:
        Aligned plain text, one block per split that has metrics; one line that says so if none has. A value that is
        missing or not a number is shown as "-".
    """
    blocks = []
    when = "" if as_of is None else f", as of epoch {as_of:g}"
    for prefix, split in SPLITS.items():
        found: dict[str, dict[str, float | None]] = {}
        for name, value in metrics.items():
            match name.split("/"):
                case [first, subject, probe] if first == prefix and subject in (*SUBJECTS, "encoder"):
                    found.setdefault(probe, {})[subject] = value
        if any("encoder" in values for values in found.values()):
            alone = ("input", "encoder")
            cells = [[probe, *(rounded(values.get(subject)) for subject in alone)] for probe, values in found.items()]
            blocks.append(f"Probe accuracy, {split}{when}\n" + aligned([["probe", *alone], *cells]))
            continue
        rows = [["probe", *SUBJECTS, "gain"]]
        for probe, values in found.items():
            teacher, student = values.get("teacher"), values.get("student")
            gain = None if teacher is None or student is None else student - teacher
            rows.append([probe, *(rounded(values.get(subject)) for subject in SUBJECTS), rounded(gain, "+")])
        if found:
            blocks.append(f"Probe accuracy, {split}{when}\n" + aligned(rows))
    return "\n\n".join(blocks) or "no probe results"


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
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9.6, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    points = [name.split("/") for name in run.history.columns if name.startswith(("probe/", "probe_val/"))]
    drawn = [point for point in points if len(point) == 3 and point[1] in SUBJECTS]
    prefix = next((prefix for prefix in SPLITS if any(point[0] == prefix for point in drawn)), "probe")
    # as the table has them: in the order in which the run names its probes, else by name
    named = [name.split("/")[2] for name in run.metrics if name.startswith(f"{prefix}/student/")]
    probes = list(dict.fromkeys([*named, *sorted(probe for first, _, probe in drawn if first == prefix)]))
    handles: list[Any] = []  # of the legend: a colour and marker per probe, a line style per subject
    for index, probe in enumerate(probes):
        look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)]}
        shape: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.5}
        for subject, style in STYLES.items():
            name = f"{prefix}/{subject}/{probe}"
            if line := run.history.rows("probe/epoch", name):
                extra = shape if subject == "student" else {}
                left.plot(*zip(*line, strict=True), label=name, **look, **style, **extra)
        handles.append(Line2D([], [], label=probe, **look, **shape))
    handles += [Line2D([], [], color=GREY, label=subject, **style) for subject, style in STYLES.items()]
    # the KL at the epoch where each step began; one of 0, as at the start, has no place on a logarithmic axis
    steps = run.history.steps_per_epoch()
    line = [(step / steps, kl) for step, kl in run.history.rows("step", "train/kl") if kl > 0]
    right.set_yscale("log")
    if line:
        right.plot(*zip(*line, strict=True), label="train/kl", color=INK, linewidth=1.1)
    finish(left, "Probe accuracy", "epoch", f"accuracy on the {SPLITS[prefix]} (%)", percent=True)
    finish(right, "Distance of the outputs", "epoch", "KL(teacher ‖ student) in training (nats)")
    end = max([1.0, *(float(max(line.get_xdata())) for axes in (left, right) for line in axes.get_lines())])
    for axes in (left, right):
        axes.set_xlim(-0.02 * end, 1.02 * end)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    if probes:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure
