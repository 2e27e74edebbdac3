"""Measures of the house, printed: ``python tests/house_measures.py``.

They are places to look, not sports: how many files one training step rests on, how many record types there are, how
many private functions are called only once, how many files are very short, and whether packages import in a circle.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("dinopl", "fprnn", "kd")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
STEPS = {
    "self-distillation": "dinopl.distillation.module",
    "sequence modelling": "fprnn.module",
    "knowledge distillation": "kd.module",
}
LIMITS = {"files of a training step": 30, "record types": 50, "private functions called once": 0.15, "short files": 20}
SHORT = 60  # lines


def name_of(path: Path) -> str:
    """``dinopl/data/order.py`` -> ``dinopl.data.order``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported_by(name: str) -> set[str]:
    """Modules of ours that a module's source imports anywhere, a name from a package being looked up in its home."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in MODULES else home(node.module, alias.name))
    return found


def home(module: str, name: str) -> str:
    """Where a name that a package re-exports is defined."""
    if MODULES[module].name == "__init__.py":
        for node in ast.walk(TREES[module]):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module in MODULES
                and any((alias.asname or alias.name) == name for alias in node.names)
            ):
                return home(node.module, name)
    return module


def files_of(module: str) -> set[str]:
    """A module and all of ours that it imports, directly or not."""
    seen, left = set(), [module]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += imported_by(name)
    return seen


def is_record(node: ast.ClassDef) -> bool:
    """Whether a class is a NamedTuple, a dataclass or a TypedDict."""
    bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
    marks = {ast.unparse(mark).split("(")[0].split(".")[-1] for mark in node.decorator_list}
    return bool(bases & {"NamedTuple", "TypedDict"}) or "dataclass" in marks


def record_types() -> list[str]:
    """Every record type, as ``module.Name``."""
    return [
        f"{name}.{node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and is_record(node)
    ]


def called_once() -> tuple[list[str], int]:
    """Private functions and methods whose name is used in one place of the whole code, and the number of all."""
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]
    used = Counter(node.id for _, node in nodes if isinstance(node, ast.Name))
    used.update(node.attr for _, node in nodes if isinstance(node, ast.Attribute))
    functions = [(name, node.name) for name, node in nodes if isinstance(node, ast.FunctionDef)]
    private = [(name, function) for name, function in functions if re.match(r"_(?!_)", function)]
    return [f"{name}.{function}" for name, function in private if used[function] == 1], len(private)


def short_files() -> list[str]:
    """Files of fewer than 60 lines, packages' front doors aside."""
    texts = {name: path for name, path in MODULES.items() if path.name not in ("__init__.py", "__main__.py")}
    return [name for name, path in texts.items() if len(path.read_text().splitlines()) < SHORT]


def package_circles() -> list[str]:
    """Pairs of top-level rooms that import each other, as ``a <-> b``."""
    rooms = {name: ".".join(name.split(".")[:2]) for name in MODULES}
    arrows = {
        (rooms[name], rooms[each])
        for name in MODULES
        if name not in PACKAGES and not name.endswith("__main__")
        for each in imported_by(name)
        if rooms[name] != rooms[each]
    }
    return sorted(f"{a} <-> {b}" for a, b in arrows if a < b and (b, a) in arrows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each measure with its limit; ``-v`` lists what it counts. Exit code 1 where a limit is passed."""
    details = "-v" in (sys.argv[1:] if arguments is None else arguments)
    failed = False

    def show(label: str, value: float, limit: float, listed: list[str]) -> None:
        nonlocal failed
        failed |= value > limit
        print(f"{label:48} {value:8.4g}   at most {limit:g}")
        if details:
            print(*(f"    {each}" for each in listed), sep="\n")

    for family, module in STEPS.items():
        files = sorted(files_of(module))
        show(f"files of a training step, {family}", len(files), LIMITS["files of a training step"], files)
    records = record_types()
    show("record types", len(records), LIMITS["record types"], records)
    once, total = called_once()
    show("private functions called once, share", len(once) / total, LIMITS["private functions called once"], once)
    short = short_files()
    show("files under 60 lines", len(short), LIMITS["short files"], short)
    circles = package_circles()
    show("circles of packages", len(circles), 0, circles)
    lines = Counter(name.split(".")[0] for name, path in MODULES.items() for _ in path.read_text().splitlines())
    print(f"lines: {sum(lines.values())} ({', '.join(f'{package} {count}' for package, count in lines.items())})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
