"""docs/reports.md: its commands, on the runs that it shows, print what it says."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from dinopl.cli import main
from tests.dinopl.reports.run_trees import alpha_config, write_run

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "reports.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
SHOWN = [block for language, block in BLOCKS if language == "console"]
CONSOLE = [block.removeprefix("$ ").split("\n", 1) for block in SHOWN if block.startswith("$ ")]


@pytest.fixture
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of the page's runs, from its CSV."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    with (DOCS / "reports.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            metrics = {name: float(value) for name, value in row.items() if "/" in name}
            config = alpha_config(float(row["model.student.alpha"]))
            folder = write_run(Path(row["run"]).parent, metrics, int(row["seed_everything"]), config=config)
            folder.rename(row["run"])


@pytest.mark.usefixtures("_runs")
@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[command for command, _ in CONSOLE])
def test_a_command_prints_what_the_page_says(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)[1:]) == 0
    pattern = re.escape(shown.strip()).replace(re.escape("..."), r"(?:.|\n)*?")
    assert re.fullmatch(pattern, capsys.readouterr().out.strip())


@pytest.mark.usefixtures("_runs")
def test_the_python_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for language, block in BLOCKS if language == "python"]
    ((line, printed),) = [block.removeprefix(">>> ").split("\n", 1) for block in SHOWN if block.startswith(">>> ")]
    exec(f"{code}\n{line}", {})
    assert [row.split() for row in capsys.readouterr().out.splitlines()] == [
        row.split() for row in printed.splitlines()
    ]


def test_the_other_commands_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fits are the options that made the runs; the figure against length is drawn."""
    monkeypatch.chdir(tmp_path)
    fits, lengths = (block.replace("\\\n", " ") for language, block in BLOCKS if language == "bash")
    (fit,) = re.findall(r"dinopl (fit .*)", fits)
    assert (
        main([word.replace("$seed", "1").replace("$alpha", "0.5") for word in [*shlex.split(fit), "--print_config"]])
        == 0
    )
    write_run(tmp_path / "runs" / "parity", {f"test/sequence_accuracy/length={n}": 1.0 for n in (16, 32)})
    assert main(shlex.split(lengths)[1:]) == 0
    assert (tmp_path / "lengths.csv").is_file()
