"""Fixed-point solvers, their statistics and their gradients."""

from fprnn.solvers.automatic import AutomaticSolver, break_even
from fprnn.solvers.base import (
    DivergenceError,
    FixedPointEquation,
    FixedPointSolver,
    ProblemSize,
    Solution,
    SolveStatistics,
    relative_change,
)
from fprnn.solvers.gradients import FixedPointGradient, ImplicitGradient, OneStepGradient, TruncatedGradient
from fprnn.solvers.picard import AndersonSolver, FixedCountSolver, IterativeSolver, PicardSolver
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
    "ProblemSize",
    "ScanSolver",
    "SequentialSolver",
    "Solution",
    "SolveStatistics",
    "TruncatedGradient",
    "break_even",
    "relative_change",
]
