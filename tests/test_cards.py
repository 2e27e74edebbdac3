"""The method cards: their code runs, their commands are understood, and the functions that they name exist."""

import ast
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
    """In a process of its own where it trains, as another project would."""
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


FORMULAS = {
    "variance-preserving interpolation": "dinopl/distillation/student_start.py:interpolate",
    "cross-entropy of teacher and student": "dinopl/core/divergences.py:cross_entropy",
    "weight-normalised head": "dinopl/distillation/heads.py:unit_rows",
    "linear probe": "dinopl/probes/linear.py:linear_probe",
    "k-NN vote": "dinopl/probes/knn.py:knn_predict",
    "linear recurrence": "fprnn/ops/linear_scan/reference.py:linear_scan",
    "Householder product": "fprnn/mixers/householder.py:householder_product",
    "FP-RNN map": "fprnn/layers/equation.py:FPRNNEquation.step",
    "fixed-point iteration with its stopping rule": "fprnn/solvers/reference.py:picard",
    "implicit gradient": "fprnn/solvers/gradients.py:ImplicitGradient",
    "dense limit": "fprnn/layers/dense.py:dense_transition",
    "selective scan": "fprnn/ops/selective_scan/reference.py:selective_scan",
    "distillation with T^2": "kd/losses/kl.py:kl_distillation",
    "nested stratified fractions": "kd/fractions.py:draw_subset",
    "CKA": "kd/metrics/features.py:linear_cka",
    "matched label smoothing": "kd/targets/smoothing.py:smoothing_of_entropy",
}


def functions(file: str) -> set[str]:
    """The functions and classes of a file, and ``Class.method``."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_every_function_that_the_tables_of_equations_name_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from card_tables import PLACE, ROOMS, documented

    named = set()
    for package in ROOMS.values():
        symbols, equations = documented(package)
        text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
        assert symbols
        assert len(equations) == len(re.findall(r"\.py:\w", text)), f"{package}: a row is not 'equation  file:function'"
        places = [match for _, place in equations if (match := PLACE.match(place))]
        missing = [match[0] for match in places if match["function"] not in functions(match["file"])]
        assert not missing, f"{package}: named in the docstring, and not in the code"
        named |= {f"{match['file']}:{match['function']}" for match in places}
    assert set(FORMULAS.values()) <= named, set(FORMULAS.values()) - named


@pytest.mark.parametrize("card", [pytest.param(card, id=card.stem) for card in CARDS])
def test_its_tables_of_symbols_and_equations_are_there_and_the_readme_leads_to_them(card: Path) -> None:
    page = card.read_text(encoding="utf-8")
    assert "## Symbols and equations\n" in page
    assert f"<!-- table: {card.stem}_symbols -->" in page
    assert f"<!-- table: {card.stem}_equations -->" in page
    assert f"(docs/{card.name}#symbols-and-equations)" in (ROOT / "README.md").read_text(encoding="utf-8")
