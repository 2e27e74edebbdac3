"""What a run leaves on the terminal: the table, the figure's path, the folder."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from dinopl.callbacks import RunFolder


@rank_zero_only
def show_summary(run_folder: RunFolder) -> None:
    """Prints the table of a run and draws its figure, as far as the run has what they show."""
    if not run_folder.created or run_folder.path is None:
        return
    from dinopl.results import Run, distillation_table

    run = Run.load(run_folder.path)
    if any(name.startswith(("probe/student", "probe_val/student")) for name in run.metrics):
        sys.stdout.write(f"\n{distillation_table(run.metrics)}\n")
        if run.history.rows("probe/epoch"):
            _draw(run)
    predictions = run_folder.path / "predictions.npz"
    if predictions.is_file():
        sys.stdout.write(f"\npredictions: {_short(predictions)}\n")
    sys.stdout.write(f"\nrun folder: {_short(run_folder.path)}\n")


def _draw(run: Any) -> None:
    """Writes the figure beside the numbers that it was drawn from, and into TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    from dinopl.results import distillation_figure, save_figure

    figure = distillation_figure(run)
    path = save_figure(figure, run.path / "figures" / "probes.png")
    with SummaryWriter(run.path) as writer:
        writer.add_figure("figures/probes", figure, close=False)
    sys.stdout.write(f"figure: {_short(path)}\n")


def _short(path: Any) -> str:
    """A path as seen from here, where it lies below."""
    from pathlib import Path

    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@rank_zero_only
def show_differences(rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Prints which options are not the checkpoint's."""
    if not rows:
        return
    cells = [("option", "in the checkpoint", "used"), *((name, str(old), str(new)) for name, old, new in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    sys.stderr.write("\n".join(["The checkpoint was made with other values:", *lines]) + "\n")
