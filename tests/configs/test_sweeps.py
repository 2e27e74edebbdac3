"""Every shipped sweep file: its runs go through the parser, and the first one runs, cut short."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SWEEPS = sorted(CONFIGS.rglob("*.sweep.yaml"))
SHORT = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
FAMILY = {"dinopl": ("--model.probes=[{class_path: KNNProbe}]",)}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_sweep_file_says_what_it_is_and_runs(
    path: Path, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert all(word in header for word in ("What it shows:", "Time:", "Expect:"))
    name = path.relative_to(CONFIGS.parent)  # found from any folder, as its base is
    assert run_main("sweep", "--sweep", name, "--print-commands") == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(set(commands)) == len(commands) > 1
    program, *words = shlex.split(commands[0])
    assert program == "dinopl"
    assert run_main(*words, *SHORT, *FAMILY.get(path.parent.name, ())) == 0
    assert list(Path("runs").rglob("results.json"))
