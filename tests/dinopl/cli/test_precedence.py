"""Whose value wins: option, file, checkpoint, a class's own default (DESIGN, section 3, items 1 and 7)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import yaml

from dinopl.cli import main
from dinopl.cli.runs import run
from dinopl.core.moved import flatten
from dinopl.core.trust import LIGHTNING
from tests.dinopl.cli.conftest import CUT

ShortRun = Callable[..., tuple[int, Path | None]]


def printed(capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], *words: object) -> dict[str, Any]:
    """What ``--print_config`` prints."""
    assert run_main(*words, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)


def flat(config: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return dict(flatten(config))


@pytest.fixture
def optimizer_of(
    capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], config: str
) -> Callable[..., dict[str, Any]]:
    return lambda *options: printed(capsys, run_main, "fit", "--config", config, *options)["model"]["init_args"][
        "optimizer"
    ]


SGD_DEFAULTS = {"lr": 0.001, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0, "nesterov": False}


def test_a_swapped_class_starts_from_its_own_defaults(optimizer_of: Callable[..., dict[str, Any]]) -> None:
    swapped = optimizer_of("--model.optimizer", "SGD")
    assert swapped["class_path"] == "torch.optim.SGD"
    assert SGD_DEFAULTS.items() <= swapped["init_args"].items()
    assert "betas" not in swapped["init_args"]


def test_what_is_given_for_the_new_class_is_kept(optimizer_of: Callable[..., dict[str, Any]]) -> None:
    swapped = optimizer_of("--model.optimizer=SGD", "--model.optimizer.momentum", "0.9", "--model.optimizer.lr=0.5")
    assert (SGD_DEFAULTS | {"momentum": 0.9, "lr": 0.5}).items() <= swapped["init_args"].items()


def test_the_same_class_keeps_its_arguments(optimizer_of: Callable[..., dict[str, Any]]) -> None:
    same = optimizer_of("--model.optimizer", "AdamW", "--model.optimizer.lr", "0.5")
    assert same["init_args"]["weight_decay"] == 0.0
    assert same["init_args"]["lr"] == 0.5


def test_a_class_swapped_by_a_later_file_starts_afresh(
    capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], config: str, tmp_path: Path
) -> None:
    overlay = tmp_path / "sgd.yaml"
    overlay.write_text("model:\n  init_args:\n    optimizer: {class_path: SGD, init_args: {lr: 0.5}}\n")
    both = printed(capsys, run_main, "fit", "--config", config, "--config", overlay)
    assert (SGD_DEFAULTS | {"lr": 0.5}).items() <= both["model"]["init_args"]["optimizer"]["init_args"].items()


def test_encoders_swap_too(capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], config: str) -> None:
    chosen = printed(capsys, run_main, "fit", "--config", config, "--model.encoder", "ResNet18")
    assert chosen["model"]["init_args"]["encoder"]["init_args"] == {
        "small_image": True,
        "norm": {"class_path": "torch.nn.BatchNorm2d", "init_args": ANY},  # as the class itself has it
    }


@pytest.mark.parametrize(
    "option",
    [
        "--model.layer.mixer.projection_rank null",
        "--model.layer.conv_width=null",
        "--model.layer.init_args.mixer.projection_rank=~",
        "--model.vocab_size null",  # which the data tell
    ],
)
def test_null_reaches_a_class_within_a_class(
    capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], root: Path, tmp_path: Path, option: str
) -> None:
    words = ("fit", "--config", root / "configs" / "fprnn" / "copying.yaml")
    given = tmp_path / "given.yaml"
    layer = "{layer: {init_args: {conv_width: 3, mixer: {init_args: {projection_rank: 2}}}}}"
    given.write_text(f"model: {{init_args: {layer}}}\n")
    before = flat(printed(capsys, run_main, *words, "--config", given))
    after = flat(printed(capsys, run_main, *words, "--config", given, *option.split(" ")))
    name = tuple(part for part in option.strip("-").rstrip("nul~ =").split(".") if part != "init_args")
    assert before.get(name, 2) in (2, 3)
    assert {**after, name: None} == {**before, name: None}
    assert after.get(name) is None


def test_options_beat_files_wherever_they_stand(
    capsys: pytest.CaptureFixture[str], run_main: Callable[..., int], config: str
) -> None:
    assert printed(capsys, run_main, "fit", "--data.batch_size", "7", "--config", config)["data"]["init_args"][
        "batch_size"
    ] == 7  # fmt: skip


def test_options_and_files_beat_the_checkpoint_and_the_table_says_so(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, folder = short_run("fit", "--data.eval_batch_size", "100", "--seed_everything", "5")
    assert code == 0
    assert folder is not None
    checkpoint = folder / "checkpoints" / "last.ckpt"
    capsys.readouterr()

    overlay = tmp_path / "other.yaml"
    overlay.write_text("model: {init_args: {predict_logits: false}}\n")
    words = ["--ckpt_path", str(checkpoint), "--config", str(overlay), "--data.batch_size", "50"]
    cli = run("test", [*words, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])
    assert cli.datamodule.batch_size == 50  # the option
    assert cli.model.predict_logits is False  # the file
    assert cli.datamodule.eval_batch_size == 100  # the checkpoint
    assert cli.config.test.seed_everything == 5
    told = capsys.readouterr().err.splitlines()
    table = [line.split() for line in told[1 + told.index("The checkpoint was made with other values:") :]]
    assert ["model.predict_logits", "True", "False"] in table
    assert ["data.batch_size", "128", "50"] in table


def test_a_resumed_run_needs_no_configuration(short_run: ShortRun, run_main: Callable[..., int]) -> None:
    _, first = short_run("fit")
    assert first is not None
    checkpoint = first / "checkpoints" / "last.ckpt"
    assert run_main("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", "2") == 0
    second = next(path for path in first.parent.iterdir() if path != first)
    results = json.loads((second / "results.json").read_text())
    assert results["resumed_from"] == str(checkpoint.resolve())
    assert results["config"]["trainer"]["limit_train_batches"] == 2


def test_the_saved_configuration_repeats_the_run(short_run: ShortRun, run_main: Callable[..., int]) -> None:
    _, first = short_run("fit", "--seed_everything", "3")
    assert first is not None
    assert run_main("fit", "--config", first / "config.yaml") == 0
    second = next(path for path in first.parent.iterdir() if path != first)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (first, second))
    assert one["metrics"] == two["metrics"]
    assert one["config"] == two["config"]
    assert one["seed"] == two["seed"] == 3


def test_a_tilde_is_the_home_folder_in_files_and_options(
    run_main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    config: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {"dataset": {"class_path": "FolderImages", "init_args": {"folder": "~/images"}}, "probe_dataset": None}
    (tmp_path / "home.yaml").write_text(yaml.safe_dump({"data": {"init_args": data}}))
    words = ("--data.root", "~", "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {dirpath: ~/x}}]")
    used = printed(capsys, run_main, "fit", "--config", config, "--config=~/home.yaml", *words, "--name=~x")
    assert used["data"]["init_args"]["dataset"]["init_args"]["folder"] == f"{tmp_path}/images"
    assert used["data"]["init_args"]["root"] == str(tmp_path)
    assert used["trainer"]["callbacks"][0]["init_args"]["dirpath"] == f"{tmp_path}/x"
    assert used["name"] == "~x"
    assert main(["fit", "--ckpt_path=~/none.ckpt"]) == 2
    assert f"'{tmp_path}/none.ckpt': no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "used"), [("1", 1), ("1.0", 1.0), ("2", 2), ("0.5", 0.5)], ids=["one", "all", "two", "half"]
)
def test_a_limit_of_one_is_one_batch(
    given: str,
    used: float,
    capsys: pytest.CaptureFixture[str],
    run_main: Callable[..., int],
    config: str,
    tmp_path: Path,
) -> None:
    """A float is a share of the batches and an integer their number, in an option as in a file."""
    file = tmp_path / "limit.yaml"
    file.write_text(f"trainer: {{limit_test_batches: {given}}}")
    for words in (["--trainer.limit_test_batches", given], ["--config", file]):
        value = printed(capsys, run_main, "fit", "--config", config, *words)["trainer"]["limit_test_batches"]
        assert (type(value), value) == (type(used), used)


@pytest.mark.parametrize(("in_file", "option", "used"), [("1", "1.0", 1.0), ("1.0", "1", 1)], ids=["all", "one"])
def test_an_options_limit_wins_over_a_files(
    in_file: str,
    option: str,
    used: float,
    capsys: pytest.CaptureFixture[str],
    run_main: Callable[..., int],
    config: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "limit.yaml"
    file.write_text(f"trainer: {{limit_test_batches: {in_file}}}")
    words = ["--config", config, "--config", file, "--trainer.limit_test_batches", option]
    value = printed(capsys, run_main, "fit", *words)["trainer"]["limit_test_batches"]
    assert (type(value), value) == (type(used), used)


def test_a_resumed_run_trains_at_the_rate_that_it_is_given(short_run: ShortRun) -> None:
    _, folder = short_run("fit", "--model.optimizer.lr=0.01", "--test_after_fit=false")
    assert folder is not None
    words = ("--ckpt_path", folder / "checkpoints" / "last.ckpt", "--trainer.max_epochs=2", "--test_after_fit=false")
    for given, used in (((), 0.01), (("--model.optimizer.lr=0.1", "--model.bias_weight_decay=0.3"), 0.1)):
        code, again = short_run("fit", *words, *given, cut=(*CUT, "--model.optimizer.lr=0.01"))
        assert code == 0
        assert again is not None
        content = torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)
        groups = content["optimizer_states"][0]["param_groups"]
        assert [group["lr"] for group in groups] == [used, used]
        assert groups[1]["weight_decay"] == (0.3 if given else 0.0)


def test_a_checkpoints_paths_begin_where_its_run_was_started(
    short_run: ShortRun, run_main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets").mkdir()
    images, label = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "sets" / "own.npz", x_train=images, y_train=label, x_test=images, y_test=label)
    options = ("--data.dataset=NpzImages", "--data.dataset.path=sets/own.npz", "--data.batch_size=8")
    code, folder = short_run("fit", *options, "--test_after_fit=false")
    assert code == 0
    assert folder is not None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_main("test", "--ckpt_path", folder / "checkpoints" / "last.ckpt", "--trainer.accelerator=cpu") == 0


@pytest.mark.parametrize("name", sorted(name.rpartition(".")[2] for name in LIGHTNING if ".callbacks." in name))
def test_every_callback_that_is_allowed_can_be_written_down(
    run_main: Callable[..., int], config: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    needed = {"EarlyStopping": "monitor: val/loss", "GradientAccumulationScheduler": "scheduling: {0: 2}"}
    needed |= {"StochasticWeightAveraging": "swa_lrs: 0.1", "OnExceptionCheckpoint": "dirpath: kept"}
    callback = f"{{class_path: {name}, init_args: {{{needed.get(name, '')}}}}}"
    code = run_main("fit", "--config", config, f"--trainer.callbacks=[{callback}]", "--print_config")
    assert code == 0, capsys.readouterr().err
    assert name in capsys.readouterr().out
