"""What identifies data, whatever their name and folder: for caches and for results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SAMPLES = 64  # whose content is read, spread evenly; of the others only the label counts


def spread(count: int) -> Tensor:
    """Positions of at most ``SAMPLES`` of ``count`` samples, spread evenly, increasing, ``(n,)`` int64."""
    return torch.linspace(0, count - 1, min(SAMPLES, count)).long()


def digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of tensors, bit by bit, and of plain facts.

    Args:
        tensors: by name; shape and type count too.
        facts: what JSON can hold. Floating-point numbers count to 6 digits, since sums differ between machines.

    Returns:
        64 hexadecimal digits.
    """
    result = hashlib.sha256(json.dumps(_rounded(dict(facts)), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def describe(part: object) -> list[Any]:
    """Class and public attributes of an object that a configuration made, for ``digest``."""
    public = {name: repr(value) for name, value in vars(part).items() if not name.startswith("_")}
    return [type(part).__qualname__, public]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
