"""The method cards: their code runs, and their commands are understood."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CARDS = [ROOT / "docs" / f"{name}.md" for name in ("random_teachers", "fixed_point_rnns", "knowledge_distillation")]


def blocks(language: str) -> list[tuple[str, str]]:
    """Each code block of the cards, with a name for it."""
    found = ((card.stem, re.findall(rf"```{language}\n(.*?)```", card.read_text(), re.DOTALL)) for card in CARDS)
    return [(f"{card}-{index}", code) for card, codes in found for index, code in enumerate(codes)]


COMMANDS = [
    line
    for _, block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("dinopl fit")
]


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in blocks("python")])
def test_its_code_runs(code: str, tmp_path: Path) -> None:
    """In a process of its own where it trains, as somebody else's project would."""
    if "Trainer" not in code:
        exec(code, {})
        return
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command: str, run_main: Callable[..., int]) -> None:
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(command)[1:]]
    assert run_main(*words, "--print_config") == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *CARDS], ids=lambda page: page.stem)
def test_its_tables_are_those_of_the_measured_rows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from card_tables import MARKED, filled

    text = page.read_text(encoding="utf-8")
    assert MARKED.search(text)
    assert filled(text) == text, "run: python benchmarks/card_tables.py"
