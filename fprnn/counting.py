"""How many iterations the trained weights need, counted by iterating, whatever solver trained them.

"Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), figures 3c, 5, 7 and 11: the number of iterations l* until a
sequence stops changing shows how hard its states are to track.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from fprnn.metrics import Tally, add_up, sequence_hits
from fprnn.model import SequenceModel
from fprnn.solvers import FixedPointSolver, IterativeSolver, PicardSolver, ScanSolver, SolveStatistics


def fixed_point_layers(model: SequenceModel) -> dict[int, Any]:
    """The layers that solve a fixed point, by index.

    LSTM and DeltaProduct solve none, nor does a diagonal layer, whose map does not depend on the state.
    """
    solvers = {index: getattr(layer, "solver", None) for index, layer in enumerate(model.layers)}
    return {
        index: model.layers[index]
        for index, solver in solvers.items()
        if isinstance(solver, FixedPointSolver) and not isinstance(solver, ScanSolver)
    }


def layer_statistics(model: SequenceModel) -> dict[int, SolveStatistics]:
    """How each of these layers was solved in the last call."""
    layers = fixed_point_layers(model).items()
    return {index: layer.statistics for index, layer in layers if layer.statistics is not None}


def solve_summary(statistics: dict[int, SolveStatistics], *, layers: int) -> dict[str, Tensor]:
    """Mean iterations and the share of sequences that did not converge, over layers; scalars on the device.

    Args:
        statistics: by layer.
        layers: number of layers of the model; with several, each one's iterations are reported too.
    """
    if not statistics:
        return {}
    means = {index: layer.iterations.float().mean() for index, layer in statistics.items()}
    each = {f"iterations/layer={index}": mean for index, mean in means.items()} if layers > 1 else {}
    capped = torch.stack([layer.capped for layer in statistics.values()]).mean()
    return each | {"iterations": torch.stack(list(means.values())).mean(), "capped": capped}


def iteration_tallies(
    logits: Tensor, statistics: dict[int, SolveStatistics], targets: Tensor, mask: Tensor, *, layers: int
) -> dict[str, Tally]:
    """What counting shows: iterations, the share of sequences that did not converge, and the iteration's own accuracy.

    Args:
        logits: the iteration's own, ``(B, T, C)``.
        statistics: by layer.
        targets: ``(B, T)``.
        mask: ``(B, T)``; a row without any True counts nowhere.
        layers: as in :func:`solve_summary`.
    """
    rows = mask.any(1)
    needed = {i: Tally((layer.iterations * rows).sum(), rows.sum()) for i, layer in statistics.items()}
    capped = [Tally((~layer.converged & rows).sum(), rows.sum()) for layer in statistics.values()]
    each = {f"iterations/layer={index}": tally for index, tally in needed.items()} if layers > 1 else {}
    return each | {
        "iterations": add_up(needed.values()),
        "iterations_capped": add_up(capped),
        "iterated_sequence_accuracy": sequence_hits(logits.argmax(-1), targets, mask),
    }


class IterationCounter:
    """Counts a model's iterations with a solver of its own.

    Args:
        solver: counts; None is the paper's rule in evaluation: all sequences to a relative change of 0.1, at most 1000
            iterations. What diverges is reported as not converged, never raised.
    """

    def __init__(self, solver: IterativeSolver | None = None) -> None:
        self.solver = PicardSolver(tol=0.1, eval_max_iterations=1000) if solver is None else copy.deepcopy(solver)
        self.solver.on_divergence = "flag"
        self.solver.eval()

    @torch.no_grad()
    def __call__(self, model: SequenceModel, tokens: Tensor) -> tuple[Tensor, dict[int, SolveStatistics]]:
        """Iterates on tokens ``(B, T)``; returns the logits, and the statistics of each layer by its index."""
        layers = fixed_point_layers(model)
        before = [layer.solver for layer in layers.values()]
        try:
            for layer in layers.values():
                layer.solver = self.solver
            logits = model(tokens)
        finally:
            for layer, solver in zip(layers.values(), before, strict=True):
                layer.solver = solver
        return logits, {index: layer.statistics for index, layer in layers.items()}
