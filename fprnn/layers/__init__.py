"""Recurrent layers: FP-RNN, its diagonal control and its dense oracle."""

from fprnn.layers.convolution import ShortConvolution, short_convolution
from fprnn.layers.equation import FPRNNEquation, RecurrentState, shift
from fprnn.layers.fprnn import FPRNN, DenseRNN, DiagonalRNN, FPRNNCache
from fprnn.layers.oracle import DenseSolver, dense_recurrence, dense_transition
from fprnn.layers.recurrence import Recurrence, solve_reflections
from fprnn.layers.token import TokenEquation, TokenSolution, solve_token
from fprnn.layers.weight_decay import weight_decay_groups

__all__ = [
    "FPRNN",
    "DenseRNN",
    "DenseSolver",
    "DiagonalRNN",
    "FPRNNCache",
    "FPRNNEquation",
    "Recurrence",
    "RecurrentState",
    "ShortConvolution",
    "TokenEquation",
    "TokenSolution",
    "dense_recurrence",
    "dense_transition",
    "shift",
    "short_convolution",
    "solve_reflections",
    "solve_token",
    "weight_decay_groups",
]
