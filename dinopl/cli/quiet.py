"""Lightning's advice that does not apply here, kept off the terminal."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

# Message patterns, each with the reason why it says nothing to our users.
ADVICE = (
    r".*does not have many workers.*",  # small sets live in memory: there are no workers to add
    r".*The number of training batches .* is smaller than the logging interval.*",  # every epoch logs its last step
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
TIPS = (
    *("litlogger", "LitLogger", "litmodels", "LitModels", "will override existing callbacks", "TPU available"),
    "to estimate number of stepping batches",
)


class _NoTips(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(tip in record.getMessage() for tip in TIPS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what ``ADVICE`` and ``TIPS`` name for the time of a block."""
    logger, no_tips = logging.getLogger("lightning.pytorch.utilities.rank_zero"), _NoTips()
    logger.addFilter(no_tips)
    try:
        with warnings.catch_warnings():
            for pattern in ADVICE:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        logger.removeFilter(no_tips)
