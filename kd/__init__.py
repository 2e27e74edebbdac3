"""Knowledge distillation against label training as the data fraction varies (Revisiting KD, 2025).

The names below are imported when they are first used, so that ``import kd`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from dinopl.core.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kd.data": ["DataFraction"],
        "kd.features": ["FeatureCapture", "FeatureObjective", "refit_head"],
        "kd.losses": ["KLDistillation", "LabelCrossEntropy", "Mixture", "Objective", "TeacherOutputs"],
        "kd.metrics": ["FidelityMetrics"],
        "kd.module": ["KnowledgeDistillation"],
        "kd.networks": ["EncoderClassifier", "TimmClassifier", "TorchvisionClassifier"],
        "kd.targets": ["PermutedNonTargets", "TargetTransform", "WholeTeacher"],
        "kd.teacher.outputs": ["CachedOutputs", "OnlineOutputs", "OutputSource"],
        "kd.teacher.sources": ["NetworkTeacher", "RunTeacher", "SelfDistilledTeacher", "Teacher"],
        "kd.text": ["TextDataModule"],
        "kd.transformer": ["CausalTransformer"],
    },
)
