"""Who may import whom (DESIGN, section 1), read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("dinopl", "fprnn", "kd") for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torchvision", "sklearn", "matplotlib", "triton", "optuna", "scipy", "PIL", "pandas", "wandb", "tensorboard"}

# A module may import from its own floor's package and from floors with a smaller number.
DINOPL_FLOORS = {"app": 5, "module": 3, "analysis": 3, "results": 3, "export": 3, "callbacks": 2, "probes": 2}
FPRNN_FLOORS = {"module": 6, "counting": 5, "batches": 5, "iteration_caps": 4, "model": 4, "tasks": 4, "checkpoints": 3}
# Baselines stand half a floor above the layers: they share parts with them (the short convolution, step sizes), and no
# layer may need what it is compared with.
FPRNN_FLOORS |= {"metrics": 3, "layers": 3, "baselines": 3.5, "solvers": 2, "mixers": 2, "ops": 1}
KD_FLOORS = {"module": 4, "study": 3, "teacher_outputs": 3, "measuring": 3, "teacher": 2}


# Triton's interpreter finds its language only in a kernel's globals; the module itself is imported where it is used.
MAY_BE_HEAVY = {"fprnn.ops.triton_backend": "fprnn.ops.scan", "fprnn.ops.selective_triton": "fprnn.ops.selective_scan"}


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
    """``dinopl.data.order`` -> ``data``."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def floor(name: str) -> float:
    package = name.split(".")[0]
    floors, lowest = {"dinopl": (DINOPL_FLOORS, 1), "fprnn": (FPRNN_FLOORS, 0), "kd": (KD_FLOORS, 1)}[package]
    return floors.get(part(name), lowest)


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
    package = name.split(".")[0]
    if is_exempt(name):
        return
    for imported in imports(path):
        target = imported.split(".")[0]
        assert MAY_BE_HEAVY.get(imported, name) == name, f"{name} imports {imported}"
        if target not in ("dinopl", "fprnn", "kd") or imported in ("dinopl", "fprnn", "kd"):
            continue
        if part(name) == "app":
            continue
        assert part(imported) != "app", f"{name} imports {imported}"
        if package == "fprnn":
            assert target == "fprnn", f"{name} imports {imported}"
        if target == package and part(imported) == part(name):
            continue
        if target == package:
            assert floor(imported) < floor(name) or floor(imported) <= 1, f"{name} imports {imported}, not below it"
        else:
            assert package == "kd", f"{name} imports {imported}"
            assert target == "dinopl", f"{name} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_command_knows_lightnings_cli(path: Path) -> None:
    found = {name for name in imports(path) if name.startswith(("jsonargparse", "lightning.pytorch.cli"))}
    assert part(module_name(path)) == "app" or not found


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
