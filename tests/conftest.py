"""What every test shares: one CPU thread, no data folder of the machine's, and short runs of the real command."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dinopl.app import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tests are fastest on one thread; and nobody's data folder may decide whether one passes."""
    torch.set_num_threads(1)
    monkeypatch.delenv("DINOPL_DATA", raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone."""
    return ROOT


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the real command with its run folders below the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    return run
