"""Callbacks for any Lightning project: the run's folder, divergence, exact resume, predictions, progress, layout."""

from dinopl.core.errors import DivergenceError
from dinopl.training.exact_resume import ExactResume
from dinopl.training.finite_guard import FiniteGuard
from dinopl.training.memory_format import ChannelsLast
from dinopl.training.predictions import PredictionWriter
from dinopl.training.progress import RunProgress
from dinopl.training.run_folder import RunFolder, folder_of

__all__ = [
    "ChannelsLast",
    "DivergenceError",
    "ExactResume",
    "FiniteGuard",
    "PredictionWriter",
    "RunFolder",
    "RunProgress",
    "folder_of",
]
