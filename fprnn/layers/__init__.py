"""Recurrent layers: FP-RNN, FP-Mamba and FP-Mamba-2, their diagonal controls, and the dense oracle."""

from dinopl.core.optimizer import decay_kinds, weight_decay_groups
from fprnn.layers.convolution import ShortConvolution, short_convolution
from fprnn.layers.dense import DenseSolver, dense_recurrence, dense_transition
from fprnn.layers.equation import FPRNNEquation, RecurrentState, shift
from fprnn.layers.fpmamba import DiagonalMamba, FPMamba, MambaCache, MatrixStateLayer
from fprnn.layers.fpmamba2 import DiagonalMamba2, FPMamba2
from fprnn.layers.fprnn import FPRNN, DenseRNN, DiagonalRNN, FPRNNCache
from fprnn.layers.matrix_state import MambaEquation
from fprnn.layers.selection import Selector
from fprnn.solvers.newton import TokenEquation, solve_token
from fprnn.solvers.reflections import solve_reflections

__all__ = [
    "FPRNN",
    "DenseRNN",
    "DenseSolver",
    "DiagonalMamba",
    "DiagonalMamba2",
    "DiagonalRNN",
    "FPMamba",
    "FPMamba2",
    "FPRNNCache",
    "FPRNNEquation",
    "MambaCache",
    "MambaEquation",
    "MatrixStateLayer",
    "RecurrentState",
    "Selector",
    "ShortConvolution",
    "TokenEquation",
    "decay_kinds",
    "dense_recurrence",
    "dense_transition",
    "shift",
    "short_convolution",
    "solve_reflections",
    "solve_token",
    "weight_decay_groups",
]
