"""The figure: what its lines hold, what is written, and runs with gaps."""

import csv
import json
import subprocess
import sys

import pytest

from dinopl.reports import History, Run, distillation_figure, save_figure

PROBES = ("linear", "knn")
STEPS = 5


def make_run(path, history, metrics=None):
    return Run(path, "finished", metrics or {}, 0, {}, {}, None, history)


def make_history(prefix="probe", epochs=(0, 1, 3), kl=15):
    """Rows of a run of STEPS steps an epoch."""
    rows = []
    for epoch in epochs:
        row = {"step": float(epoch * STEPS), "probe/epoch": float(epoch)}
        for i, probe in enumerate(PROBES):
            row |= {f"{prefix}/input/{probe}": 0.9, f"{prefix}/teacher/{probe}": 0.6 + 0.1 * i}
            row[f"{prefix}/student/{probe}"] = 0.6 + 0.1 * i + 0.05 * epoch
        rows.append(row)
    rows += [{"step": float(s), "epoch": float(s // STEPS), "train/kl": 1e-3 * s} for s in range(kl)]
    names = sorted(set().union(*rows))
    return History({name: [row.get(name) for row in rows] for name in names})


def lines(figure):
    return {line.get_label(): line.get_xydata().tolist() for axes in figure.axes for line in axes.get_lines()}


@pytest.mark.parametrize("prefix", ["probe", "probe_val"])
def test_lines_hold_the_metrics(tmp_path, prefix):
    figure = distillation_figure(make_run(tmp_path, make_history(prefix)))
    found = lines(figure)
    assert found.keys() == {f"{prefix}/{s}/{p}" for s in ("input", "teacher", "student") for p in PROBES} | {"train/kl"}
    assert found[f"{prefix}/student/linear"] == [[0, 0.6], [1, 0.65], [3, 0.6 + 0.05 * 3]]
    assert found[f"{prefix}/teacher/knn"] == [[0, 0.7], [1, 0.7], [3, 0.7]]
    assert found["train/kl"] == [[s / STEPS, 1e-3 * s] for s in range(1, 15)]  # a KL of 0 has no logarithm
    left, right = figure.axes
    assert right.get_yscale() == "log"
    assert {"probe": "test split", "probe_val": "validation split"}[prefix] in left.get_ylabel()
    assert left.get_xlim() == right.get_xlim()


def test_colour_is_the_probe_and_style_is_the_subject(tmp_path):
    figure = distillation_figure(make_run(tmp_path, make_history()))
    style = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert style["probe/student/linear"].get_color() == style["probe/teacher/linear"].get_color()
    assert style["probe/student/linear"].get_color() != style["probe/student/knn"].get_color()
    assert len({style[f"probe/{s}/linear"].get_linestyle() for s in ("student", "teacher", "input")}) == 3
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {*PROBES, "student", "teacher", "input"}


def test_probes_are_in_the_order_of_the_results(tmp_path):
    figures = [
        distillation_figure(make_run(tmp_path, make_history(), metrics))
        for metrics in ({f"probe/student/{probe}": 0.5 for probe in PROBES}, {})
    ]
    order = [[text.get_text() for text in figure.legends[0].get_texts()][:2] for figure in figures]
    assert order == [["linear", "knn"], ["knn", "linear"]]


@pytest.mark.parametrize(
    ("history", "drawn"),
    [
        (History({}), (0, 0)),
        (make_history(epochs=(0,), kl=0), (6, 0)),  # three subjects under two probes
        (make_history(epochs=(), kl=7), (0, 1)),
    ],
)
def test_runs_with_gaps(tmp_path, history, drawn):
    """A panel without data says so, and has no other text in it; there is a legend only where probes are drawn."""
    figure = distillation_figure(make_run(tmp_path, history))
    for axes, count in zip(figure.axes, drawn, strict=True):
        assert len(axes.get_lines()) == count
        assert [text.get_text() for text in axes.texts] == ([] if count else ["no points yet"])
    assert len(figure.legends) == bool(drawn[0])
    path = save_figure(figure, tmp_path / "figures" / "distillation.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with path.with_suffix(".csv").open(newline="") as file:
        assert {row["metric"] for row in csv.DictReader(file)} == lines(figure).keys()


def test_png_and_csv(tmp_path):
    figure = distillation_figure(make_run(tmp_path, make_history()))
    path = save_figure(figure, tmp_path / "distillation.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "distillation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        found.setdefault(row["metric"], []).append([float(row["epoch"]), float(row["value"])])
    assert found == lines(figure)


def test_a_path_that_is_no_png_is_refused(tmp_path):
    figure = distillation_figure(make_run(tmp_path, make_history()))
    with pytest.raises(ValueError, match=r"distillation.pdf' must end in .png"):
        save_figure(figure, tmp_path / "distillation.pdf")
    assert list(tmp_path.iterdir()) == []


def test_pixels_without_a_file(tmp_path):
    """What an image logger needs; and the run folder is left as it was."""
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {}, "status": "finished"}))
    before = sorted(p.name for p in tmp_path.iterdir())
    figure = distillation_figure(Run.load(tmp_path))
    figure.canvas.draw()
    assert figure.canvas.buffer_rgba().shape[2] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_importing_the_reports_is_light():
    heavy = {"matplotlib", "torch", "sklearn", "pandas", "scipy"}
    code = f"import sys, dinopl.reports; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
