"""What the benchmark scripts refuse, and what their tables count."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def probe_gains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, writing below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "probe_gains", raising=False)
    import probe_gains

    monkeypatch.setattr(probe_gains, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(probe_gains, "hardware", lambda: "machine")
    monkeypatch.setattr(sys, "argv", ["probe_gains.py", str(tmp_path / "runs")])
    return probe_gains


def write_run(folder: Path, seed: int, student: float = 0.75, **facts: Any) -> None:
    path = folder / "runs" / f"{seed}-{len(list(folder.rglob('results.json')))}"
    path.mkdir(parents=True)
    probes = {f"probe/{subject}/linear": 0.5 for subject in ("input", "teacher")} | {"probe/student/linear": student}
    results = {"status": "finished", "command": "fit", "seed": seed, "duration_s": 1.5, "metrics": probes}
    results |= {"versions": {"torch": "2.99.0+cpu"}, "config": {"trainer": {"precision": "bf16-mixed"}}}
    (path / "results.json").write_text(json.dumps(results | facts))


def test_gains_are_of_finished_fits_and_named_by_the_runs(
    probe_gains: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, student in ((1, 0.75), (0, 0.625)):
        write_run(tmp_path, seed, student)
    write_run(tmp_path, 0, status="failed")
    write_run(tmp_path, 0, command="test")
    probe_gains.main()
    with (tmp_path / "results" / "runs_machine_bf16-mixed_torch2.99.0.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["probe/student/linear"]) for row in rows] == [("0", "0.625"), ("1", "0.75")]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("linear"))
    assert line.split()[1:] == ["50.0", "50.0", "68.8", "+18.8", "8.8", "+12.5"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 0}, "2 runs have the seed 0"),
        ({"seed": 1, "versions": {"torch": "2.98.0"}}, r"the runs differ in the version of torch: 2.98.0, 2.99.0\+cpu"),
        ({"seed": 1, "config": {}}, "the runs differ in precision: 32-true, bf16-mixed"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    probe_gains: ModuleType, tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    write_run(tmp_path, 0)
    write_run(tmp_path, **second)
    with pytest.raises(SystemExit, match=message):
        probe_gains.main()
    assert not (tmp_path / "results").exists()


def test_a_folder_without_finished_fits_is_refused(probe_gains: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path, 0, command="validate")
    with pytest.raises(SystemExit, match=r"no finished run of `dinopl fit` below it"):
        probe_gains.main()
