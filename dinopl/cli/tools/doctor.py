"""``dinopl doctor``: what a maintainer would ask first, of any installation, also a broken one.

What only an import can find out runs in a process of its own: ``python -m dinopl.cli.tools.doctor ROOT RUNS``.
"""

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement  # lightning brings it
from packaging.specifiers import SpecifierSet

from dinopl.cli.tools import ToolParser

PACKAGES = (
    *("dinopl", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "scipy", "scikit-learn"),
    *("matplotlib", "tensorboard", "safetensors", "optuna", "triton"),
)
CHECKS = ("torch", "torchvision", "command", "data", "runs")
SECONDS = 300  # on a busy machine importing torch takes long

Facts = dict[str, Any]


def doctor(arguments: Sequence[str]) -> int:
    """Runs ``dinopl doctor`` with the arguments after the word ``doctor``."""
    parser = ToolParser(
        "doctor",
        "usage is dinopl doctor [--root DIR] [--runs DIR] [--json]",
        description="Versions, devices, threads, data sets found and problems: paste it into an issue.",
    )
    add = parser.add_argument
    add("--root", metavar="DIR", help="folder of all data sets; by default $DINOPL_DATA, or else ./data")
    add("--runs", metavar="DIR", default="runs", help="folder that runs are written to; runs by default")
    add("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    facts = examine(Path(options.root or os.environ.get("DINOPL_DATA") or "data"), Path(options.runs))
    sys.stdout.write(json.dumps(facts, indent=2) + "\n" if options.json else as_text(facts))
    return 0


def examine(root: Path, runs: Path) -> Facts:
    """Everything found, by section; ``root`` is the folder of all data sets, ``runs`` the one of all runs."""
    checks = run_checks(root, runs)
    torch = checks["torch"].get("found") or {}
    versions = {name: installed(name) for name in PACKAGES}
    wanted = torch_wanted(requires_of("torchvision"))
    problems = [f"{name}: {found['error']}" for name, found in checks.items() if "error" in found]
    problems.append(mismatch(installed("torch"), installed("torchvision"), wanted) or "")
    problems.append(checks["runs"].get("found") or "")
    place = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    return {
        "versions": {"python": platform.python_version(), **versions, "torch": torch.get("version", versions["torch"])},
        "torchvision": {
            "made_for_torch": wanted,
            "imports": "found" in checks["torchvision"],
        },
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            **{name: torch.get(name) for name in ("built_for_cuda", "cuda", "mps")},
        },
        "threads": {
            "torch": torch.get("threads"),
            **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")},
        },
        "data": {"root": str(root), "found": checks["data"].get("found") or {}},
        "runs": {"folder": str(runs), "free_gib": round(shutil.disk_usage(place).free / 2**30, 1)},
        "missing_extras": missing_extras(requires_of("dinopl")),
        "problems": [problem for problem in problems if problem],
    }


def installed(package: str) -> str | None:
    """A package's version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requires_of(package: str) -> list[str]:
    """What a package requires; empty if it is not installed."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def missing_extras(requirements: Sequence[str]) -> dict[str, list[str]]:
    """Packages that are not installed and that extras ask for, as in ``optuna>=4.2; extra == "sweep"``, by extra."""
    missing: dict[str, list[str]] = {}
    for requirement in map(Requirement, requirements):
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker))
        if extra and installed(requirement.name) is None:
            missing.setdefault(extra[1], []).append(requirement.name)
    return missing


def torch_wanted(requirements: Sequence[str]) -> str:
    """The releases of torch that torchvision's requirements name, such as ``==2.11.0``; empty if they do not."""
    found = (Requirement(requirement) for requirement in requirements)
    return next((str(wanted.specifier) for wanted in found if wanted.name == "torch"), "")


def mismatch(torch: str | None, torchvision: str | None, wanted: str) -> str | None:
    """How the version of torch is not among the ``wanted``, for which torchvision is made; None if it is."""
    if torch is None or SpecifierSet(wanted).contains(torch, prereleases=True):
        return None
    return f"torchvision {torchvision} is made for torch {wanted}, and torch is {torch}: install both together"


def run_checks(root: Path, runs: Path) -> dict[str, Facts]:
    """What ``print_checks`` prints in a process of its own, where a crash is one more finding."""
    command = [sys.executable, "-m", "dinopl.cli.tools.doctor", str(root), str(runs)]
    found: dict[str, Facts] = {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        output, ended = done.stdout, f"the check ended with {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, ended = (error.stdout or b"").decode(), f"the check took more than {SECONDS} seconds"
    for line in output.splitlines():
        if line.startswith('{"check": '):
            facts = json.loads(line)
            found[facts.pop("check")] = facts
    return {name: found.get(name, {"error": ended}) for name in CHECKS}


def as_text(facts: Facts) -> str:
    """Sections with their facts, a line each."""
    blocks = []
    for section, found in facts.items():
        lines = [str(item) for item in found] if isinstance(found, list) else []
        if isinstance(found, dict):
            flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
            for below in found.values():
                flat |= below if isinstance(below, dict) else {}
            width = max(map(len, flat), default=0)
            lines = [f"{name:<{width}}  {_shown(value)}" for name, value in flat.items()]
        blocks.append("\n".join([section, *(f"  {line}" for line in lines or ["none"])]))
    return "\n\n".join(blocks) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def torch_facts() -> dict[str, Any]:
    """Version, threads and devices as torch sees them."""
    import torch

    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return {
        "version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "built_for_cuda": torch.version.cuda,
        "cuda": [
            f"{d.name}, {d.total_memory / 2**30:.0f} GiB, compute capability {d.major}.{d.minor}" for d in devices
        ],
        "mps": torch.backends.mps.is_available(),
    }


def torchvision_facts() -> str:
    """The version, if it can be imported: one that is made for another torch cannot, or has lost its operators."""
    import torchvision

    torchvision.ops.nms  # noqa: B018
    return str(torchvision.__version__)


def data_found(root: Path) -> dict[str, bool]:
    """Which data sets are complete below a folder, by the classes that read them."""
    import dinopl.data as data
    from dinopl.data.sources.published import PublishedImages
    from fprnn.tasks import CatBAbI

    found = {"DigitsImages (embedded)": True}
    for name in data.__all__:
        cls = getattr(data, name)
        if isinstance(cls, type) and issubclass(cls, PublishedImages):
            found[name] = cls().complete(root)
    for source in (data.TinyImageNetImages(), data.CIFAR5mImages()):
        found[source.name] = (root / source.folder).is_dir()
    try:
        CatBAbI(root=str(root), tasks=[1])
    except (OSError, ValueError):
        return found | {"CatBAbI": False}
    return found | {"CatBAbI": True}


def print_checks(root: Path, runs: Path) -> None:
    """Prints a line of JSON for each check as soon as it is done, so that a crash loses nothing that came before it.

    A check that fails prints why.
    """

    def why_not_written() -> str | None:
        from dinopl.core.files import why_not_writable

        return why_not_writable(runs.absolute() / "run")

    checks: dict[str, Callable[[], Any]] = {
        "torch": torch_facts,
        "torchvision": torchvision_facts,
        "command": lambda: importlib.import_module("dinopl.cli.runs").__name__,  # with everything that a run needs
        "data": lambda: data_found(root),
        "runs": why_not_written,
    }
    for name, check in checks.items():
        try:
            line = {"check": name, "found": check()}
        except Exception as error:  # whatever it is: reporting it is what this is for
            line = {"check": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    print_checks(*map(Path, sys.argv[1:]))
