"""The short form of ``make soak``: each family is killed twice, and trains in one process a few times."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def said() -> str:
    """What the harness prints, in one process, whose imports take longer than its runs; it must lose nothing."""
    root = Path(__file__).parent.parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "SLURM_"))}
    words = ("kills", "fits", "--trials", "1", "--kills", "2", "--epochs", "2", "--count", "9", "--slack", "1.15")
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *words],
        cwd=root,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_runs_that_are_killed_go_on_exactly(said: str) -> None:
    assert said.count(" 0 lost") == 3


@pytest.mark.timeout(600)
def test_a_fit_leaves_little_behind_in_its_process(said: str) -> None:
    """Some caches of classes and files grow by a few objects in each; a model that stayed would leave thousands."""
    numbers = re.search(r"(\d+) objects after (\d+); .* (\d+) objects at the end", said)
    assert numbers is not None, said
    early, warm, late = (int(number) for number in numbers.groups())
    assert (late - early) / (9 - warm) < 300, said
