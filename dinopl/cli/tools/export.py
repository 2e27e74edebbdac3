"""``dinopl export``: a checkpoint's weights to safetensors."""

import sys
from collections.abc import Sequence

from dinopl.cli.tools import ToolParser
from dinopl.core.errors import UserMistake


def export(arguments: Sequence[str]) -> int:
    """Runs ``dinopl export`` with the arguments after the word ``export``."""
    parser = ToolParser(
        "export",
        "usage is dinopl export --ckpt_path FILE [--output FILE]",
        description="Writes encoders and heads to safetensors, for dinopl.load_encoder.",
    )
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="a checkpoint of a self-distillation run")
    parser.add_argument("--output", metavar="FILE", help="by default beside the checkpoint, ending .safetensors")
    options = parser.parse_args(arguments)

    from dinopl.cli.messages import placed
    from dinopl.loading import export_weights

    try:
        path = export_weights(options.ckpt_path, options.output)
    except (ValueError, OSError) as error:
        text = placed(str(error), vars(options))
        raise UserMistake(f"--ckpt_path {text}" if text.startswith("'") else text) from error
    sys.stdout.write(f'{path}\nread it with: encoder = dinopl.load_encoder("{path}", which="student")\n')
    return 0
