"""What a student is measured by: its predictions, how faithful it is to its teacher, and its features."""

from kd.metrics.alignment import (
    FeatureAlignment,
    cka,
    cka_matrix,
    feature_alignment,
    gram_cka,
    linear_cka,
    parameter_distance,
)
from kd.metrics.collapse import NeuralCollapse, neural_collapse
from kd.metrics.evaluation import EvaluatedModule, Evaluation, FidelityMetrics
from kd.metrics.predictions import (
    Agreement,
    BrierScore,
    CentredLogitError,
    ExpectedCalibrationError,
    HellingerDistance,
    LabelAccuracy,
    LogitError,
    NegativeLogLikelihood,
    PredictiveEntropy,
    PredictiveKL,
    ProbabilityDistance,
    brier_score,
    calibration_error,
    hellinger_distance,
    negative_log_likelihood,
    probability_distance,
)
from kd.metrics.sampled import SampledMetric

__all__ = [
    "Agreement",
    "BrierScore",
    "CentredLogitError",
    "EvaluatedModule",
    "Evaluation",
    "ExpectedCalibrationError",
    "FeatureAlignment",
    "FidelityMetrics",
    "HellingerDistance",
    "LabelAccuracy",
    "LogitError",
    "NegativeLogLikelihood",
    "NeuralCollapse",
    "PredictiveEntropy",
    "PredictiveKL",
    "ProbabilityDistance",
    "SampledMetric",
    "brier_score",
    "calibration_error",
    "cka",
    "cka_matrix",
    "feature_alignment",
    "gram_cka",
    "hellinger_distance",
    "linear_cka",
    "negative_log_likelihood",
    "neural_collapse",
    "parameter_distance",
    "probability_distance",
]
