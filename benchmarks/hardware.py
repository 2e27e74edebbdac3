"""What a benchmark ran on, for the name of its CSV: hardware, precision and version belong to every number."""

import csv
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """A short name of the processor that was measured, such as ``xeon-2cores`` or ``nvidia-h200``."""
    if torch.cuda.is_available():
        return _slug(torch.cuda.get_device_name())
    return f"{_slug(_processor())}-{os.cpu_count()}cores"


def results_file(what: str, precision: str) -> Path:
    """Where the CSV of a benchmark goes."""
    version = torch.__version__.split("+")[0]
    return RESULTS / f"{what}_{hardware()}_{precision}_torch{version}.csv"


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows with the columns of the first one, and prints the path."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|cpu|@.*", "", name.lower())).strip("-")
