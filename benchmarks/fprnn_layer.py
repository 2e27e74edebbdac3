"""One FP-RNN layer, forward and backward: iteration, exact solve and the authors' algorithm, at the same tolerance.

The number of tokens is the same in every row, so longer sequences come in smaller batches. Two sets of weights: fresh
ones, for which few iterations are enough, and weights trained briefly on parity at length 16, which track a state and
so need about as many iterations as there are tokens. Contenders take turns, round after round; the table gives the
fastest round. ``error`` is the root mean square distance of the output from the exact one, relative to its size: at the
paper's tolerance of 0.1 it shows whether an iteration has converged or stopped too early.

``authors`` is the algorithm of "Fixed-Point RNNs" (NeurIPS 2025) as in the paper and its released code: eager, all
sequences iterate until nine in ten have converged, the host waits in each iteration, and the mixer's whole projection
and its weight norm are computed in each iteration. ``authors, hoisted`` computes the input's part once. Both use our
scan.

    python benchmarks/fprnn_layer.py
    python benchmarks/fprnn_layer.py --d-model 96 --rank 4 --lengths 16 64
    python benchmarks/fprnn_layer.py --device cuda --tokens 65536
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hardware import results_file, write_csv
from torch import Tensor, nn

from fprnn.layers import FPRNN, FPRNNEquation, shift
from fprnn.mixers import HouseholderMixer, MixerContext
from fprnn.ops import linear_scan
from fprnn.solvers import (
    AndersonSolver,
    AutomaticSolver,
    FixedPointEquation,
    FixedPointSolver,
    PicardSolver,
    SequentialSolver,
    Solution,
    SolveStatistics,
)

CAP = 5000  # iterations: never reached, so that every row converges
LONGEST_SECONDS = 2.0  # a contender slower than this is timed once
LEFT_OUT_SECONDS = 10  # a contender that takes longer is left out where sequences are longer still


class Row(NamedTuple):
    """A row of the table; times are milliseconds for one forward and backward pass."""

    weights: str
    tol: float
    length: int
    batch: int
    solver: str
    wall_ms: float
    cpu_ms: float
    times_best: float
    iterations: float
    most_iterations: int
    relative_error: float
    peak_mib: float
    d_model: int
    rank: int
    threads: int


class AuthorsSolver(FixedPointSolver):
    """The released algorithm for an FP-RNN with Householder reflections, stopping rule of appendix D.3 included."""

    def __init__(self, tol: float, quantile: float = 0.9) -> None:
        super().__init__()
        self.tol, self.quantile = tol, quantile

    def forward(self, equation: FixedPointEquation) -> Solution:
        """Iterates until a quantile of the batch has converged, then differentiates one more iteration."""
        assert isinstance(equation, FPRNNEquation)
        with torch.no_grad():
            state, iterations = equation.initial(), 0
            best = torch.full((len(state),), torch.finfo(state.dtype).max, device=state.device)
            while iterations < CAP and bool(torch.quantile(best, self.quantile) >= self.tol):
                new = self.step(equation, state)
                change = (new - state).abs().amax(-1) / (new.abs().amax(-1) + 1e-8)
                best, state, iterations = torch.minimum(best, change.amax(1)), new, iterations + 1
        counts = torch.full((len(state),), iterations, device=state.device)
        return Solution(self.step(equation, state), SolveStatistics(counts, best, best < self.tol))

    def step(self, equation: FPRNNEquation, state: Tensor) -> Tensor:
        """One iteration with nothing computed in advance: ``equation.context.projected`` holds x itself."""
        mixer = equation.mixer
        assert isinstance(mixer, HouseholderMixer)
        source = torch.cat([equation.context.projected, shift(state)], -1)
        bias = F.pad(mixer.projection.bias, (mixer.projection.unbiased, 0))
        parameters = mixer.activate(F.linear(source, mixer.projection.weight(), bias))
        v = mixer.mix(parameters, equation.drive - state) + state
        return linear_scan(equation.gate * v, equation.decay)


class UnpreparedMixer(HouseholderMixer):
    """A mixer that passes the input through, for :class:`AuthorsSolver`."""

    def prepare(self, x: Tensor) -> MixerContext:
        """The input instead of its projection."""
        return MixerContext(x, self.projection.weight()[:, self.d_inner :])


def contenders(tol: float) -> dict[str, FixedPointSolver]:
    caps = {"tol": tol, "max_iterations": CAP, "eval_max_iterations": CAP}
    return {
        "exact": SequentialSolver(),
        "iteration": PicardSolver(**caps),
        "anderson": AndersonSolver(**caps),
        "automatic": AutomaticSolver(PicardSolver(**caps)),
        "authors": AuthorsSolver(tol),
        "authors, hoisted": PicardSolver(**caps, freeze=False, quantile=0.9),
    }


class ParityModel(nn.Module):
    """One layer that reads bits and writes the parity so far."""

    def __init__(self, d_model: int, mixer: Callable[[int], HouseholderMixer], solver: FixedPointSolver) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, d_model)
        self.norm, self.head_norm = nn.RMSNorm(d_model, eps=1e-5), nn.RMSNorm(d_model, eps=1e-5)
        self.layer = FPRNN(d_model, mixer, solver)
        self.head = nn.Linear(d_model, 2, bias=False)

    def inputs(self, bits: Tensor) -> Tensor:
        """What the layer sees, ``(B, T, D)``."""
        return self.norm(self.embedding(bits))

    def forward(self, bits: Tensor) -> Tensor:
        """Logits, ``(B, T, 2)``."""
        return self.head(self.head_norm(self.embedding(bits) + self.layer(self.inputs(bits))))


def train_parity(model: ParityModel, steps: int, device: str) -> float:
    """Trains at length 16 with the exact solver; returns the last loss."""
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.zeros(())
    for _ in range(steps):
        bits = torch.randint(2, (128, 16), device=device)
        loss = F.cross_entropy(model(bits).flatten(0, 1), bits.cumsum(1).flatten() % 2)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def layer_with(model: ParityModel, solver: FixedPointSolver, options: argparse.Namespace) -> FPRNN:
    """The model's layer with another solver."""
    mixer = UnpreparedMixer if isinstance(solver, AuthorsSolver) else HouseholderMixer
    layer = FPRNN(options.d_model, lambda d: mixer(d, options.rank), solver).to(options.device)
    layer.load_state_dict(model.layer.state_dict(), strict=False)  # a solver's own state stays out
    return layer


def peak_memory(task: Callable[[], object], device: str) -> float:
    """MiB that a task needs beyond what is in use; on the CPU from Linux's high-water mark, elsewhere NaN."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return float("nan")
    reset.write_text("5")
    before = _status_mib(status, "VmRSS")
    task()
    return _status_mib(status, "VmHWM") - before


def _status_mib(status: Path, field: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10


def timed(task: Callable[[], object], device: str) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


class Contender(NamedTuple):
    """One solver on one batch, and its measurements."""

    task: Callable[[], Tensor]
    layer: FPRNN
    error: float
    peak_mib: float
    times: list[tuple[float, float]]


def prepare(layer: FPRNN, u: Tensor, grad: Tensor, exact: Tensor, device: str) -> Contender:
    """Two untimed runs: a warm-up, in which the automatic solver tries to iterate, and one for the memory."""

    def task() -> Tensor:
        layer.zero_grad()
        out = layer(u)
        out.backward(grad)
        return out.detach()

    error = ((task() - exact).norm() / exact.norm()).item()
    return Contender(task, layer, error, peak_memory(task, device), [])


def benchmark(
    weights: str, model: ParityModel, length: int, tol: float, names: Iterable[str], options: argparse.Namespace
) -> list[Row]:
    batch = max(1, options.tokens // length)
    u = model.inputs(torch.randint(2, (batch, length), device=options.device)).detach()
    grad = torch.randn_like(u)
    with torch.no_grad():
        exact = layer_with(model, SequentialSolver(), options)(u)
    entered = {
        name: prepare(layer_with(model, solver, options), u, grad, exact, options.device)
        for name, solver in contenders(tol).items()
        if name in names
    }
    for _ in range(options.rounds):
        for contender in entered.values():
            if not contender.times or contender.times[-1][0] < LONGEST_SECONDS:
                contender.times.append(timed(contender.task, options.device))
    fastest = min(min(contender.times) for name, contender in entered.items() if not name.startswith("authors"))[0]
    rows = []
    for name, (_, layer, error, peak, times) in entered.items():
        wall, cpu = (min(column) for column in zip(*times, strict=True))
        counts = layer.statistics.iterations.float()
        measured = round(1e3 * wall, 2), round(1e3 * cpu, 2), round(wall / fastest, 2), round(counts.mean().item(), 1)
        quality = int(counts.max()), float(f"{error:.1e}"), round(peak, 1)
        setting = options.d_model, options.rank, torch.get_num_threads()
        rows.append(Row(weights, tol, length, batch, name, *measured, *quality, *setting))
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--tokens", type=int, default=8192, help="per batch, whatever the length")
    parser.add_argument("--d-model", type=int, default=32, help="the inner width is twice this")
    parser.add_argument("--rank", type=int, default=1, help="reflections")
    parser.add_argument("--tols", type=float, nargs="+", default=[0.1, 1e-3])
    parser.add_argument("--train-steps", type=int, default=150, help="on parity; 0 leaves the trained rows out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return parser.parse_args()


HEADER = (
    f"{'weights':>8} {'tol':>6} {'T':>5} {'B':>4} {'solver':>17} {'wall ms':>9} {'CPU ms':>9} {'/ best':>7} "
    f"{'iterations':>10} {'most':>5} {'error':>8} {'peak MiB':>9}"
)


def line(row: Row) -> str:
    return (
        f"{row.weights:>8} {row.tol:6} {row.length:5} {row.batch:4} {row.solver:>17} {row.wall_ms:9.1f} "
        f"{row.cpu_ms:9.1f} {row.times_best:7.2f} {row.iterations:10.1f} {row.most_iterations:5} "
        f"{row.relative_error:8.1e} {row.peak_mib:9.1f}"
    )


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = ParityModel(options.d_model, lambda d: HouseholderMixer(d, options.rank), SequentialSolver())
    model.to(options.device)
    rows: list[Row] = []
    for weights, steps in (("fresh", 0), ("trained", options.train_steps)):
        if weights == "trained" and not steps:
            continue
        if steps:
            print(f"trained on parity for {steps} steps: loss {train_parity(model, steps, options.device):.4f}")
        print(HEADER)
        for tol in options.tols:
            names = list(contenders(tol))
            for length in options.lengths:
                found = benchmark(weights, model, length, tol, names, options)
                print("\n".join(map(line, found)), flush=True)
                names = [row.solver for row in found if row.wall_ms < 1e3 * LEFT_OUT_SECONDS]
                rows += found
    what = f"fprnn_layer_d{2 * options.d_model}_r{options.rank}"
    write_csv(results_file(what, "float32"), [row._asdict() for row in rows])


if __name__ == "__main__":
    main()
