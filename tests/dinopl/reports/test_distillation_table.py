"""The table, against text written by hand."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinopl.reports import Run, distillation_table, views_of
from tests.dinopl.reports.run_trees import write_run

METRICS = {
    "probe/input/linear": 0.96,
    "probe/input/knn": 0.9664,
    "probe/teacher/linear": 0.718,
    "probe/teacher/knn": 0.858,
    "probe/student/linear": 0.793,
    "probe/student/knn": 0.853,
    "probe/epoch": 20.0,
    "val/loss": 1.0,
}

TABLE = """\
Probe accuracy, test split
probe   input  teacher  student    gain
---------------------------------------
linear  0.960    0.718    0.793  +0.075
knn     0.966    0.858    0.853  -0.005"""


def test_table():
    assert distillation_table(METRICS) == TABLE


def test_validation_split_is_a_block_of_its_own():
    renamed = {name.replace("probe/", "probe_val/"): value for name, value in METRICS.items()}
    validation = TABLE.replace("test split", "validation split")
    assert distillation_table({**renamed, **METRICS}) == f"{TABLE}\n\n{validation}"
    assert distillation_table(renamed) == validation


@pytest.mark.parametrize("status", ["finished", "interrupted", "diverged", "failed"])
def test_a_run_that_stopped_says_of_which_epoch_its_probes_are(status: str, tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path, METRICS, status=status, family="SelfDistillation"))
    (view,) = views_of(run)
    title = "Probe accuracy, test split" + ("" if status == "finished" else ", as of epoch 20")
    assert view.table(run).splitlines() == [title, *TABLE.splitlines()[1:]]


def test_gaps_are_dashes():
    table = distillation_table({"probe/student/linear": 0.5, "probe/teacher/knn": None, "probe/student/knn": math.nan})
    assert [line.split() for line in table.splitlines()[3:]] == [
        ["linear", "-", "-", "0.500", "-"],
        ["knn", "-", "-", "-", "-"],
    ]


def test_no_results():
    assert distillation_table({"val/loss": 1.0, "probe/epoch": 3.0}) == "no probe results"


@settings(max_examples=50, deadline=None)
@given(teacher=st.floats(0, 1), student=st.floats(0, 1))
def test_a_gain_always_has_a_sign_and_no_negative_zero(teacher, student):
    table = distillation_table({"probe/teacher/a": teacher, "probe/student/a": student})
    gain = table.split()[-1]
    assert gain[0] in "+-"
    assert gain != "-0.000"
    assert abs(float(gain) - (student - teacher)) <= 0.0005 + 1e-9
    assert len({len(line) for line in table.splitlines()[1:]}) == 1
