"""The files in docs/sweeps.md: the whole example is run, the others are read."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dinopl.sweep.file import read_sweep
from tests.dinopl.sweep.conftest import Study

pytestmark = pytest.mark.timeout(900)  # seconds on a quiet machine, minutes on a busy one

PAGE = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()
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
    assert written == {"study.json", "journal.log", "trial.json", "output.log"}
    assert written <= {path.name for path in study.path.rglob("*")}


def test_the_other_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.sweep.yaml"
    path.write_text(RANGES)
    values = {axis.option: axis.choices() for axis in read_sweep(str(path)).grids[0]}
    told = re.findall(r"# ([\d., e-]+)$", RANGES, flags=re.MULTILINE)
    assert [values["model.optimizer.lr"], values["data.train_size"]] == [
        [float(number) for number in line.split(",")] for line in told
    ]
    assert values["model.encoder.widths"] == [[8, 16], [16, 32]]
    path.write_text(SEARCH)
    search = read_sweep(str(path))
    assert search.trials == yaml.safe_load(SEARCH)["trials"]
    assert len(search.search) == 2
