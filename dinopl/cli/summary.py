"""What a run leaves on the terminal: tables, paths of figures, the folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from dinopl.training import RunFolder


@rank_zero_only
def show_summary(run_folder: RunFolder) -> None:
    """Prints the tables of a run and draws its figures, as far as the run has what they show."""
    if not run_folder.created or run_folder.path is None:
        return
    from dinopl.reports import Run, views_of

    run = Run.load(run_folder.path)
    for view in views_of(run):
        sys.stdout.write(f"\n{view.table(run)}\n")
        _draw(run.path, view.figures(run), view.x)
    for predictions in sorted(run_folder.path.glob("predictions*.npz")):
        sys.stdout.write(f"\npredictions: {_short(predictions)}\n")
    sys.stdout.write(f"\nrun folder: {_short(run_folder.path)}\n")


def _draw(folder: Path, figures: Mapping[str, Any], x: str) -> None:
    """Writes figures beside the numbers that they were drawn from, and into TensorBoard."""
    if not figures:
        return
    from torch.utils.tensorboard import SummaryWriter

    from dinopl.reports import save_figure

    with SummaryWriter(folder) as writer:
        for name, figure in figures.items():
            path = save_figure(figure, folder / "figures" / f"{name}.png", x)
            writer.add_figure(f"figures/{name}", figure, close=False)
            sys.stdout.write(f"figure: {_short(path)}\n")


def _short(path: Path) -> str:
    """A path as seen from here, where it lies below."""
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
