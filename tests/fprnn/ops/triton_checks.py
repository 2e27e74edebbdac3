"""The Triton backend against the naive loop; run as a program in Triton's interpreter, or imported where CUDA is.

The interpreter is chosen by an environment variable that is read when kernels are defined, hence a process of its own.
"""

import sys

import torch

from fprnn.ops import linear_scan

CASES = [  # shape, dim: shorter and longer than a tile, rows of one lane, a lane count that fills no tile
    ((2, 5, 3), 1),
    ((1, 11, 21), 1),
    ((3, 9), 1),
    ((6, 3), 0),
    ((1, 2, 5, 17), 2),
    ((2, 1, 4), 1),
    ((2, 0, 4), 1),
    ((0, 3, 4), 1),
]


def run(backend: str, tensors: list[torch.Tensor], dim: int, reverse: bool) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    outputs = linear_scan(*leaves, dim=dim, reverse=reverse, backend=backend)
    weights = torch.linspace(-1, 1, outputs.numel(), device=outputs.device).reshape(outputs.shape).to(outputs.dtype)
    return [outputs.detach(), *torch.autograd.grad(outputs, leaves, weights, materialize_grads=True)]


def check(shape: tuple[int, ...], dim: int, dtype: torch.dtype, device: str, with_initial: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [shape, shape, shape[:dim] + shape[dim + 1 :]][: 2 + with_initial]
    tensors = [torch.rand(size, generator=generator).sub(0.3).to(device, dtype) for size in sizes]
    tolerance = {"rtol": 2**-6, "atol": 2**-5} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for reverse in (False, True):
        pairs = zip(run("triton", tensors, dim, reverse), run("reference", tensors, dim, reverse), strict=True)
        for fast, slow in pairs:
            torch.testing.assert_close(fast, slow, **tolerance)


def check_all(device: str) -> None:
    large = [((2, 300, 100), 1), ((3, 2000), 1), ((2000, 3), 0)] if device == "cuda" else []
    for shape, dim in CASES + large:
        check(shape, dim, torch.float32, device, with_initial=True)
    for dtype in (torch.float64, torch.bfloat16):
        check((1, 6, 17), 1, dtype, device, with_initial=False)


def check_layouts(device: str) -> None:
    """Strided inputs, broadcast coefficients of another dtype, and no gradient asked for."""
    inputs = torch.randn(2, 18, 6, device=device, dtype=torch.bfloat16).transpose(1, 2)
    coeffs = torch.rand(18, device=device)
    with torch.no_grad():
        fast, slow = (linear_scan(inputs, coeffs, backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(fast, slow)


if __name__ == "__main__":
    linear_scan(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    loaded = {"fprnn.ops.linear_scan.triton_backend", "kd", "torchvision", "lightning"} & set(sys.modules)
    loaded |= {name for name in sys.modules if name.startswith("dinopl.")} - {"dinopl.core", "dinopl.__about__"}
    loaded = {name for name in loaded if not name.startswith("dinopl.core.")}
    assert not loaded, f"a scan on the CPU imported {loaded}"
    from fprnn.ops.linear_scan import triton_backend

    triton_backend.MAX_TILE_LENGTH, triton_backend.MAX_TILE_LANES = 4, 16  # the interpreter is slow
    check_all("cpu")
    check_layouts("cpu")
