"""Small exact experiments: what each theory of distillation says, where it can be computed without a neural network."""

from kd.theory.calibration import calibration_temperature
from kd.theory.gaussians import (
    GaussianClasses,
    LinearStudent,
    compare_targets,
    expected_label_divergence,
    fit_linear,
)
from kd.theory.linear import (
    LinearOutcome,
    Regression,
    draw_regression,
    expected_ratio,
    kernel_outcome,
    least_squares,
    linear_outcomes,
    project_on_rows,
    smoother,
)
from kd.theory.variance import RiskMoments, draw_risks, risk_moments

__all__ = [
    "GaussianClasses",
    "LinearOutcome",
    "LinearStudent",
    "Regression",
    "RiskMoments",
    "calibration_temperature",
    "compare_targets",
    "draw_regression",
    "draw_risks",
    "expected_label_divergence",
    "expected_ratio",
    "fit_linear",
    "kernel_outcome",
    "least_squares",
    "linear_outcomes",
    "project_on_rows",
    "risk_moments",
    "smoother",
]
