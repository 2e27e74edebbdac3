"""Files are replaced by whole ones only: after an error, a full disk, or a kill in the middle of writing."""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from dinopl.core.files import replacing
from dinopl.training import RunFolder
from dinopl.training.files import AtomicCheckpoints
from dinopl.training.loggers import MetricsFile


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stopped_while_writing(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["last.ckpt", "val[1]=*.ckpt"])
def test_the_old_file_stays_until_the_new_one_is_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyboardInterrupt):
        stopped_while_writing(path)
    assert (path.read_text(), names(tmp_path)) == ("new", [name])


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    path, host = tmp_path / "last.ckpt", socket.gethostname()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    gone = [f".last.ckpt.{host}-{dead.pid}-0.tmp", f".last.ckpt.{host}-{dead.pid}-1.tmp"]
    stays = [
        f".last.ckpt.{host}-{os.getppid()}-0.tmp",
        f".last.ckpt.elsewhere-{dead.pid}-0.tmp",
        f".best.ckpt.{host}-{dead.pid}-0.tmp",
    ]
    for stray in (*gone, *stays):
        (tmp_path / stray).write_text("half")
    with replacing(path) as outer, replacing(path) as inner:
        outer.write_text("outer")
        inner.write_text("inner")
    assert path.read_text() == "outer"
    assert names(tmp_path) == sorted([*stays, "last.ckpt"])


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with replacing(tmp_path / "pipe") as same:
        assert same == tmp_path / "pipe"
    assert names(tmp_path) == ["pipe"]


def test_the_name_that_an_error_shows_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'.*/away/last.ckpt'"), replacing(tmp_path / "away" / "last.ckpt"):
        raise AssertionError


def test_a_disk_that_fills_up_in_mid_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"step": 1}, path)

    def full(self: Path, content: Any) -> int:
        with io.FileIO(self, "w") as file:
            file.write(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            AtomicCheckpoints().save_checkpoint({"step": 2}, path)
    assert names(tmp_path) == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


WRITER = """
import sys
from dinopl.training.files import AtomicCheckpoints
import torch
content = {"weights": torch.ones(4_000_000)}
for number in range(1000):
    AtomicCheckpoints().save_checkpoint(content | {"number": number}, sys.argv[1])
    print(number, flush=True)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_kill_in_mid_write_leaves_a_whole_checkpoint_wherever_temporary_files_are(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for trial in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        environment = os.environ | {"TMPDIR": "/dev/shm", "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"0\n"
            while not (halves := [stray for stray in tmp_path.glob(".*.tmp") if stray.stat().st_size]):
                pass
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        assert len(halves) == 1
        content = torch.load(path, weights_only=True)
        assert bool((content["weights"] == 1).all()), trial
    AtomicCheckpoints().save_checkpoint({"step": 1}, path)
    assert names(tmp_path) == ["last.ckpt"]


def test_every_checkpoint_of_a_run_with_a_folder_is_written_so(tmp_path: Path) -> None:
    own = ModelCheckpoint(dirpath=tmp_path)  # a user's own
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[RunFolder(), own])
    RunFolder().setup(trainer, None, "test")  # type: ignore[arg-type]
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpoints


class Mine(TorchCheckpointIO):
    """A user's own way."""


def test_a_users_own_way_to_write_checkpoints_stays(tmp_path: Path) -> None:
    for plugin, kind in ((Mine(), Mine), (AsyncCheckpointIO(), AsyncCheckpointIO)):
        trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, plugins=[plugin])
        RunFolder().setup(trainer, None, "test")  # type: ignore[arg-type]
        assert type(trainer.strategy.checkpoint_io) is kind


def test_metrics_get_a_new_column_without_losing_a_row_to_a_kill(tmp_path: Path, monkeypatch: Any) -> None:
    def stopped(*paths: Any) -> None:
        raise KeyboardInterrupt

    file = MetricsFile(tmp_path, {}, seconds=0)
    file.log_metrics({"a": 1.0}, 0)
    file.save()
    before = (tmp_path / "metrics.csv").read_text()
    file.log_metrics({"b": 2.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            file.save()
    assert (tmp_path / "metrics.csv").read_text() == before
    file.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,b,step", "1.0,,0", ",2.0,1"]
