"""The benchmark of FP-Mamba compares ways to the same numbers, sees memory, and prints its tables."""

import csv
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

# The names and the interface of mamba.py's module, with the plainest loop behind them.
PSCAN = """
import torch

def pscan(decay, added):
    states = [added[:, 0]]
    for t in range(1, added.shape[1]):
        states.append(decay[:, t] * states[-1] + added[:, t])
    return torch.stack(states, 1)
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, writing below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fpmamba_layer

    monkeypatch.setattr("hardware.RESULTS", tmp_path / "results")
    (tmp_path / "pscan.py").write_text(PSCAN)
    return fpmamba_layer


def test_contenders_compute_the_same(benchmark: ModuleType, tmp_path: Path) -> None:
    options = benchmark.parse(["--pscan", str(tmp_path / "pscan.py")])
    leaves = benchmark.operands("2x20x6x3", "cpu")
    grad = torch.randn(2, 20, 6)
    scans = benchmark.scans(options)
    assert len(scans) == 4
    outputs = {name: scan(*leaves) for name, scan in scans.items()}
    gradients = {name: benchmark.scan_task(scan, leaves, grad)() for name, scan in scans.items()}
    for name in scans:
        torch.testing.assert_close(outputs[name], outputs["selective_scan"], msg=name)
        torch.testing.assert_close(gradients[name], gradients["selective_scan"], msg=name)


def test_tables_are_printed_and_written(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = "--shapes 2x9x6x3 --lengths 4 8 --tokens 16 --longest-exact 4 --d-model 4 --d-state 2 --rounds 1 --csv"
    monkeypatch.setattr(sys, "argv", ["fpmamba_layer.py", *words.split()])
    benchmark.main()
    files = sorted((tmp_path / "results").iterdir(), reverse=True)
    scans, layers = (list(csv.DictReader(path.read_text().splitlines())) for path in files)
    assert [row["contender"] for row in scans] == ["selective_scan", "recorded loop", "linear_scan of states"]
    assert min(float(row["times_best"]) for row in scans) == 1
    of_length = {n: [row["layer"] for row in layers if row["length"] == str(n)] for n in (4, 8)}
    assert len(of_length[4]) == 5
    assert set(of_length[4]) - set(of_length[8]) == {"FPMamba exact"}
    assert all(row["iterations"] == "1.0" for row in layers if row["layer"].startswith("Diagonal"))
    assert capsys.readouterr().out.count("wall_ms") == 3


def test_a_missing_checkout_is_named(benchmark: ModuleType) -> None:
    with pytest.raises(FileNotFoundError, match=r"--pscan nowhere/pscan.py: give the path of pscan.py"):
        benchmark.scans(benchmark.parse(["--pscan", "nowhere/pscan.py"]))
