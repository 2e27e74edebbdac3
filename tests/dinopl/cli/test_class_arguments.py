"""Classes given as JSON, with mappings for arguments, and what a checkpoint may bring along."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dinopl.cli import main
from dinopl.cli.config import Arguments, drop_replaced
from dinopl.cli.runs import run
from tests.dinopl.cli.conftest import CUT

ShortRun = Callable[..., tuple[int, Path | None]]
SGD = '{"class_path": "SGD", "init_args": {"lr": 0.5, "momentum": 0.9}}'


def optimizer(capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], *words: object) -> dict[str, Any]:
    assert run_main("fit", *words, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]


@pytest.mark.parametrize("given_by", ["nobody", "a class", "the same class"])
def test_a_class_given_as_json_keeps_its_arguments(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, given_by: str
) -> None:
    below = {"nobody": {}, "a class": {"optimizer": "AdamW"}, "the same class": {"optimizer": {"class_path": "SGD"}}}
    file = tmp_path / "base.yaml"
    model = {"class_path": "SelfDistillation", "init_args": below[given_by]}
    file.write_text(yaml.safe_dump({"model": model, "data": "ImageDataModule"}))
    chosen = optimizer(capsys, run_main, "--config", file, f"--model.optimizer={SGD}")
    assert (chosen["init_args"]["lr"], chosen["init_args"]["momentum"]) == (0.5, 0.9)
    assert chosen["init_args"]["weight_decay"] == 0


def test_an_argument_may_be_a_mapping(short_run: ShortRun) -> None:
    fake = {
        "class_path": "TorchvisionImages",
        "init_args": {
            "dataset": "torchvision.datasets.FakeData",
            "train_args": {"size": 60, "image_size": [1, 8, 8], "num_classes": 10},
            "test_args": {"size": 40, "image_size": [1, 8, 8], "num_classes": 10},
            "num_classes": 10,
            "image_shape": [3, 8, 8],
        },
    }
    fake["init_args"]["train_args"]["image_size"] = fake["init_args"]["test_args"]["image_size"] = [3, 8, 8]
    options = (f"--data.dataset={yaml.safe_dump(fake, default_flow_style=True)}", "--data.batch_size=16")
    code, folder = short_run("fit", *options)
    assert code == 0
    assert folder is not None


def test_replacing_leaves_the_layers_alone() -> None:
    config = {"model": {"class_path": "M", "init_args": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 1}}}}}
    before = copy.deepcopy(config)
    drop_replaced(config, Arguments.parse("fit", ["--model.optimizer", "SGD", "--model.views", "[1]"]))
    assert config == before


def test_the_table_names_classes_lists_and_words(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = short_run("fit")
    assert folder is not None
    capsys.readouterr()
    words = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--trainer.accelerator=cpu"]
    words += ["--model.loss", "KLViews", "--model.probe_epochs=[3]", "--data.normalization=train"]
    run("test", [*words, "--trainer.enable_progress_bar=false"])
    told = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [
        "model.loss.class_path",
        "dinopl.distillation.losses.CrossEntropyViews",
        "dinopl.distillation.losses.KLViews",
    ] in told
    assert ["model.probe_epochs", "[1,", "2,", "5,", "10,", "15]", "[3]"] in told
    assert ["data.normalization", "source", "train"] in told


def test_a_checkpoint_may_not_choose_what_is_imported(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, folder = short_run("fit")
    assert folder is not None
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["dinopl"]["config"]["model"]["init_args"]["encoder"]["class_path"] = "somebody.elses.Encoder"
    torch.save(checkpoint, tmp_path / "foreign.ckpt")
    capsys.readouterr()
    assert short_run("test", "--ckpt_path", tmp_path / "foreign.ckpt")[0] == 0  # a file is given: it counts
    assert main(["test", "--ckpt_path", str(tmp_path / "foreign.ckpt")]) == 2
    assert "names somebody.elses.Encoder, which a checkpoint may not import" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["dinopl", "pytorch-lightning_version", "optimizer_states"])
def test_an_incomplete_checkpoint_is_one_line(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: str
) -> None:
    _, folder = short_run("fit")
    assert folder is not None
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint.pop(damage)
    if damage == "dinopl":
        checkpoint["dinopl"] = "x"
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    capsys.readouterr()
    assert short_run("fit", "--ckpt_path", tmp_path / "damaged.ckpt") == (2, None)
    assert "--ckpt_path" in capsys.readouterr().err


def test_another_optimiser_cannot_take_up_the_state(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = short_run("fit")
    assert folder is not None
    options = ("--ckpt_path", folder / "checkpoints" / "last.ckpt", "--model.optimizer", "SGD")
    assert short_run("fit", *options) == (2, None)
    assert "--model.optimizer SGD: the checkpoint was trained with AdamW" in capsys.readouterr().err


def test_a_run_outlives_the_checkpoint_that_it_started_from(short_run: ShortRun, tmp_path: Path) -> None:
    _, first = short_run("fit")
    assert first is not None
    source = tmp_path / "source.ckpt"
    (first / "checkpoints" / "last.ckpt").rename(source)
    start = f'{{"class_path": "CheckpointStart", "init_args": {{"path": "{source}"}}}}'
    _, second = short_run("fit", f"--model.teacher.checkpoint={source}", f"--model.student={start}")
    assert second is not None
    source.unlink()
    assert main(["test", "--ckpt_path", str(second / "checkpoints" / "last.ckpt")]) == 0


def test_the_last_checkpoint_is_the_last_step_whenever_validation_runs(short_run: ShortRun) -> None:
    _, folder = short_run("fit", "--trainer.check_val_every_n_epoch=3", "--trainer.max_epochs=4")
    assert folder is not None
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.parametrize("given", ["LearningRateMonitor", "RunProgress", '{"class_path": "FiniteGuard"}'])
def test_a_single_callback_joins_or_replaces_ours(config: str, given: str, tmp_path: Path) -> None:
    words = ["--config", config, *CUT, f"--trainer.default_root_dir={tmp_path}", f"--trainer.callbacks={given}"]
    callbacks = run("fit", words).trainer.callbacks
    kinds = [type(callback).__name__ for callback in callbacks]
    for name in (
        "LearningRateMonitor" if given == "LearningRateMonitor" else "RunFolder",
        "FiniteGuard",
        "RunProgress",
    ):
        assert kinds.count(name) == 1


def test_the_student_beats_its_teacher(short_run: ShortRun) -> None:
    """The claim, with one seed and the shipped configuration; three seeds are in benchmarks/results."""
    from dinopl.reports import Run

    _, folder = short_run("fit", "--trainer.accelerator=cpu", cut=())
    assert folder is not None
    metrics = Run.load(folder).metrics
    for probe, gain in (("linear", 0.03), ("linear_standardized", 0.01), ("knn", -0.005)):
        assert metrics[f"probe/student/{probe}"] >= metrics[f"probe/teacher/{probe}"] + gain  # type: ignore[operator]
    assert metrics["probe/student/linear"] != metrics["probe/input/linear"]
