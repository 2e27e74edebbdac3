"""Compiles the kernels to sm_90 machine code, which needs no GPU: the interpreter accepts what the compiler may not."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from fprnn.ops.linear_scan import triton_backend

VALUES = {"TILE_LENGTH": triton_backend.MAX_TILE_LENGTH, "TILE_LANES": triton_backend.MAX_TILE_LANES}


def compile_kernel(kernel: Any, rows: str, state: str, ones: tuple[str, ...] = ()) -> None:
    """Args are pointer types; ``ones`` names integers that are 1, which Triton turns into constants."""
    values = VALUES | dict.fromkeys(ones, 1)
    kinds = {name: rows if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    kinds |= {"start_ptr": state} | dict.fromkeys(values, "constexpr")
    constants = {(kernel.arg_names.index(name),): value for name, value in values.items()}
    source = triton.compiler.ASTSource(kernel, signature=kinds, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]


if __name__ == "__main__":
    forward, backward = triton_backend._forward_kernel, triton_backend._backward_kernel
    compile_kernel(forward, "*bf16", "*fp32", ("x_lane", "c_lane", "y_lane"))
    compile_kernel(backward, "*bf16", "*fp32", ("g_lane", "c_lane", "y_lane", "dx_lane", "dc_lane"))
    compile_kernel(forward, "*fp32", "*fp32", ("x_time", "c_time", "y_time"))
    compile_kernel(backward, "*fp64", "*fp64", ("length", "lanes"))
