"""Student/teacher self-distillation (Random Teachers are Good Teachers, ICML 2023) as Lightning modules.

The names below are imported when they are first used, so that ``import dinopl`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dinopl.__about__ import __version__

if TYPE_CHECKING:
    from dinopl.data.module import ImageDataModule
    from dinopl.distillation.module import SelfDistillation
    from dinopl.loading import export_weights, load_encoder

__all__ = ["ImageDataModule", "SelfDistillation", "__version__", "export_weights", "load_encoder"]

_HOME = {
    "ImageDataModule": "dinopl.data.module",
    "SelfDistillation": "dinopl.distillation.module",
    "export_weights": "dinopl.loading",
    "load_encoder": "dinopl.loading",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
