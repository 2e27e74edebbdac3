"""Probes of frozen features, label-free measures of collapse, and the Lightning callback that runs them."""

from dinopl.probes.base import Probe, standardize
from dinopl.probes.callback import ProbeCallback
from dinopl.probes.collapse import alpha_req, effective_rank, lidar, rankme
from dinopl.probes.converged import LDAProbe, LogisticRegressionProbe
from dinopl.probes.features import Features, accuracies, extract_features
from dinopl.probes.knn import KNNProbe, WeightedKNNProbe, knn_predict, weighted_knn_predict
from dinopl.probes.linear import LinearProbe, linear_probe
from dinopl.probes.module import EncoderProbing

__all__ = [
    "EncoderProbing",
    "Features",
    "KNNProbe",
    "LDAProbe",
    "LinearProbe",
    "LogisticRegressionProbe",
    "Probe",
    "ProbeCallback",
    "WeightedKNNProbe",
    "accuracies",
    "alpha_req",
    "effective_rank",
    "extract_features",
    "knn_predict",
    "lidar",
    "linear_probe",
    "rankme",
    "standardize",
    "weighted_knn_predict",
]
