"""Signals and SLURM's requeues, through the real command in this process: a run that stopped goes on exactly."""

import csv
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tiny import Tiny, loader, make_trainer

from dinopl.cli import main
from dinopl.training import ExactResume, RunFolder, folder_of
from dinopl.training.stopping import PRIVATE, GracefulStop, Stopped, private, slurm_job
from tests.conftest import Messages

FAMILIES = {
    "fprnn/parity.yaml": "--model.d_model=4 --data.steps_per_epoch=5 --data.train_length=5 --data.batch_size=4 "
    "--data.eval_lengths=[4] --data.val_size=24 --data.test_size=8 --data.eval_batch_size=8",
    "random_teacher.yaml": "--model.encoder.widths=[4,4] --model.head.hidden=[8] --model.head.bottleneck_dim=4 "
    "--model.head.out_dim=16 --trainer.limit_train_batches=5 --model.probes=[] --data.batch_size=16",
}
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
JOB |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_CLUSTER_NAME": "here"}


class SignalAt(Callback):
    """Sends a signal to its own process in a training or validation batch, counted over epochs, as a variable says."""

    def place(self, trainer: Trainer, kind: str) -> None:
        asked = json.loads(os.environ.get("SIGNAL_AT", "[]"))
        if asked[:2] == [kind, trainer.fit_loop.total_batch_idx + 1]:
            os.environ["SIGNAL_AT"] = "[]"
            if asked[2] == "delete":
                shutil.rmtree(str(folder_of(trainer)))
            elif asked[2] == "read-only":  # what a file system says that went read-only; root may write to any folder
                real = Path.touch

                def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
                    if str(folder_of(trainer)) in str(path):
                        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                    real(path, *args, **kwargs)

                pytest.MonkeyPatch().setattr(Path, "touch", refuse)
            else:
                os.kill(os.getpid(), getattr(signal, asked[2]))

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.place(trainer, "train")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.place(trainer, "validate")


@pytest.fixture(autouse=True)
def hangup_is_not_ignored() -> Iterator[None]:
    """As it is where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def run(root: Path, config: str, at: list[Any] | None = None) -> int:
    """The command's exit code; the signal comes ``at`` a place."""
    os.environ["SIGNAL_AT"] = json.dumps(at or [])
    words = ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false"]
    words += [
        "--trainer.val_check_interval=2",
        "--trainer.callbacks=test_stopping.SignalAt",
        "--trainer.accelerator=cpu",
    ]
    words += [*FAMILIES[config].split(), f"--trainer.default_root_dir={root}", "--trainer.num_sanity_val_steps=0"]
    config_path = Path(__file__).parents[3] / "configs" / config
    try:
        return main(["fit", "--config", str(config_path), "--name=run", *words])
    except SystemExit as stop:
        return int(stop.code or 0)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def weights(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def status(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())["status"]


@pytest.fixture(autouse=True)
def _as_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SIGNAL_AT", "[]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each family without interruption."""
    root = tmp_path_factory.mktemp("whole")
    for config in FAMILIES:
        assert run(root / config, config) == 0
    return {config: next((root / config).glob("run/*")) for config in FAMILIES}


def submit(monkeypatch: pytest.MonkeyPatch, root: Path, **variables: str) -> Callable[[], list[str]]:
    """Makes this process part of a SLURM job; returns what ``scontrol`` was asked for."""
    for name, value in (JOB | variables).items():
        monkeypatch.setenv(name, value)
    folder, asked = root / "bin", root / "scontrol.txt"
    folder.mkdir(exist_ok=True)
    # SLURM sends SIGTERM to the job as it puts it back.
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\nkill -TERM $PPID\nexit ${{SCONTROL_EXIT:-0}}\n')
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda: asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize("config", list(FAMILIES))
def test_a_requeued_job_goes_on_in_its_own_folder_as_if_undisturbed(
    config: str, tmp_path: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGUSR1, SIGTERM within a validation, an end without any signal; files of other jobs lie beside it."""
    asked = submit(monkeypatch, tmp_path)
    root = tmp_path / "runs"
    foreign = root / "run" / "19990101-000000-0badcafe"
    shutil.copytree(whole[config], foreign)
    (foreign / "job.json").write_text(json.dumps({"slurm": "4712", "cluster": "here", "starts": [0]}))
    shutil.copy(whole[config] / "checkpoints" / "last.ckpt", root / "hpc_ckpt_9.ckpt")  # Lightning starts from it
    before = {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()}

    assert run(root, config, ["train", 4, "SIGUSR1"]) == 138
    assert asked() == ["requeue 4711"]
    (own,) = set(root.glob("run/*")) - {foreign}
    assert status(own) == "interrupted"
    assert torch.load(own / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(root, config, ["validate", 9, "SIGTERM"]) == 143
    assert asked() == ["requeue 4711"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with (own / "metrics.csv").open("a") as file:  # what a start logs that is then killed
        file.write("1," * (len(rows(own)[0]) + 2) + "\n")
    assert run(root, config) == 0
    assert set(root.glob("run/*")) == {foreign, own}
    assert status(own) == "finished"
    assert json.loads((own / "job.json").read_text())["starts"] == [0, 1, 2]
    for name, value in weights(whole[config]).items():
        assert torch.equal(weights(own)[name], value), name
    assert rows(own) == rows(whole[config])
    assert {path: path.read_bytes() for path in foreign.rglob("*") if path.is_file()} == before

    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")  # a new job of the same options
    monkeypatch.setenv("SLURM_JOB_ID", "4713")
    assert run(root, config) == 0
    (new,) = set(root.glob("run/*")) - {foreign, own}
    assert rows(new) == rows(whole[config])


def test_a_job_that_cannot_be_requeued_goes_on(
    tmp_path: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = submit(monkeypatch, tmp_path, SCONTROL_EXIT="1", SLURM_ARRAY_JOB_ID="99", SLURM_ARRAY_TASK_ID="3")
    config = "fprnn/parity.yaml"
    with pytest.warns(UserWarning, match="could not be put back into the queue"):
        assert run(tmp_path / "runs", config, ["train", 4, "SIGUSR1"]) == 0
    assert asked() == ["requeue 99_3"]
    (own,) = tmp_path.glob("runs/run/*")
    assert rows(own) == rows(whole[config])


def test_a_refused_start_takes_away_its_folder_but_never_that_of_an_earlier_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything was logged; the first start of this job died as early."""
    submit(monkeypatch, tmp_path)

    class Refused(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("refused")

    def start(number: str, job: str) -> RunFolder:
        monkeypatch.setenv("SLURM_RESTART_COUNT", number)
        folder = RunFolder(config={"a": 1})
        assert folder.continue_job(str(tmp_path), job) is None
        with pytest.raises(ValueError, match="refused"):
            make_trainer(tmp_path, folder).fit(Refused(), loader(), loader())
        return folder

    first = start("0", "4711")
    again = start("1", "4711")
    assert first.path is not None
    assert again.path == first.path
    held = {path: path.read_bytes() for path in first.path.iterdir()}
    again.withdraw()
    assert {path: path.read_bytes() for path in first.path.iterdir()} == held
    assert json.loads(held[first.path / "job.json"])["starts"] == [0, 1]
    other = start("0", "4712")
    other.withdraw()
    assert [*tmp_path.glob("run/*")] == [first.path]


@pytest.mark.parametrize(("place", "name", "code"), [(["train", 5], "SIGTERM", 143), (["validate", 4], "SIGHUP", 129)])
def test_a_signal_leaves_a_checkpoint_a_status_and_an_exit_code(
    name: str,
    code: int,
    place: list[Any],
    tmp_path: Path,
    whole: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    lightning_messages: Messages,
) -> None:
    config = "fprnn/parity.yaml"
    assert run(tmp_path, config, [*place, name]) == code
    (folder,) = tmp_path.glob("run/*")
    assert status(folder) == "interrupted"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    error = capsys.readouterr().err
    assert f"go on with: dinopl fit --ckpt_path {checkpoint} --trainer.default_root_dir {tmp_path}\n" in error
    logged = lightning_messages.text
    assert logged.count("Seed set to 0") == logged.count("GPU available") == 1
    assert "weights_only" not in logged
    assert main(["fit", "--ckpt_path", str(checkpoint), "--trainer.callbacks=test_stopping.SignalAt"]) == 0
    (resumed,) = set(tmp_path.glob("run/*")) - {folder}
    for key, value in weights(whole[config]).items():
        assert torch.equal(weights(resumed)[key], value), key
    assert rows(folder) + rows(resumed) == rows(whole[config])


def test_a_test_is_left_at_once_and_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    class InTest(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not reached")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not reached")

    before = signal.getsignal(signal.SIGTERM)
    for stage in ("test", "fit"):
        run_folder = RunFolder()
        trainer = make_trainer(tmp_path, run_folder, ExactResume(), GracefulStop())
        with pytest.raises(Stopped):
            getattr(trainer, stage)(InTest(), *[loader()] * (2 if stage == "fit" else 1))
        assert run_folder.status == "interrupted"
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_lightning_without_the_private_members_in_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, GracefulStop())
    for path in PRIVATE:
        assert hasattr(*private(trainer, path))
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delattr(type(trainer._signal_connector), "register_signal_handlers")
    with pytest.raises(ValueError, match=r"^lightning=2\S+: has no Trainer\._signal_connector\.register_signal_handl"):
        trainer.fit(Tiny(), loader(), loader())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}, "12_0"),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "bash"}, None),
        ({"SLURM_JOB_ID": "../12"}, None),
    ],
)
def test_the_id_of_a_job(variables: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slurm_job() == job


def test_signals_ignored_by_nohup_stay_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        class Hangs(Tiny):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                os.kill(os.getpid(), signal.SIGHUP)
                return super().training_step(batch, batch_idx)

        trainer = make_trainer(tmp_path, GracefulStop())
        trainer.fit(Hangs(), loader(), loader())
        assert trainer.global_step == 6
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("what", "reason"),
    [("delete", "the run's folder was deleted or replaced in mid-run"), ("read-only", "Read-only file system")],
)
def test_a_folder_that_is_lost_in_mid_run_is_one_error(
    what: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "touch", Path.touch)  # put back at the end
    assert run(tmp_path, "fprnn/parity.yaml", ["train", 7, what]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("dinopl: error: --trainer.default_root_dir: cannot write to ")
    assert reason in line
    left = list(tmp_path.rglob("last.ckpt"))
    if what == "delete":
        assert not list(tmp_path.glob("run/*"))
    else:
        assert torch.load(left[0], weights_only=True)["epoch"] == 0
