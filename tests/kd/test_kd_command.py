"""The family through the real command: runs, what they leave, resuming, and every mistake in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dinopl.cli import main

CONFIG = Path(__file__).parent.parent.parent / "configs" / "kd" / "digits.yaml"
RESULTS = "results.json"
QUICK = (
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--model.lr_scheduler.warmup_steps=5",
    "--data.steps_per_epoch=60",
)
INNER = ("--model.objective.distillation=KLDistillation", "--model.objective.distillation.temperature=0")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a teacher, made by the command; it keeps its outputs too."""
    root = tmp_path_factory.mktemp("teacher")
    hidden = "--model.student.encoder.hidden=[40]"
    assert main(["fit", "--config", str(CONFIG), *QUICK, hidden, f"--trainer.default_root_dir={root}"]) == 0
    (folder,) = root.glob("digits/*")
    return folder


@pytest.fixture
def fit(run_main: Callable[..., int], teacher: Path, tmp_path: Path) -> Callable[..., tuple[int, Path | None]]:
    """Runs ``fit`` of a distilled student; returns the exit code and the run folder."""

    def run(*options: object, command: str = "fit") -> tuple[int, Path | None]:
        before = set(tmp_path.glob("runs/*/*"))
        taught = ("--model.objective=KLDistillation", "--model.teacher=RunTeacher", f"--model.teacher.path={teacher}")
        code = run_main(command, "--config", CONFIG, *QUICK, "--data.fraction=0.05", *taught, *options)
        made = set(tmp_path.glob("runs/*/*")) - before
        return code, made.pop() if made else None

    return run


def results(folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    return dict(json.loads((folder / "results.json").read_text()))


def test_a_student_is_distilled_resumed_tested_and_asked(
    fit: Callable[..., tuple[int, Path | None]], teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, folder = fit()
    told = capsys.readouterr().out
    assert code == 0
    assert "agreement with the teacher" in told
    assert "teacher's test accuracy: " in told
    found, taught = results(folder), results(teacher)
    assert found["model"]["teacher"]["recorded_accuracy"] == taught["metrics"]["test/accuracy"]
    assert found["metrics"]["teacher/accuracy"] == pytest.approx(taught["metrics"]["test/accuracy"], abs=1e-6)
    assert found["model"]["teacher"]["source"] == str(teacher / "checkpoints" / "last.ckpt")
    assert found["model"]["student"]["parameters"] == 2410
    assert found["data"]["subset_size"] == 60
    assert taught["model"]["teacher"] is None
    assert folder is not None
    assert (folder / "figures" / "training.csv").exists()

    checkpoint = folder / "checkpoints" / "last.ckpt"
    code, resumed = fit(f"--ckpt_path={checkpoint}", "--trainer.max_epochs=2")
    assert code == 0
    assert results(resumed)["model"]["teacher"]["fingerprint"] == found["model"]["teacher"]["fingerprint"]
    assert main(["test", "--ckpt_path", str(checkpoint), "--trainer.enable_progress_bar=false"]) == 0
    (tested,) = {path.parent for path in Path("runs").glob("*/*/results.json")} - {
        folder.relative_to(Path.cwd()),
        resumed.relative_to(Path.cwd()),  # type: ignore[union-attr]
    }
    for name in ("test/accuracy", "test/kl", "subset/agreement"):
        assert results(tested)["metrics"][name] == pytest.approx(found["metrics"][name], abs=1e-6)
    assert main(["predict", "--ckpt_path", str(checkpoint), "--trainer.enable_progress_bar=false"]) == 0
    (predictions,) = Path("runs").glob("*/*/predictions.npz")
    arrays = np.load(predictions)
    accuracy = np.mean(arrays["student_logits"].argmax(1) == arrays["label"])
    assert accuracy == pytest.approx(found["metrics"]["test/accuracy"], abs=1e-6)
    assert arrays["teacher_logits"].shape == (596, 10)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("dinopl: error: ")]
    return line.replace("=", " ")  # between an option and its value either stands


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model.teacher=null"], "--model.teacher null: KLDistillation needs a teacher; give RunTeacher"),
        (["--model.teacher.path=none"], "--model.teacher.path none: no such file"),
        (
            ['--model.teacher.network={"class_path": "EncoderClassifier"}'],
            "is not of this network: encoder.1.weight is (40, 64) there and (32, 64) here; give the one that it was",
        ),
        (["--model.teacher.accuracy=0.5"], "of the test samples right, and 0.5000 is recorded for it; give the"),
        (["--model.objective.temperature=0"], "--model.objective.temperature 0.0: must be above 0"),
        (
            ["--model.objective=Mixture", "--model.objective.label_weight=0.5", *INNER],
            "--model.objective.distillation.temperature 0.0: must be above 0",
        ),
        (["--data.data.batch_size=0"], "--data.data.batch_size 0: "),
        (["--data.fraction=0.004"], "--data.fraction 0.004: its 5 samples leave 5 of 10 classes without any; give"),
        (["--data.fraction=0"], "--data.fraction 0.0: must be above 0; 0.02 is a fiftieth"),
        (["--data.fraction=2"], "--data.fraction 2.0: is 2402 samples, of 1201 (teacher), and there are 1201"),
        (
            ["--model.outputs=CachedOutputs", '--data.data.views=[{"class_path": "CropFlip"}]'],
            "outputs CachedOutputs: the training views are random; set augmentations of DataFraction",
        ),
        (
            ['--model.features=[{"class_path": "FeatureMSE", "init_args": {"student": ["encodr"]}}]'],
            "features encodr: no module of EncoderClassifier; did you mean 'encoder'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    fit: Callable[..., tuple[int, Path | None]], capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert fit(*options) == (2, None)
    assert complaint in said(capsys)
    assert not Path("runs").exists()


def test_teachers_of_another_kind_are_refused(
    fit: Callable[..., tuple[int, Path | None]], teacher: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, "dinopl": {"family": "SequenceModeling"}}, tmp_path / "other.ckpt")
    assert fit(f"--model.teacher.path={tmp_path / 'other.ckpt'}") == (2, None)
    assert "other.ckpt: is a checkpoint of SequenceModeling, not of KnowledgeDistillation; give one of" in said(capsys)

    foreign = torch.load(teacher / "checkpoints" / "last.ckpt", weights_only=True)
    foreign["dinopl"]["config"]["model"]["init_args"]["student"]["class_path"] = "somebody.elses.Network"
    torch.save(foreign, tmp_path / "foreign.ckpt")
    assert fit(f"--model.teacher.path={tmp_path / 'foreign.ckpt'}") == (2, None)
    message = said(capsys)
    assert "names somebody.elses.Network, which a checkpoint may not import" in message
    assert "admit a module of your own with --trusted-modules NAME" in message

    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    label = np.arange(40) % 4
    np.savez(tmp_path / "few.npz", x_train=images, y_train=label, x_test=images, y_test=label)
    few = f'--data.data.dataset={{"class_path": "NpzImages", "init_args": {{"path": "{tmp_path / "few.npz"}"}}}}'
    assert fit(few, "--data.fraction=1.0") == (2, None)
    assert "has 10 classes, and the student 4; give a teacher of the same classes" in said(capsys)
    assert not Path("runs").exists()


def test_outputs_of_another_teacher_or_of_other_data_are_refused(
    fit: Callable[..., tuple[int, Path | None]], teacher: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = ("--model.outputs=CachedOutputs", f"--model.outputs.folder={tmp_path / 'kept'}", "--data.steps_per_epoch=6")
    assert fit(*kept)[0] == 0
    assert fit(*kept, "--data.fraction=0.1", "--seed_everything=3")[0] == 0
    capsys.readouterr()
    other = torch.load(teacher / "checkpoints" / "last.ckpt", weights_only=True)
    other["state_dict"]["student.head.bias"] += 1e-3
    torch.save(other, tmp_path / "other.ckpt")
    for options, complaint in (
        ([f"--model.teacher.path={tmp_path / 'other.ckpt'}"], "kept: holds outputs of another teacher ("),
        (["--data.data.normalization=[0.3, 0.4]", "--model.teacher.tolerance=1"], "of other data, or other prep"),
        (
            ["--model.outputs.dtype=float16"],
            "of another type (float32 there, float16 here); give another folder, or rem",
        ),
    ):
        assert fit(*kept, *options) == (2, None)
        assert complaint in said(capsys)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--data.fraction=0.01"], id="one sample"),
        pytest.param(["--data.fraction=0.004", "--data.allow_empty_classes=true"], id="none"),
    ],
)
def test_a_class_of_fewer_than_two_samples_has_no_collapse(
    fit: Callable[..., tuple[int, Path | None]], options: list[str]
) -> None:
    code, folder = fit(*options, "--data.steps_per_epoch=6")
    assert code == 0
    metrics = results(folder)["metrics"]
    names = {"nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"}
    assert {f"test/{name}" for name in names} <= metrics.keys()
    assert not {f"subset/{name}" for name in names} & metrics.keys()
    assert all(np.isfinite(metrics[f"subset/{name}"]) for name in ("accuracy", "nll", "agreement", "cka"))


def small_study(path: Path, variants: tuple[str, ...], teacher_steps: int = 60) -> Path:
    """The shipped sweep, cut to few students and few steps."""
    sweep = yaml.safe_load(CONFIG.with_name("digits.sweep.yaml").read_text())
    sweep["shared"]["teacher"]["options"] |= {
        "data.steps_per_epoch": teacher_steps,
        "model.lr_scheduler.warmup_steps": 5,
    }
    sweep["set"] |= {"data.steps_per_epoch": 20, "model.lr_scheduler.warmup_steps": 5}
    sweep["variants"] = {name: sweep["variants"][name] for name in variants}
    sweep |= {"grid": {"data.fraction": [0.1]}, "seeds": [0], "name": "study"}
    path.write_text(yaml.safe_dump(sweep))
    return path


def test_a_sweep_makes_one_teacher_for_all(run_main: Callable[..., int], tmp_path: Path) -> None:
    sweep = small_study(tmp_path / "study.sweep.yaml", ("labels", "permuted"))
    assert run_main("sweep", "--config", CONFIG, "--sweep", sweep, "--workers", "1") == 0
    trials = [json.loads(path.read_text()) for path in Path("runs/study/trials").glob("*/*/results.json")]
    (teacher,) = [json.loads(path.read_text()) for path in Path("runs/study/shared").glob("*/*/results.json")]
    assert len(trials) == 2
    assert {trial["model"]["teacher"]["recorded_accuracy"] for trial in trials} == {teacher["metrics"]["test/accuracy"]}
    assert len({trial["model"]["teacher"]["fingerprint"] for trial in trials}) == 1
    assert len({trial["data"]["subset_sha1"] for trial in trials}) == 1


def table(study: str) -> dict[str, dict[str, float]]:
    """Metrics of the finished runs of a study, by id; none was finished twice."""
    found = [(path.parent.parent.name, json.loads(path.read_text())) for path in Path("runs", study).rglob(RESULTS)]
    done = [(run, dict(each["metrics"])) for run, each in found if each["status"] == "finished"]
    assert len(dict(done)) == len(done)
    return dict(done)


@pytest.mark.timeout(900)  # seconds on a quiet machine
def test_a_study_killed_at_its_teacher_goes_on_to_the_same_table(run_main: Callable[..., int], tmp_path: Path) -> None:
    sweep = small_study(tmp_path / "study.sweep.yaml", ("labels", "distilled"), teacher_steps=400)
    words = ("sweep", "--config", str(CONFIG), "--sweep", str(sweep), "--workers", "1")
    command = [sys.executable, "-m", "dinopl", *words]
    study = Path("runs/killed")
    Path("runs").mkdir()
    with Path("told").open("w") as told:
        process = subprocess.Popen([*command, "--name=killed"], stdout=told, stderr=told, start_new_session=True)
        try:
            while not list(study.glob("shared/*/*/config.yaml")):
                assert process.poll() is None, Path("told").read_text()
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # workers too, in the midst of the teacher's training
            process.wait()
    assert table("killed") == {}
    assert run_main(*words, "--name=killed") == 0
    assert run_main(*words) == 0
    assert table("killed") == table("study")
    assert len(table("study")) == 3
    attempts = list(study.glob("*/*/*/config.yaml"))
    assert len(attempts) == 4  # the teacher's first one is left as it was
    assert run_main(*words, "--name=killed") == 0
    assert list(study.glob("*/*/*/config.yaml")) == attempts
