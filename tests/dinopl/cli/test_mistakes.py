"""Bad input: one line on standard error, exit code 2, nothing written."""

import functools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from PIL import Image

from dinopl.cli import main
from dinopl.distillation.module import SelfDistillation
from dinopl.encoders import MiniVGG
from fprnn.tasks import write_stories
from tests.conftest import Messages

ShortRun = Callable[..., tuple[int, Path | None]]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The error that the command printed: one line that starts with its name."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("dinopl: error: ")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--trainr.max_epochs", "3"], "--trainr.max_epochs: no such option; did you mean 'trainer.max_epochs'?"),
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch: no such option; did you mean 'trainer.max_epochs'?"),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs: expected int, got many."),
        (["--trainer.max_epochs", "-7"], "--trainer.max_epochs -7: must be at least 0, or -1 for no limit."),
        (["--trainer.max_steps", "-3"], "--trainer.max_steps -3: must be at least 0, or -1 for no limit."),
        (["--trainer.accumulate_grad_batches", "0"], "--trainer.accumulate_grad_batches 0: must be at least 1"),
        (["--trainer.accumulate_grad_batches", "-1"], "--trainer.accumulate_grad_batches -1: must be at least 1"),
        (["--trainer.check_val_every_n_epoch", "0"], "--trainer.check_val_every_n_epoch 0: must be at least 1"),
        (
            ["--trainer.gradient_clip_val", "-1"],
            "--trainer.gradient_clip_val -1: must be at least 0; leave it out for no clipping.",
        ),
        (["--trainer.gradient_clip_val", ".nan"], "--trainer.gradient_clip_val nan: must be at least 0"),
        (
            ["--trainer.limit_train_batches", "-1"],
            "--trainer.limit_train_batches: You have passed invalid value -1.0 for limit_train_batches",
        ),
        (["--model.encodr", "MiniVGG"], "SelfDistillation has no option 'encodr'; did you mean 'encoder'?"),
        (["--model.encoder", "MiniVG"], "--model.encoder: no class 'MiniVG'; did you mean 'MiniVGG'?"),
        (["--model.encoder", "VGG1"], "--model.encoder: no class 'VGG1'; did you mean 'VGG11'?"),
        (["--model.encoder", "VGG11"], "--data.image_size 8: VGG11 halves the image 5 times, which leaves"),
        (["--model.encoder", "TorchvisionEncoder"], "--data.rgb false: TorchvisionEncoder takes images of 3 channels"),
        (["--model.encoder.norm", "torch.nn.ReLU"], "--model.encoder.norm ReLU: is no normalisation layer; give"),
        (["--model.encoder.norm", "torch.nn.Linear"], "required: out_features; give them, or another class."),
        (["--model.head.first=-/lb/fn"], "no class '-/lb/fn'; give BottleneckLayer, and its options linear"),
        (["--model", "SelfDistilation"], "--model: no class 'SelfDistilation'; did you mean 'SelfDistillation'?"),
        (["--model.encoder.widths", "wide"], "--model.encoder.widths: expected tuple, got wide."),
        (["--model.encoder.widths", "[0]"], "--model.encoder.widths [0]: must be at least 1 each"),
        (["--model.head.out_dim", "0"], "--model.head.out_dim 0: must be at least 1"),
        (["--model.student", "InterpolatedStart"], "--model.student: the following arguments are required: alpha"),
        (
            ["--model.student", "InterpolatedStart", "--model.student.alpha", "1.5"],
            "--model.student.alpha 1.5: must be in [0, 1]",
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
        (["--model.bias_weight_decay", "-1"], "--model.bias_weight_decay -1.0: must be at least 0"),
        (
            ["--model.optimizer", "Adam", "--model.optimizer.capturable=true"],
            "--model.optimizer Adam: cannot take a step (",
        ),
        (["--model.optimizer", "SparseAdam"], "--model.optimizer SparseAdam: cannot take a step ("),
        (
            ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size=0"],
            "--model.lr_scheduler StepLR: cannot take a step (",
        ),
        (
            [
                *("--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr=0.1"),
                *("--model.lr_scheduler.total_steps=3", "--trainer.max_epochs=4"),
            ],
            "--model.lr_scheduler.total_steps 3: the training has 4 epochs; give as many, or another schedule",
        ),
        (["--trainer.accelerator", "tpu"], "--trainer.accelerator: Requirement 'torch_xla"),
        (["--trainer.precision", "transformer-engine"], "--trainer.precision: Requirement 'transformer_engine"),
        (
            ["--data.train_size=33", "--data.batch_size=32", "--model.encoder=ResNet18"],
            "--data.batch_size 32: leaves one sample for a batch, of which BatchNorm has no statistics; set drop_last",
        ),
        (["--model.optimizer.lr", "nan"], "--model.optimizer.lr: nan is not a finite number; give one, such as 1."),
        (["--model.optimizer.lr", "fast"], "--model.optimizer.lr: expected float, got fast."),
        (["--model.bias_weight_decay", "nan"], "--model.bias_weight_decay: nan is not a finite number; give one"),
        (["--trainer.strategy", "fsdp"], "--trainer.strategy: The strategy `fsdp` requires a GPU"),
        (
            ['--trainer.strategy={"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}'],
            "--trainer.strategy: ModelParallelStrategy shards the model, with which neither exact",
        ),
        (["--trainer.sync_batchnorm", "true"], "--trainer.sync_batchnorm true: torch synchronises batch norms on GPUs"),
        (["--trainer.limit_val_batches=-inf"], "--trainer.limit_val_batches: -inf is not a finite number; give one"),
        (["--data.val_size", "some"], "--data.val_size: expected int or float, got some."),
        (["--data.batch_size", "5000"], "--data.batch_size 5000: there are only 1167 training images"),
        (["--data.image_size", "4"], "--data.image_size 4: MiniVGG halves the image 3 times"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--threads", "1000000000000"], "--threads 1000000000000: must be at least 1 and at most 4096; leave it out"),
        (["--seed_everything", "-1"], "--seed_everything -1: must be from 0 to 4294967295; give another seed."),
        (["--seed_everything", "1000000000000"], "--seed_everything 1000000000000: must be from 0 to 4294967295"),
        (
            ["--model.teacher", "EMATeacher", "--model.teacher.batch_norm", "from_student"],
            "--model.teacher.batch_norm from_student: needs eval_mode=True",
        ),
        (
            ["--model.loss.pairing", "opposite"],
            "--model.loss.pairing opposite: leaves no pair of 1 teacher and 1 student",
        ),
        (
            ["--data.views", "MultiCrop", "--data.views.spec", "0x8+2x8"],
            "--data.views.spec 0x8+2x8: leaves the teacher without a crop",
        ),
        (
            ['--data.views=[{"class_path": "Chain", "init_args": {"steps": [WholeImage], "role": "teacher"}}]'],
            "--data.views: leave the student without any",
        ),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path 'none.ckpt': no such file"),
        (["--ckpt_path", "last"], "--ckpt_path last: each run has its own folder"),
        (["--name", "../outside"], "--name ../outside: must be a relative name"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    code, folder = short_run("fit", *options, cut=())
    assert code == 2
    assert expected in said(capsys)
    assert folder is None
    assert not Path("runs").exists()


class LikeDeepSpeed(DeepSpeedStrategy):
    """Lightning's strategy, which is a kind of DDP, as far as it needs no package."""

    def __init__(self) -> None:
        DDPStrategy.__init__(self)


def test_deepspeed_is_refused_where_it_is_installed(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    strategy = f'--trainer.strategy={{"class_path": "{__name__}.LikeDeepSpeed"}}'
    assert short_run("fit", strategy, cut=()) == (2, None)
    assert "--trainer.strategy: LikeDeepSpeed shards the model" in said(capsys)


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (MemoryError(), "more memory than there is"),
        (RuntimeError("can't allocate memory: you tried to allocate 4000 bytes."), "4000 bytes of memory that are not"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9.5 GiB."), "9.5 GiB of memory that are not"),
    ],
)
@pytest.mark.parametrize(("owner", "name"), [(MiniVGG, "__init__"), (SelfDistillation, "setup")])
def test_too_little_memory_is_a_mistake_of_sizes(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    error: Exception,
    needed: str,
) -> None:
    @functools.wraps(getattr(owner, name))
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(owner, name, fail)
    assert short_run("fit", cut=()) == (2, None)
    told = said(capsys)
    assert told.startswith(f"the configuration needs {needed}")
    assert told.endswith("choose smaller sizes in --model or --data.")


@pytest.mark.parametrize(
    ("option", "name", "suggestion"),
    [
        ("layer.positions", "Rope", "; did you mean 'RoPE'?"),
        ("layer.positions", "AdamWW", "."),
        ("layer", "TransformerLaye", "; did you mean 'TransformerLayer'?"),
        ("optimizer", "AdamWW", "; did you mean 'AdamW'?"),
    ],
)
def test_only_a_class_that_the_option_takes_is_suggested(
    run_main: Callable[..., int],
    root: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    suggestion: str,
) -> None:
    words = ("fit", "--config", root / "configs" / "fprnn" / "copying.yaml", "--model.layer", "TransformerLayer")
    assert run_main(*words, f"--model.{option}", name) == 2
    assert said(capsys) == f"--model.{option}: no class {name!r}{suggestion}"


@pytest.mark.parametrize(
    ("words", "option", "part"),
    [
        (("--config", "overlays/copying_paper"), "model.layer.d_state", "model"),
        (("--config", "overlays/copying_paper", "--model", "SequenceModeling"), "data.task", "data"),
        (("--model.layer", "FPMamba"), "model.layer", "model"),
    ],
)
def test_options_of_no_class_want_a_configuration_before_them(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], option: str, part: str
) -> None:
    assert run_main("fit", *words) == 2
    told = said(capsys)
    assert told.startswith(f"--{option}: nothing names the class of the {part}; give --{part} CLASS, or")
    assert "--config FILE --config OVERLAY" in told
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "owner"),
    [
        ("model.d_model", "SequenceModeling"),
        ("model.layer.lambda_h_dep", "FPMamba"),
        ("model.layer.solver.tol", "PicardSolver"),
        ("data.task.letters", "Copying"),
    ],
)
@pytest.mark.parametrize("given_by", ["option", "file"])
def test_null_is_refused_where_a_class_needs_a_value(
    run_main: Callable[..., int],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    owner: str,
    given_by: str,
) -> None:
    words: tuple[object, ...] = (f"--{option}", "null")
    if given_by == "file":
        part, *places = option.split(".")
        node: Any = None
        for place in reversed(places):
            node = {"init_args": {place: node}}
        (tmp_path / "null.yaml").write_text(yaml.safe_dump({part: node}))
        words = ("--config", tmp_path / "null.yaml")
    assert run_main("fit", "--config", root / "configs" / "fprnn" / "copying.yaml", *words) == 2
    assert said(capsys) == f"--{option} null: {owner} cannot do without it; give a value."


def test_null_is_refused_in_a_list_too(
    run_main: Callable[..., int], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = "--model.probes=[{class_path: KNNProbe, init_args: {k: null}}]"
    assert run_main("fit", "--config", root / "configs" / "random_teacher.yaml", probes) == 2
    assert said(capsys) == "--model.probes.k null: KNNProbe cannot do without it; give a value."


@pytest.mark.parametrize("option", ["model.layer.solver.init_args", "model.layer.init_args"])
def test_the_arguments_of_a_class_are_not_null(
    run_main: Callable[..., int], root: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run_main("fit", "--config", root / "configs" / "fprnn" / "copying.yaml", f"--{option}=null") == 2
    assert said(capsys).startswith(f"--{option.removesuffix('.init_args')}")


def test_training_cannot_end_before_the_checkpoint(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = short_run("fit", "--trainer.max_epochs=2", "--test_after_fit=false")
    assert folder is not None
    checkpoint = folder / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    assert short_run("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs=1") == (2, None)
    assert said(capsys) == f"--trainer.max_epochs 1: is less than the 2 epochs of {checkpoint}; use 3 or more."
    code, again = short_run("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs=2", "--test_after_fit=false")
    assert code == 0
    assert again is not None


def test_a_set_that_is_not_there_names_the_folder(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data.dataset", "CIFAR10Images", "--data.root", "elsewhere", "--data.download", "false")
    code, folder = short_run("fit", *options, cut=())
    assert (code, folder) == (2, None)
    assert "elsewhere/cifar-10-batches-py" in said(capsys)


PARTS = """
from torch import nn

class Part:
    def __init__(self, size: int = 1, note: str | None = None):
        if size < 1:
            raise ValueError(f"size={size}: must be at least 1; 2 is enough")
        if note is not None:
            raise ValueError(note)

class Encoder(nn.Module):
    def __init__(self, shape, width: int | None = 4, first: Part | None = None, second: Part | None = None):
        super().__init__()
        self.embed_dim = width
        if width is None or width < 0:
            raise ValueError(f"width={width}: must be a number; 4 is enough")
        if width < 2:
            raise ValueError("a width of 1 says nothing; use 2 or more")
"""
ENCODER = {"class_path": "my_parts.Encoder", "init_args": {}}


def part(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "my_parts.Part", "init_args": arguments}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": -1}, "--model.encoder.width -1: must be a number; 4 is enough"),
        ({"width": None}, "--model.encoder.width null: must be a number; 4 is enough"),
        ({"width": 1}, "--model.encoder: a width of 1 says nothing; use 2 or more"),
        ({"first": part(size=0)}, "--model.encoder.first.size 0: must be at least 1; 2 is enough"),
        ({"first": part(size=2), "second": part(size=0)}, "--model.encoder.second.size 0: must be at least 1"),
        ({"first": part(note="note: bad")}, "--model.encoder.first.note: bad"),
        ({"first": part(note="size=1 or more")}, "--model.encoder.first.size=1 or more"),
        ({"first": part(note="devices=1: too many")}, "--trainer.devices 1: too many"),
        ({"first": part(note="threads: too many")}, "--threads: too many"),
        ({"first": part(note="no note")}, "--model.encoder.first: no note"),
    ],
)
def test_what_an_object_refuses_is_said_with_its_place(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: dict[str, Any],
    expected: str,
) -> None:
    """The object names its argument; the command knows where in the configuration it stands."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    options = yaml.safe_dump({**ENCODER, "init_args": arguments}, default_flow_style=True, width=1000)
    assert short_run("fit", f"--model.encoder={options}", cut=()) == (2, None)
    assert said(capsys).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size=64: too many", "--data.batch_size 64: too many"),
        ("batch_size=256: too many", "--model.probes.batch_size 256: too many"),
        ("probe_epochs=None: say when", "--model.probe_epochs null: say when"),
        ("lr_scheduler.total_steps=None: no end", "--model.lr_scheduler.total_steps null: no end"),
        ("max_epochs=15: too many", "--trainer.max_epochs 15: too many"),
        ("download=True: no net", "--data.download true: no net"),
        ("widths: too many", "--model.encoder.widths: too many"),
        ("nothing of the kind: really", "nothing of the kind: really"),
        ("unknown=1: really", "unknown=1: really"),
    ],
)
def test_what_a_hook_refuses_is_said_with_its_place(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    lightning_messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError(text)

    hook = "configure_optimizers" if "lr_scheduler" in text else "setup"
    monkeypatch.setattr(SelfDistillation, hook, refuse)
    probe = '{"class_path": "LinearProbe", "init_args": {"batch_size": 256}}'
    options = ("--data.batch_size=64", f"--model.probes=[{probe}]", "--trainer.max_epochs=15")
    assert short_run("fit", *options, cut=()) == (2, None)
    assert said(capsys) == expected
    assert "Seed set" not in lightning_messages.text
    assert "GPU available" not in lightning_messages.text


def corpora(folder: Path) -> None:
    """Stories of two tasks, an empty text, one that is not UTF-8, and shards of two types."""
    write_stories(folder / "en-valid", tasks=(1, 3), count=4)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "shards").mkdir()
    np.save(folder / "shards" / "a.npy", np.zeros(9, np.uint16))
    np.save(folder / "shards" / "b.npy", np.zeros(9, np.int32))


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (
            "catbabi",
            ["--data.task.root={}/none"],
            "--data.task.root {}/none: has no folder en-valid; unpack bAbI's tasks_1-20_v1-2 there, or name the folder "
            "that has it, here or as $DINOPL_DATA",
        ),
        (
            "catbabi",
            ["--data.task.root={}", "--data.task.tasks=[1,2,3]"],
            "--data.task.tasks [1, 2, 3]: task 2 is missing, there is no {}/en-valid/qa2_train.txt; complete the "
            "folder, or leave the task out: [1, 3]",
        ),
        (
            "text",
            ["--data.task.path={}/none.txt"],
            "--data.task.path: nothing at {}/none.txt; give the path of a text file.",
        ),
        (
            "text",
            ["--data.task.path={}/empty.txt"],
            "--data.task.path: {}/empty.txt is empty; give a file with text.",
        ),
        (
            "text",
            ["--data.task.path={}/latin.txt"],
            "--data.task.path: {}/latin.txt is not UTF-8 (byte 3); convert it, or use ByteText.",
        ),
        (
            "text",
            ["--data.task=TokenShards", "--data.task.folder={}/shards", "--data.task.vocab_size=10"],
            "--data.task.folder: {}/shards/b.npy holds int32, but a.npy uint16; write one type.",
        ),
        (
            "parity",
            ["--model.layer=TransformerLayer", "--data.eval_lengths=[8,3000]"],
            "--model.layer.max_length: 2048 is too short for a context of 3000 tokens; use 3000 or more, or null for "
            "any, or shorter sequences",
        ),
    ],
)
def test_bad_sequence_data_are_refused_before_anything_is_written(
    run_main: Callable[..., int],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    options: list[str],
    expected: str,
) -> None:
    corpora(tmp_path / "data")
    before = set(tmp_path.rglob("*"))
    words = [word.replace("{}", str(tmp_path / "data")) for word in options]
    assert run_main("fit", "--config", root / "configs" / "fprnn" / f"{config}.yaml", *words) == 2
    assert said(capsys) == expected.replace("{}", str(tmp_path / "data"))
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arrays", "expected"),
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
    expected: str,
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays, x_test=np.zeros((2, 8, 8), np.uint8), y_test=np.zeros(2, int))
    code, folder = short_run("fit", "--data.dataset", "NpzImages", "--data.dataset.path", tmp_path / "bad.npz", cut=())
    assert (code, folder) == (2, None)
    assert expected in said(capsys)


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
    ("words", "expected"),
    [
        (["fitt"], "fitt: no such command; did you mean 'fit'?"),
        (["fit"], "required"),
        (["fit", "--config", "none.yaml"], "--config none.yaml: no such file"),
        (["configs", "show", "nothing"], "nothing is not among the shipped ones"),
        (["configs", "frobnicate"], "usage is"),
        (["export"], "--ckpt_path"),
        (["export", "--ckpt_path", "none.ckpt"], "--ckpt_path 'none.ckpt': no such file"),
    ],
)
def test_words_that_make_no_command(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    assert main(words) == 2
    assert expected in said(capsys)


@pytest.mark.parametrize(("rank", "processes", "start"), [("1", None, ""), ("1", "1", ""), ("1", "2", " (process 1)")])
def test_a_mistake_is_reported_whatever_the_rank(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    processes: str | None,
    start: str,
) -> None:
    """A rank may have been left in the environment, and a mistake may be one process's alone."""
    monkeypatch.setenv("LOCAL_RANK", rank)
    if processes:
        monkeypatch.setenv("WORLD_SIZE", processes)
    assert main(["fitt"]) == 2
    assert capsys.readouterr().err.startswith(f"dinopl: error{start}: fitt: no such command")


@pytest.mark.parametrize("callback", ["EarlyStopping", "ModelCheckpoint"])
def test_a_metric_that_is_not_logged_is_one_line(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], callback: str
) -> None:
    options = (f"--trainer.callbacks+={callback}", "--trainer.callbacks.monitor=val_loss")
    code, folder = short_run("fit", *options)
    assert code == 2
    assert folder is not None  # a first epoch was trained
    assert "no metric 'val_loss' is logged; did you mean 'val/loss'?" in said(capsys)


def test_an_image_that_is_met_damaged_in_training_is_one_line(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not among those that are looked at beforehand."""
    for split in ("train", "test"):
        for category in "ab":
            place = tmp_path / split / category
            place.mkdir(parents=True)
            for number in range(40):
                Image.effect_noise((8, 8), 50).convert("RGB").save(place / f"{number:02d}.png")
    damaged = tmp_path / "train" / "b" / "14.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    options = ("--data.dataset=FolderImages", f"--data.dataset.folder={tmp_path}", "--data.batch_size=16")
    options += ("--data.normalization=source", "--model.cache_teacher=false", "--model.probes=null")
    code, folder = short_run("fit", *options, "--trainer.limit_train_batches=1.0")
    assert code == 2
    error = said(capsys)
    assert error.startswith(f"{damaged}: not an image that can be read (")
    if folder is not None:  # it was met before the first step otherwise, and nothing is left of the run
        assert yaml.safe_load((folder / "results.json").read_text())["status"] == "failed"


def test_traceback_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--traceback", "--config", "none.yaml"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.rstrip().splitlines()[-1].startswith("dinopl: error: --config none.yaml")


def test_other_errors_keep_their_traceback(short_run: ShortRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug in the middle of a run")

    monkeypatch.setattr("dinopl.distillation.module.SelfDistillation.training_step", broken)
    with pytest.raises(ValueError, match="a bug in the middle"):
        short_run("fit")


TYPED = """
from torch import nn

class Refuses(nn.Module):
    def __init__(self, shape):
        raise TypeError("width='a': must be a number; give one, such as 4")

class Mismatched(nn.Module):
    def __init__(self, shape, width):
        super().__init__()

class Broken(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.width = shape + 1
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_types.Refuses", "--model.encoder: width='a': must be a number; give one, such as 4"),
        ("my_types.Mismatched", "--model.encoder: "),
        ("my_types.Broken", "--model.encoder: can only concatenate tuple"),
        ("torch.nn.BatchNorm2d", "--model.encoder"),
    ],
)
def test_a_type_error_of_an_object_of_the_configuration_is_a_mistake(
    short_run: ShortRun,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    expected: str,
) -> None:
    (tmp_path / "my_types.py").write_text(TYPED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_types", raising=False)
    assert short_run("fit", f"--model.encoder={name}", cut=()) == (2, None)
    assert said(capsys).startswith(expected)


@pytest.mark.parametrize("on_purpose", [True, False])
def test_a_type_error_of_setup_is_a_mistake_where_it_was_raised_on_purpose(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, on_purpose: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TypeError("batch_size=128: must be a number of another kind")

    def fail(*parts: object, **__: object) -> None:
        len(parts[0])  # type: ignore[arg-type]  # a bug

    monkeypatch.setattr(SelfDistillation, "setup", refuse if on_purpose else fail)
    if not on_purpose:
        with pytest.raises(TypeError, match=r"has no len\(\)"):
            short_run("fit", cut=())
        return
    assert short_run("fit", cut=()) == (2, None)
    assert said(capsys) == "--data.batch_size 128: must be a number of another kind"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--config", "null.yaml"], "--trainer.detect_anomaly null: Trainer cannot do without it; give a value."),
        (["--config", "untested.yaml"], "--test_after_fit null: give true or false."),
        (["--config", "list.yaml"], "--trainer: expected a mapping, got [1]."),
        (["--model.optimizer.capturable", "true"], "--model.optimizer AdamW: cannot take a step (If capturable=True"),
        (["--model.optimizer.differentiable", "true"], "--model.optimizer AdamW: cannot take a step (a leaf Variable"),
        (
            ["--model.optimizer", "SparseAdam"],
            "--model.optimizer SparseAdam: cannot take a step (SparseAdam does not support",
        ),
        (["--model.encoder", "torch.nn.CrossEntropyLoss"], "--model.encoder"),
        (["--name", "[" * 3000], "--name: nests deeper than 60 levels"),
        (["--seed_everything", "9" * 5000], "--seed_everything: has a value that cannot be read (Exceeds the limit"),
        (["--model.teacher.seed", str(10**30)], f"--model.teacher.seed {10**30}: needs more than 64 bits"),
        (["--trainer.limit_val_batches", "0.1"], "--trainer: You requested to check 0.1 of the `val_dataloader` but"),
        (["--model.encoder", "x" * 20_000], "--model.encoder: no class 'xxx"),
    ],
)
@pytest.mark.filterwarnings("ignore:collapse of")
def test_what_would_fail_in_the_first_step_is_refused_before_it(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    Path("null.yaml").write_text("trainer: {detect_anomaly: null}")
    Path("untested.yaml").write_text("test_after_fit: null")
    Path("list.yaml").write_text("trainer: [1]")
    assert short_run("fit", *options, cut=()) == (2, None)
    error = said(capsys)
    assert error.startswith(expected)
    assert len(error) < 1100
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("layer", "reason"), [("torch.nn.PairwiseDistance", "missing 1 required"), ("torch.nn.BatchNorm1d", "running_mean")]
)
def test_what_is_no_layer_is_refused_before_the_first_step(
    run_main: Callable[..., int], root: Path, capsys: pytest.CaptureFixture[str], layer: str, reason: str
) -> None:
    assert run_main("fit", "--config", root / "configs" / "fprnn" / "parity.yaml", "--model.layer", layer) == 2
    assert f"--model.layer {layer.rpartition('.')[2]}: must map (B, T, 32) to itself" in (error := said(capsys))
    assert reason in error
    assert not Path("runs").exists()
