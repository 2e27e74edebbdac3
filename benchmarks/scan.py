"""Forward and backward of the linear scan beside a time-major loop, a memory copy, and mamba.py's pscan.

All contenders take turns in one process on the same tensors, round after round; the table gives medians.
``copy`` moves as many bytes as an ideal scan: three tensors forward and five backward make four copies.
Coefficients are drawn close to 1, which favours methods that multiply many of them: products of small ones would become
subnormal numbers, with which arithmetic is slow.

    python benchmarks/scan.py
    python benchmarks/scan.py --pscan ../mamba.py/mambapy/pscan.py
    python benchmarks/scan.py --device cuda --dtype bfloat16 --shapes 8x2048x2048
"""

import argparse
import importlib.util
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from hardware import results_file, write_csv
from torch import Tensor

from fprnn.ops import linear_scan

SHAPES = ["4x1024x256", "8x4096x64", "512x16x512"]
Scan = Callable[[Tensor, Tensor], Tensor]


class Timing(NamedTuple):
    """A row of the table: milliseconds for one forward and backward pass."""

    shape: str
    contender: str
    wall_ms: float
    cpu_ms: float
    times_copy: float
    threads: int
    smallest_coeff: float


class TimeMajorLoop(torch.autograd.Function):
    """A loop in place with one fused multiply-add per token, time in dimension 1.

    Its state has the inputs' dtype, so the comparison is fair in float32 and float64 only.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, coeffs: Tensor) -> Tensor:
        """Every state, ``(B, T, D)``."""
        outputs = torch.empty_like(inputs)
        state = torch.zeros_like(inputs[:, 0])
        for x, c, y in zip(inputs.unbind(1), coeffs.unbind(1), outputs.unbind(1), strict=True):
            state = torch.addcmul(x, c, state, out=y)
        ctx.save_for_backward(coeffs, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """From the last token to the first."""
        coeffs, outputs = ctx.saved_tensors
        d_inputs, d_coeffs = torch.empty_like(coeffs), torch.empty_like(coeffs)
        tensors = (grads[0], coeffs, outputs, d_inputs, d_coeffs)
        steps = list(zip(*(tensor.unbind(1) for tensor in tensors), strict=True))
        state = steps[-1][3].copy_(steps[-1][0])
        for (_, c, _, _, d_c), (g, _, y_before, d_x, _) in zip(steps[:0:-1], steps[-2::-1], strict=True):
            torch.mul(state, y_before, out=d_c)
            state = torch.addcmul(g, c, state, out=d_x)
        steps[0][4].zero_()
        return d_inputs, d_coeffs


def load_pscan(path: Path) -> dict[str, Scan]:
    """mamba.py's parallel scan from a checkout, on three dimensions in two layouts; the second is the faster one."""
    pscan = load_mamba_py(path).pscan
    return {
        "pscan (B, T, D, 1)": lambda inputs, coeffs: pscan(coeffs[..., None], inputs[..., None])[..., 0],
        "pscan (B, T, 1, D)": lambda inputs, coeffs: pscan(coeffs[:, :, None], inputs[:, :, None])[:, :, 0],
    }


def load_mamba_py(path: Path) -> ModuleType:
    """The module pscan.py of a checkout of mamba.py."""
    spec = importlib.util.spec_from_file_location("pscan", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"--pscan {path}: give the path of pscan.py in a checkout of mamba.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def training_step(scan: Scan, inputs: Tensor, coeffs: Tensor, grad: Tensor) -> Callable[[], object]:
    leaves = inputs.clone().requires_grad_(), coeffs.clone().requires_grad_()
    return lambda: torch.autograd.grad(scan(*leaves), leaves, grad)


def copies(source: Tensor) -> Callable[[], object]:
    target = torch.empty_like(source)
    return lambda: [target.copy_(source) for _ in range(4)]


def measure(tasks: dict[str, Callable[[], object]], rounds: int, wait: Callable[[], object]) -> dict[str, list[float]]:
    """Median wall and CPU milliseconds of each task.

    Tasks take turns, so that a busy moment slows all of them; their order changes, since each reuses the memory of the
    one before.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    order, shuffle = list(tasks), random.Random(0).shuffle
    for _ in range(rounds + 2):
        shuffle(order)
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            tasks[name]()
            wait()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: [1e3 * statistics.median(column) for column in zip(*rows[2:], strict=True)]
        for name, rows in times.items()
    }


def benchmark(shape: str, contenders: dict[str, Scan], options: argparse.Namespace) -> list[Timing]:
    size = [int(number) for number in shape.split("x")]
    kind = {"dtype": getattr(torch, options.dtype), "device": options.device}
    inputs, grad = torch.randn(size, **kind), torch.randn(size, **kind)
    coeffs = torch.empty(size, **kind).uniform_(options.smallest, 1)
    tasks = {name: training_step(scan, inputs, coeffs, grad) for name, scan in contenders.items()}
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    times = measure({"copy": copies(inputs), **tasks}, options.rounds, wait)
    copy_ms = times["copy"][0]
    setting = torch.get_num_threads(), options.smallest
    return [
        Timing(shape, name, round(wall, 3), round(cpu, 3), round(wall / copy_ms, 2), *setting)
        for name, (wall, cpu) in times.items()
    ]


def warm_allocator() -> None:
    """Frees one large block, as any training process soon does.

    Until then glibc returns each buffer of the contenders to the system at once, and its pages must be mapped again.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="batch x length x width, time in the middle")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--smallest", type=float, default=0.99, help="coefficients are uniform between this and 1")
    parser.add_argument("--pscan", type=Path, help="path of pscan.py in a checkout of mamba.py")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    warm_allocator()
    contenders: dict[str, Scan] = {"linear_scan": linear_scan, "time-major loop": TimeMajorLoop.apply}
    if options.pscan is not None:
        contenders |= load_pscan(options.pscan)
    rows = []
    print(f"{'shape':>14} {'contender':>18} {'wall ms':>9} {'CPU ms':>9} {'/ copy':>7}   threads: {options.threads}")
    for shape in options.shapes:
        for row in benchmark(shape, contenders, options):
            print(f"{row.shape:>14} {row.contender:>18} {row.wall_ms:9.3f} {row.cpu_ms:9.3f} {row.times_copy:7.2f}")
            rows.append(row)
    write_csv(results_file("scan", options.dtype), [row._asdict() for row in rows])


if __name__ == "__main__":
    main()
