"""What version af3c86f wrote still loads: a small run of each family, made before the modules moved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dinopl.core.moved import MOVED, current_path

RUNS = Path(__file__).parent / "data" / "af3c86f"
FAMILIES = ("random_teacher", "parity", "digits", "student")


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[[str], Path]:
    """A run, copied into the test's own folder; the student names its teacher by this path."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(RUNS / name, tmp_path / "runs" / name / "20261201-145645-a4e5df2f"))

    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_tested(family: str, run_main: Callable[..., int], run_of: Callable[[str], Path]) -> None:
    run_of("digits")  # the student's teacher
    folder = run_of(family) if family != "digits" else next(Path("runs/digits").iterdir())
    assert run_main("test", "--ckpt_path", folder / "checkpoints" / "last.ckpt") == 0


@pytest.mark.parametrize("family", ["random_teacher", "parity", "digits"])
def test_training_goes_on(family: str, run_main: Callable[..., int], run_of: Callable[[str], Path]) -> None:
    checkpoint = run_of(family) / "checkpoints" / "last.ckpt"
    assert run_main("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", 2) == 0


@pytest.mark.parametrize("family", ["random_teacher", "parity", "digits"])
def test_a_runs_configuration_runs_again(
    family: str, run_main: Callable[..., int], run_of: Callable[[str], Path]
) -> None:
    assert run_main("fit", "--config", run_of(family) / "config.yaml") == 0


def test_runs_and_studies_are_reported(run_main: Callable[..., int], run_of: Callable[[str], Path]) -> None:
    for family in FAMILIES:
        run_of(family)
        assert run_main("report", Path("runs") / family) == 0
    shutil.copytree(RUNS / "study", "runs/study")
    assert run_main("report", "runs/study") == 0


def test_a_study_makes_no_run_again(run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(RUNS / "study", "runs/study")
    shutil.copy(RUNS / "study.sweep.yaml", ".")
    before = {path: path.stat().st_mtime_ns for path in Path("runs/study").glob("trials/*/**/*")}
    assert run_main("sweep", "--sweep", "study.sweep.yaml") == 0
    assert capsys.readouterr().err == "study: 2/2 done, 0 running, 0 failed, 0 left\n"
    assert {path: path.stat().st_mtime_ns for path in Path("runs/study").glob("trials/*/**/*")} == before


def test_a_network_is_loaded(run_of: Callable[[str], Path]) -> None:
    import dinopl

    encoder = dinopl.load_encoder(run_of("random_teacher") / "checkpoints" / "last.ckpt", which="student")
    assert not encoder.training


def test_every_path_that_moved_leads_somewhere() -> None:
    import importlib

    for former, now in MOVED.items():
        assert importlib.import_module(now), former
        assert current_path(f"{former}.Name") == f"{now}.Name"
