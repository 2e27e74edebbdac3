"""Callbacks for any Lightning project: the run's folder, divergence, exact resume, predictions, progress."""

from dinopl.callbacks.finite_guard import DivergenceError, FiniteGuard
from dinopl.callbacks.predictions import PredictionWriter
from dinopl.callbacks.progress import RunProgress
from dinopl.callbacks.resume import ExactResume
from dinopl.callbacks.run_folder import RunFolder, folder_of

__all__ = [
    "DivergenceError",
    "ExactResume",
    "FiniteGuard",
    "PredictionWriter",
    "RunFolder",
    "RunProgress",
    "folder_of",
]
