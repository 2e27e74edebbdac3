"""Student/teacher self-distillation (Random Teachers are Good Teachers, ICML 2023) as Lightning modules.

The names below are imported when they are first used, so that ``import dinopl`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from dinopl.__about__ import __version__
from dinopl.core.lazy import lazy_names

if TYPE_CHECKING:
    from dinopl.core.types import ImageShape
    from dinopl.data.module import ImageDataModule
    from dinopl.distillation.module import SelfDistillation
    from dinopl.loading import export_weights, load_encoder

__all__ = ["ImageDataModule", "ImageShape", "SelfDistillation", "__version__", "export_weights", "load_encoder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "dinopl.core.types": ["ImageShape"],
        "dinopl.data.module": ["ImageDataModule"],
        "dinopl.distillation.module": ["SelfDistillation"],
        "dinopl.loading": ["export_weights", "load_encoder"],
    },
)
