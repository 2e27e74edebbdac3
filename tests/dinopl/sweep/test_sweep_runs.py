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
from filelock import FileLock

from tests.dinopl.sweep.conftest import Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

Sweep = Callable[..., tuple[int, Study]]
GRID = """
metric: val/loss
direction: minimize
set: {model.probes: null}
grid: {model.student.alpha: {from: 0, to: 1, number: 4}}
seeds: 2
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


def in_mid_trial(study: Study, file: str = "config.yaml") -> tuple[str, int] | None:
    """A run that has begun, has the file and no results yet, with the process that makes it."""
    for path in study.path.glob(f"trials/*/*/{file}"):
        folder = path.relative_to(study.path).parents[-4]
        lines = study.lines(folder.parent.name)
        if not (study.path / folder / "results.json").exists() and lines and "pid" in lines[-1]:
            return folder.parent.name, lines[-1]["pid"]
    return None


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_a_grid_survives_kill_and_ctrl_c_and_ends_with_every_run_once(
    tmp_path: Path, sweep: Sweep, base: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "study.sweep.yaml").write_text(GRID)
    study = Study(tmp_path / "runs" / "study")
    words = ("sweep", "--config", base, "--sweep", "study.sweep.yaml", "--workers", "2", "--trainer.max_epochs=4")
    process = started(sys.executable, "-m", "dinopl", *words)
    killed, pid = wait_for(lambda: in_mid_trial(study), process)
    os.kill(pid, signal.SIGKILL)
    # the dead worker is replaced, and its run given to whoever is free: it has cost one attempt
    wait_for(lambda: len([line for line in study.lines(killed) if "pid" in line]) == 2, process)
    wait_for(lambda: in_mid_trial(study), process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=400) == 130
    assert time.monotonic() - began < 10
    told = process.communicate(timeout=400)[1]
    assert "a worker was lost" in told
    assert "Traceback" not in told
    before = study.finished()
    assert len(before) == 8
    assert sum(before.values()) < 8
    makers = {line["pid"] for run in before for line in study.lines(run) if "pid" in line}
    assert not any(map(is_alive, makers))

    code, study = sweep(GRID, "--workers", 2, "--trainer.max_epochs=4")
    assert code == 0
    assert list(study.finished().values()) == [1] * 8  # none twice to completion
    assert study.attempts(killed) == ["its process was killed", "finished"]
    assert sum(study.attempts(run) != ["finished"] for run in before) == 1  # an interruption costs nothing
    points = {tuple(sorted(trial["options"].items())) for trial in study.trials().values()}
    values = (0, 1 / 3, 2 / 3, 1)
    assert {(round(a, 6), s) for (_, a), (_, s) in points} == {(round(a, 6), s) for a in values for s in range(2)}

    lines = {run: study.lines(run) for run in study.trials()}
    assert sweep(GRID, "--trainer.max_epochs=4")[0] == 0  # nothing is left to do
    assert {run: study.lines(run) for run in study.trials()} == lines


def test_a_killed_driver_leaves_no_worker_and_runs_go_on_from_their_checkpoints(
    tmp_path: Path,
    sweep: Sweep,
    base: Path,
    started: Callable[..., subprocess.Popen[str]],
    run_main: Callable[..., int],
) -> None:
    text = "grid: {model.student.alpha: [0, 0.5]}\nset: {trainer.max_epochs: 12}"
    (tmp_path / "study.sweep.yaml").write_text(text)
    study = Study(tmp_path / "runs" / "study")
    process = started(
        *(sys.executable, "-m", "dinopl", "sweep", "--config", base, "--sweep", "study.sweep.yaml", "--workers", "2")
    )
    run, pid = wait_for(lambda: in_mid_trial(study, "checkpoints/last.ckpt"), process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    finished = {path: path.stat().st_mtime_ns for path in study.path.rglob("results.json")}

    code, study = sweep(text, "--workers", 2)
    assert code == 0
    assert list(study.finished().values()) == [1] * 2
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    results = study.results(run)[-1]
    assert Path(results["resumed_from"]).is_relative_to(study.path / "trials" / run)
    assert study.attempts(run) == ["finished"]
    alpha = study.trials()[run]["options"]["model.student.alpha"]
    words = (f"--model.student.alpha={alpha}", "--trainer.max_epochs=12", "--name=undisturbed")
    assert run_main("fit", "--config", base, *words) == 0
    (path,) = Path("runs").glob("undisturbed/*/results.json")
    assert results["metrics"] == json.loads(path.read_text())["metrics"]  # those of the probes after epoch 1 as well


def test_a_second_driver_is_refused_with_the_first_ones_host_and_process(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "study"
    path.mkdir(parents=True)
    (path / ".driver.json").write_text('{"host": "node7", "pid": 4321}')
    with FileLock(path / ".driver.lock"):
        code, study = sweep("seeds: 2")
    told = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert told == (
        f"dinopl: error: {path}: process 4321 on node7 makes this study's runs; wait for it, or stop it there with "
        "`kill 4321`."
    )
    assert not study.trials()


DELETING = """
import shutil

from dinopl.encoders import MiniVGG


class Deleting(MiniVGG):
    def forward(self, images):
        shutil.rmtree("runs/study", ignore_errors=True)
        return super().forward(images)
"""


def test_a_deleted_folder_and_a_full_disk_end_the_sweep_in_one_line(
    sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deleting_encoder.py").write_text(DELETING)
    code, study = sweep("set: {model.encoder: deleting_encoder.Deleting, trainer.max_epochs: 1000}")
    assert code == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("dinopl: error: ")
    assert str(study.path) in told.splitlines()[-1]

    assert sweep("seeds: 1", "--print-commands")[0] == 0
    run = capfd.readouterr().out.split("--name=")[1].strip()
    folder = tmp_path / "runs" / "study" / "trials" / run
    folder.mkdir(parents=True)
    (folder / "output.log").symlink_to("/dev/full")
    code, study = sweep("seeds: 1")
    assert code == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith(f"dinopl: error: cannot write to {study.path}: ")
    assert "No space left on device" in told.splitlines()[-1]
    assert study.finished() == {run: 0}


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


DEADLY = """
import os

from dinopl.encoders import MiniVGG


class Deadly(MiniVGG):
    def forward(self, images):
        os.kill(os.getpid(), 9)
"""


def test_failures_are_told_and_kept_and_reach_those_that_depend_on_them(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flaky_encoder.py").write_text(FLAKY)
    (tmp_path / "deadly_encoder.py").write_text(DEADLY)
    text = """
    variants:
      deadly: {model.encoder: deadly_encoder.Deadly}
      fine: {}
      flaky: {model.encoder: flaky_encoder.Flaky}
      diverges: {model.optimizer: SGD, model.optimizer.lr: 1e30, model.student.alpha: 1, trainer.max_epochs: 9}
      wrong: {model.student.alpha: 1.5}
      early: {model.teacher.checkpoint: later.ckpt}
      orphan: {model.teacher.checkpoint: "${shared.broken.checkpoint}"}
    shared: {broken: {options: {data.batch_size: 5000}}}
    """
    code, study = sweep(text, "--retries", 1)
    assert code == 1
    by_name = {trial["variant"]: run for run, trial in study.trials().items()}
    attempts = {name: study.attempts(run) for name, run in by_name.items()}
    assert attempts["fine"] == ["finished"]
    assert attempts["flaky"] == ["KeyError: 'no luck this time'", "finished"]  # what crashed is tried again
    assert attempts["diverges"] == ["diverged"]
    assert attempts["deadly"] == ["its process was killed"] * 2  # and no other run pays for it
    assert [len(attempts[name]) for name in ("wrong", "early", "orphan")] == [1] * 3  # a user's mistake is not
    assert "Traceback" in (study.path / "trials" / by_name["flaky"] / "output.log").read_text()
    assert [each["status"] for each in study.results(by_name["diverges"])] == ["diverged"]
    assert "--model.student.alpha 1.5: must be in [0, 1]" in attempts["wrong"][0]
    (broken,) = study.trials("shared")
    assert f"broken ({broken})" in attempts["orphan"][0]
    assert "batch_size 5000" in attempts["orphan"][0]
    told = capsys.readouterr().err
    assert "2/8 done, 0 running, 1 diverged, 5 failed, 0 left" in told
    assert (
        f"failed: trials/{by_name['wrong']} (wrong, model.student.alpha=1.5): --model.student.alpha 1.5: must be"
        in told
    )
    assert f"failed: trials/{by_name['deadly']} (deadly, " in told

    (checkpoint,) = study.path.glob(f"trials/{by_name['fine']}/*/checkpoints/last.ckpt")
    (tmp_path / "later.ckpt").write_bytes(checkpoint.read_bytes())
    lines = {name: study.lines(run) for name, run in by_name.items()}
    without_deadly = text.replace("deadly: {model.encoder: deadly_encoder.Deadly}", "")
    assert sweep(without_deadly)[0] == 1  # what failed for good stays so
    assert {name: study.lines(run) for name, run in by_name.items()} == lines
    assert sweep(without_deadly, "--retry-failed")[0] == 1
    again = {name: study.attempts(run)[len(attempts[name]) :] for name, run in by_name.items()}
    assert again["early"] == ["finished"]
    assert (len(again["wrong"]), len(again["orphan"])) == (1, 1)
    assert not any(again[name] for name in ("fine", "flaky", "diverges", "deadly"))


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
