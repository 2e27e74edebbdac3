"""Table and figure of a classifier's run, against text written by hand and the run's own numbers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dinopl.reports import History, Report, Run, report_figure, save_figure, views_of
from dinopl.reports.views.knowledge_distillation import applies, classifier_table
from tests.dinopl.reports.run_trees import write_run, write_study, write_trial

METRICS = {
    "test/accuracy": 0.906,
    "test/agreement": 0.9175,
    "test/nll": 0.3934,
    "test/brier": 0.1,
    "test/kl": 0.2941,
    "test/cka": 0.939,
    "subset/accuracy": 1.0,
    "subset/nll": 0.0021,
    "subset/brier": 0.001,
    "teacher/accuracy": 0.9815,
    "train/loss": 0.25,
}

TABLE = """\
student                        test  own samples
------------------------------------------------
accuracy                      0.906        1.000
agreement with the teacher    0.917            -
NLL (nats)                    0.393        0.002
KL from the teacher (nats)    0.294            -
feature CKA with the teacher  0.939            -
teacher's test accuracy: 0.982"""


def test_the_table() -> None:
    assert classifier_table(METRICS) == TABLE


def test_a_label_run_has_no_teacher_in_its_table() -> None:
    found = {name: METRICS[name] for name in ("test/accuracy", "test/nll", "test/brier")}
    assert classifier_table(found).splitlines()[2:] == ["accuracy    0.906", "NLL (nats)  0.393"]
    others = {"test/accuracy/length=8": 1.0, "probe/student/knn": 0.5, "val/loss": 1.0}
    assert [applies(Run(Path(), "finished", metrics, 0, {}, {}, None, History({}))) for metrics in (found, others)] == [
        *(True, False)
    ]


def test_the_figure_draws_the_metrics_of_training(tmp_path: Path) -> None:
    rows = [["step", "train/loss", "train/accuracy"], [49, 2.0, 0.25], [99, 0.5, 0.75]]
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "results.json").write_text(json.dumps({"status": "finished", "metrics": METRICS}))
    run = Run.load(tmp_path)
    (view,) = views_of(run)
    (figure,) = view.figures(run).values()
    save_figure(figure, tmp_path / "f.png", view.x)
    with (tmp_path / "f.csv").open(newline="") as file:
        drawn = {(row["metric"], float(row["step"])): float(row["value"]) for row in csv.DictReader(file)}
    expected = {(name, row[0]): row[i] for i, name in enumerate(rows[0]) if i for row in rows[1:]}
    assert drawn == {key: np.float64(value) for key, value in expected.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["KnowledgeDistillation", "SequenceModeling"])
def test_a_report_draws_the_gap_over_labels_against_the_fraction(tmp_path: Path, family: str) -> None:
    """Paired seed by seed: what seeds have in common is no part of its band."""
    axes = {"data.fraction": [0.1, 1]}
    study = write_study(tmp_path, variants=["labels", "distilled"], axes=axes, x="data.fraction", by=["variant"])
    for variant, gain in (("labels", 0.0), ("distilled", 0.1)):
        for fraction in (0.1, 1):
            for seed in (0, 1, 2):
                options = {"data.fraction": fraction, "seed_everything": seed}
                trial = write_trial(study, f"{variant}{fraction}{seed}", options, variant)
                accuracy = 0.5 + 0.1 * seed + gain / fraction / 10 + 0.001 * seed * (variant == "distilled")
                write_run(trial, {"test/accuracy": accuracy}, seed, family=family)
    points, x, _ = Report.of([study]).plot()
    gaps = points[points["metric"] != "test/accuracy"]
    figure = report_figure(points, x)
    if family != "KnowledgeDistillation":
        assert gaps.empty
        return
    assert gaps["line"].tolist() == ["distilled", "distilled"]
    np.testing.assert_allclose(gaps["mean"], [0.101, 0.011])
    np.testing.assert_allclose(gaps["sd"], [0.001, 0.001])
    titles = [" ".join(panel.get_ylabel().split()) for panel in figure.axes]
    assert titles == ["accuracy, test split (%)", "accuracy gained over labels, test split (percentage points)"]
