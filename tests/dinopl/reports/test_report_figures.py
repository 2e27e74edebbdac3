"""The report's figure: what its lines, bands and marks hold, its scales, and the CSV beside it."""

import csv
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from dinopl.core.statistics import summarize
from dinopl.reports import Report, framed, points_of, reference_rows, report_figure, row_of, save_report_figure
from dinopl.reports.figures import axis_title, scale_of
from tests.dinopl.reports.run_trees import alpha_config, write_run, write_study, write_trial

KNN = "probe/student/knn"


@pytest.fixture
def runs(tmp_path):
    """Three alphas at two learning rates over two seeds; one seed of one point is missing."""
    for lr in (0.1, 0.2):
        for alpha in (0.5, 1, 2):
            for seed in (0, 1):
                if (lr, alpha, seed) != (0.2, 2, 1):
                    write_run(tmp_path, {KNN: lr + alpha + seed / 10}, seed, config=alpha_config(alpha, lr))
    return tmp_path


def drawn(figure):
    """Curves of each panel by label, without helpers."""
    return [
        {line.get_label(): line.get_xydata() for line in axes.get_lines() if not line.get_label().startswith("_")}
        for axes in figure.axes
    ]


@pytest.mark.parametrize("band", ["sd", "interval"])
def test_a_line_for_each_value_of_the_other_option(runs, band):
    report = Report.of([runs])
    points, x, _ = report.plot("model.student.alpha")
    figure = report_figure(points, x, band)
    (panel,) = drawn(figure)
    assert list(panel) == ["model.optimizer.lr=0.1", "model.optimizer.lr=0.2"]
    np.testing.assert_allclose(panel["model.optimizer.lr=0.1"], [[a, 0.1 + a + 0.05] for a in (0.5, 1, 2)])
    np.testing.assert_allclose(panel["model.optimizer.lr=0.2"][-1], [2, 2.2])
    first = figure.axes[0].collections[0].get_paths()[0].vertices
    summary = report.groups[0].summary(KNN)
    half = summary.sd if band == "sd" else summary.interval.high - summary.mean
    at_first = first[np.isclose(first[:, 0], 0.5), 1]
    np.testing.assert_allclose([at_first.min(), at_first.max()], [0.65 - half, 0.65 + half])
    # one seed has no band
    second = figure.axes[0].collections[1].get_paths()[0].vertices
    assert not np.isclose(second[:, 0], 2).any()
    assert {"sd": "standard deviation", "interval": "95 % interval"}[band] in figure.get_supxlabel()
    assert "over 1 to 2 seeds" in figure.get_supxlabel()
    assert figure.axes[0].get_xlabel() == "student's distance from its teacher at the start, alpha"
    assert "".join(figure.axes[0].get_ylabel().split()) == "k-NNprobeofthestudent'sfeatures,testsplit(%)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["learning rate = 0.1", "learning rate = 0.2"]


def test_the_option_with_most_values_is_x(runs):
    assert Report.of([runs]).plot()[1] == "model.student.alpha"


def test_the_csv_has_what_was_drawn(runs, tmp_path):
    points, x, _ = Report.of([runs]).plot()
    points = framed([*points.to_dict("records"), *reference_rows({KNN: {1: 0.9}, "other": 0.1})])
    figure = report_figure(points, x)
    path, numbers = save_report_figure(figure, tmp_path / "out" / "figure.png", points, x)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert numbers == tmp_path / "out" / "figure.csv"
    with numbers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (panel,) = drawn(figure)
    for label, line in panel.items():
        told = [(float(r["model.student.alpha"]), float(r["mean"])) for r in rows if r["line"] == label]
        np.testing.assert_allclose(told, line)
    assert [(r["model.student.alpha"], r["mean"]) for r in rows if r["source"] == "reference"] == [("1", "0.9")]
    assert [r["sd"] == r["low"] == "" for r in rows if r["source"] == "runs"] == [r["n"] == "1" for r in rows[:6]]


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_other_formats(runs, tmp_path, suffix):
    points, x, _ = Report.of([runs]).plot()
    path, _ = save_report_figure(report_figure(points, x), tmp_path / f"a{suffix}", points, x)
    assert path.stat().st_size > 1000


def test_a_format_that_is_none(runs, tmp_path):
    points, x, _ = Report.of([runs]).plot()
    with pytest.raises(ValueError, match=r"a.gif: a figure ends in one of .png, .pdf, .svg"):
        save_report_figure(report_figure(points, x), tmp_path / "a.gif", points, x)
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("values", "log", "scale"),
    [
        ([1, 2, 100], False, "linear"),
        ([1, 2, 101], False, "log"),
        ([0.1, 0.2], True, "log"),
        ([0, 1e-10, 1], False, "symlog"),
        ([0, 1, 2], False, "linear"),
        ([-1, 1, 1000], False, "linear"),
        ([0], True, "linear"),
        (["adam", "sgd"], False, "categorical"),
        ([1, "all"], False, "categorical"),
        ([True, False], False, "categorical"),
        ([None], False, "categorical"),
    ],
)
def test_scales(values, log, scale):
    assert scale_of(values, log) == scale


@pytest.mark.parametrize(
    ("alphas", "log", "scale"), [((0, 1e-9, 1), [], "symlog"), ((1, 2), ["model.student.alpha"], "log")]
)
def test_a_study_says_what_is_logarithmic(tmp_path, alphas, log, scale):
    study = write_study(tmp_path, axes={"model.student.alpha": alphas}, log=log)
    for alpha in alphas:
        write_run(write_trial(study, f"a{alpha}", {"model.student.alpha": alpha}), {KNN: 0.5})
    points, x, log = Report.of([study]).plot()
    axes = report_figure(points, x, log=log).axes[0]
    assert axes.get_xscale() == scale
    left, right = axes.get_xlim()
    assert left <= min(alphas) < max(alphas) <= right


def test_words_on_the_axis(tmp_path):
    for layer in ("LSTM", "FPRNN"):
        for seed in (0, 1):
            write_run(
                tmp_path, {KNN: len(layer) + seed}, seed, config={"model": {"layer": {"class_path": f"a.{layer}"}}}
            )
    points, x, _ = Report.of([tmp_path]).plot()
    axes = report_figure(points, x).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["FPRNN", "LSTM"]
    container = axes.containers[0]
    assert container.has_yerr
    heights = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
    np.testing.assert_allclose(
        heights, [[5.5 - math.sqrt(0.5), 5.5 + math.sqrt(0.5)], [4.5 - math.sqrt(0.5), 4.5 + math.sqrt(0.5)]]
    )


def test_against_length(tmp_path):
    """A family of metrics: the number in the name is x, whatever the order and digits."""
    for layer, slope in (("FPRNN", 0.0), ("LSTM", 0.001)):
        for seed in (0, 1):
            metrics = {f"test/sequence_accuracy/length={n}": 1 - slope * n + seed / 100 for n in (256, 16, 64)}
            metrics |= {f"test/loss/length={n}": n for n in (16, 64)} | {"test/loss": 1.0}
            write_run(tmp_path, metrics, seed, config={"model": {"layer": {"class_path": f"a.{layer}"}}})
    report = Report.of([tmp_path], metrics=["test/*"])
    points, x, _ = report.plot("length")
    lines = points[["metric", "line"]].drop_duplicates()
    assert lines["metric"].tolist() == ["test/loss"] * 2 + ["test/sequence_accuracy"] * 2
    figure = report_figure(points, x)
    panel = drawn(figure)[1]
    np.testing.assert_allclose(panel["model.layer=LSTM"], [[n, 1 - 0.001 * n + 0.005] for n in (16, 64, 256)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, test split", "sequence accuracy, test split (%)"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"sequence length (tokens)"}
    assert [axes.yaxis.get_major_formatter()(0.5, 0) for axes in figure.axes][1] == "50"


@pytest.mark.parametrize("letters", [4, 40, 52])
def test_the_legend_is_one_row_or_one_column_within_the_figure(letters):
    summary = summarize([0.5, 0.6])
    for panels in (1, 2):
        points = framed(row_of(f"m{p}", f"{n}" + "x" * letters, 1.0, summary) for p in range(panels) for n in range(6))
        figure = report_figure(points, "alpha")
        figure.draw_without_rendering()
        legend = figure.legends[0]
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        boxes = [text.get_window_extent() for text in legend.get_texts()]
        assert len({round(box.y0) for box in boxes}) == 1 or len({round(box.x0) for box in boxes}) == 1
        assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)
        for axes in figure.axes:
            assert axes.get_window_extent().width > 0.2 * figure.dpi * 4.6
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("probe/student/knn", "k-NN probe of the student's features, test split (%)"),
        ("probe_val/input/linear_standardized", "linear standardized probe of the input, validation split (%)"),
        ("test/sequence_accuracy", "sequence accuracy, test split (%)"),
        ("test/iterations", "iterations, test split"),
        ("test/accuracy", "accuracy, test split (%)"),
        ("subset/kl", "KL from the teacher, own samples (nats)"),
        ("test/accuracy/length=8", "accuracy, length 8, test split (%)"),
        ("test/kl - val/kl", "KL from the teacher, test split, minus KL from the teacher, validation split (nats)"),
        ("test/accuracy - subset/accuracy", "accuracy, test split, minus accuracy, own samples (percentage points)"),
        ("model.optimizer.lr", "learning rate"),
        ("model.optimizer.weight_decay", "optimizer weight decay"),
        ("data.fraction", "fraction of the training data"),
        ("trainer.max_epochs", "length of training (epochs)"),
        ("seed_everything", "seed"),
        ("variant", "variant"),
        ("length", "sequence length (tokens)"),
        ("noise", "noise"),
    ],
)
def test_titles_are_words_with_units(name, title):
    assert axis_title(name) == title


def test_the_key_is_x_where_nothing_else_varies(tmp_path):
    write_run(tmp_path, {f"test/accuracy/length={n}": 0.5 for n in (16, 64)})
    points, x, _ = Report.of([tmp_path]).plot()
    assert (x, points["x"].tolist()) == ("length", [16, 64])
    assert not report_figure(points, x).legends


def test_runs_without_the_option_are_a_level(tmp_path):
    copy = {"model": {"class_path": "M", "init_args": {"student": {"class_path": "TeacherCopy"}}}}
    write_run(tmp_path, {KNN: 0.8}, config=copy)
    for alpha in (0.5, 1):
        start = {"class_path": "InterpolatedStart", "init_args": {"alpha": alpha}}
        write_run(tmp_path, {KNN: 0.5}, config={"model": {"class_path": "M", "init_args": {"student": start}}})
    points, x, _ = Report.of([tmp_path]).plot("model.student.alpha")
    axes = report_figure(points, x).axes[0]
    (level,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert set(level.get_ydata()) == {0.8}
    assert axes.get_xscale() == "linear"


def test_reference_values():
    reference = {"m": {"0": 0.5, "kd": {"0.5": 0.6}, "1": {"kd": 0.7}}, "n": 0.4, "none": {"0": None}}
    rows = reference_rows(reference, ["kd"])
    assert [(row["metric"], row["mean"], row["x"], row["variant"]) for row in rows] == [
        ("m", 0.5, "0", None),
        ("m", 0.6, "0.5", "kd"),
        ("m", 0.7, "1", "kd"),
        ("n", 0.4, None, None),
    ]


def test_marks_have_the_colour_of_their_variant(tmp_path):
    study = write_study(tmp_path, variants=["a", "b"], axes={"o.lr": [1, 2]}, x="o.lr")
    for variant in "ab":
        for lr in (1, 2):
            write_run(write_trial(study, f"{variant}{lr}", {"o.lr": lr}, variant), {KNN: 0.5})
    points, x, _ = Report.of([study]).plot()
    assert x == "o.lr"
    marks = reference_rows({KNN: {"b": {"2": 0.9}, 1: 0.8, "word": 0.6}, "other": 0.1}, ["a", "b"])
    points = framed([*points.to_dict("records"), *marks, *reference_rows({KNN: 0.7})])
    axes = report_figure(points, x).axes[0]
    stars = {tuple(line.get_xydata()[0]): line.get_color() for line in axes.get_lines() if line.get_marker() == "*"}
    curves = {line.get_label(): line.get_color() for line in axes.get_lines()}
    assert set(stars) == {(2, 0.9), (1, 0.8)}
    assert to_rgba(stars[2, 0.9]) == to_rgba(curves["b"]) != to_rgba(stars[1, 0.8])
    assert [set(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == ":"] == [{0.7}]


def test_a_study_says_which_options_have_lines(tmp_path):
    study = write_study(
        tmp_path, axes={"o.lr": [1, 2], "o.decay": [0, 1]}, x="o.lr", by=["o.decay"], variants=["a", "b"]
    )
    for variant in "ab":
        for lr in (1, 2):
            for decay in (0, 1):
                name, value = f"{variant}{lr}{decay}", lr + 10 * decay + (variant == "b")
                write_run(write_trial(study, name, {"o.lr": lr, "o.decay": decay}, variant), {KNN: value})
    points, _, _ = Report.of([study]).plot()
    assert [(line, part["mean"].tolist()) for line, part in points.groupby("line", sort=False)] == [
        ("o.decay=0", [1.5, 2.5]),
        ("o.decay=1", [11.5, 12.5]),
    ]
    assert Report.of([study], by=["variant", "o.lr", "o.decay"]).plot()[0]["line"].nunique() == 4


def test_more_lines_than_colours_are_told_apart(tmp_path):
    for lr in range(1, 14):
        for alpha in (1, 2):
            write_run(tmp_path, {KNN: lr}, config=alpha_config(alpha, lr))
    points, x, _ = Report.of([tmp_path]).plot("model.student.alpha")
    axes = report_figure(points, x).axes[0]
    assert len({(line.get_color(), line.get_marker()) for line in axes.get_lines()}) == 13


@pytest.mark.parametrize(
    ("x", "told"), [("model.optimizer.betas", "neither an option"), ("lengths", "neither an option")]
)
def test_x_that_is_none(runs, x, told):
    with pytest.raises(ValueError, match=told):
        Report.of([runs]).plot(x)


def test_nothing_varies(tmp_path):
    write_run(tmp_path, {KNN: 1.0})
    with pytest.raises(ValueError, match="differ in no option"):
        Report.of([tmp_path]).plot()


def test_lines_without_values_are_not_drawn(runs):
    groups = Report.of([runs]).groups
    assert points_of(groups, ["unheard/of"], "model.student.alpha").empty
