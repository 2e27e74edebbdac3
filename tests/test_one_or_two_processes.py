"""Two processes compute what one does, on unequal parts of the batches: every loss, metric and probe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What the script found, by case."""
    script, folder = Path(__file__).with_name("one_or_two_processes.py"), tmp_path_factory.mktemp("one-or-two")
    environment = {name: value for name, value in os.environ.items() if name not in ("PL_GLOBAL_SEED", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent.parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, object]] = json.loads((folder / "report.json").read_text())
    return found


def test_training_and_metrics_do_not_depend_on_the_number_of_processes(report: dict[str, dict[str, object]]) -> None:
    """Sums in another order: about 1e-6 in each of seven steps, and as much in figures, of which some are above 1."""
    assert len(report) >= 20
    for name, found in report.items():
        assert not found["missing"], name
        assert float(str(found["weights"])) < 2e-5, name
        assert found["metrics"], name
        for metric, difference in dict(found["metrics"]).items():  # type: ignore[call-overload]
            assert difference < 2e-5, (name, metric)
    assert any(metric.startswith("probe/student/linear") for metric in dict(report["KLViews"]["metrics"]))  # type: ignore[call-overload]


def test_one_step_has_the_same_gradients(report: dict[str, dict[str, object]]) -> None:
    """SGD on unequal parts: gradients and weights within 1e-6 of their largest entry, in float32 and float64.

    A float32 sum in another order is off by a few 1e-7 of its terms; in float64 an average over the wrong number of
    samples would be the only difference left.
    """
    for name, found in report.items():
        for bits, tolerance in (("32-true", 1e-6), ("64-true", 1e-12)):
            differences = found[f"step in {bits}"]
            assert isinstance(differences, list)
            assert len(differences) == 2
            assert max(differences) < tolerance, (name, bits, differences)
