"""``dinopl export``: a checkpoint's weights to safetensors."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from dinopl.core.errors import UserMistake


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserMistake(f"export: {message}; usage is dinopl export --ckpt_path FILE [--output FILE].")


def export(arguments: Sequence[str]) -> int:
    """Runs ``dinopl export`` with the arguments after the word ``export``."""
    parser = _Parser("dinopl export", description="Writes encoders and heads to safetensors, for dinopl.load_encoder.")
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="a checkpoint of a self-distillation run")
    parser.add_argument("--output", metavar="FILE", help="by default beside the checkpoint, ending .safetensors")
    options = parser.parse_args(arguments)

    from dinopl.loading import export_weights

    try:
        path = export_weights(options.ckpt_path, options.output)
    except (ValueError, OSError) as error:
        raise UserMistake(f"export: --ckpt_path {error}") from error
    sys.stdout.write(f'{path}\nread it with: encoder = dinopl.load_encoder("{path}", which="student")\n')
    return 0
