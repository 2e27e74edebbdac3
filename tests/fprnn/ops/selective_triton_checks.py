"""The selective scan's Triton backend against the naive loop, in Triton's interpreter or where CUDA is.

The interpreter is chosen by an environment variable that is read when kernels are defined, hence a process of its own.
"""

import sys

import torch

from fprnn.ops import selective_scan

SIZES = [  # B, T, d, N: shorter and longer than a tile, one tile whole, blocks that channels and states do not fill
    (2, 3, 5, 3),
    (1, 9, 3, 2),
    (1, 4, 4, 4),
    (2, 0, 3, 2),
    (0, 3, 3, 2),
]


def operands(
    batch: int, length: int, channels: int, states: int, dtype: torch.dtype, device: str
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, length, channels)] * 2 + [(channels, states)] + [(batch, length, states)] * 2
    v, delta, rates, b, c = (torch.rand(size, generator=generator) - 0.4 for size in sizes)
    initial = torch.rand((batch, channels, states), generator=generator)
    rates = -1.5 * (rates + 0.5)
    return [tensor.to(device, dtype) for tensor in (v, delta + 0.5, rates, b, c, initial)]


def run(backend: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    results = selective_scan(*leaves, backend=backend)
    total = sum((torch.linspace(-1, 1, r.numel(), device=r.device) * r.flatten()).sum() for r in results)
    return [*(result.detach() for result in results), *torch.autograd.grad(total, leaves, materialize_grads=True)]


def check(sizes: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> None:
    tensors = operands(*sizes, dtype, device)
    tolerance = {"rtol": 2**-5, "atol": 2**-4} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 2e-5}
    for fast, slow in zip(run("triton", tensors), run("reference", tensors), strict=True):
        torch.testing.assert_close(fast, slow, **tolerance)


def check_all(device: str) -> None:
    large = [(4, 300, 200, 16), (2, 1000, 64, 8), (2, 40, 24, 100)] if device == "cuda" else []
    for sizes in SIZES + large:
        check(sizes, torch.float32, device)
    for dtype in (torch.float64, torch.bfloat16):
        check((1, 6, 5, 3), dtype, device)


def check_layouts(device: str) -> None:
    """Strided operands, some of another precision, no initial state and no gradient asked for."""
    v, delta, rates, b, c, _ = operands(2, 6, 5, 3, torch.float32, device)
    both = torch.cat([b, c], -1)
    strided = (v.transpose(1, 2).contiguous().transpose(1, 2).bfloat16(), delta, rates, both[..., :3], both[..., 3:])
    fast, slow = (selective_scan(*strided, backend=backend) for backend in ("triton", "reference"))
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs)


if __name__ == "__main__":
    ones = torch.ones(1, 2, 3)
    selective_scan(ones, ones, -torch.ones(3, 2), ones[..., :2], ones[..., :2])
    loaded = {"fprnn.ops.selective_scan.triton_backend", "kd", "torchvision", "lightning"} & set(sys.modules)
    loaded |= {name for name in sys.modules if name.startswith("dinopl.")} - {"dinopl.core", "dinopl.__about__"}
    loaded = {name for name in loaded if not name.startswith("dinopl.core.")}
    assert not loaded, f"a scan on the CPU imported {loaded}"
    from fprnn.ops.selective_scan import triton_backend as selective_triton

    selective_triton.CHUNK, selective_triton.TILE_ELEMENTS = 4, 16  # the interpreter is slow
    selective_triton.MIN_CHANNELS, selective_triton.MAX_CHANNELS = 2, 4
    check_all("cpu")
    check_layouts("cpu")
