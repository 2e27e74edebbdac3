"""Every shipped sweep file: its points go through the parser; the first run and the last that needs it go, cut short.

Grids are large, and each point takes the parser a while: those are taken that between them have every variant, every
value of every option, and every set of options.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dinopl.cli.config import read_config
from dinopl.cli.tools import sweep as command
from dinopl.reports.options import canonical
from dinopl.sweep.file import Sweep, read_sweep
from dinopl.sweep.grid import Point, expand
from tests.configs.conftest import replaced

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SWEEPS = sorted(CONFIGS.rglob("*.sweep.yaml"))
SHORT = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
FAMILY = {
    "dinopl": ("--model.probes=[{class_path: KNNProbe}]",),
    "kd": ("--data.data.batch_size=8", "--model.check_teacher=false"),  # what it recorded is of one batch
}


def facts(point: Point) -> set[str]:
    """What a point shows: a variant, values of options, and which options are set together."""
    options = {f"{option}: {canonical(value)}" for option, value in point.options.items()}
    return {f"variant {point.variant}", " and ".join(point.options), *options}


def covering(points: Sequence[Point]) -> list[Point]:
    """Few points that show what all of them show, in their order."""
    left = {number: facts(point) for number, point in enumerate(points)}
    found = []
    while any(left.values()):
        best = max(left, key=lambda number: len(left[number]))
        shown = left[best]
        found.append(best)
        left = {number: rest - shown for number, rest in left.items()}
    return [points[number] for number in sorted(found)]


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the command take some of a grid's points."""

    def few(sweep: Sweep) -> list[Point]:
        return covering(expand(sweep))

    monkeypatch.setattr(command, "expand", few)


def shell_words(line: str) -> list[str]:
    """A command as a shell understands it, which looks up what earlier runs have written."""
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], check=True, capture_output=True, text=True)
    return printed.stdout.split("\0")[:-1]


@pytest.mark.filterwarnings("ignore:The training ends after 2 steps")  # before a warm-up of DINO does
@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_sweep_file_says_what_it_is_and_runs(
    path: Path, run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert all(word in header for word in ("What it shows:", "Time:", "Expect:"))
    name = path.relative_to(CONFIGS.parent)  # found from any folder, as its base is
    assert run_main("sweep", "--sweep", name, "--print-commands") == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(set(commands)) == len(commands) > 1
    (base,) = read_sweep(read_config(str(path)), path.stem).config
    made = commands[0].rpartition("--name=")[2]
    *_, last = (line for line in commands if made in line)
    for number, line in enumerate(dict.fromkeys([commands[0], last])):
        program, *words = shell_words(line)
        assert program == "dinopl"
        cut = (*SHORT, *FAMILY.get(path.parent.name, ()), *replaced((CONFIGS / base).read_text()))
        assert run_main(*words, *cut) == 0
        assert len(list(Path("runs").rglob("results.json"))) == number + 1


def test_few_points_show_every_variant_and_value() -> None:
    path = CONFIGS / "kd" / "digits_explanations.sweep.yaml"
    points = expand(read_sweep(read_config(str(path)), path.stem))
    few = covering(points)
    assert set().union(*map(facts, few)) == set().union(*map(facts, points))
    assert len(few) < len(points) / 5
    assert {point.variant for point in few} == {point.variant for point in points}
