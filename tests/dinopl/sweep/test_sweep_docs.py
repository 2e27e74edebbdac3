"""The files in docs/sweeps.md: the whole example is run, the others are read."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dinopl.sweep.file import read_sweep
from tests.dinopl.sweep.conftest import BASE, Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

PAGE = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()
(SLURM,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, flags=re.DOTALL)
EXAMPLE, RANGES, SEARCH = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_runs_as_it_says(
    sweep: Callable[..., tuple[int, Study]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = sweep(EXAMPLE)
    assert code == 0
    study = Study(tmp_path / "runs" / "teachers")
    assert "Eight points and two shared runs" in PAGE
    assert list(study.finished().values()) == [1] * 8
    assert list(study.finished("shared").values()) == [1] * 2
    assert "teachers: 10/10 done" in capsys.readouterr().err
    facts = json.loads((study.path / "study.json").read_text())
    assert facts["variants"] == ["frozen", "batch statistics", "restarted"]
    assert facts["axes"] == {"model.student.alpha": [0.0, 1.0]}
    assert (facts["x"], facts["by"]) == ("model.student.alpha", ["variant"])
    assert facts["reference"] == {"probe_val/student/knn": 0.1}
    written = {name for name in re.findall(r"runs/teachers/(?:trials/ID/)?([\w.]+)  ", PAGE) if "." in name}
    assert written == {"study.json", "attempts.jsonl", "trial.json", "output.log"}
    assert written <= {path.name for path in study.path.rglob("*")}


def test_the_other_files_are_read() -> None:
    values = {axis.option: axis.choices() for axis in read_sweep(yaml.safe_load(RANGES), "s").grids[0]}
    told = re.findall(r"# ([\d., e-]+)$", RANGES, flags=re.MULTILINE)
    assert [values["model.optimizer.lr"], values["data.train_size"]] == [
        [float(number) for number in line.split(",")] for line in told
    ]
    assert values["model.encoder.widths"] == [[8, 16], [16, 32]]
    search = read_sweep(yaml.safe_load(SEARCH), "s")
    assert search.trials == yaml.safe_load(SEARCH)["trials"]
    assert len(search.search) == 2


# What a cluster has, on this machine: each task of a job has a folder of its own.
STAND_INS = {
    "dinopl": f'exec {sys.executable} -m dinopl "$@"',
    "dask": f'exec {sys.executable} -m dask "$@"',
    "srun": 'for i in 0 1; do (mkdir task$i; cd task$i; export SLURM_PROCID=$i; exec "$@") & done; wait',
    "sbatch": 'export SLURM_JOB_ID=7 SLURM_NTASKS=2 SLURM_JOB_NAME=sweep; exec bash "$1"',
}


def test_the_script_for_slurm_makes_the_runs_on_the_workers_of_its_tasks(tmp_path: Path) -> None:
    assert {"--job-name", "--ntasks", "--gpus-per-task"} <= set(re.findall(r"#SBATCH (--[\w-]+)=", SLURM))
    (tmp_path / "bin").mkdir()
    for name, line in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "script.sh").write_text(SLURM)
    text = "config: base.yaml\nset: {model.probes: null, trainer.max_epochs: 4}\nseeds: 2\n"
    (tmp_path / "study.sweep.yaml").write_text(text + "grid: {model.student.alpha: [0, 1]}\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sbatch", "script.sh"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "study: 4/4 done" in done.stderr
    study = Study(tmp_path / "runs" / "study")
    assert list(study.finished().values()) == [1] * 4
    assert len({line["pid"] for run in study.trials() for line in study.lines(run)}) == 2
    assert not list(tmp_path.glob("scheduler-*.json"))
