"""Features: capture by module name, objectives that match them, heads that are refitted on them."""

from kd.features.capture import FeatureCapture, FeatureObjective, PairedCapture, collect_features, find_module
from kd.features.heads import HeadFit, LogisticHead, SGDHead, refit_head
from kd.features.kernels import kernel_cka, spectral_power
from kd.features.objectives import (
    CKAMatching,
    FeatureMSE,
    SimilarityMatching,
    similarity_difference,
)

__all__ = [
    "CKAMatching",
    "FeatureCapture",
    "FeatureMSE",
    "FeatureObjective",
    "HeadFit",
    "LogisticHead",
    "PairedCapture",
    "SGDHead",
    "SimilarityMatching",
    "collect_features",
    "find_module",
    "kernel_cka",
    "refit_head",
    "similarity_difference",
    "spectral_power",
]
