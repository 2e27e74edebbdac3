"""Whole sweeps of short runs on embedded data: stopped, killed, shared between processes, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dinopl.sweep.conftest import Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

Sweep = Callable[..., tuple[int, Study]]
GRID = """
metric: val/loss
direction: minimize
set: {model.probes: null}
grid: {model.student.alpha: {from: 0, to: 1, number: 4}}
seeds: 3
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command that is killed at the end of the test."""
    processes = []

    def start(*words: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            # a job that a shell put in the background ignores Ctrl-C, and so would what it starts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 400
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def in_mid_trial(study: Study) -> tuple[str, int] | None:
    """A run that has begun and has no results yet, with the process that makes it."""
    for path in study.path.glob("trials/*/*/config.yaml"):
        holder = path.parent.parent / ".holder"
        if not (path.parent / "results.json").exists() and holder.read_text():
            return path.parent.parent.name, json.loads(holder.read_text())["pid"]
    return None


def test_a_grid_survives_kill_and_ctrl_c_and_ends_with_every_run_once(
    tmp_path: Path, sweep: Sweep, base: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "study.sweep.yaml").write_text(GRID)
    study = Study(tmp_path / "runs" / "study")
    words = ("sweep", "--config", base, "--sweep", "study.sweep.yaml", "--workers", "2", "--trainer.max_epochs=4")
    process = started(sys.executable, "-m", "dinopl", *words)
    killed, pid = wait_for(lambda: in_mid_trial(study), process)
    os.kill(pid, signal.SIGKILL)
    # the dead worker is replaced, and its run taken up by whoever is free
    wait_for(lambda: len([t for t in study.attempts() if t.user_attrs.get("id") == killed]) == 2, process)
    wait_for(lambda: in_mid_trial(study), process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=400)
    assert process.returncode == 130, told
    assert "a worker ended with signal 9" in told
    before = study.finished()
    assert len(before) == 12
    assert sum(before.values()) < 12
    assert not [trial for trial in study.attempts() if trial.state.name == "RUNNING"]

    code, study = sweep(GRID, "--workers", 2, "--trainer.max_epochs=4")
    assert code == 0
    assert list(study.finished().values()) == [1] * 12  # none twice to completion
    told_finished = [trial.user_attrs["id"] for trial in study.attempts() if trial.state.name == "COMPLETE"]
    assert sorted(told_finished) == sorted(study.trials())
    lost = next(trial for trial in study.attempts() if trial.user_attrs["id"] == killed and trial.state.name == "FAIL")
    assert lost.user_attrs["error"] == "its process was killed"
    points = {tuple(sorted(trial["options"].items())) for trial in study.trials().values()}
    values = (0, 1 / 3, 2 / 3, 1)
    assert {(round(a, 6), s) for (_, a), (_, s) in points} == {(round(a, 6), s) for a in values for s in range(3)}

    attempts = len(study.attempts())
    assert sweep(GRID, "--trainer.max_epochs=4")[0] == 0  # nothing is left to do
    assert len(study.attempts()) == attempts


def test_two_tasks_of_the_job_array_share_one_study(
    tmp_path: Path,
    sweep: Sweep,
    started: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, study = sweep(GRID, "--slurm", "--workers", "2")
    script = tmp_path / "array.sh"
    script.write_text(capsys.readouterr().out)
    assert code == 0
    assert not study.path.exists()
    assert "#SBATCH --array=0-1\n" in script.read_text()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "study"}
    tasks = [started("bash", script, SLURM_ARRAY_TASK_ID=str(task), **slurm) for task in (0, 1)]
    for task in tasks:
        _, told = task.communicate(timeout=400)
        assert task.returncode == 0, told
    assert list(study.finished().values()) == [1] * 12
    assert [trial.state.name for trial in study.attempts()] == ["COMPLETE"] * 12
    journal = (study.path / "journal.log").read_text().splitlines()
    makers = {json.loads(each)["worker_id"] for each in journal if '"state":1' in each}
    assert len(makers) == 2  # both have told of finished runs


def test_a_run_in_a_worker_is_what_fit_makes_of_it(
    sweep: Sweep, base: Path, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "metric: val/los\ndirection: minimize\ngrid: {model.student.alpha: [0, 0.5]}\nseeds: [3]"
    code, study = sweep(text, "--workers", "1")
    assert code == 0
    assert "no finished run has a finite metric 'val/los'; did you mean 'val/loss'?" in capsys.readouterr().err
    for number, (run, trial) in enumerate(study.trials().items()):
        alpha = trial["options"]["model.student.alpha"]
        words = (f"--model.student.alpha={alpha}", "--seed_everything=3", f"--name=alone{number}")
        assert run_main("fit", "--config", base, *words) == 0
        (path,) = Path("runs").glob(f"alone{number}/*/results.json")
        alone, (swept,) = json.loads(path.read_text()), study.results(run)
        assert swept["metrics"] == alone["metrics"]
        assert swept["config"]["name"] == run
        assert (study.path / "trials" / run / "output.log").read_text().count("Seed set to 3") == 1


SHARED = """
seeds: 1
set: {model.probes: null}
variants:
  first: {}
  second: {model.teacher.checkpoint: "${shared.first.checkpoint}", model.teacher.which: student}
  third: {model.teacher.checkpoint: "${shared.second.checkpoint}", model.teacher.which: student}
  other: {model.teacher.checkpoint: "${shared.other.checkpoint}"}
shared:
  first: {options: {seed_everything: "${seed_everything}", model.probes: null}}
  second:
    options:
      seed_everything: ${seed_everything}
      model.probes: null
      model.teacher.checkpoint: ${shared.first.checkpoint}
      model.teacher.which: student
  other: {options: {seed_everything: 9}}
"""


def test_runs_that_others_depend_on_are_made_once_and_first(sweep: Sweep) -> None:
    code, study = sweep(SHARED, "--workers", "2")
    assert code == 0
    assert list(study.finished().values()) == [1] * 4
    # rounds one and two are points of the study as well: they are made once and serve both
    assert list(study.finished("shared").values()) == [1]
    trials = study.trials()
    by_name = {trial["variant"]: run for run, trial in trials.items()}
    for variant, needed in (("second", "first"), ("third", "second")):
        (results,) = study.results(by_name[variant])
        checkpoint = results["config"]["model"]["init_args"]["teacher"]["init_args"]["checkpoint"]
        assert Path(checkpoint).is_file()
        assert Path(checkpoint).parts[-4] == by_name[needed]
        assert trials[by_name[variant]]["options"]["model.teacher.checkpoint"].startswith("${shared.")


FLAKY = """
from pathlib import Path

from dinopl.encoders import MiniVGG


class Flaky(MiniVGG):
    def forward(self, images):
        if not Path("was_here").exists():
            Path("was_here").touch()
            raise KeyError("no luck this time")
        return super().forward(images)
"""


def test_failures_are_told_and_kept_and_reach_those_that_depend_on_them(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flaky_encoder.py").write_text(FLAKY)
    text = """
    variants:
      fine: {}
      flaky: {model.encoder: flaky_encoder.Flaky}
      diverges: {model.optimizer: SGD, model.optimizer.lr: 1e30, model.student.alpha: 1, trainer.max_epochs: 9}
      wrong: {model.student.alpha: 1.5}
      early: {model.teacher.checkpoint: later.ckpt}
      orphan: {model.teacher.checkpoint: "${shared.broken.checkpoint}"}
    shared: {broken: {options: {data.batch_size: 5000}}}
    """
    code, study = sweep(text)
    assert code == 1
    by_name = {trial["variant"]: run for run, trial in study.trials().items()}
    attempts = {name: [t for t in study.attempts() if t.user_attrs["variant"] == name] for name in by_name}
    assert {name: [trial.state.name for trial in each] for name, each in attempts.items()} == {
        "fine": ["COMPLETE"],
        "flaky": ["FAIL", "COMPLETE"],  # what crashed is tried again
        "diverges": ["PRUNED"],
        "wrong": ["FAIL"],  # a user's mistake is not
        "early": ["FAIL"],
        "orphan": ["FAIL"],
    }
    assert attempts["flaky"][0].user_attrs["error"] == "KeyError: 'no luck this time'"
    assert "Traceback" in (study.path / "trials" / by_name["flaky"] / "output.log").read_text()
    assert [each["status"] for each in study.results(by_name["diverges"])] == ["diverged"]
    assert "--model.student.alpha must be in [0, 1], not 1.5" in attempts["wrong"][0].user_attrs["error"]
    (broken,) = study.trials("shared")
    assert f"broken ({broken})" in attempts["orphan"][0].user_attrs["error"]
    assert "batch_size 5000" in attempts["orphan"][0].user_attrs["error"]
    told = capsys.readouterr().err
    assert "2/7 done, 0 running, 1 diverged, 4 failed, 0 left" in told
    assert f"failed: trials/{by_name['wrong']} (wrong, model.student.alpha=1.5): --model.student.alpha must be" in told

    (checkpoint,) = study.path.glob(f"trials/{by_name['fine']}/*/checkpoints/last.ckpt")
    (tmp_path / "later.ckpt").write_bytes(checkpoint.read_bytes())
    before = len(study.attempts())
    assert sweep(text, "--retry-failed")[0] == 1
    after = study.attempts()[before:]
    assert {trial.user_attrs["variant"]: trial.state.name for trial in after} == {
        "wrong": "FAIL",
        "early": "COMPLETE",
        "orphan": "FAIL",
    }


def test_a_changed_file_adds_points_and_keeps_what_is_finished(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    _, study = sweep("grid: {model.student.alpha: [0, 0.5]}")
    first = {run: study.results(run) for run in study.trials()}
    code, study = sweep("grid: {model.student.alpha: [0.5, 1]}")
    assert code == 0
    assert "study: 2/2 done" in capsys.readouterr().err.splitlines()[-1]
    assert len(study.trials()) == 3
    assert {run: study.results(run) for run in first} == first
    code, study = sweep("grid: {model.student.alpha: [0.5]}", "--trainer.max_epochs=2")
    assert code == 0
    assert "since the study began trainer.max_epochs was 1 and is 2: these are new runs" in capsys.readouterr().err
    told = [trial["options"].get("trainer.max_epochs") for trial in study.trials().values()]
    assert sorted(told, key=str) == [2, None, None, None]


def test_printed_commands_are_the_runs(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
    variants:
      own: {}
      "given's": {model.teacher.checkpoint: "${shared.made.checkpoint}"}
    shared: {made: {options: {seed_everything: 5}}}
    """
    code, _ = sweep(text, "--print-commands", "--trainer.default_root_dir=it's here")
    assert code == 0
    script = tmp_path / "commands.sh"
    # in one process, since each would import everything anew
    caller = f"dinopl() {{ {sys.executable} - \"$@\" <<< 'import sys; print(sys.argv[1:])'; }}"
    script.write_text(caller + "\n" + capsys.readouterr().out)
    assert not list(tmp_path.glob("it*"))
    shared = next(line for line in script.read_text().splitlines() if "/shared" in line).rsplit("=", 1)[1]
    checkpoint = (
        tmp_path / "it's here" / "study" / "shared" / shared / "20260101-000000-ab" / "checkpoints" / "last.ckpt"
    )
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    commands = [eval(line) for line in done.stdout.splitlines()]
    assert [each[0] for each in commands] == ["fit"] * 3
    assert "--seed_everything=5" in commands[0]
    assert f"--trainer.default_root_dir={tmp_path}/it's here/study/shared" in commands[0]
    assert f"--model.teacher.checkpoint={checkpoint}" in commands[2]
    assert f"--trainer.default_root_dir={tmp_path}/it's here/study/trials" in commands[2]
