"""What every test shares: one CPU thread, no data folder of the machine's, and short runs of the real command."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dinopl.cli import main

ROOT = Path(__file__).parent.parent
LIBRARIES = ("dinopl", "fprnn", "kd")  # the folders of numerical tests
# Parts of the names of their tests that compute nothing that another processor would round, or take long: what runs
# the command, reads files, draws integers, or compiles.
NOT_NUMERICAL = (
    "command",
    "study",
    "/cli/",
    "/sweep/",
    "/reports/",
    "/training/",
    "/data/",
    "tasks",
    "processes",
    "triton",
    "compile",
    "kernels",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what ``make test-kernels`` runs once more, with the kernels of an older processor."""
    for item in items:
        folder, *_ = item.path.relative_to(ROOT / "tests").parts
        if folder in LIBRARIES and not any(word in item.nodeid for word in NOT_NUMERICAL):
            item.add_marker(pytest.mark.numerical)


@pytest.fixture(autouse=True)
def _alike_wherever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, which is fastest for small tests; no data folder of the machine's; no seed of an earlier test."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.delenv("DINOPL_DATA", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("PL_GLOBAL_SEED")


class Messages(logging.Handler):
    """The texts of records, each once whatever else handles it: pytest's handler may get a record twice, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a line."""
        self.text += f"{record.getMessage()}\n"


@pytest.fixture
def lightning_messages() -> Iterator[Messages]:
    """What Lightning logs within a test, however its loggers propagate."""
    messages, loggers = Messages(), [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    for logger in loggers:
        logger.addHandler(messages)
    yield messages
    for logger in loggers:
        logger.removeHandler(messages)


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
