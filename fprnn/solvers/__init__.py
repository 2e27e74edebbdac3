"""Fixed-point solvers, their statistics and their gradients."""

from dinopl.core.errors import DivergenceError
from fprnn.solvers.anderson import AndersonSolver
from fprnn.solvers.automatic import AutomaticSolver, break_even
from fprnn.solvers.base import FixedPointEquation, FixedPointSolver, Solution, SolveStatistics, relative_change
from fprnn.solvers.gradients import FixedPointGradient, ImplicitGradient, OneStepGradient, TruncatedGradient
from fprnn.solvers.picard import FixedCountSolver, IterativeSolver, PicardSolver
from fprnn.solvers.sequential import ScanSolver, SequentialSolver

__all__ = [
    "AndersonSolver",
    "AutomaticSolver",
    "DivergenceError",
    "FixedCountSolver",
    "FixedPointEquation",
    "FixedPointGradient",
    "FixedPointSolver",
    "ImplicitGradient",
    "IterativeSolver",
    "OneStepGradient",
    "PicardSolver",
    "ScanSolver",
    "SequentialSolver",
    "Solution",
    "SolveStatistics",
    "TruncatedGradient",
    "break_even",
    "relative_change",
]
