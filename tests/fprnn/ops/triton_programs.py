"""Runs a program on Triton kernels in a process of its own: Triton reads its environment when it is imported."""

import os
import subprocess
import sys
from pathlib import Path


def run_program(program: str, **variables: str) -> None:
    environment = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1", **variables}
    command = [sys.executable, Path(__file__).parent / program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
