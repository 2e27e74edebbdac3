"""Who may import whom (DESIGN, section 1), read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import house_measures

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("dinopl", "fprnn", "kd") for path in (ROOT / package).rglob("*.py"))
HEAVY = {
    "torchvision",
    "sklearn",
    "matplotlib",
    "triton",
    "optuna",
    "distributed",
    "dask",
    "scipy",
    "PIL",
    "pandas",
    "wandb",
    "tensorboard",
}

# The house, from the roof down: a part may import itself and what stands on a floor below its own.
FLOORS: dict[str, float] = {
    "dinopl.cli": 10,
    "dinopl.sweep": 9.5,  # what makes two runs the same, and when one is whole, it knows from the reports
    "dinopl.reports": 9,
    "dinopl.loading": 9,
    "kd.module": 8.9,
    "kd.teacher": 8.6,
    "kd": 8,
    "dinopl.distillation": 7,
    "dinopl.analysis": 7,
    "fprnn.module": 7,
    "dinopl.training": 6,
    "dinopl.probes": 6,
    "dinopl.data": 5,
    "dinopl.encoders": 5,
    "fprnn": 5,
    "fprnn.iteration_caps": 4,
    "fprnn.model": 4,
    "fprnn.tasks": 4,
    "fprnn.metrics": 3,
    # Baselines stand half a floor above the layers: they share parts with them (the short convolution, step sizes), and
    # no layer may need what it is compared with.
    "fprnn.baselines": 3.5,
    "fprnn.layers": 3,
    "fprnn.solvers": 2,
    "fprnn.mixers": 1.5,
    "fprnn.ops": 1,
    "dinopl.core": 0,
    "dinopl.__about__": 0,
}
DINOPL_PARTS_OF_FPRNN = ("dinopl.core",)
KNOWS_THE_COMMAND = ("dinopl.cli",)


# Triton's interpreter finds its language only in a kernel's globals; the module itself is imported where it is used.
MAY_BE_HEAVY = {
    "fprnn.ops.linear_scan.triton_backend": "fprnn.ops.linear_scan.scan",
    "fprnn.ops.selective_scan.triton_backend": "fprnn.ops.selective_scan.scan",
}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node that runs when its module is imported: no function's body, no ``if TYPE_CHECKING:``."""
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        children = []
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = list(node.orelse)
    for child in children:
        yield from at_import(child)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in at_import(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def part(name: str) -> str:
    """The longest entry of ``FLOORS`` that a module belongs to: ``dinopl.data.order`` -> ``dinopl.data``."""
    return max((entry for entry in FLOORS if name == entry or name.startswith(entry + ".")), key=len, default="")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_exempt(name: str) -> bool:
    """The packages' lazy front doors and ``python -m dinopl`` point upwards on purpose."""
    return name in {"dinopl", "dinopl.__main__", "fprnn", "kd"}


def test_what_runs_at_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import a\n"
        "try:\n    import b\nexcept ImportError:\n    import c\n"
        "if a:\n    with a:\n        import d\n"
        "class C:\n    import e\n"
        "if TYPE_CHECKING:\n    import typed\nelse:\n    import f\n"
        "def g():\n    import later\n"
    )
    found = imports(tmp_path / "module.py", top_level_only=True)
    assert found == {"typing", "typing.TYPE_CHECKING", *"abcdef"}
    assert imports(tmp_path / "module.py") == found | {"typed", "later"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_downwards(path: Path) -> None:
    name = module_name(path)
    if is_exempt(name):
        return
    assert part(name), f"{name} stands on no floor"
    for imported in imports(path):
        assert MAY_BE_HEAVY.get(imported, name) == name, f"{name} imports {imported}"
        package, here = imported.split(".")[0], part(imported)
        if package not in ("dinopl", "fprnn", "kd") or imported in ("dinopl", "fprnn", "kd") or here == part(name):
            continue
        assert here, f"{name} imports {imported}, which stands on no floor"
        assert FLOORS[here] < FLOORS[part(name)], f"{name} imports {imported}, not below it"
        if name.startswith("fprnn"):
            assert package == "fprnn" or here in DINOPL_PARTS_OF_FPRNN, f"{name} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_command_knows_lightnings_cli(path: Path) -> None:
    found = {name for name in imports(path) if name.startswith(("jsonargparse", "lightning.pytorch.cli"))}
    assert part(module_name(path)) in KNOWS_THE_COMMAND or not found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    assert not heavy or module_name(path) in MAY_BE_HEAVY


def test_importing_the_packages_is_light() -> None:
    script = (
        "import time, sys, lightning.pytorch\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter()\n"
        "import dinopl, fprnn, kd\n"
        "print(time.perf_counter() - start)\n"
        f"print(*sorted({HEAVY!r} & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split("\n")[:2]
    assert float(seconds) < 0.3
    assert heavy == ""


def test_the_house_keeps_its_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert house_measures.main([]) == 0, capsys.readouterr().out
