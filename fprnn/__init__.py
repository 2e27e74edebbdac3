"""Fixed-Point RNNs: a dense linear RNN computed as the fixed point of a parallelisable diagonal one (NeurIPS 2025).

The names below are imported when they are first used, so that ``import fprnn`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fprnn.model import SequenceModel
    from fprnn.module import SequenceModeling
    from fprnn.tasks import SequenceDataModule

__all__ = ["SequenceDataModule", "SequenceModel", "SequenceModeling"]

_HOME = {
    "SequenceDataModule": "fprnn.tasks",
    "SequenceModel": "fprnn.model",
    "SequenceModeling": "fprnn.module",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
