"""What a run shows on the terminal: tables, paths of figures, its folder; without advice that does not apply here."""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from dinopl.core.errors import UserMistake
from dinopl.training import RunFolder

# Message patterns, each with the reason why it says nothing to our users.
ADVICE = (
    r".*does not have many workers.*",  # small sets live in memory: there are no workers to add
    r".*The number of training batches .* is smaller than the logging interval.*",  # too short trainings log each epoch
    r".*Checkpoint directory .* exists and is not empty.*",  # each run has a folder of its own
    r".*You defined a `validation_step` but have no `val_dataloader`.*",  # nothing is selected
    r".*No seed found.*",  # the seed is an option with a default
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # the teacher, on purpose
    r".*is not supported by the model summary.*",  # it only estimates a size
    r"\s*``instantiate_classes`` was deprecated",  # Lightning 2.6 calls it; jsonargparse 5 is excluded for that
    r"\s*By default only one JsonargparseDeprecationWarning",
    r".*Couldn't infer the batch indices.*",  # our samples carry their index
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning on a newer torch
)
LOGGER = "lightning.pytorch.utilities.rank_zero"
TIPS = (
    *("litlogger", "LitLogger", "litmodels", "LitModels", "will override existing callbacks", "TPU available"),
    "to estimate number of stepping batches",
)


class HeldBack(logging.Filter, Callback):
    """Keeps Lightning's first messages back until the run folder is made, so that a refused run has its error alone.

    List it after the run folder's callback.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] | None = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown now; if not, it is kept."""
        if self.records is not None:
            self.records.append(record)
        return self.records is None

    def release(self) -> None:
        """Shows what was kept, and from then on everything."""
        records, self.records = self.records or [], None
        for record in records:
            logging.getLogger(record.name).handle(record)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run folder is there: nothing that is refused in setup is to come."""
        self.release()

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    @contextlib.contextmanager
    def until_released(self) -> Iterator[None]:
        """A block whose messages are kept until the release, and dropped if a ``UserMistake`` ends it before."""
        loggers = [logging.getLogger(name) for name in (LOGGER, "lightning.fabric.utilities.seed")]
        for logger in loggers:
            logger.addFilter(self)
        try:
            yield
        except UserMistake:
            self.records = None
            raise
        finally:
            self.release()
            for logger in loggers:
                logger.removeFilter(self)


class _NoTips(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(tip in record.getMessage() for tip in TIPS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what ``ADVICE`` and ``TIPS`` name for the time of a block."""
    logger, no_tips = logging.getLogger(LOGGER), _NoTips()
    logger.addFilter(no_tips)
    shown = threading.excepthook
    # TensorBoard's thread hands its error on to the next call of its writer
    threading.excepthook = lambda args: None if "_AsyncWriterThread" in str(args.thread) else shown(args)
    try:
        with warnings.catch_warnings():
            for pattern in ADVICE:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        threading.excepthook = shown
        logger.removeFilter(no_tips)


@rank_zero_only
def show_summary(run_folder: RunFolder) -> None:
    """Prints the tables of a run and draws its figures, as far as the run has what they show."""
    if not run_folder.created or run_folder.path is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    from dinopl.reports import Run, save_figure, views_of

    run = Run.load(run_folder.path)
    for view in views_of(run):
        sys.stdout.write(f"\n{view.table(run)}\n")
        if figures := view.figures(run):
            with SummaryWriter(run.path) as writer:  # beside the numbers that they were drawn from, and in TensorBoard
                for name, figure in figures.items():
                    path = save_figure(figure, run.path / "figures" / f"{name}.png", view.x)
                    writer.add_figure(f"figures/{name}", figure, close=False)
                    sys.stdout.write(f"figure: {_short(path)}\n")
    for predictions in sorted(run_folder.path.glob("predictions*.npz")):
        sys.stdout.write(f"\npredictions: {_short(predictions)}\n")
    sys.stdout.write(f"\nrun folder: {_short(run_folder.path)}\n")


def _short(path: Path) -> str:
    """A path as seen from here, where it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@rank_zero_only
def show_differences(rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Prints which options are not the checkpoint's."""
    if not rows:
        return
    texts = [(name, str(old), str(new)) for name, old, new in rows]
    short = [tuple(text if len(text) <= 80 else f"{text[:77]}..." for text in row) for row in texts]
    cells = [("option", "in the checkpoint", "used"), *short]
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    sys.stderr.write("\n".join(["The checkpoint was made with other values:", *lines]) + "\n")
