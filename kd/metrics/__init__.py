"""What a student is measured by: its predictions, how faithful it is to its teacher, and its features."""

from kd.metrics.alignment import FeatureAlignment, cka, cka_matrix, feature_alignment, gram_cka, linear_cka
from kd.metrics.collapse import Collapse, NeuralCollapse, neural_collapse
from kd.metrics.collection import FidelityMetrics
from kd.metrics.kept import KeptSamples
from kd.metrics.parameters import parameter_distance
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

__all__ = [
    "Agreement",
    "BrierScore",
    "CentredLogitError",
    "Collapse",
    "ExpectedCalibrationError",
    "FeatureAlignment",
    "FidelityMetrics",
    "HellingerDistance",
    "KeptSamples",
    "LabelAccuracy",
    "LogitError",
    "NegativeLogLikelihood",
    "NeuralCollapse",
    "PredictiveEntropy",
    "PredictiveKL",
    "ProbabilityDistance",
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
