"""Knowledge distillation against label training as the data fraction varies (Revisiting KD, 2025).

The names below are imported when they are first used, so that ``import kd`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd.data import DataFraction
    from kd.features import FeatureCapture, FeatureObjective, refit_head
    from kd.losses import KLDistillation, LabelCrossEntropy, Mixture, Objective, TeacherOutputs
    from kd.metrics import FidelityMetrics
    from kd.module import KnowledgeDistillation
    from kd.networks import EncoderClassifier, TimmClassifier, TorchvisionClassifier
    from kd.targets import PermutedNonTargets, TargetTransform, WholeTeacher
    from kd.teacher.outputs import CachedOutputs, OnlineOutputs, OutputSource
    from kd.teacher.sources import NetworkTeacher, RunTeacher, SelfDistilledTeacher, Teacher
    from kd.text import TextDataModule
    from kd.transformer import CausalTransformer

__all__ = [
    "CachedOutputs",
    "CausalTransformer",
    "DataFraction",
    "EncoderClassifier",
    "FeatureCapture",
    "FeatureObjective",
    "FidelityMetrics",
    "KLDistillation",
    "KnowledgeDistillation",
    "LabelCrossEntropy",
    "Mixture",
    "NetworkTeacher",
    "Objective",
    "OnlineOutputs",
    "OutputSource",
    "PermutedNonTargets",
    "RunTeacher",
    "SelfDistilledTeacher",
    "TargetTransform",
    "Teacher",
    "TeacherOutputs",
    "TextDataModule",
    "TimmClassifier",
    "TorchvisionClassifier",
    "WholeTeacher",
    "refit_head",
]

_HOME = {
    "CachedOutputs": "kd.teacher.outputs",
    "CausalTransformer": "kd.transformer",
    "DataFraction": "kd.data",
    "EncoderClassifier": "kd.networks",
    "FeatureCapture": "kd.features",
    "FeatureObjective": "kd.features",
    "FidelityMetrics": "kd.metrics",
    "KLDistillation": "kd.losses",
    "KnowledgeDistillation": "kd.module",
    "LabelCrossEntropy": "kd.losses",
    "Mixture": "kd.losses",
    "NetworkTeacher": "kd.teacher.sources",
    "Objective": "kd.losses",
    "OnlineOutputs": "kd.teacher.outputs",
    "OutputSource": "kd.teacher.outputs",
    "PermutedNonTargets": "kd.targets",
    "RunTeacher": "kd.teacher.sources",
    "SelfDistilledTeacher": "kd.teacher.sources",
    "TargetTransform": "kd.targets",
    "Teacher": "kd.teacher.sources",
    "TeacherOutputs": "kd.losses",
    "TextDataModule": "kd.text",
    "TimmClassifier": "kd.networks",
    "TorchvisionClassifier": "kd.networks",
    "WholeTeacher": "kd.targets",
    "refit_head": "kd.features",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
