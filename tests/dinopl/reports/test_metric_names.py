"""Which metrics a report shows first, what patterns stand for, and numbers in names."""

import pandas as pd
import pytest

from dinopl.reports.metrics import headline, keys_of, matching, metric_values, names_of, natural, place

PROBES = ["probe/input/knn", "probe/teacher/knn", "probe/student/knn", "probe_val/student/knn"]
LENGTHS = [f"test/{kind}/length={n}" for kind in ("sequence_accuracy", "iterated_sequence_accuracy") for n in (16, 8)]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([*PROBES, "test/loss", "val/loss"], ["probe/student/knn"]),
        ([*LENGTHS, "test/loss/length=8"], LENGTHS[:2]),
        (["val/accuracy", "test/loss", "test/kl"], ["test/loss", "test/kl"]),
        (["val/accuracy", "val/loss", "probe_val/student/knn"], ["val/accuracy", "probe_val/student/knn"]),
        (["train/loss", "val/loss"], ["val/loss"]),
        (["train/loss"], ["train/loss"]),
        ([], []),
    ],
)
def test_the_headline(names, shown):
    assert headline(names) == shown


def test_patterns():
    names = [*PROBES, *LENGTHS]
    assert matching("probe/student/knn", names) == ["probe/student/knn"]
    assert matching("probe/*/knn", names) == sorted(PROBES[:3])
    assert matching("test/sequence_accuracy/length=*", names) == [LENGTHS[1], LENGTHS[0]]  # 8 before 16
    assert matching("probe/student/knn - probe/teacher/knn", names) == ["probe/student/knn - probe/teacher/knn"]
    assert matching("probe/student/knn - probe/nobody/knn", names) == matching("knn", names) == []


def test_values_and_differences():
    nan = float("nan")
    frame = pd.DataFrame({"a": [3.0], "b": [1.0], "c": [nan], "a - c": [7.0], "duration_s": [1.0]})
    found = [metric_values(frame, name).item() for name in ("a", "c", "d", "a - b", "a - c", "b - c", "a - d")]
    assert found == pytest.approx([3.0, nan, nan, 2.0, 7.0, nan, nan], nan_ok=True)


def test_names_are_in_order_and_without_counters():
    assert names_of([{"b": 1, "epoch": 2}, {"a": None, "b": 1, "probe/epoch": 1}]) == ["b", "a"]


def test_numbers_in_names():
    assert place("test/loss/length=64", "length") == ("test/loss", 64)
    assert place("test/iterations/layer=1/length=64", "layer") == ("test/iterations/length=64", 1)
    assert place("test/noise=1e-3", "noise") == ("test", 0.001)
    assert place("test/loss", "length") is place("test/strength=4", "length") is None
    assert keys_of([*LENGTHS, "test/iterations/layer=1/length=64", "test/loss"]) == ["length", "layer"]
    assert sorted(["x=10", "x=9", "x=a"], key=natural) == ["x=9", "x=10", "x=a"]
