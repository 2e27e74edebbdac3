"""FP-Mamba's selective scan beside scans that store all states, and its layer at several lengths.

First table: forward and backward of ``selective_scan`` and of three implementations that store the states
``(B, T, d, N)`` of all tokens: a loop over tokens that autograd records, ``linear_scan`` over all of them, and, if a
path to it is given, mamba.py's ``pscan``, which mamba.py uses in this way. On CUDA, mamba-ssm's kernel is measured too
if it is installed. ``states`` is the memory of one tensor of states, in MiB.

Second table: one layer with fresh weights, forward and backward, the same number of tokens in every row. ``exact``
solves token by token, up to ``--longest-exact`` tokens since that is slow; the others iterate to ``--tol``. A diagonal
control is one selective scan. ``converged`` is the share of sequences that reached the tolerance: the exact solver's,
or ``--tol``.

Contenders take turns in one process, round after round; times are medians. Peak memory is what a pass needs beyond
the memory in use before it, on the CPU by Linux's high-water mark.

    python benchmarks/fpmamba_layer.py --csv
    python benchmarks/fpmamba_layer.py --csv --pscan ../mamba.py/mambapy/pscan.py
    python benchmarks/fpmamba_layer.py --csv --device cuda --shapes 8x2048x1024x16 --tokens 65536 --d-model 256
"""

import argparse
import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from fprnn_layer import peak_memory
from hardware import results_file, write_csv
from scan import load_mamba_py, measure, warm_allocator
from torch import Tensor, nn

from fprnn.layers import DiagonalMamba, DiagonalMamba2, FPMamba, FPMamba2, MatrixStateLayer
from fprnn.mixers import HouseholderMixer
from fprnn.ops import linear_scan, selective_scan
from fprnn.solvers import PicardSolver, SequentialSolver

SHAPES = ["32x64x128x16", "8x256x128x16", "2x1024x128x16"]
LENGTHS = [64, 256, 1024]
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # inputs, delta, rates, b, c


class ScanRow(NamedTuple):
    """A row of the first table; times are milliseconds for one forward and backward pass."""

    shape: str
    contender: str
    wall_ms: float
    cpu_ms: float
    times_best: float
    peak_mib: float
    states_mib: float
    threads: int


class LayerRow(NamedTuple):
    """A row of the second table; times are milliseconds for one forward and backward pass."""

    length: int
    batch: int
    layer: str
    wall_ms: float
    cpu_ms: float
    times_best: float
    iterations: float
    most_iterations: int
    converged: float
    peak_mib: float
    d_model: int
    d_state: int
    rank: int
    tol: float
    threads: int


def written_out(inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and inputs of the recurrence, for all tokens and states: ``(B, T, d, N)`` each."""
    return (delta.unsqueeze(-1) * rates).exp(), (delta * inputs).unsqueeze(-1) * b.unsqueeze(2)


def recorded_loop(inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A loop over tokens, differentiated by autograd."""
    decay, added = written_out(inputs, delta, rates, b)
    state, states = torch.zeros_like(added[:, 0]), []
    for a, x in zip(decay.unbind(1), added.unbind(1), strict=True):
        state = torch.addcmul(x, a, state)
        states.append(state)
    return (torch.stack(states, 1) @ c.unsqueeze(-1)).squeeze(-1)


def scan_of_states(inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``linear_scan`` with a channel for each state."""
    decay, added = written_out(inputs, delta, rates, b)
    states = linear_scan(added.flatten(2), decay.flatten(2)).reshape(added.shape)
    return (states @ c.unsqueeze(-1)).squeeze(-1)


def mamba_py(path: Path) -> Scan:
    """The outputs by mamba.py's ``pscan``."""
    pscan = load_mamba_py(path).pscan

    def scan(inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (pscan(*written_out(inputs, delta, rates, b)) @ c.unsqueeze(-1)).squeeze(-1)

    return scan


def mamba_ssm(inputs: Tensor, delta: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """mamba-ssm's CUDA kernel, which has time last."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(inputs.mT, delta.mT, rates, b.mT, c.mT).mT


def scans(options: argparse.Namespace) -> dict[str, Scan]:
    """The contenders of the first table that are available."""
    entered: dict[str, Scan] = {
        "selective_scan": lambda *operands: selective_scan(*operands)[0],
        "recorded loop": recorded_loop,
        "linear_scan of states": scan_of_states,
    }
    if options.pscan is not None:
        entered["mamba.py pscan"] = mamba_py(options.pscan)
    if options.device == "cuda" and importlib.util.find_spec("mamba_ssm") is not None:
        entered["mamba-ssm"] = mamba_ssm
    return entered


def operands(shape: str, device: str) -> list[Tensor]:
    """As in a fresh layer: step sizes from 0.001 to 0.1, rates from -1 to -N."""
    batch, length, width, states = (int(number) for number in shape.split("x"))
    delta = torch.logspace(-3, -1, width).expand(batch, length, width)
    rates = -torch.arange(1.0, states + 1).expand(width, states)
    b, c = torch.randn(2, batch, length, states)
    tensors = (torch.randn(batch, length, width), delta, rates, b, c)
    return [tensor.to(device).contiguous().requires_grad_() for tensor in tensors]


def scan_task(scan: Scan, leaves: list[Tensor], grad: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(scan(*leaves), leaves, grad)


def layer_task(layer: nn.Module, u: Tensor, grad: Tensor) -> Callable[[], object]:
    def task() -> None:
        layer.zero_grad()
        layer(u).backward(grad)

    return task


def layers(length: int, options: argparse.Namespace) -> dict[str, MatrixStateLayer]:
    """The contenders of the second table."""
    d_model, sizes = options.d_model, {"d_state": options.d_state}
    heads = {"head_dim": min(64, 2 * d_model)}

    def mixer(d: int) -> HouseholderMixer:
        return HouseholderMixer(d, options.rank)

    iterate = PicardSolver(options.tol, options.cap)
    entered: dict[str, MatrixStateLayer] = {
        "FPMamba": FPMamba(d_model, mixer, iterate, **sizes),
        "FPMamba exact": FPMamba(d_model, mixer, SequentialSolver(), **sizes),
        "FPMamba2": FPMamba2(d_model, mixer, iterate, **sizes, **heads),
        "DiagonalMamba": DiagonalMamba(d_model, **sizes),
        "DiagonalMamba2": DiagonalMamba2(d_model, **sizes, **heads),
    }
    if length > options.longest_exact:
        del entered["FPMamba exact"]
    return {name: layer.to(options.device) for name, layer in entered.items()}


class Measured(NamedTuple):
    """What was measured for one contender."""

    wall_ms: float
    cpu_ms: float
    times_best: float
    peak_mib: float


def compare(tasks: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, Measured]:
    """Peak memory of each task, then its times."""
    for task in tasks.values():
        task()
    peaks = {name: peak_beyond_held(task, options.device) for name, task in tasks.items()}
    warm_allocator()
    times = measure(tasks, options.rounds, torch.cuda.synchronize if options.device == "cuda" else lambda: None)
    best = min(wall for wall, _ in times.values())
    return {
        name: Measured(round(wall, 2), round(cpu, 2), round(wall / best, 2), round(peaks[name], 1))
        for name, (wall, cpu) in times.items()
    }


def peak_beyond_held(task: Callable[[], object], device: str) -> float:
    """:func:`~fprnn_layer.peak_memory`, after glibc has returned the memory that it keeps for reuse."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if device == "cpu" and trim is not None:
        trim(0)
    return peak_memory(task, device)


def scan_rows(shape: str, options: argparse.Namespace) -> list[ScanRow]:
    leaves = operands(shape, options.device)
    grad, states = torch.randn_like(leaves[0]), leaves[0].numel() * leaves[2].shape[1] * 4 / 2**20
    measured = compare({name: scan_task(scan, leaves, grad) for name, scan in scans(options).items()}, options)
    return [ScanRow(shape, name, *row, round(states, 1), torch.get_num_threads()) for name, row in measured.items()]


def layer_rows(length: int, options: argparse.Namespace) -> list[LayerRow]:
    batch, entered = max(1, options.tokens // length), layers(length, options)
    u = torch.randn(batch, length, options.d_model, device=options.device)
    measured = compare({name: layer_task(layer, u, torch.ones_like(u)) for name, layer in entered.items()}, options)
    setting = options.d_model, options.d_state, options.rank, options.tol, torch.get_num_threads()
    rows = []
    for name, (wall, cpu, times_best, peak) in measured.items():
        statistics = entered[name].statistics
        assert statistics is not None
        counts = round(statistics.iterations.float().mean().item(), 1), int(statistics.iterations.max())
        converged = round(1 - statistics.capped.item(), 4)
        rows.append(LayerRow(length, batch, name, wall, cpu, times_best, *counts, converged, peak, *setting))
    return rows


def table(rows: list[ScanRow] | list[LayerRow], shown: list[str]) -> None:
    """Prints columns of rows, aligned."""
    cells = [shown] + [[str(getattr(row, name)) for name in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
    print(flush=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="batch x length x width x states")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS, help="lengths of the layer's sequences")
    parser.add_argument("--tokens", type=int, default=2048, help="per batch of a layer, whatever the length")
    parser.add_argument("--d-model", type=int, default=64, help="the inner width is twice this")
    parser.add_argument("--d-state", type=int, default=16, help="states per channel of a layer")
    parser.add_argument("--rank", type=int, default=1, help="reflections of a layer's mixer")
    parser.add_argument("--tol", type=float, default=0.1, help="relative change at which an iteration stops")
    parser.add_argument("--cap", type=int, default=1000, help="cap on the iterations")
    parser.add_argument("--longest-exact", type=int, default=256, help="tokens that are still solved one by one")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pscan", type=Path, help="path of pscan.py in a checkout of mamba.py")
    parser.add_argument("--csv", action="store_true", help="write the tables to benchmarks/results")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    scanned, layered = list[ScanRow](), list[LayerRow]()
    for shape in options.shapes:
        rows = scan_rows(shape, options)
        table(rows, ["shape", "contender", "wall_ms", "cpu_ms", "times_best", "peak_mib", "states_mib"])
        scanned += rows
    for length in options.lengths:
        of_length = layer_rows(length, options)
        names = ["length", "batch", "layer", "wall_ms", "cpu_ms", "times_best", "iterations", "most_iterations"]
        table(of_length, [*names, "converged", "peak_mib"])
        layered += of_length
    for what, all_rows in (("selective_scan", scanned), (f"fpmamba_layer_d{2 * options.d_model}", layered)):
        if options.csv and all_rows:
            write_csv(results_file(what, "float32"), [row._asdict() for row in all_rows])


if __name__ == "__main__":
    main()
