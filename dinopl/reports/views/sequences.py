"""The table of a sequence run: how well it answers at each length, and with how many iterations.

After section 4.4 of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025). Metrics are named
``SPLIT/MEASURE/length=L``; accuracies are fractions, iterations a mean over sequences and layers.
"""

import re
from collections.abc import Mapping

from dinopl.reports.views.table import aligned, percent

SPLITS = {"test": "test split", "val": "validation split"}
COLUMNS = {
    "token_accuracy": "token accuracy",
    "sequence_accuracy": "sequence accuracy",
    "iterations": "iterations",
    "iterated_sequence_accuracy": "iterated accuracy",
    "iterations_capped": "not converged",
}

_NAME = re.compile(r"(?P<split>test|val)/(?P<measure>.+)/length=(?P<length>\d+)")


def by_length(metrics: Mapping[str, float | None], split: str) -> dict[str, dict[int, float | None]]:
    """``{measure: {length: value}}`` of a split, by increasing length.

    Args:
        metrics: named ``SPLIT/MEASURE/length=L``; other names are passed over.
        split: "test" or "val".
    """
    found: dict[str, dict[int, float | None]] = {}
    for name, value in metrics.items():
        if (match := _NAME.fullmatch(name)) and match["split"] == split:
            found.setdefault(match["measure"], {})[int(match["length"])] = value
    return {measure: dict(sorted(values.items())) for measure, values in found.items()}


def has_sequences(metrics: Mapping[str, float | None]) -> bool:
    """Whether there is a sequence accuracy at some length."""
    return any("sequence_accuracy" in by_length(metrics, split) for split in SPLITS)


def sequence_table(metrics: Mapping[str, float | None]) -> str:
    """Rows are lengths; columns are the accuracies of tokens and sequences, iterations, and the iteration's accuracy.

    Behind them stand the shares that a task reports of itself.

    "Sequence accuracy" is that of the model's own solver; "iterated accuracy" that of the answers at which the counted
    iteration stopped, so that a tolerance that stops too early shows.

    Args:
        metrics: named as :func:`by_length` takes them.

    Returns:
        Aligned plain text, one block a split that has metrics; one line that says so if none has. Columns that the
        model does not have (an LSTM iterates nothing) are left out, and so is the share of sequences that had not
        converged at the cap where it is 0; a value that is missing is shown as "-".
    """
    blocks = [_block(title, found) for split, title in SPLITS.items() if (found := by_length(metrics, split))]
    return "\n\n".join(blocks) or "no sequence results"


def _block(title: str, found: Mapping[str, Mapping[int, float | None]]) -> str:
    columns = {measure: name for measure, name in COLUMNS.items() if measure in found}
    if not any(found.get("iterations_capped", {}).values()):
        columns.pop("iterations_capped", None)
    columns |= {measure: measure.replace("_", " ") for measure in found if _is_of_the_task(measure)}
    rows = [["length", *columns.values()]]
    for length in sorted({length for measure in columns for length in found[measure]}):
        rows.append([str(length), *(_cell(measure, found[measure].get(length)) for measure in columns)])
    return f"Accuracy by length, {title} (percent)\n" + aligned(rows)


def _is_of_the_task(measure: str) -> bool:
    """Whether a measure is what the task itself makes of the answers, a share."""
    return measure not in (*COLUMNS, "loss") and not measure.startswith("iterations")


def _cell(measure: str, value: float | None) -> str:
    if measure == "iterations":
        return "-" if value is None else f"{value:.1f}"
    return percent(value)
