"""What part of the teacher is used: transforms of its logits, as pure functions and as objects for a configuration."""

from kd.targets.base import TargetTransform, TransformChain, WholeTeacher
from kd.targets.pooled import ClassMean, ShuffledSamples, class_means, partners
from kd.targets.random_head import RandomHead, with_random_head
from kd.targets.rearranged import (
    CorrectedTeacher,
    NoisyLogits,
    PermutedNonTargets,
    permute_non_targets,
    swap_largest,
)
from kd.targets.reduced import TopClasses, UniformRest, expanded, log_mean_exp, top_logits
from kd.targets.smoothing import (
    ConfidenceMatchedSmoothing,
    EntropyMatchedSmoothing,
    smoothed_logits,
    smoothing_of_confidence,
    smoothing_of_entropy,
)

__all__ = [
    "ClassMean",
    "ConfidenceMatchedSmoothing",
    "CorrectedTeacher",
    "EntropyMatchedSmoothing",
    "NoisyLogits",
    "PermutedNonTargets",
    "RandomHead",
    "ShuffledSamples",
    "TargetTransform",
    "TopClasses",
    "TransformChain",
    "UniformRest",
    "WholeTeacher",
    "class_means",
    "expanded",
    "log_mean_exp",
    "partners",
    "permute_non_targets",
    "smoothed_logits",
    "smoothing_of_confidence",
    "smoothing_of_entropy",
    "swap_largest",
    "top_logits",
    "with_random_head",
]
