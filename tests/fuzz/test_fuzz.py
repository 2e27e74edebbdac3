"""Shipped configurations with something wrong in them: each runs its first step, or is refused and leaves nothing."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutations import ROOT, cases

SEED = 3
SHORT = 14


def test_a_changed_configuration_runs_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # a handler may hold an earlier test's output
    found: list[str] = []

    def each(number: int, file: str, text: str, outcome: str) -> None:
        found.append(outcome if outcome in ("ran", "refused") else f"{number} {file}: {outcome}")

    cases(SEED, range(SHORT), each)
    assert set(found) == {"ran", "refused"}, found


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif("DINOPL_SOAK" not in os.environ, reason="the long form: DINOPL_SOAK=1, or make soak")
def test_two_thousand_changed_configurations(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz.mutations", "--cases", "2000", "--keep", str(tmp_path / "lost")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
