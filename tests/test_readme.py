"""Every command and every piece of code in the README runs."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dinopl
from tests.configs.conftest import NOISE
from tests.configs.test_configs import SHORT, short

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines() if line.strip()]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the main job, cut short."""
    folder = tmp_path_factory.mktemp("fitted")
    words = ["fit", "--config", str(ROOT / "configs" / "random_teacher.yaml"), *SHORT]
    assert dinopl_main(*words, f"--trainer.default_root_dir={folder}") == 0
    return next(folder.rglob("last.ckpt"))


def dinopl_main(*words: str) -> int:
    from dinopl.cli import main

    return main(words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("dinopl")])
def test_a_command_runs(command: str, run_main: Callable[..., int], checkpoint: Path) -> None:
    words = [
        str(ROOT / word) if word.startswith("configs/") else re.sub(r"^runs/\S*last\.ckpt$", str(checkpoint), word)
        for word in shlex.split(command)[1:]
    ]
    if words[0] == "sweep":
        words.append("--print-commands")  # as far as possible without its runs
    if words[0] == "report":
        words[1] = str(checkpoint.parents[1])
    if words[0] == "fit":
        words += short(command)
        for published in ("fashion_mnist", "cifar10"):
            if published in command:
                like = {"fashion_mnist": "FashionMNISTImages", "cifar10": "CIFAR10Images"}[published]
                words += ["--data.dataset=" + NOISE.format(like=like, test='"num_test": 20')]
                words += ["--data.train_size=null", "--data.probe_train_size=null", "--data.val_size=8"]
                words += ["--trainer.precision=32-true"]
    assert run_main(*words) == 0


def test_the_make_targets_are_there() -> None:
    targets = [line.split("#")[0].split() for line in COMMANDS if line.startswith("make ")]
    assert targets == [["make", "run"], ["make", "test"]]
    for target in targets:
        assert subprocess.run([*target, "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_ten_lines_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, as another project would; the metrics show that it learnt and probed."""
    code = next(block for block in PYTHON if "trainer.fit" in block)
    code += "\nprint(trainer.callback_metrics['probe/student/knn'].item(), trainer.callback_metrics['train/kl'].item())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy, kl = map(float, done.stdout.split("\n")[-2].split())
    assert accuracy > 0.5
    assert 0 < kl < 0.01


def test_an_encoder_comes_back(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    dinopl.export_weights(checkpoint)
    scope = {"dinopl": dinopl}
    exec(next(block for block in PYTHON if "load_encoder" in block), scope)
    assert scope["encoder"].embed_dim == 64


def test_an_encoder_of_ones_own_plugs_in(
    run_main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_encoders.py").write_text(next(block for block in PYTHON if "class TwoLayers" in block))
    monkeypatch.syspath_prepend(tmp_path)
    options = re.search(r"`(--model\.encoder my_encoders.*?)`", README)
    assert options is not None
    words = ["fit", "--config", ROOT / "configs" / "random_teacher.yaml", *SHORT, *shlex.split(options[1])]
    assert run_main(*words) == 0
