"""The real command on the main job, cut short: what it leaves behind."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import dinopl
from dinopl.cli import main
from dinopl.distillation.module import SelfDistillation
from dinopl.reports import Run
from tests.dinopl.cli.conftest import CUT

ShortRun = Callable[..., tuple[int, Path | None]]
PROBES = ("linear", "linear_standardized", "knn")
ALL_PROBES = (*(option for option in CUT if "probes" not in option), "--model.probe_epochs=[1]")


def test_a_run_leaves_everything_in_its_folder(short_run: ShortRun, capsys: pytest.CaptureFixture[str]) -> None:
    code, folder = short_run("fit", cut=ALL_PROBES)
    assert code == 0
    assert folder is not None
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["seed"] == 0
    assert results["resumed_from"] is None
    assert results["config"] == yaml.safe_load((folder / "config.yaml").read_text())
    assert results["versions"]["torch"] == torch.__version__
    for subject in ("input", "teacher", "student"):
        for probe in PROBES:
            assert 0 <= results["metrics"][f"probe/{subject}/{probe}"] <= 1
    assert all(value is None or math.isfinite(value) for value in results["metrics"].values())

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    taken = [row["probe/epoch"] for row in rows if row.get("probe/epoch")]
    assert [float(epoch) for epoch in taken] == [0.0, 1.0]
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert (folder / "figures" / "probes.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / "probes.csv").is_file()

    shown = capsys.readouterr().out
    student = results["metrics"]["probe/student/knn"]
    row = next(line.split() for line in shown.splitlines() if line.startswith("knn"))
    assert row[3] == f"{student:.3f}"
    assert str(folder.name) in shown


def test_tensorboard_has_scalars_and_the_figure(short_run: ShortRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = short_run("fit")
    events = EventAccumulator(str(folder)).Reload()
    assert "train/kl" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["figures/probes"]


def test_the_folder_does_not_depend_on_the_logger(short_run: ShortRun) -> None:
    _, plain = short_run("fit")
    _, without = short_run("fit", "--trainer.logger", "false")
    _, other = short_run(
        "fit", "--trainer.logger", '{"class_path": "CSVLogger", "init_args": {"save_dir": "elsewhere"}}'
    )
    assert plain is not None
    assert without is not None
    assert other is not None
    first = Run.load(plain)
    for folder in (without, other):
        again = Run.load(folder)
        assert again.metrics == first.metrics
        assert again.history.columns == first.history.columns
        assert sorted(p.name for p in folder.iterdir() if "events" not in p.name) == sorted(
            p.name for p in plain.iterdir() if "events" not in p.name
        )
    assert list(Path("elsewhere").rglob("metrics.csv"))


def test_two_runs_at_once_do_not_touch_each_other(tmp_path: Path, config: str) -> None:
    words = ["-m", "dinopl", "fit", "--config", config, *CUT, "--trainer.default_root_dir", str(tmp_path)]
    runs = [
        subprocess.Popen(
            [sys.executable, *words, "--seed_everything", str(seed)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for seed in (1, 2)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    folders = sorted(tmp_path.glob("random_teacher/*"))
    assert len(folders) == 2
    assert {json.loads((folder / "results.json").read_text())["seed"] for folder in folders} == {1, 2}


@pytest.mark.parametrize(("command", "prefix"), [("validate", "probe_val"), ("test", "probe")])
def test_evaluation_writes_a_folder_too(short_run: ShortRun, command: str, prefix: str) -> None:
    _, fitted = short_run("fit")
    assert fitted is not None
    code, folder = short_run(command, "--ckpt_path", fitted / "checkpoints" / "last.ckpt")
    assert code == 0
    assert folder is not None
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "finished"
    mine = {name: value for name, value in results["metrics"].items() if name.startswith(f"{prefix}/")}
    before = json.loads((fitted / "results.json").read_text())["metrics"]
    assert mine
    assert mine == {name: before[name] for name in mine}  # the same weights, split and probe seeds as at the end of fit
    assert not any(name.startswith("probe/") for name in results["metrics"]) or command == "test"


def test_predictions_are_in_order(short_run: ShortRun) -> None:
    _, fitted = short_run("fit")
    assert fitted is not None
    checkpoint = fitted / "checkpoints" / "last.ckpt"
    code, folder = short_run("predict", "--ckpt_path", checkpoint, "--data.eval_batch_size", "64")
    assert code == 0
    assert folder is not None
    with np.load(folder / "predictions.npz") as predictions:
        assert predictions["index"].tolist() == list(range(500))
        assert predictions["student_embedding"].shape == (500, 16)
        assert predictions["teacher_logits"].shape == (500, 16)
        assert set(predictions["label"]) == set(range(10))


def test_an_exported_encoder_comes_back_in_one_line(
    short_run: ShortRun, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    _, fitted = short_run("fit")
    assert fitted is not None
    checkpoint = fitted / "checkpoints" / "last.ckpt"
    assert run_main("export", "--ckpt_path", checkpoint) == 0
    exported = Path(capsys.readouterr().out.splitlines()[-2])
    images = torch.randn(3, 1, 8, 8)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for which in ("student", "teacher"):
        encoder = dinopl.load_encoder(exported, which=which)
        assert not encoder.training
        assert torch.equal(encoder(images), dinopl.load_encoder(checkpoint, which=which)(images))
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, state[f"{which}.encoder.{name}"])
    module = SelfDistillation.load_from_checkpoint(checkpoint)  # the whole module, likewise
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    before = checkpoint.read_bytes()
    assert run_main("export", "--ckpt_path", checkpoint, "--output", checkpoint) == 2
    assert capsys.readouterr().err == f"dinopl: error: --output {checkpoint}: must end in .safetensors\n"
    assert checkpoint.read_bytes() == before


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(
    short_run: ShortRun, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model.optimizer=SGD", "--model.optimizer.lr=1e30", "--model.student=IndependentStart")
    assert short_run("fit", *options, "--trainer.max_epochs=9")[0] == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(r"^dinopl: error: step \d+ .*learning rate 1e\+30.*: lower the learning rate", error, re.MULTILINE)
    (folder,) = Path("runs/random_teacher").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "diverged"
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())


def test_ctrl_c_exits_130_with_results(tmp_path: Path, config: str) -> None:
    options = [option for option in CUT if "epochs" not in option and "limit" not in option]
    words = ["-m", "dinopl", "fit", "--config", config, *options, "--trainer.default_root_dir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, *words, "--trainer.max_epochs=100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A job that a shell put in the background ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("random_teacher/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "go on with: dinopl fit --ckpt_path" in error
    (folder,) = tmp_path.glob("random_teacher/*")
    assert json.loads((folder / "results.json").read_text())["status"] == "interrupted"


def test_python_m_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "dinopl", "--version"], capture_output=True, text=True, check=True)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == done.stdout
    assert f"dinopl {dinopl.__version__}" in done.stdout


def test_help_is_fast_and_ends_with_three_commands(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    assert main(["--help"]) == 0
    assert time.perf_counter() - start < 0.5  # a bare LightningCLI needs seconds for its imports alone
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert all(line.startswith("  dinopl ") for line in lines[-3:])
    script = "import sys; from dinopl.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_configs_are_listed_shown_and_copied(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    assert run_main("configs", "ls") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == sorted(str(p.relative_to(root / "configs").with_suffix("")) for p in root.glob("configs/**/*.yaml"))
    assert run_main("configs", "show", "random_teacher") == 0
    assert capsys.readouterr().out == (root / "configs" / "random_teacher.yaml").read_text()
    assert run_main("configs", "cp", "cifar10_vgg11", "here") == 0
    assert Path("here/cifar10_vgg11.yaml").is_file()
    assert run_main("configs", "cp", "cifar10_vgg11", "here") == 2


def test_a_shipped_configuration_is_found_by_name_from_any_folder(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    given = yaml.safe_load((root / "configs" / "dinopl" / "cifar10_vgg11.yaml").read_text())
    for name in ("cifar10_vgg11", "dinopl/cifar10_vgg11", "configs/dinopl/cifar10_vgg11.yaml"):
        assert run_main("fit", "--config", name, "--print_config") == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["trainer"]["max_epochs"] == given["trainer"]["max_epochs"]
        assert shown["name"] == given["name"] == "cifar10_vgg11"
    assert run_main("fit", "--config", "cifar10_vgg1") == 2
    assert "did you mean 'dinopl/cifar10_vgg11'?" in capsys.readouterr().err


def test_a_name_of_several_configurations_is_refused(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("configs", "show", "fashion_mnist") == 2
    expected = "fashion_mnist is more than one: dinopl/fashion_mnist, kd/fashion_mnist; name the folder too."
    assert expected in capsys.readouterr().err


def test_classes_of_the_working_directory_are_found(tmp_path: Path, root: Path) -> None:
    """By the console script too, whose path does not hold the working directory."""
    (tmp_path / "mine.py").write_text("from dinopl.encoders import MiniVGG\n\n\nclass Mine(MiniVGG):\n    pass\n")
    script = "import sys; sys.path = [p for p in sys.path if p]; from dinopl.cli import main; sys.exit(main())"
    words = ["fit", "--config", "random_teacher", "--model.encoder", "mine.Mine", "--print_config"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: mine.Mine" in done.stdout


def test_a_notebook_thread_can_run_the_command(short_run: ShortRun) -> None:
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(short_run("fit")[0]))
    worker.start()
    worker.join()
    assert codes == [0]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--model.help", "SelfDistillation"), "--model.encoder ENCODER"),
        (("--model.help=SequenceModeling",), "--model.layer LAYER"),
        (("--data.help", "ImageDataModule"), "--data.batch_size"),
        (("--trainer.callbacks.help", "EarlyStopping"), "--trainer.callbacks.patience"),
        (("--model=SelfDistillation", "--model.encoder.help", "MiniVGG"), "encoder.widths"),
        (("--help",), "--trainer.max_epochs"),
    ],
)
def test_help_of_a_class_needs_no_configuration(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], option: str
) -> None:
    assert run_main("fit", *words) == 0
    assert option in capsys.readouterr().out


def test_a_run_outlives_the_reader_of_its_output(tmp_path: Path, config: str) -> None:
    """As under ``| head``; and a notebook's backend for figures, which is not installed here, does not matter."""
    words = ["-m", "dinopl", "fit", "--config", config, *CUT, f"--trainer.default_root_dir={tmp_path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://no_such_package.backend"}
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "BrokenPipe" not in errors
    (results,) = tmp_path.glob("*/*/results.json")
    assert json.loads(results.read_text())["status"] == "finished"
    assert list(results.parent.glob("figures/*.png"))


def test_a_training_shorter_than_the_logging_interval_is_logged(short_run: ShortRun) -> None:
    code, folder = short_run("fit", "--trainer.log_every_n_steps=50", "--trainer.max_epochs=2")
    assert code == 0
    assert folder is not None
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["train/kl"]] == ["1", "3"]  # the last of each epoch


def test_configs_are_not_copied_below_a_file(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file.yaml").write_text("mine")
    assert run_main("configs", "cp", "random_teacher", "file.yaml") == 2
    assert "file.yaml/random_teacher.yaml: " in capsys.readouterr().err
    assert (tmp_path / "file.yaml").read_text() == "mine"
