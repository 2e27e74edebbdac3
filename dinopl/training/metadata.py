"""Metadata of a run: versions, and values that any reader of JSON, YAML or a checkpoint understands."""

import contextlib
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dinopl.__about__ import __version__


def versions() -> dict[str, str | None]:
    """Versions of this package and of what its numbers depend on; None for what is not installed.

    All but torch's, whose own string names the CUDA build too, come from the packages' metadata: nothing is imported.
    """
    found: dict[str, str | None] = {"dinopl": __version__, "torch": str(torch.__version__)}
    for package in ("torchvision", "lightning", "torchmetrics", "numpy"):
        found[package] = None
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return {**found, "python": platform.python_version()}


def plain(value: Any, where: str = "config") -> Any:
    """Copy of a nested value that holds nothing but dict, list, str, int, float, bool and None.

    Tuples become lists; keys and strings of derived types become plain strings.

    Args:
        value: nested containers with plain values.
        where: how an error names the value.

    Raises:
        ValueError: for any other type.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"{where}: is a {type(value).__name__}; give plain values (numbers, strings, lists, dicts, None)")


def finite(value: Any) -> Any:
    """Copy of a plain value in which every float that is not finite is None, as JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
