"""The report's tables: what stands in each cell, how they are laid out, and the CSV."""

import csv
import statistics

import pandas as pd
import pytest

from dinopl.core.statistics import Interval, Summary
from dinopl.reports import Report, UnknownNameError, runs, write_runs
from dinopl.reports.tables import as_latex, as_markdown, as_text, decimals, mean_and_deviation, mean_and_interval
from tests.dinopl.reports.run_trees import alpha_config, write_run, write_study, write_trial


@pytest.mark.parametrize(
    ("summary", "places", "shown", "difference"),
    [
        (Summary(3, 0.77212, 0.00921, Interval(0.7, 0.8, "t")), 4, "0.7721 ± 0.0092",
         "+0.7721 [+0.7000, +0.8000] (n=3)"),
        (Summary(2, -15.312, 0.43, Interval(-16, -15, "t")), 2, "-15.31 ± 0.43", "-15.31 [-16.00, -15.00] (n=2)"),
        (Summary(1, 0.5, None, None), 4, "0.5000", "+0.5000 (n=1)"),
        (Summary(0, None, None, None), 0, "-", "-"),
        (Summary(2, 0.00012541, 0.0000031, Interval(0, 0.0002, "t")), 7, "0.0001254 ± 0.0000031",
         "+0.0001254 [+0.0000000, +0.0002000] (n=2)"),
    ],
)  # fmt: skip
def test_a_cell(summary, places, shown, difference):
    assert decimals([summary]) == places
    assert mean_and_deviation(summary, places) == shown
    assert mean_and_interval(summary, places) == difference


def test_columns_share_their_decimals():
    assert decimals([Summary(3, 0.7, 0.09, None), Summary(3, 0.7, 0.009, None), Summary(3, 0.7, 0.00009, None)]) == 4
    assert decimals([Summary(2, 0.0, 0.0, None)]) == 3


KNN = "probe/student/knn"
VALUES = {
    ("adam", 0): {0: 0.71, 1: 0.75, 2: 0.74},
    ("adam", 1): {0: 0.52, 1: 0.50},  # seed 2 diverged
    ("sgd", 0): {0: 0.61, 1: None, 2: 0.64},
    ("sgd", 1): {1: 0.41, 2: 0.45},  # seed 0 waits
}


@pytest.fixture
def study(tmp_path):
    """Two variants at two alphas over three seeds; the runs of seed 2 failed once before."""
    study = write_study(tmp_path / "locality", variants=["adam", "sgd"], axes={"model.student.alpha": [0, 1]})
    for (variant, alpha), values in VALUES.items():
        for seed in range(3):
            options = {"model.student.alpha": alpha, "seed_everything": seed}
            trial = write_trial(study, f"{variant}{alpha}{seed}", options, variant)
            if seed == 2:
                write_run(trial, {}, seed, "failed", config=alpha_config(alpha))
            if seed in values:
                write_run(
                    trial, {KNN: values[seed], "probe/teacher/knn": 0.3, "a": 1}, seed, config=alpha_config(alpha)
                )
            elif variant == "adam":
                write_run(trial, {KNN: 0.0}, seed, "diverged", config=alpha_config(alpha))
    return study


def index_of(table):
    """Columns that tell rows from each other, by their headings."""
    return {name: table.index.get_level_values(name).tolist() for name in table.index.names}


def shown(*values, places=3):
    return f"{statistics.fmean(values):.{places}f} ± {statistics.stdev(values):.{places}f}"


def test_a_study(study):
    report = Report.of([study])
    assert report.heading() == [
        "locality: 12 runs: 10 finished, 1 diverged, 1 waiting",
        "mean ± standard deviation over n seeds",
        "left out: 4 earlier attempts at these runs",
    ]
    ((title, table),) = report.tables()
    assert title == ""
    assert index_of(table) == {
        "variant": ["adam", "adam", "sgd", "sgd"],
        "model.student.alpha": ["0", "1", "0", "1"],
        "n": ["3", "2", "3", "2"],
        "diverged": ["0", "1", "0", "0"],
        "waiting": ["0", "0", "0", "1"],
    }
    assert table.to_dict("list") == {
        KNN: [shown(0.71, 0.75, 0.74), shown(0.52, 0.50), shown(0.61, 0.64) + " (n=2)", shown(0.41, 0.45)]
    }


def test_differences(study):
    (_, (title, table)) = Report.of([study], baseline="sgd", level=0.9).tables()
    assert title.startswith("difference from variant=sgd, paired over shared seeds: mean [90 % interval]")
    assert index_of(table) == {"variant": ["adam", "adam"], "model.student.alpha": ["0", "1"]}
    cells = table[KNN].tolist()
    assert cells[0].startswith("+0.1000 [")
    assert [cell[-5:] for cell in cells] == ["(n=2)", "(n=1)"]
    assert cells[1] == "+0.0900 (n=1)"


def test_grouped_by_less(study):
    report = Report.of([study], by=["model.init_args.student.alpha"], metrics=[KNN, f"{KNN} - probe/teacher/knn"])
    assert report.heading()[2].startswith("averaged within each seed over variant")
    ((_, table),) = report.tables()
    both = [(0.71 + 0.61) / 2, (0.74 + 0.64) / 2]  # seed 1 of sgd is null
    assert table[KNN].iloc[0] == shown(*both, places=4) + " (n=2)"
    assert table[f"{KNN} - probe/teacher/knn"].iloc[0] == shown(*(value - 0.3 for value in both), places=4) + " (n=2)"


def test_nothing_has_finished_yet(tmp_path):
    write_trial(write_study(tmp_path), "a", {"o.lr": 1, "seed_everything": 0})
    report = Report.of([tmp_path], metrics=["probe/*"])
    assert report.text().splitlines()[-3:] == ["n  waiting", "----------", "0        1"]
    with pytest.raises(ValueError, match="no run has finished"):
        report.plot()


def test_the_studys_metric_and_reference_values(tmp_path):
    study = write_study(tmp_path, metric="val/loss", reference={KNN: {"0": 0.5, "1": 0.45}, "other": 1})
    write_run(write_trial(study, "a", {}), {KNN: 0.4, "val/loss": 1.5})
    report = Report.of([study])
    assert report.metrics == ["val/loss", KNN]
    title, table = report.tables()[1]
    assert title == "reference values"
    assert (index_of(table)["at"], table["value"].tolist()) == (["0", "1"], ["0.5", "0.45"])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"by": ["model.studnt.alpha"]}, "model.studnt.alpha"),
        ({"metrics": ["probe/*/lda"]}, "probe/*/lda"),
        ({"baseline": "model.lr=3"}, "model.lr"),
    ],
)
def test_unknown_names(study, arguments, name):
    with pytest.raises(UnknownNameError) as caught:
        Report.of([study], **arguments)
    assert name in (caught.value.name, caught.value.name.partition("=")[0])
    assert caught.value.known
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("baseline", "found"),
    [
        ("adam", ("variant", "adam")),
        ("variant=adam", ("variant", "adam")),
        ("model.student.alpha=0.0", ("model.student.alpha", 0)),
        ("1", ("model.student.alpha", 1)),
    ],
)
def test_baselines_by_name(study, baseline, found):
    assert Report.of([study], baseline=baseline).baseline == found


@pytest.mark.parametrize("baseline", ["2", "variant=rms"])
def test_baselines_that_no_row_has(study, baseline):
    with pytest.raises(
        ValueError, match=r"no row has this value; rows have variant=adam, sgd; model.student.alpha=0, 1"
    ):
        Report.of([study], baseline=baseline)


def test_a_baseline_that_two_options_have(tmp_path):
    for lr in (1, 2):
        for alpha in (1, 3):
            write_run(tmp_path, {KNN: 0.5}, config=alpha_config(alpha, lr))
    with pytest.raises(ValueError, match="give OPTION=VALUE"):
        Report.of([tmp_path], baseline="1")
    assert Report.of([tmp_path], baseline="2").baseline == ("model.optimizer.lr", 2)


def test_families_have_blocks_of_their_own_and_no_line_is_too_long():
    names = ["test/loss", *(f"test/accuracy/length={length}" for length in (8, 16, 32)), "test/noise=1", "x - a/b=1"]
    index = {"layer": ["FPRNN", "LSTM"], "n": ["3", "3"]}
    table = pd.DataFrame(index | {name: ["0.5000 ± 0.0100", "-"] for name in names}).set_index(["layer", "n"])
    wide, narrow = as_text(table, 200), as_text(table, 40)
    assert [block.splitlines()[0].split() for block in wide.split("\n\n")] == [
        ["layer", "n", "test/loss", "test/noise=1", "x", "-", "a/b=1"],
        ["test/accuracy"],
    ]
    assert wide.split("\n\n")[1].splitlines()[1].split() == ["layer", "n", "length=8", "length=16", "length=32"]
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.count("0.5000 ± 0.0100") == len(names)
    assert narrow.count("FPRNN") == len(narrow.split("\n\n")) > 2


def test_markdown():
    table = pd.DataFrame({"layer": ["a|b"], "n": ["3"], "test/loss": ["0.5"]}).set_index(["layer", "n"])
    assert as_markdown(table).splitlines() == [
        "| layer | n | test/loss |",
        "| --- | --- | ---: |",
        "| a\\|b | 3 | 0.5 |",
    ]


def test_latex():
    index = {"model.n_layers": ["1", "2"], "n": ["3", "1"]}
    table = pd.DataFrame(index | {"test/accuracy (50%)": ["0.50 ± 0.01", "-"]}).set_index(list(index))
    assert [line.split() for line in as_latex(table).splitlines()] == [
        ["\\begin{tabular}{llr}"],
        ["\\toprule"],
        [*("model.n\\_layers", "&", "n", "&"), "test/accuracy", "(50\\%)", "\\\\"],
        ["\\midrule"],
        ["1", "&", "3", "&", "0.50", "$\\pm$", "0.01", "\\\\"],
        ["2", "&", "1", "&", "-", "\\\\"],
        ["\\bottomrule"],
        ["\\end{tabular}"],
    ]


def test_a_report_in_latex_has_its_heading_in_comments(study):
    lines = Report.of([study], baseline="sgd").latex().splitlines()
    assert lines[:2] == ["% needs \\usepackage{booktabs}", "% locality: 12 runs: 10 finished, 1 diverged, 1 waiting"]
    assert sum(line.startswith("\\begin{tabular}") for line in lines) == 2
    assert sum(line.startswith("% difference from variant=sgd") for line in lines) == 1


def test_a_row_a_run(study, tmp_path):
    path = write_runs(tmp_path / "new" / "runs.csv", runs(study), ["model.student.alpha", "variant"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == [
        *("run", "status", "earlier_attempts", "variant", "seed_everything", "model.student.alpha", "duration_s")
    ]
    assert set(list(rows[0])[7:]) == {KNN, "probe/teacher/knn", "a"}
    told = {(row["variant"], float(row["model.student.alpha"]), int(row["seed_everything"])): row for row in rows}
    assert len(told) == len(rows) == 12
    for (variant, alpha), values in VALUES.items():
        for seed, value in values.items():
            assert told[variant, alpha, seed][KNN] == ("" if value is None else str(value))
    assert {(row["status"], row[KNN]) for row in rows if row["status"] != "finished"} == {
        ("diverged", "0.0"),
        ("waiting", ""),
    }
    assert [row["earlier_attempts"] for row in rows if row["seed_everything"] == "2"] == ["1", "1", "1", "1"]
