"""Triton kernels: their results in the interpreter, that they compile for a GPU, and their results where one is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run_program(program: str, **variables: str) -> None:
    environment = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1", **variables}
    result = subprocess.run([sys.executable, HERE / program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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
