"""Triton kernels: their results in the interpreter, that they compile for a GPU, and their results where one is."""

import importlib.util
from pathlib import Path

import pytest
import torch
from triton_programs import run_program

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_kernels_in_the_interpreter() -> None:
    run_program("triton_checks.py", TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    run_program("triton_compiles.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_the_device() -> None:
    import triton_checks

    triton_checks.check_all("cuda")
    triton_checks.check_layouts("cuda")
