"""Bad input: one line on standard error, exit code 2, nothing written."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinopl.app import main

ShortRun = Callable[..., tuple[int, Path | None]]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command complained of: one line that starts with its name."""
    complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert len(complaints) == 1
    return complaints[0].removeprefix("dinopl: error: ")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--trainr.max_epochs", "3"], "--trainr.max_epochs: no such option; did you mean 'trainer.max_epochs'?"),
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch: no such option; did you mean 'trainer.max_epochs'?"),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs: expected int, got many."),
        (["--trainer.max_epochs", "-7"], "--trainer: `max_epochs` must be a non-negative integer"),
        (["--model.encodr", "MiniVGG"], "SelfDistillation has no option 'encodr'; did you mean 'encoder'?"),
        (["--model.encoder", "MiniVG"], "--model.encoder: no class 'MiniVG'; did you mean 'MiniVGG'?"),
        (["--model", "SelfDistilation"], "--model: no class 'SelfDistilation'; did you mean 'SelfDistillation'?"),
        (["--model.encoder.widths", "wide"], "--model.encoder.widths: expected tuple, got wide."),
        (["--model.encoder.widths", "[0]"], "--model.encoder.widths must be at least 1 each, not [0]"),
        (["--model.head.out_dim", "0"], "--model.head.out_dim must be at least 1, not 0"),
        (["--model.student", "InterpolatedStart"], "--model.student: the following arguments are required: alpha"),
        (
            ["--model.student", "InterpolatedStart", "--model.student.alpha", "1.5"],
            "--model.student.alpha must be in [0, 1], not 1.5",
        ),
        (["--model.probes+=KNNProb"], "--model.probes: no class 'KNNProb'; did you mean 'KNNProbe'?"),
        (
            ["--model.optimizer.lr", "-1"],
            "--model.optimizer: Invalid learning rate: -1.0; give that argument another value.",
        ),
        (
            ["--model.lr_scheduler", "CosineAnnealingWarmRestarts", "--model.lr_scheduler.T_0=-1"],
            "--model.lr_scheduler: Expected positive integer T_0, but got -1; give that argument another value.",
        ),
        (["--model.bias_weight_decay", "-1"], "--model.bias_weight_decay must be at least 0, not -1"),
        (["--data.val_size", "some"], "--data.val_size: expected int or float, got some."),
        (["--data.batch_size", "5000"], "--data.batch_size 5000: there are only 1167 training images"),
        (["--data.image_size", "4"], "--model.encoder: MiniVGG halves the image 3 times"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path: no file 'none.ckpt'"),
        (["--ckpt_path", "last"], "--ckpt_path last: each run has its own folder"),
        (["--name", "../outside"], "the run's name is '../outside'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    code, folder = short_run("fit", *options, cut=())
    assert code == 2
    assert complaint in said(capsys)
    assert folder is None
    assert not Path("runs").exists()


def test_a_set_that_is_not_there_names_the_folder(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data.dataset", "CIFAR10Images", "--data.root", "elsewhere", "--data.download", "false")
    code, folder = short_run("fit", *options, cut=())
    assert (code, folder) == (2, None)
    assert "elsewhere/cifar-10-batches-py" in said(capsys)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({}, "x_train"),
        ({"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.zeros(3, int)}, ""),
        ({"x_train": np.zeros((4, 8)), "y_train": np.zeros(4, int)}, ""),
    ],
)
def test_a_malformed_npz_is_refused(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    complaint: str,
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays, x_test=np.zeros((2, 8, 8), np.uint8), y_test=np.zeros(2, int))
    code, folder = short_run("fit", "--data.dataset", "NpzImages", "--data.dataset.path", tmp_path / "bad.npz", cut=())
    assert (code, folder) == (2, None)
    assert complaint in said(capsys)


class Bomb:
    """Unpickling this would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("exploded", "w")


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "hostile", "family", "state_dict"])
def test_a_bad_checkpoint_is_refused_and_its_code_not_run(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, command: str
) -> None:
    file = tmp_path / "bad.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "dinopl": {"family": "SequenceModeling"}}, file)
    match kind:
        case "empty":
            file.write_bytes(b"")
        case "truncated":
            file.write_bytes(file.read_bytes()[:200])
        case "text":
            file.write_text("not a checkpoint")
        case "hostile":
            file.write_bytes(pickle.dumps(Bomb()))
        case "state_dict":
            torch.save({"w": torch.zeros(2)}, file)
    code, folder = short_run(command, "--ckpt_path", file)
    assert (code, folder) == (2, None)
    assert "--ckpt_path" in said(capsys)
    assert not Path("exploded").exists()


def test_weights_of_another_shape_are_refused(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = short_run("fit")
    assert folder is not None
    checkpoint = folder / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    code, folder = short_run("test", "--ckpt_path", checkpoint, "--model.head.out_dim", "32")
    assert (code, folder) == (2, None)
    assert "do not fit the configured model" in said(capsys)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["fitt"], "fitt: no such command; did you mean 'fit'?"),
        (["fit"], "required"),
        (["fit", "--config", "none.yaml"], "--config none.yaml: no such file"),
        (["configs", "show", "nothing"], "nothing is not among the shipped ones"),
        (["configs", "frobnicate"], "usage is"),
        (["export"], "--ckpt_path"),
        (["export", "--ckpt_path", "none.ckpt"], "no file 'none.ckpt'"),
    ],
)
def test_words_that_make_no_command(capsys: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
    assert main(words) == 2
    assert complaint in said(capsys)


def test_traceback_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--traceback", "--config", "none.yaml"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.rstrip().splitlines()[-1].startswith("dinopl: error: --config none.yaml")


def test_other_errors_keep_their_traceback(short_run: ShortRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug in the middle of a run")

    monkeypatch.setattr("dinopl.module.SelfDistillation.training_step", broken)
    with pytest.raises(ValueError, match="a bug in the middle"):
        short_run("fit")
