"""``dinopl probe``: a finished run again, the encoder of its teacher without it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dinopl.cli.tools.probe import translated

ShortRun = Callable[..., tuple[int, Path | None]]
CPU = "--trainer.accelerator=cpu"


@pytest.fixture
def probed(run_main: Callable[..., int], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Runs the command; gives the probe metrics of the folder that it made."""

    def run(*words: object) -> dict[str, float]:
        before = set(tmp_path.glob("runs/probe/*"))
        assert run_main("probe", *words, CPU) == 0
        (folder,) = set(tmp_path.glob("runs/probe/*")) - before
        assert {"config.yaml", "metrics.csv", "results.json"} <= {path.name for path in folder.iterdir()}
        metrics = json.loads((folder / "results.json").read_text())["metrics"]
        return {name: value for name, value in metrics.items() if name.startswith("probe")}

    return run


def test_a_finished_run_and_the_encoder_of_its_teacher(
    short_run: ShortRun, probed: Callable[..., dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = short_run("fit", "--seed_everything=3")
    assert folder is not None
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    its_own = {f"probe/{subject}/knn": metrics[f"probe/{subject}/knn"] for subject in ("input", "teacher", "student")}
    capsys.readouterr()
    assert probed("--ckpt_path", folder) == its_own  # data, seed and probes are the run's
    assert "Probe accuracy, test split\nprobe  input  teacher  student" in capsys.readouterr().out
    other = probed(f"--ckpt_path={folder}/checkpoints/last.ckpt", "--probes", "LDAProbe", "KNNProbe", "--split", "val")
    assert other.keys() == {
        f"probe_val/{subject}/{name}" for subject in ("input", "teacher", "student") for name in ("lda", "knn")
    }
    bottleneck = "[{class_path: KNNProbe, init_args: {k: 5, features: bottleneck}}]"
    assert probed("--ckpt_path", folder, "--probes", bottleneck).keys() == {"probe/teacher/knn", "probe/student/knn"}

    options = ("--encoder", "MiniVGG", "--encoder.widths=[4,4]", "--data", "DigitsImages", "--seed_everything=3")
    alone = probed(*options, "--probes", "KNNProbe")
    assert alone == {"probe/input/knn": its_own["probe/input/knn"], "probe/encoder/knn": its_own["probe/teacher/knn"]}
    assert "probe  input  encoder\n" in capsys.readouterr().out


def mistaken(run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run_main("probe", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert len(lines) == 1
    assert not Path("runs").exists()
    return lines[0].removeprefix("dinopl: error: ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--probes", "KNNProbe"], "probe: give --ckpt_path RUN_OR_CHECKPOINT, or --encoder CLASS --data DATA_SET."),
        (["runs/x"], "probe runs/x: give options only, such as --ckpt_path runs/x."),
        (["--encoder", "MiniVGG"], "probe: --data: name the images to probe on, such as DigitsImages"),
        (["--encoder", "MiniVG", "--data", "DigitsImages"], "--encoder: no class 'MiniVG'; did you mean 'MiniVGG'?"),
        (["--encoder", "MiniVGG", "--ckpt_path", "x"], "probe: --encoder: a checkpoint has its own; give one of"),
        (["--encoder", "MiniVGG", "--data", "DigitsImages", "--split", "train"], "--split train: give test or val."),
        (
            ["--encoder=MiniVGG", "--data=DigitsImages", "--probes", "KNNProb"],
            "--probes: no class 'KNNProb'; did you mean 'KNNProbe'?",
        ),
        (
            ["--encoder=MiniVGG", "--data=DigitsImages", "--probes", "[{class_path: KNNProbe, init_args: {k: 5000}}]"],
            "--probes: k=5000 of 'knn' is more than the 1167 samples",
        ),
        (
            ["--encoder=MiniVGG", "--data=DigitsImages", "--probes=[{class_path: LDAProbe, init_args: {features: x}}]"],
            "--probes.features: expected 'encoder', 'bottleneck', 'logits', got x.",
        ),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path 'none.ckpt': no such file"),
        (["--ckpt_path", "."], "--ckpt_path .: has no checkpoints/last.ckpt; give the folder of a finished run."),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert expected in mistaken(run_main, capsys, *words)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"family": "SequenceModeling"}, "a checkpoint of SequenceModeling; probes take one of SelfDistillation"),
        (None, "no checkpoint of ours; probes take one of SelfDistillation"),
        ({"family": "SelfDistillation", "config": {"model": {}}}, "the run has no probes; name some, such as --probes"),
    ],
)
def test_a_checkpoint_that_cannot_be_probed_is_refused(
    run_main: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    about: object,
    expected: str,
) -> None:
    torch.save({"state_dict": {}, "dinopl": about}, tmp_path / "some.ckpt")
    assert f"--ckpt_path some.ckpt: {expected}" in mistaken(run_main, capsys, "--ckpt_path", "some.ckpt")


def test_a_checkpoint_of_another_encoder_is_refused(
    short_run: ShortRun, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = short_run("fit")
    capsys.readouterr()
    assert run_main("probe", "--ckpt_path", folder, CPU, "--model.encoder", "MiniMLP") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dinopl: error: ")]
    assert "--ckpt_path: the weights do not fit the configured model" in line


def test_options_are_handed_on() -> None:
    options = ["--data", "CIFAR10Images", "--data.batch_size", "5", "--probes+=KNNProbe", "--probes+=LDAProbe"]
    command, tokens = translated(["--encoder", "VGG11", *options, "--threads=2"])
    assert command == "test"
    assert tokens == [
        "--name=probe",
        "--model=dinopl.probes.module.EncoderProbing",
        "--data=ImageDataModule",
        "--model.encoder=VGG11",
        "--data.dataset=CIFAR10Images",
        "--data.batch_size=5",
        "--model.probes+=KNNProbe",
        "--model.probes+=LDAProbe",
        "--threads=2",
    ]
    tokens = translated(["--encoder=VGG11", "--data=my.Data", "--probes", "KNNProbe", "LDAProbe", "--name=x"])[1]
    assert tokens[1:] == [
        "--model.encoder=VGG11",
        "--data=my.Data",
        "--model.probes=[{class_path: KNNProbe}, {class_path: LDAProbe}]\n",
        "--name=x",
    ]
