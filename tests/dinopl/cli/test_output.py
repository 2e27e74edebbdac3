"""Where output cannot be written: a full disk is one line, a closed terminal is none."""

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dinopl.cli.conftest import CUT

ShortRun = Callable[..., tuple[int, Path | None]]


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond some bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "options", "file"),
    [
        (8_000, (), "checkpoints/last.ckpt"),
        (12_000, ("--trainer.enable_checkpointing=false",), "figures/probes.png"),  # results.json is smaller
        (2_000, ("--trainer.enable_checkpointing=false",), ""),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: Callable[[int], None],
    size: int,
    options: tuple[str, ...],
    file: str,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # a handler may hold an earlier test's output
    limit(size)
    try:
        code, folder = short_run("fit", *options)
    finally:
        limit(resource.RLIM_INFINITY)
    error = capsys.readouterr().err
    assert code == 2
    (line,) = [line for line in error.splitlines() if line.startswith("dinopl: error: cannot write ")]
    assert "File too large" in line
    assert file in line
    assert "Traceback" not in error
    if folder is not None:  # nothing is there by half
        assert not list(folder.rglob("*.tmp"))
        assert all(path.stat().st_size < size for path in folder.rglob("*.ckpt"))


def test_a_run_outlives_closed_output(tmp_path: Path, config: str) -> None:
    """Standard output is closed, and the reader of standard error ends after a line."""
    words = [sys.executable, "-m", "dinopl", "fit", "--config", config, *CUT, f"--trainer.default_root_dir={tmp_path}"]
    shell = ["bash", "-c", '"$@" 2>&1 >&- | head -n 1; exit ${PIPESTATUS[0]}', "bash", *words]
    done = subprocess.run(shell, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    (results,) = tmp_path.glob("*/*/results.json")
    assert '"status": "finished"' in results.read_text()
