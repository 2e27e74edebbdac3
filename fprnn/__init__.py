"""Fixed-Point RNNs: a dense linear RNN computed as the fixed point of a parallelisable diagonal one (NeurIPS 2025).

The names below are imported when they are first used, so that ``import fprnn`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from dinopl.core.lazy import lazy_names

if TYPE_CHECKING:
    from fprnn.model import SequenceModel
    from fprnn.module import SequenceModeling
    from fprnn.tasks import SequenceDataModule

__all__ = ["SequenceDataModule", "SequenceModel", "SequenceModeling"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "fprnn.model": ["SequenceModel"],
        "fprnn.module": ["SequenceModeling"],
        "fprnn.tasks": ["SequenceDataModule"],
    },
)
