"""Compiles the selective scan's kernels to sm_90 machine code, which needs no GPU: see triton_compiles.py."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from fprnn.ops.selective_scan import triton_backend as selective_triton


def compile_kernel(kernel: Any, rows: str, state: str, channels: int, states: int, **flags: bool) -> None:
    """``rows`` and ``state`` are pointer types; those of sequences are named first, and have lanes side by side."""
    sequences = {f"{name}_ptr" for name in ("g", "v", "delta", "b", "c", "out", "dv", "ddelta")}
    kinds = dict.fromkeys(kernel.arg_names, "i32")
    kinds |= {name: rows if name in sequences else state for name in kernel.arg_names if name.endswith("_ptr")}
    values = {"TILE_LENGTH": selective_triton.CHUNK, "TILE_CHANNELS": channels, "TILE_STATES": states, **flags}
    values |= {name: 1 for name in kernel.arg_names if name.endswith("_lane")}
    kinds |= dict.fromkeys(values, "constexpr")
    constants = {(kernel.arg_names.index(name),): value for name, value in values.items()}
    source = triton.compiler.ASTSource(kernel, signature=kinds, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert compiled.asm["cubin"]


if __name__ == "__main__":
    channels = selective_triton._block(16, 1024)
    compile_kernel(selective_triton._forward_kernel, "*bf16", "*fp32", channels, 16, RECORD=True)
    compile_kernel(selective_triton._backward_kernel, "*bf16", "*fp32", channels, 16)
