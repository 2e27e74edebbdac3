"""Table and figure of a classifier's run, against text written by hand and the run's own numbers."""

import csv
import json
from pathlib import Path

import numpy as np

from dinopl.reports import Run, save_figure, views_of
from dinopl.reports.views.classifiers import classifier_table, has_classifier

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
student                          test  own samples
--------------------------------------------------
accuracy (%)                     90.6        100.0
agreement with the teacher (%)   91.8            -
NLL (nats)                      0.393        0.002
KL from the teacher (nats)      0.294            -
feature CKA with the teacher    0.939            -
teacher's test accuracy: 98.2 %"""


def test_the_table() -> None:
    assert classifier_table(METRICS) == TABLE


def test_a_label_run_has_no_teacher_in_its_table() -> None:
    found = {name: METRICS[name] for name in ("test/accuracy", "test/nll", "test/brier")}
    assert classifier_table(found).splitlines()[2:] == ["accuracy (%)   90.6", "NLL (nats)    0.393"]
    assert has_classifier(found)
    assert not has_classifier({"test/accuracy/length=8": 1.0, "probe/student/knn": 0.5, "val/loss": 1.0})


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
