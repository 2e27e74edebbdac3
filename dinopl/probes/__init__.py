"""Probes of frozen features, and the Lightning callback that runs them on input, teacher and student."""

from dinopl.probes.base import Probe, standardize
from dinopl.probes.callback import ProbeCallback
from dinopl.probes.converged import LDAProbe, LogisticRegressionProbe
from dinopl.probes.features import Features, accuracies, extract_features
from dinopl.probes.knn import KNNProbe, knn_predict
from dinopl.probes.linear import LinearProbe, linear_probe

__all__ = [
    "Features",
    "KNNProbe",
    "LDAProbe",
    "LinearProbe",
    "LogisticRegressionProbe",
    "Probe",
    "ProbeCallback",
    "accuracies",
    "extract_features",
    "knn_predict",
    "linear_probe",
    "standardize",
]
